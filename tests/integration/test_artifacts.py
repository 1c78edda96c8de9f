"""Artifact storage, in a local folder and in memory: whole files or none, and nothing outside the root."""

from __future__ import annotations

import errno
import hashlib
import io
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from coatcheck.artifacts import CHUNK, MANIFEST, ArtifactStore
from coatcheck.errors import ArtifactDamaged, FileNotFound, NotEnoughSpace, TooLarge


@pytest.fixture(params=["folder", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "folder":
        return ArtifactStore(f"file://{tmp_path / 'root'}")
    return ArtifactStore(f"memory://{tmp_path.name}")


class Broken(io.RawIOBase):
    """A stream that gives some bytes and then fails."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.given = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self.given:
            raise self.error
        self.given = True
        return b"x" * CHUNK


def test_written_file_is_read_back_with_its_digests(storage):
    content = bytes(range(256)) * (CHUNK // 64)
    stored = storage.write("files/a/content", io.BytesIO(content))
    assert stored.size == len(content)
    assert stored.sha256 == hashlib.sha256(content).hexdigest()
    assert stored.md5 == hashlib.md5(content).hexdigest()
    assert storage.read_bytes("files/a/content", sha256=stored.sha256) == content
    assert storage.write_bytes("files/b/content", content) == stored
    with storage.open("files/b/content") as stream:
        stream.seek(256)
        assert stream.read(3) == b"\0\1\2"


def test_empty_file_is_a_file(storage):
    assert storage.write("files/empty", io.BytesIO(b"")).size == 0
    assert storage.exists("files/empty")
    assert storage.read_bytes("files/empty") == b""


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), KeyboardInterrupt(), ValueError("bad")])
def test_failed_upload_leaves_nothing(storage, error):
    with pytest.raises(type(error)):
        storage.write("files/a/content", Broken(error))
    assert not storage.exists("files/a/content")


def test_upload_over_its_limit_leaves_nothing_and_one_at_its_limit_is_taken(storage):
    with pytest.raises(TooLarge):
        storage.write("files/a", io.BytesIO(b"x" * 1001), limit_bytes=1000)
    assert not storage.exists("files/a")
    assert storage.write("files/a", io.BytesIO(b"x" * 1000), limit_bytes=1000).size == 1000


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_storage_is_named_and_leaves_nothing(storage, number):
    with pytest.raises(NotEnoughSpace):
        storage.write("files/a", Broken(OSError(number, "full")))
    assert not storage.exists("files/a")


def test_disk_that_takes_no_more_is_named(tmp_path):
    storage = ArtifactStore(f"file://{tmp_path / 'root'}")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # a real write that really fails
    try:
        with pytest.raises(NotEnoughSpace):
            storage.write("files/a", io.BytesIO(b"x" * 200_000))
        with pytest.raises(NotEnoughSpace):
            storage.write_bytes("files/b", b"x" * 200_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not storage.exists("files/a")
    assert not storage.exists("files/b")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/../../x", "a/..", "/etc/passwd", "a//b", "a/", "./a", "a/./b", "a\\..\\b", "a\0b"],
)
def test_name_that_leads_elsewhere_is_no_name(storage, name):
    calls: list[Any] = [
        lambda: storage.write(name, io.BytesIO(b"x")),
        lambda: storage.write_bytes(name, b"x"),
        lambda: storage.read_bytes(name),
        lambda: storage.open(name),
        lambda: storage.exists(name),
        lambda: storage.delete(name),
        lambda: storage.list(name),
        lambda: storage.manifest(f"{name}/x" if name else name),
    ]
    for call in calls:
        with pytest.raises(FileNotFound):
            call()


def test_missing_file_is_file_not_found(storage):
    for call in (storage.read_bytes, storage.open, storage.manifest):
        with pytest.raises(FileNotFound):
            call("files/none")
    assert not storage.exists("files/none")
    assert storage.list("files") == []
    storage.delete("files/none")  # what is gone is gone


def test_file_larger_than_is_read_is_refused_before_it_fills_memory(storage):
    storage.write_bytes("files/a/content", b"x" * (2 * CHUNK))
    assert storage.read_at_most("files/a/content", 2 * CHUNK) == b"x" * (2 * CHUNK)
    with pytest.raises(TooLarge):
        storage.read_at_most("files/a/content", 2 * CHUNK - 1)
    with pytest.raises(FileNotFound):
        storage.read_at_most("files/b/content", 1)


def test_damaged_file_is_told(storage, tmp_path):
    stored = storage.write_bytes("runs/a/model.onnx", b"weights")
    storage.write_bytes("runs/a/model.onnx", b"wEights")
    with pytest.raises(ArtifactDamaged):
        storage.read_bytes("runs/a/model.onnx", sha256=stored.sha256)
    with pytest.raises(ArtifactDamaged), storage.fetch("runs/a/model.onnx", tmp_path, sha256=stored.sha256):
        pass


def test_fetched_copy_is_private_in_its_folder_and_gone_afterwards(storage, tmp_path):
    stored = storage.write_bytes("runs/a/model.onnx", b"weights")
    with storage.fetch("runs/a/model.onnx", tmp_path, sha256=stored.sha256) as path:
        assert path.is_relative_to(tmp_path), "what a kill leaves behind lies where it is swept"
        assert path.name == "model.onnx"
        assert path.read_bytes() == b"weights"
        path.write_bytes(b"changed")
    assert not path.exists()
    assert storage.read_bytes("runs/a/model.onnx") == b"weights"


def test_manifest_has_one_form_and_is_read_back(storage):
    written = storage.write_manifest("runs/a", {"b": 1, "a": {"ü": [1, 2]}})
    assert written == '{"a":{"ü":[1,2]},"b":1}'.encode()
    assert storage.read_bytes(f"runs/a/{MANIFEST}") == written
    assert storage.manifest("runs/a") == {"a": {"ü": [1, 2]}, "b": 1}


def test_deleted_prefix_takes_its_files_and_no_others(storage):
    for name in ("runs/a/manifest.json", "runs/a/model.onnx", "runs/a/parts/1", "runs/ab/model.onnx"):
        storage.write_bytes(name, b"x")
    assert storage.list("runs") == ["a", "ab"]
    assert storage.list("runs/a") == ["manifest.json", "model.onnx", "parts"]
    storage.delete("runs/a")
    assert storage.list("runs") == ["ab"]
    storage.delete("runs/ab/model.onnx")
    assert not storage.exists("runs/ab/model.onnx")


def test_probe_leaves_nothing(storage):
    storage.check()
    assert storage.list("probe") == []


def test_probes_of_one_moment_do_not_remove_each_others_file(storage):
    meet = threading.Barrier(2, timeout=10)
    read = storage.read_bytes

    def read_together(name, **more):
        meet.wait()  # both probes are written
        content = read(name, **more)
        meet.wait()  # and none is removed
        return content

    storage.read_bytes = read_together
    with ThreadPoolExecutor(2) as pool:
        for probe in [pool.submit(storage.check) for _ in range(2)]:
            probe.result(10)
    assert storage.list("probe") == []


def test_probe_that_cannot_be_read_is_told_and_removed(storage, monkeypatch):
    def away(*_: object, **__: object) -> bytes:
        raise OSError("away")

    monkeypatch.setattr(storage, "read_bytes", away)
    with pytest.raises(OSError, match="away"):
        storage.check()
    assert storage.list("probe") == []


def test_free_space_is_known_of_a_disk_alone(tmp_path):
    assert (ArtifactStore(f"file://{tmp_path / 'root'}").free_bytes() or 0) > 0
    assert ArtifactStore("memory://free").free_bytes() is None
