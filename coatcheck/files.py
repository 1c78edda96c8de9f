"""Uploaded files: bytes in storage, a small record in Redis. Knows no HTTP and no dataset formats."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import redis

from coatcheck import keys
from coatcheck.artifacts import ArtifactStore
from coatcheck.errors import CoatcheckError, FileNotFound, InvalidInput
from coatcheck.jobs import id_time_ms, new_id


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """An uploaded file. Size in bytes, digests as hex, time in milliseconds."""

    id: str
    account: str
    name: str
    content_type: str
    size: int
    sha256: str
    md5: str
    metadata: dict[str, Any]
    created_ms: int

    @property
    def content_name(self) -> str:
        """The artifact file with its bytes."""
        return f"files/{self.id}/content"


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePage:
    """Files, newest first, and the cursor that leads on to older ones (empty: there are none)."""

    files: list[File]
    older: str


class Files:
    """Files of all accounts; every call names the account it is for."""

    def __init__(self, client: redis.Redis, artifacts: ArtifactStore) -> None:
        self._client = client
        self._artifacts = artifacts

    def create(
        self,
        account: str,
        stream: BinaryIO,
        *,
        filename: str,
        content_type: str,
        metadata: dict[str, Any] | None = None,
        limit_bytes: int | None = None,
    ) -> File:
        """Stream an upload to storage and record it.

        Raises:
            TooLarge: more than `limit_bytes`. NotEnoughSpace: storage is full.
        """
        file_id = new_id()
        prefix = f"files/{file_id}"
        stored = self._artifacts.write(f"{prefix}/content", stream, limit_bytes=limit_bytes)
        file = File(
            id=file_id,
            account=account,
            name=filename,
            content_type=content_type,
            size=stored.size,
            sha256=stored.sha256,
            md5=stored.md5,
            metadata=metadata or {},
            created_ms=id_time_ms(file_id) or 0,  # a page's cursor is an id: list and ids must agree on the order
        )
        record = _record(file)
        try:
            self._artifacts.write_manifest(prefix, {"kind": "file", "id": file_id, **record})
            pipeline = self._client.pipeline(transaction=True)
            pipeline.hset(keys.file(file_id), mapping=record)
            pipeline.zadd(keys.files(account), {file_id: file.created_ms})
            pipeline.execute()
        except (CoatcheckError, OSError, redis.exceptions.ResponseError):
            # Refused for certain. Without an answer it may have been recorded: a sweep finds what nobody names.
            with contextlib.suppress(Exception):
                self._artifacts.delete(prefix)
            raise
        return file

    def get(self, account: str, file_id: str) -> File:
        """The file's record. Raises FileNotFound, for a foreign one too."""
        record = cast(dict[bytes, bytes], self._client.hgetall(keys.file(file_id)))
        if not record or record[b"account"].decode() != account:
            raise FileNotFound(f"There is no file {file_id!r}.")
        return _file(file_id, record)

    def page(self, account: str, *, limit: int = 100, cursor: str = "") -> FilePage:
        """Files behind the file `cursor` (which may be gone meanwhile), newest first.

        Raises:
            InvalidInput: the cursor is no file id.
        """
        ids = self._ids(account, limit + 1, cursor)
        shown = ids[:limit]
        pipeline = self._client.pipeline(transaction=False)
        for file_id in shown:
            pipeline.hgetall(keys.file(file_id))
        files = [_file(file_id, record) for file_id, record in zip(shown, pipeline.execute(), strict=True) if record]
        return FilePage(files=files, older=shown[-1] if len(ids) > limit else "")

    def _ids(self, account: str, count: int, cursor: str) -> list[str]:
        # A file's score is its id's own time, so a cursor needs no look-up. Of one millisecond Redis gives the
        # greatest id first; the others of the cursor's own millisecond are read apart, however many they are.
        name, at_ms = keys.files(account), id_time_ms(cursor) if cursor else None
        if cursor and at_ms is None:
            raise InvalidInput(f"cursor is {cursor[:80]!r}; expected one this service gave", field="cursor")
        pipeline = self._client.pipeline(transaction=False)
        if at_ms is not None:
            pipeline.zrevrangebyscore(name, at_ms, at_ms)
        pipeline.zrevrangebyscore(name, "+inf" if at_ms is None else f"({at_ms}", "-inf", 0, count)
        *same, older = cast(list[list[bytes]], pipeline.execute())
        beside = [found.decode() for found in (same[0] if same else []) if found.decode() < cursor]
        return [*beside, *(found.decode() for found in older)][:count]

    def delete(self, account: str, file_id: str) -> None:
        """Remove record and bytes. Raises FileNotFound."""
        self.get(account, file_id)
        pipeline = self._client.pipeline(transaction=True)
        pipeline.delete(keys.file(file_id))
        pipeline.zrem(keys.files(account), file_id)
        pipeline.execute()
        self._artifacts.delete(f"files/{file_id}")

    def open(self, file: File) -> BinaryIO:
        """Its bytes as a seekable stream."""
        return self._artifacts.open(file.content_name)


def _record(file: File) -> dict[Any, Any]:
    return {
        "account": file.account,
        "name": file.name,
        "content_type": file.content_type,
        "size": file.size,
        "sha256": file.sha256,
        "md5": file.md5,
        "metadata": json.dumps(file.metadata),
        "created": file.created_ms,
    }


def _file(file_id: str, record: dict[bytes, bytes]) -> File:
    return File(
        id=file_id,
        account=record[b"account"].decode(),
        name=record[b"name"].decode(),
        content_type=record[b"content_type"].decode(),
        size=int(record[b"size"]),
        sha256=record[b"sha256"].decode(),
        md5=record[b"md5"].decode(),
        metadata=json.loads(record[b"metadata"]),
        created_ms=int(record[b"created"]),
    )
