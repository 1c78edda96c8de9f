"""Uploaded files: bytes in storage, a small record in Redis. Knows no HTTP and no dataset formats."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import redis

from coatcheck import keys
from coatcheck.artifacts import ArtifactStore
from coatcheck.errors import FileNotFound
from coatcheck.jobs import new_id


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
            created_ms=int(time.time() * 1000),
        )
        record = _record(file)
        self._artifacts.write_manifest(prefix, {"kind": "file", "id": file_id, **record})
        pipeline = self._client.pipeline(transaction=True)
        pipeline.hset(keys.file(file_id), mapping=record)
        pipeline.zadd(keys.files(account), {file_id: file.created_ms})
        pipeline.execute()
        return file

    def get(self, account: str, file_id: str) -> File:
        """The file's record. Raises FileNotFound, for a foreign one too."""
        record = cast(dict[bytes, bytes], self._client.hgetall(keys.file(file_id)))
        if not record or record[b"account"].decode() != account:
            raise FileNotFound(f"There is no file {file_id!r}.")
        return _file(file_id, record)

    def page(self, account: str, *, limit: int = 100, before_ms: int | None = None) -> list[File]:
        """Files, newest first."""
        highest = "+inf" if before_ms is None else f"({before_ms}"
        ids = cast(list[bytes], self._client.zrevrangebyscore(keys.files(account), highest, "-inf", 0, limit))
        pipeline = self._client.pipeline(transaction=False)
        for file_id in ids:
            pipeline.hgetall(keys.file(file_id.decode()))
        return [
            _file(file_id.decode(), record) for file_id, record in zip(ids, pipeline.execute(), strict=True) if record
        ]

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
