"""NPZ files read without trusting them: no pickle, no sizes taken on faith. Knows the format, not its meaning."""

from __future__ import annotations

import ast
import math
import re
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from coatcheck.errors import InvalidInput
from workers.data.archive import check_directory

#: Bytes of all arrays together, unpacked.
MAX_BYTES = 4 * 1024**3
#: Unpacked, arrays may take this many times the file, and this much more.
MAX_RATIO = 200
MAX_EXTRA_BYTES = 256 * 1024**2
MAX_ARRAYS = 64
MAX_HEADER_BYTES = 10_000
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error),
    *(NotImplementedError, EOFError, OSError, RuntimeError),
)
#: Widths as numpy has them; text of no length is none.
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|U[1-9]\d{0,3})")


def _refused(message: str) -> InvalidInput:
    error = InvalidInput(f"the dataset does not read as NPZ: {message}", field="input.dataset")
    error.code = "not_an_npz"
    return error


def is_zip(path: Path) -> bool:
    """True if the file begins as zip files do."""
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def holds_arrays(path: Path) -> bool:
    """True if a zip file is an NPZ file: every file in it is an array.

    Raises:
        InvalidInput: with code not_an_npz or too_large; the zip file does not read.
    """
    check_directory(path)
    with _opened(path) as archive:
        names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    return bool(names) and all(name.endswith(".npy") for name in names)


def holds_blocks(path: Path) -> bool:
    """True if an NPZ file has an array of three axes or more: images or sequences, not columns.

    Raises:
        InvalidInput: as `read_npz`.
    """
    with _opened(path) as archive:
        entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")][:MAX_ARRAYS]
        for entry in entries:
            with archive.open(entry) as file:
                if len(_header(file, entry.filename)[1]) > 2:
                    return True
    return False


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Arrays by name: numbers, booleans and text only.

    Raises:
        InvalidInput: with code not_an_npz, too_large or zip_bomb.
    """
    with _opened(path) as archive:
        entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
        if not entries:
            raise _refused("it has no arrays (write it with numpy.savez)")
        if len({entry.filename for entry in entries}) < len(entries):
            raise _refused("two of its arrays have the same name")
        total, size = sum(entry.file_size for entry in entries), path.stat().st_size
        if len(entries) > MAX_ARRAYS or total > MAX_BYTES:
            error = _refused(f"it has more than {MAX_ARRAYS} arrays or {MAX_BYTES} bytes unpacked")
            error.code = "too_large"
            raise error
        if total > size * MAX_RATIO + MAX_EXTRA_BYTES:
            error = _refused(f"it has {size} bytes and would unpack to {total}; write it with numpy.savez")
            error.code = "zip_bomb"
            raise error
        return {entry.filename.removesuffix(".npy"): _read_entry(archive, entry) for entry in entries}


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The zip file; what is wrong with it while it is open is told as InvalidInput."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _ZIP_ERRORS:
        raise _refused("the zip file is damaged, encrypted or cut off") from None


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> npt.NDArray[Any]:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refused(f"array {entry.filename!r} is packed in a way that is not read; use numpy.savez_compressed")
    with archive.open(entry) as file:
        dtype, shape, fortran = _header(file, entry.filename)
        size = dtype.itemsize * math.prod(shape)
        if size > min(entry.file_size, MAX_BYTES):
            raise _refused(f"array {entry.filename!r} declares {size} bytes and has {entry.file_size}")
        data = file.read(size)
    if len(data) != size:
        raise _refused(f"array {entry.filename!r} is cut off")
    if dtype.kind == "U" and not _is_unicode(data, dtype):
        raise _refused(f"array {entry.filename!r} holds text that is no Unicode")
    try:
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    except ValueError:  # no data, and lengths whose product no array may have
        raise _refused(f"array {entry.filename!r} has the shape {list(shape)}") from None


def _is_unicode(data: bytes, dtype: np.dtype[Any]) -> bool:
    points = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
    return not ((points > sys.maxunicode) | ((points >= 0xD800) & (points < 0xE000))).any()


def _header(file: IO[bytes], name: str) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    start = file.read(8)
    if start[:6] != b"\x93NUMPY" or len(start) < 8 or start[6] not in (1, 2, 3):
        raise _refused(f"{name!r} is not an array")
    length = int.from_bytes(file.read(2 if start[6] == 1 else 4), "little")
    if length > MAX_HEADER_BYTES:
        raise _refused(f"array {name!r} has a header of {length} bytes")
    try:
        header = ast.literal_eval(file.read(length).decode("latin-1"))
        kind, shape, fortran = header["descr"], header["shape"], header["fortran_order"]
        if len(header) != 3:  # numpy takes no more either
            raise ValueError
        sound = isinstance(kind, str) and all(type(n) is int and 0 <= n < 2**48 for n in shape) and len(shape) <= 8
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        raise _refused(f"array {name!r} has a header that does not read") from None
    if not sound:
        raise _refused(f"array {name!r} holds neither numbers nor text (records and objects are not read)")
    if not _DTYPE.fullmatch(kind):
        raise _refused(f"array {name!r} holds {kind}; expected numbers, booleans or text (no objects)")
    return np.dtype(kind), tuple(shape), bool(fortran)
