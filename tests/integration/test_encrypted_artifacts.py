"""Encrypted storage behind the same names: read and written as plain, moved to another key while it is in use."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import redis as redis_py
from click.testing import CliRunner
from keyrings import NEW, OLD, settings_under

from coatcheck import artifacts as artifacts_module
from coatcheck import keys
from coatcheck.artifacts import ArtifactStore
from coatcheck.cli_artifacts import artifacts_commands
from coatcheck.encryption import Keyring
from coatcheck.errors import ArtifactDamaged, Conflict, FileNotFound, SettingsError, TooLarge
from coatcheck.keys_in_use import check_keys
from coatcheck.rotation import files_by_key, rotate

MARKER = b"PLANTED-MARKER-7f3a"
LARGE = MARKER * 20_000


def storage_in(folder: Path | str, *keys_: bytes, takes_plain: bool = True) -> ArtifactStore:
    url = folder if isinstance(folder, str) else f"file://{folder}"
    return ArtifactStore(url, Keyring(list(keys_), takes_plain=takes_plain) if keys_ else None)


@pytest.fixture(params=["folder", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path / 'root'}" if request.param == "folder" else f"memory://{tmp_path.name}"


def test_every_way_in_and_out_gives_the_plaintext_and_its_digests(root: str, tmp_path: Path) -> None:
    storage = storage_in(root, OLD)
    sha256 = hashlib.sha256(LARGE).hexdigest()
    stored = storage.write("a/large", io.BytesIO(LARGE))
    assert (stored.size, stored.sha256) == (len(LARGE), sha256)
    assert stored.md5 == hashlib.md5(LARGE, usedforsecurity=False).hexdigest()
    assert storage.write_bytes("a/small", MARKER).size == len(MARKER)
    assert storage.write_pieces("a/pieces", [LARGE[:100_000], LARGE[100_000:]]) == (len(LARGE), sha256)
    storage.write_manifest("a", {"kind": "test"})
    for name in ("a/large", "a/pieces"):
        assert storage.read_bytes(name, sha256=sha256) == LARGE
        with storage.open(name) as stream:
            assert stream.seek(300_000) == 300_000
            assert stream.read(70_000) == LARGE[300_000:370_000]
        with storage.fetch(name, tmp_path, sha256=sha256) as path:
            assert path.read_bytes() == LARGE
            assert path.parent.stat().st_mode & 0o077 == 0
        assert not path.exists()
    assert storage.read_at_most("a/small", 100) == MARKER
    with pytest.raises(TooLarge):
        storage.read_at_most("a/large", 1000)
    assert storage.manifest("a") == {"kind": "test"}
    assert set(files_by_key(storage)) == {Keyring([OLD]).newest.hex()}
    storage.check()


def test_nothing_in_the_folder_shows_the_content(tmp_path: Path) -> None:
    storage = storage_in(tmp_path / "root", OLD)
    storage.write("a/large", io.BytesIO(LARGE))
    storage.write_bytes("a/small", MARKER)
    storage.write_pieces("a/pieces", [LARGE])
    storage.write_manifest("a", {"marker": MARKER.decode()})
    found = [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
    assert len(found) == 4
    assert all(MARKER not in path.read_bytes() for path in found)


def test_a_limit_and_a_broken_stream_leave_nothing(tmp_path: Path) -> None:
    storage = storage_in(tmp_path / "root", OLD)
    with pytest.raises(TooLarge):
        storage.write("a/large", io.BytesIO(LARGE), limit_bytes=1000)
    assert not storage.exists("a/large")


def test_a_plain_store_stays_readable_until_plain_files_are_refused(root: str) -> None:
    storage_in(root).write_bytes("a/plain", MARKER)
    assert storage_in(root, NEW).read_bytes("a/plain") == MARKER
    assert storage_in(root, NEW).open("a/plain").read() == MARKER
    strict = storage_in(root, NEW, takes_plain=False)
    with pytest.raises(ArtifactDamaged, match="COATCHECK_ENCRYPTION_ONLY"):
        strict.read_bytes("a/plain")
    with pytest.raises(ArtifactDamaged, match="COATCHECK_ENCRYPTION_ONLY"):
        strict.open("a/plain")


def test_without_its_key_a_file_says_which_it_needs(root: str) -> None:
    storage_in(root, OLD).write_bytes("a/one", MARKER)
    with pytest.raises(ArtifactDamaged, match="COATCHECK_ENCRYPTION_KEYS is not set"):
        storage_in(root).read_bytes("a/one")
    with pytest.raises(ArtifactDamaged, match=Keyring([OLD]).newest.hex()):
        storage_in(root, NEW).open("a/one")


def test_a_flipped_byte_and_a_file_put_in_anothers_place_are_told(tmp_path: Path) -> None:
    storage = storage_in(tmp_path / "root", OLD)
    storage.write_bytes("a/one", LARGE)
    storage.write_bytes("a/two", LARGE)
    path, other = tmp_path / "root" / "a" / "one", tmp_path / "root" / "a" / "two"
    whole = path.read_bytes()
    path.write_bytes(other.read_bytes())
    with pytest.raises(ArtifactDamaged, match="a/one was changed"):
        storage.read_bytes("a/one")
    path.write_bytes(whole[:200_000] + bytes([whole[200_000] ^ 1]) + whole[200_001:])
    with pytest.raises(ArtifactDamaged, match="a/one was changed"):
        storage.read_bytes("a/one")
    with storage.open("a/one") as stream:
        assert stream.read(1000) == LARGE[:1000]  # frames before it are as they were
        stream.seek(195_000)
        with pytest.raises(ArtifactDamaged, match="a/one was changed"):
            stream.read(10_000)
    with pytest.raises(ArtifactDamaged), storage.fetch("a/one", tmp_path):
        pass
    assert not list(tmp_path.glob("fetched-*"))


# -- to another key --------------------------------------------------------------------------------------------


def filled(root: Path | str) -> dict[str, bytes]:
    """Plain files, files under the old key, files under the new one; returns all contents."""
    contents: dict[str, bytes] = {}
    for storage, word in ((storage_in(root), "plain"), (storage_in(root, OLD), "old"), (storage_in(root, NEW), "new")):
        for number in range(5):
            name = f"files/{word}{number}/content"
            contents[name] = f"{word}{number}".encode() * 50_000
            storage.write_bytes(name, contents[name])
            storage.write_manifest(name.rpartition("/")[0], {"n": number})
    return contents


def test_rotation_brings_everything_under_the_newest_key(root: str, redis: redis_py.Redis) -> None:
    contents = filled(root)
    check_keys(redis, Keyring([OLD]))
    storage = storage_in(root, NEW, OLD)
    check_keys(redis, storage.keyring)
    done = rotate(storage, redis, storage.names(), settled_s=0)
    assert (done.rewritten, done.newest, done.unsettled, done.damaged) == (20, 10, [], {})
    assert done.retired == [Keyring([OLD]).newest.hex()]
    only_new = storage_in(root, NEW, takes_plain=False)
    assert {name: only_new.read_bytes(name) for name in contents} == contents
    assert rotate(storage, redis, storage.names(), settled_s=0).rewritten == 0
    check_keys(redis, only_new.keyring)
    assert not storage.list("rotating") or storage.list("rotating") == [".lock"]


def test_a_file_that_may_be_being_written_is_left(tmp_path: Path, redis: redis_py.Redis) -> None:
    storage_in(tmp_path / "root").write_bytes("inputs/one/input.json", MARKER)
    storage = storage_in(tmp_path / "root", NEW)
    done = rotate(storage, redis, storage.names())
    assert done.unsettled == ["inputs/one/input.json"]
    assert rotate(storage, redis, storage.names(), settled_s=0).rewritten == 1


def test_a_file_whose_first_bytes_are_still_in_memory_keeps_what_is_written_to_it(tmp_path, redis) -> None:
    storage = storage_in(tmp_path / "root", NEW)
    (tmp_path / "root/files/one").mkdir(parents=True)
    with (tmp_path / "root/files/one/content").open("wb", buffering=2**20) as slow:
        slow.write(MARKER)
        done = rotate(storage, redis, storage.names(), settled_s=0)
    assert (done.unsettled, done.rewritten) == (["files/one/content"], 0)
    assert storage.read_bytes("files/one/content") == MARKER


def test_a_damaged_file_is_named_and_stays_as_it_is(tmp_path: Path, redis: redis_py.Redis) -> None:
    filled(tmp_path / "root")
    path = tmp_path / "root" / "files" / "old1" / "content"
    path.write_bytes(path.read_bytes()[:-1])
    before = path.read_bytes()
    storage = storage_in(tmp_path / "root", NEW, OLD)
    done = rotate(storage, redis, storage.names(), settled_s=0)
    assert list(done.damaged) == ["files/old1/content"]
    assert done.retired == []
    assert path.read_bytes() == before


def test_what_does_not_read_back_does_not_take_the_old_files_place(
    tmp_path: Path, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = filled(tmp_path / "root")
    storage = storage_in(tmp_path / "root", NEW, OLD)
    plain_copy = artifacts_module._copy

    def copy(source: object, target: object, digest: object) -> None:
        plain_copy(source, target, digest)  # type: ignore[arg-type]
        if not isinstance(target, artifacts_module._Nowhere):
            target.write(b"more")  # type: ignore[attr-defined]

    monkeypatch.setattr(artifacts_module, "_copy", copy)
    done = rotate(storage, redis, ["files/old1/content"], settled_s=0)
    assert list(done.damaged) == ["files/old1/content"]
    assert storage.read_bytes("files/old1/content") == contents["files/old1/content"]


def test_readers_writers_and_deletes_go_on_while_all_is_rewritten(tmp_path: Path, redis: redis_py.Redis) -> None:
    root = tmp_path / "root"
    contents = filled(root)
    storage = storage_in(root, NEW, OLD)
    failures: list[BaseException] = []
    ended = threading.Event()
    reads = 0

    def read() -> None:
        nonlocal reads
        try:
            while not ended.is_set():
                for name, content in contents.items():
                    with storage.open(name) as stream:
                        half = stream.read(len(content) // 2)
                        assert half + stream.read() == content
                        reads += 1
        except BaseException as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    def write_and_delete() -> None:
        try:
            number = 0
            while not ended.is_set():
                number += 1
                plain = storage_in(root)
                plain.write_bytes(f"files/made{number}/content", LARGE)
                plain.write_manifest(f"files/made{number}", {})
                if number > 3:
                    plain.delete(f"files/made{number - 3}")
                    assert not plain.exists(f"files/made{number - 3}/content")
        except BaseException as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    threads = [threading.Thread(target=read), threading.Thread(target=write_and_delete)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(6):  # back and forth between two keys
            rotate(storage_in(root, *((NEW, OLD) if turn % 2 else (OLD, NEW))), redis, storage.names(), settled_s=0)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert reads > 0
    assert {name: storage.read_bytes(name) for name in contents} == contents
    with pytest.raises(FileNotFound):
        storage.open("files/made1/content")


ROTATES = """
import sys
from pathlib import Path
import redis
from coatcheck.artifacts import ArtifactStore
from coatcheck.encryption import Keyring
from coatcheck.rotation import rotate
keys = [bytes.fromhex(key) for key in sys.argv[3:]]
storage = ArtifactStore("file://" + sys.argv[1], Keyring(keys))
print("begun", flush=True)
rotate(storage, redis.Redis.from_url(sys.argv[2]), storage.names(), settled_s=0)
"""


def test_a_rotation_killed_at_any_moment_loses_nothing_and_goes_on(
    tmp_path: Path, redis: redis_py.Redis, redis_server: str
) -> None:
    root = tmp_path / "root"
    contents, storage = filled(root), storage_in(root, NEW, OLD)
    for turn in range(5):
        order = [NEW, OLD] if turn % 2 else [OLD, NEW]
        command = [sys.executable, "-c", ROTATES, str(root), redis_server, *(key.hex() for key in order)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.004 * turn)  # into the middle of it, each time elsewhere
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert {name: storage.read_bytes(name) for name in contents} == contents
    done = rotate(storage, redis, storage.names(), settled_s=0)
    assert done.rewritten + done.newest == 30
    assert set(files_by_key(storage)) == {Keyring([NEW]).newest.hex()}
    assert [left.name for left in (root / "rotating").iterdir()] == [".lock"]


def test_two_rotations_at_once_are_refused(tmp_path: Path, redis: redis_py.Redis) -> None:
    storage = storage_in(tmp_path / "root", NEW)
    with storage.rotating(), pytest.raises(Conflict, match="Another process"):
        rotate(storage, redis, [])


def test_a_start_without_a_key_in_use_is_refused_by_its_id(redis: redis_py.Redis) -> None:
    check_keys(redis, None)
    check_keys(redis, Keyring([OLD]))
    check_keys(redis, Keyring([NEW, OLD]))
    for wrong in (None, Keyring([NEW])):
        with pytest.raises(SettingsError, match="COATCHECK_ENCRYPTION_KEYS") as told:
            check_keys(redis, wrong)
        assert Keyring([OLD]).newest.hex() in str(told.value)


def test_the_commands_count_and_rewrite(tmp_path: Path, redis: redis_py.Redis, redis_server: str) -> None:
    filled(tmp_path / "root")
    settings = settings_under(tmp_path, redis_server, NEW, OLD)
    status, rotate_command = artifacts_commands(lambda: settings)
    redis.hset(keys.version("a" * 64), "metrics", "{}")
    old, new = Keyring([OLD]).newest.hex(), Keyring([NEW]).newest.hex()
    told = CliRunner().invoke(status)
    assert f"key {new} (newest): 10 files, 0 values in Redis" in told.output
    assert f"key {old} (older): 10 files, 0 values in Redis" in told.output
    assert "not encrypted: 10 files, 1 values in Redis" in told.output
    told = CliRunner().invoke(rotate_command, ["--dry-run"])
    assert "20 of 30 files would be rewritten" in told.output
    told = CliRunner().invoke(rotate_command)
    assert "files rewritten" in told.output
    assert "run it again in a minute" in told.output  # manifests may be being written
    assert told.exit_code == 1
    left = CliRunner().invoke(status).output
    assert not [key for key in settings.encryption_keys.split(",") if key in told.output + left]
    assert f"key {new} (newest): " in left


def test_temporary_folders_hold_nothing_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    storage = storage_in(tmp_path / "root", OLD)
    storage.write("a/large", io.BytesIO(LARGE))
    with storage.open("a/large") as stream:
        stream.read()
    assert list((tmp_path / "tmp").iterdir()) == []
