"""Artifacts: immutable files under a prefix, with a manifest of digests that is written last.

Storage is any fsspec URL. Callers see names and streams, never a store path. With keys all is written encrypted, and
read whether encrypted or not; sizes and digests are those of the plaintext. Knows no Redis, no models, no jobs.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import fsspec

from coatcheck.beside_writing import BesideHashing, Writeback
from coatcheck.encryption import BEGINNING_BYTES, Keyring, is_encrypted, key_id_of
from coatcheck.errors import ArtifactDamaged, FileNotFound, NotEnoughSpace, TooLarge
from coatcheck.exchange import LOCK, LocalPlace, RemotePlace, only_one

if TYPE_CHECKING:
    from coatcheck.encrypted_files import FrameReader

MANIFEST = "manifest.json"
CHUNK = 1024 * 1024
#: Folder of files on their way to another key.
ROTATING = "rotating"
#: Decrypted bytes that are held of an open file.
FRAME_BUFFER = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One written file: its size in bytes and its digests as hex."""

    size: int
    sha256: str
    md5: str


class ArtifactStore:
    """Writes once, reads many times.

    Args:
        url: fsspec URL of the root folder, e.g. `file:///srv/artifacts` or `s3://bucket/coatcheck`.
        keyring: the keys to encrypt under and to read with; None writes plain files and reads no others.
    """

    def __init__(self, url: str, keyring: Keyring | None = None) -> None:
        self.keyring = keyring
        self._filesystem, self._root = cast(
            tuple[Any, str], fsspec.core.url_to_fs(url, **({"auto_mkdir": True} if url.startswith("file:") else {}))
        )

        self._local = "file" in cast(tuple[str, ...], self._filesystem.protocol)

    def write(self, name: str, source: BinaryIO, *, limit_bytes: int | None = None) -> Stored:
        """Stream `source` to `name`, hashing on the way; nothing is left behind on failure.

        Raises:
            TooLarge: more than `limit_bytes` came. NotEnoughSpace: the storage is full.
        """
        sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        path = self._path(name)
        with (
            self._undone_on_failure(path),
            self._filesystem.open(path, "wb") as target,
            BesideHashing() as beside,
        ):
            sink, writeback = self._sink(target, name), Writeback(target if self._local else None)
            while chunk := source.read(CHUNK):
                size += len(chunk)
                if limit_bytes is not None and size > limit_bytes:
                    raise TooLarge(f"The file is larger than the {limit_bytes} bytes this route takes.")
                beside.take(md5.update, chunk, size)
                sha256.update(chunk)
                sink.write(chunk)
                writeback.wrote(size)
            beside.finish()
            self._settle(target, sink)
        return Stored(size=size, sha256=sha256.hexdigest(), md5=md5.hexdigest())

    def write_bytes(self, name: str, content: bytes) -> Stored:
        """Write a small file at once."""
        path = self._path(name)
        with self._undone_on_failure(path), self._filesystem.open(path, "wb") as target:
            sink = self._sink(target, name)
            sink.write(content)
            self._settle(target, sink)
        return Stored(
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
        )

    def write_pieces(self, name: str, pieces: Iterable[bytes]) -> tuple[int, str]:
        """Write a file that nobody downloads as it is; returns its size and SHA-256, and takes no MD5.

        On a local disk the pieces are on their way as they come, so that the end does not wait for them all.
        """
        path = self._path(name)
        sha256, size = hashlib.sha256(), 0
        with self._undone_on_failure(path), self._filesystem.open(path, "wb") as target:
            sink, writeback = self._sink(target, name), Writeback(target if self._local else None)
            for piece in pieces:
                size += len(piece)
                sha256.update(piece)
                sink.write(piece)
                writeback.wrote(size)
            self._settle(target, sink)
        return size, sha256.hexdigest()

    def write_manifest(self, prefix: str, manifest: dict[str, Any]) -> bytes:
        """Make the files under `prefix` an artifact; returns the manifest's bytes (sorted keys, no blanks)."""
        content = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        self.write_bytes(f"{prefix}/{MANIFEST}", content)
        return content

    def manifest(self, prefix: str) -> dict[str, Any]:
        """The manifest under `prefix`. Raises FileNotFound when there is none."""
        return cast(dict[str, Any], json.loads(self.read_bytes(f"{prefix}/{MANIFEST}")))

    def read_at_most(self, name: str, limit_bytes: int) -> bytes:
        """A whole file, if it is no larger than that. Raises FileNotFound; TooLarge: it has more bytes."""
        content = bytearray()
        with self.open(name) as source:
            while chunk := source.read(CHUNK):
                content += chunk
                if len(content) > limit_bytes:
                    raise TooLarge(f"The file has more than the {limit_bytes} bytes that are read of one.")
        return bytes(content)

    def read_bytes(self, name: str, *, sha256: str | None = None) -> bytes:
        """A whole file, checked against `sha256` when given.

        Raises:
            FileNotFound: there is none. ArtifactDamaged: the digest differs, or it does not decrypt.
        """
        try:
            content = cast(bytes, self._filesystem.cat_file(self._path(name)))
        except FileNotFoundError:
            raise FileNotFound(f"There is no artifact file {name}.") from None
        if is_encrypted(content[:BEGINNING_BYTES], self.keyring, name):
            content = self._frames(io.BytesIO(content), name).readall()
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise ArtifactDamaged(f"The artifact file {name} does not match its digest.")
        return content

    def open(self, name: str) -> BinaryIO:
        """A readable, seekable stream.

        Raises:
            FileNotFound: there is none. ArtifactDamaged: here or by any read of it: it does not decrypt.
        """
        return self._plain(self._open(self._path(name), name), name)

    @contextlib.contextmanager
    def fetch(self, name: str, folder: Path, *, sha256: str | None = None) -> Iterator[Path]:
        """A private copy below `folder` for code that needs a path; gone afterwards.

        Who is killed meanwhile leaves it behind: `folder` has to be one that somebody sweeps.

        It is the one plain copy of an encrypted file; its folder is its owner's alone (mode 700).

        Raises:
            FileNotFound: there is none. ArtifactDamaged: the digest differs, or it does not decrypt.
        """
        with tempfile.TemporaryDirectory(prefix="fetched-", dir=folder) as private:
            path = Path(private) / Path(name).name
            digest = hashlib.sha256()
            with self.open(name) as source, path.open("wb") as target:
                _copy(source, target, digest)
            if sha256 is not None and digest.hexdigest() != sha256:
                raise ArtifactDamaged(f"The artifact file {name} does not match its digest.")
            yield path

    def exists(self, name: str) -> bool:
        """True when the file is there."""
        return bool(self._filesystem.isfile(self._path(name)))

    def delete(self, prefix: str) -> None:
        """Remove a prefix: the manifest first, so that no reader takes a half for the whole."""
        path = self._path(prefix)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self._filesystem.rm_file(f"{path}/{MANIFEST}")
        with contextlib.suppress(FileNotFoundError):
            self._filesystem.rm(path, recursive=True)

    def list(self, prefix: str) -> list[str]:
        """Names of the entries right below a prefix."""
        try:
            entries = self._filesystem.ls(self._path(prefix), detail=False)
        except FileNotFoundError:
            return []
        return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries)

    def free_bytes(self) -> int | None:
        """Space left on a local disk; None where the storage has no such figure."""
        if not self._local:
            return None
        Path(self._root).mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self._root).free

    def check(self) -> None:
        """Write, read and remove a probe. Raises whatever the storage raises."""
        # A name of its own for every call: probes of one moment must not remove each other's file.
        name = f"probe/{secrets.token_hex(12)}"
        try:
            self.write_bytes(name, b"probe")
            self.read_bytes(name)
        finally:
            with contextlib.suppress(FileNotFoundError):
                self._filesystem.rm_file(self._path(name))

    # -- to another key ----------------------------------------------------------------------------------------

    def names(self) -> Iterator[str]:
        """Names of all files there are, folder by folder."""
        for folder, _, files in self._filesystem.walk(self._root):
            below = str(folder)[len(self._root) :].strip("/")
            if below.partition("/")[0] != ROTATING:
                yield from (f"{below}/{name}" if below else name for name in sorted(files))

    def key_of(self, name: str) -> bytes | None:
        """Id of the key that a file is encrypted under; None for a plain one. Raises FileNotFound."""
        with self._open(self._path(name), name) as source:
            return key_id_of(source.read(BEGINNING_BYTES))

    def settled(self, name: str, after_s: float) -> bool:
        """True when nobody can be writing the file any more: its manifest is there, or it is as old as that.

        Outside a local disk a file is there when it is whole. One that is empty on the disk may have its first bytes in
        the memory of a slow upload or a running batch: only its manifest says that it is whole.
        """
        if not self._local:
            return True
        folder, _, last = name.rpartition("/")
        if last != MANIFEST and self.exists(f"{folder}/{MANIFEST}"):
            return True
        try:
            found = Path(self._path(name)).stat()
        except FileNotFoundError:
            return False
        return found.st_size > 0 and time.time() - found.st_mtime >= after_s

    @contextlib.contextmanager
    def rotating(self) -> Iterator[None]:
        """Around `rewrite`: one at a time on a local disk; what one that was killed has left behind is removed.

        Raises:
            Conflict: another process rewrites now.
        """
        folder = Path(self._root) / ROTATING
        if self._local:
            folder.mkdir(parents=True, exist_ok=True)
        with only_one(folder) if self._local else contextlib.nullcontext():
            self.clear_rotating()
            yield

    def clear_rotating(self, older_than_s: float = 0.0) -> int:
        """Remove what rotations have left that were killed; one that runs leaves the file it is at for its next run."""
        self._filesystem.invalidate_cache()
        until = time.time() - older_than_s
        left = [entry for entry in self.list(ROTATING) if entry != LOCK]
        left = [entry for entry in left if not older_than_s or int(entry.partition("-")[0]) < until]
        for entry in left:
            with contextlib.suppress(FileNotFoundError):
                self._filesystem.rm_file(f"{self._root}/{ROTATING}/{entry}")
        return len(left)

    def rewrite(self, name: str) -> bool:
        """Encrypt a file under the newest key, in one step for all readers; False if it is gone or changed meanwhile.

        The new file is written beside, read back and compared, and only then put in the old one's place. A reader that
        has the old one open goes on with it on a local disk.

        Raises:
            ArtifactDamaged: it does not decrypt, or what was written does not read back. NotEnoughSpace.
        """
        path = self._path(name)
        part = f"{self._root}/{ROTATING}/{int(time.time())}-{secrets.token_hex(8)}"
        try:
            place = LocalPlace(path) if self._local else RemotePlace(self._filesystem, path, MANIFEST)
            digest = hashlib.sha256()
            with (
                self.open(name) as source,
                self._undone_on_failure(part),
                self._filesystem.open(part, "wb") as target,
            ):
                sink = self._sink(target, name)
                _copy(source, sink, digest)
                self._settle(target, sink)
            check = hashlib.sha256()
            with self._plain(self._open(part, name), name) as again:
                _copy(again, _Nowhere(), check)
            if check.digest() != digest.digest():
                raise ArtifactDamaged(
                    f"The artifact file {name} did not read back as it was written; it stays as it was."
                )
            return place.take(part)
        except (FileNotFoundError, FileNotFound):
            return False
        finally:
            with contextlib.suppress(FileNotFoundError):
                self._filesystem.rm_file(part)

    # -- inside ------------------------------------------------------------------------------------------------

    def _open(self, path: str, name: str) -> BinaryIO:
        try:
            return cast(BinaryIO, self._filesystem.open(path, "rb"))
        except FileNotFoundError:
            raise FileNotFound(f"There is no artifact file {name}.") from None

    def _plain(self, source: BinaryIO, name: str) -> BinaryIO:
        """The stream itself, or one that decrypts it."""
        try:
            if is_encrypted(source.read(BEGINNING_BYTES), self.keyring, name):
                return cast(BinaryIO, io.BufferedReader(self._frames(source, name), FRAME_BUFFER))
            source.seek(0)
        except BaseException:
            source.close()
            raise
        return source

    def _frames(self, source: BinaryIO, name: str) -> FrameReader:
        from coatcheck.encrypted_files import FrameReader

        assert self.keyring is not None
        return FrameReader(source, self.keyring, name)

    def _sink(self, target: Any, name: str) -> Any:
        """What to write a file's plaintext to: the target itself where there are no keys."""
        if self.keyring is None:
            return target
        from coatcheck.encrypted_files import FrameWriter

        frames = FrameWriter(target, self.keyring, name)
        target.flush()  # the key it is being written under can be seen from here on, however slowly the rest comes
        return frames

    def _settle(self, target: Any, sink: Any) -> None:
        if sink is not target:
            sink.finish()
        # On a local disk an accepted input, or a file a manifest will name, must survive a power cut.
        if self._local:
            target.flush()
            os.fsync(target.fileno())
            folder = os.open(Path(target.name).parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _path(self, name: str) -> str:
        parts = name.split("/")
        if not name or any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name:
            raise FileNotFound(f"{name!r} is not a name of an artifact file.")
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _undone_on_failure(self, path: str) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(Exception):
                self._filesystem.rm_file(path)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise NotEnoughSpace from error
            raise


class _Nowhere:
    def write(self, content: bytes) -> None:
        """Drop it."""


def _copy(source: BinaryIO, target: Any, digest: Any) -> None:
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        target.write(chunk)
