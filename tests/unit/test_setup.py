"""Set-up: what it reads from the lock, and when it is skipped. Installs nothing."""

from __future__ import annotations

import pytest

from tools import setup

LOCK = """\
numpy==2.4.6 \\
    --hash=sha256:00
# --- hardware ---
# hardware: torch==2.13.0
# hardware: onnxruntime==1.31.1 | onnxruntime-gpu==1.31.1
"""


@pytest.mark.parametrize(("nvidia", "runtime"), [(False, "onnxruntime==1.31.1"), (True, "onnxruntime-gpu==1.31.1")])
def test_hardware_section_is_read_for_this_machine(nvidia, runtime):
    hardware = setup.read_hardware(LOCK, nvidia=nvidia)
    assert (hardware.torch, hardware.onnxruntime) == ("torch==2.13.0", runtime)


def test_lock_without_hardware_section_is_refused():
    with pytest.raises(SystemExit, match="torch"):
        setup.read_hardware("numpy==2.4.6\n", nvidia=False)


def test_stamp_changes_with_lock_and_with_hardware():
    cpu, gpu = (setup.read_hardware(LOCK, nvidia=nvidia) for nvidia in (False, True))
    stamps = {setup.wanted_stamp(LOCK, cpu), setup.wanted_stamp(LOCK, gpu), setup.wanted_stamp(LOCK + "\n", cpu)}
    assert len(stamps) == 3
    assert setup.wanted_stamp(LOCK, cpu) in stamps


def test_setup_is_skipped_only_with_the_stamp_of_this_very_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "STAMP", tmp_path / "stamp")
    assert not setup.is_current("abc")
    (tmp_path / "stamp").write_text("abc\n")
    assert setup.is_current("abc")
    assert not setup.is_current("abd")


def test_environment_whose_python_is_gone_is_not_current(tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "STAMP", tmp_path / "stamp")
    monkeypatch.setattr(setup, "PYTHON", tmp_path / "python")
    (tmp_path / "stamp").write_text("abc\n")
    assert not setup.is_current("abc")
