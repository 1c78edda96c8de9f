"""A large file's second digest and its way to the disk, beside its writing."""

from __future__ import annotations

import hashlib
import io
import os

import pytest

from coatcheck import beside_writing
from coatcheck.artifacts import ArtifactStore

MIB = 1024**2


@pytest.fixture
def storage(tmp_path, monkeypatch) -> ArtifactStore:
    monkeypatch.setattr(beside_writing, "LARGE_BYTES", 2 * MIB)
    return ArtifactStore(f"file://{tmp_path}")


@pytest.mark.parametrize("size", [0, 1, 2 * MIB, 9 * MIB + 5])
def test_large_file_has_the_digests_of_its_bytes(storage, size):
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    stored = storage.write("file", io.BytesIO(content))
    assert stored.md5 == hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert stored.sha256 == hashlib.sha256(content).hexdigest()
    assert storage.read_bytes("file") == content


def test_bytes_are_sent_to_the_disk_as_they_come_each_once(storage, monkeypatch):
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _number, start, size, _advice: sent.append((start, size)))
    storage.write("file", io.BytesIO(bytes(9 * MIB + 5)))
    assert sent == [(start * MIB, 2 * MIB) for start in (0, 2, 4, 6)]
    sent.clear()
    storage.write_pieces("pieces", [bytes(MIB)] * 5)
    assert sent == [(0, 2 * MIB), (2 * MIB, 2 * MIB)]


def test_file_system_that_takes_no_advice_takes_the_file(storage, monkeypatch):
    def refuse(*_given: int) -> None:
        raise OSError(22, "no advice here")

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    storage.write("file", io.BytesIO(bytes(5 * MIB)))
    monkeypatch.delattr(os, "posix_fadvise")
    storage.write("other", io.BytesIO(bytes(5 * MIB)))
    assert storage.read_bytes("file") == storage.read_bytes("other") == bytes(5 * MIB)


def test_what_the_disk_refuses_at_the_end_fails_the_file(storage, monkeypatch):
    def refuse(_number: int) -> None:
        raise OSError(5, "the disk is broken")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="broken"):
        storage.write("file", io.BytesIO(bytes(9 * MIB)))
    with pytest.raises(OSError, match="broken"):
        storage.write_pieces("pieces", [bytes(MIB)] * 5)
    assert not storage.exists("file")
    assert not storage.exists("pieces")
