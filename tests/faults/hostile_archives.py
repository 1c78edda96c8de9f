"""Hostile NPY and NPZ files and ZIP files of class folders. Knows no service."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from functools import partial

import numpy as np
from faults.hostile_files import Collection, Hostile, flipped
from faults.hostile_media import bmp, png, wav
from faults.hostile_texts import Opened, a_pickle


def npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    """An NPY file with any header."""
    text = header.encode("latin1") + b"\n"
    length = struct.pack("<H", len(text)) if version == 1 else struct.pack("<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


def _header(dtype: str = "<f4", shape: str = "(40, 1)", order: str = "False") -> str:
    return f"{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': {shape}, }}"


def _saved(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    target = io.BytesIO()
    np.save(target, array, allow_pickle=allow_pickle)
    return target.getvalue()


def _objects() -> bytes:
    return _saved(np.array([Opened(), 1], object), allow_pickle=True)


_DATA = np.arange(40, dtype="<f4").tobytes()


def arrays() -> list[Hostile]:
    """NPY files for batches, and the same within NPZ files for datasets."""
    lies = {
        "objects, a pickle": _objects(),
        "a shape of 2^60": npy(_header(shape=f"({2**60}, 1)"), _DATA),
        "a shape that overflows": npy(_header(shape=f"({2**32}, {2**32})"), _DATA),
        "a negative shape": npy(_header(shape="(-40, 1)"), _DATA),
        "a shape of a thousand axes": npy(_header(shape="(" + "1," * 1000 + ")"), _DATA),
        "more rows than there are": npy(_header(shape="(4000, 1)"), _DATA),
        "a header of four gigabytes": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + _DATA,
        "a header that calls": npy("__import__('os').system('touch a-header-was-run')", _DATA),
        "a header 60,000 deep": npy("(" * 60_000, _DATA, 2),
        "a header of 10 MB": npy(_header() + " " * 10_000_000, _DATA, 2),
        "a record type": npy("{'descr': [('a', '<f4'), ('b', '|O')], 'fortran_order': False, 'shape': (20,), }", _DATA),
        "dates": _saved(np.zeros((40, 1), "M8[s]")),
        "complex numbers": _saved(np.zeros((40, 1), np.complex64)),
        "raw bytes": npy(_header("|V4"), _DATA),
        "texts of 2^30 letters": npy(_header(f"<U{2**30}"), _DATA),
        "version 9": npy(_header(), _DATA, 9),
        "a header that is no dictionary": npy("[1, 2, 3]", _DATA),
        "a header with more keys": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (40, 1), 'evil': 1}", _DATA),
        "cut within the header": npy(_header(), _DATA)[:30],
        "a boolean shape": npy(_header(shape="(True, 40)"), _DATA),
    }
    single, packed = Collection("npy", "batch"), Collection("npz", "dataset")
    for name, content in lies.items():
        single.add(name, content, sample="batch" if "objects" in name or "calls" in name else "")
        packed.add(name, partial(_npz, x=content, y=_labels()), sample="dataset" if "objects" in name else "")
    _more_npz(packed)
    return [*single.files, *packed.files]


def _labels(count: int = 40) -> bytes:
    return _saved(np.arange(count) % 2)


def _npz(**members: bytes) -> bytes:
    return zipped({f"{name}.npy": content for name, content in members.items()})


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A ZIP of these files."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.getvalue()


def _more_npz(found: Collection) -> None:
    zeros = lambda: _saved(np.zeros((300 * 2**20 // 4,), np.float32))  # noqa: E731
    found.add("300 MB of zeros", lambda: _npz(x=zeros(), y=_labels()))
    found.add("a size that lies", lambda: _size_lies(_npz(x=_saved(np.zeros((40, 3, 3), "f4")), y=_labels())))
    found.add("65 arrays", lambda: _npz(**{f"a{n}": _labels() for n in range(65)}))
    found.add("another way of packing", lambda: zipped({"x.npy": _labels(), "y.npy": _labels()}, zipfile.ZIP_LZMA))
    found.add("a pickle beside arrays", lambda: zipped({"x.npy": _labels(), "y.npy": a_pickle()}))
    found.add("half of it", lambda: _npz(x=_labels(9000), y=_labels(9000))[:300])
    found.add("arrays of different lengths", lambda: _npz(x=_saved(np.zeros((40, 3, 3), "f4")), y=_labels(7)))
    found.add("no rows", lambda: _npz(x=_saved(np.zeros((0, 3, 3), "f4")), y=_labels(0)))
    found.add("NaN only", lambda: _npz(x=_saved(np.full((40, 3, 3), np.nan, "f4")), y=_labels()))
    found.add("an image of a billion columns", lambda: _npz(x=npy(_header(shape=f"(1, {10**9}, 1)")), y=_labels(1)))
    for seed in range(5):
        whole = lambda: _npz(x=_saved(np.arange(360, dtype="f4").reshape(40, 3, 3)), y=_labels())  # noqa: E731
        found.add(f"bits turned over, {seed}", partial(flipped, whole(), seed, 12))


def _size_lies(content: bytes) -> bytes:
    """Every unpacked size in the archive's list is made small."""
    changed = bytearray(content)
    place = changed.find(b"PK\x01\x02")
    while place >= 0:
        changed[place + 24 : place + 28] = struct.pack("<I", 10)
        place = changed.find(b"PK\x01\x02", place + 4)
    return bytes(changed)


def archives() -> list[Hostile]:
    """ZIP files of class folders."""
    found = Collection("zip", "dataset")
    folders = {f"{label}/{n}.png": png(8, 8, shade=n * 9) for label in ("cat", "dog") for n in range(12)}
    _names(found, folders)
    _bombs(found, folders)
    _members(found, folders)
    for seed in range(5):
        found.add(f"bits turned over, {seed}", partial(flipped, zipped(folders), seed, 20))
    return found.files


def _names(found: Collection, folders: dict[str, bytes]) -> None:
    for name, path in {
        "a climbing path": "../../../../tmp/evil.png",
        "an absolute path": "/etc/cron.d/evil",
        "a drive letter": "C:/evil.png",
        "a backslash path": "..\\..\\evil.png",
    }.items():
        found.add(name, partial(zipped, {**folders, path: png(8, 8)}))

    def link() -> bytes:
        target = io.BytesIO(zipped(folders))
        with zipfile.ZipFile(target, "a") as archive:
            entry = zipfile.ZipInfo("cat/link.png")
            entry.external_attr = 0o120777 << 16
            archive.writestr(entry, "/etc/passwd")
        return target.getvalue()

    def locked() -> bytes:
        changed = bytearray(zipped(folders))
        for mark, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
            place = changed.find(mark)
            while place >= 0:
                changed[place + offset] |= 1
                place = changed.find(mark, place + 4)
        return bytes(changed)

    found.add("a symbolic link", link, sample="dataset")
    found.add("encrypted", locked)
    found.add("a name of 60,000 letters", lambda: zipped({"a" * 60_000 + "/1.png": png(8, 8)}))


def _bombs(found: Collection, folders: dict[str, bytes]) -> None:
    def overlapping() -> bytes:
        """Many entries of one body: the list names the same place again and again."""
        body = zipped({"cat/a.png": bytes(30 * 2**20)})
        at = body.find(b"PK\x01\x02")
        entry = body[at : body.find(b"PK\x05\x06")]
        listed = b"".join(entry.replace(b"cat/a.png", b"cat/%05d" % n) for n in range(2000))
        end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 2000, 2000, len(listed), at, 0)
        return body[:at] + listed + end

    def nested() -> bytes:
        content = bytes(2**20)
        for depth in range(8):
            content = zipped({f"{depth}-{n}.zip": content for n in range(3)})
        return content

    found.add("2,000 entries over one body", overlapping, sample="dataset")
    found.add("ZIP within ZIP", nested)
    found.add(
        "a member of 100 MB of zeros",
        lambda: zipped({**folders, "cat/big.png": bytes(100 * 2**20)}),
        harmless=("dataset",),
    )
    found.add("a list of 90 MB", _many_entries)
    found.add("an end that lies of its length", lambda: zipped(folders)[:-10] + struct.pack("<IIH", 2**31, 4, 0))
    found.add("sizes that lie", lambda: _size_lies(zipped(folders)))
    found.add("no central list", lambda: zipped(folders)[: zipped(folders).find(b"PK\x01\x02")])
    found.add("an empty ZIP", b"PK\x05\x06" + bytes(18))
    found.add("only folders", lambda: zipped({"cat/": b"", "dog/": b""}))
    found.add(
        "a comment that hides another end",
        lambda: zipped(folders)[:-2] + struct.pack("<H", 22) + b"PK\x05\x06" + bytes(18),
    )


def _many_entries() -> bytes:
    entry = zipfile.ZipInfo("a")
    local = struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    name = b"a/" + b"b" * 250
    listed = struct.pack(
        "<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, 0, 0, 0, 0, zlib.crc32(b""), 0, 0, len(name), 0, 0, 0, 0, 0, 0
    )
    whole = (listed + name) * 310_000
    del entry
    return local + whole + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 65535, 65535, len(whole), len(local), 0)


def _members(found: Collection, folders: dict[str, bytes]) -> None:
    only = lambda content: zipped({f"{label}/{n}.png": content for label in ("cat", "dog") for n in range(12)})  # noqa: E731
    found.add("images that say 60,000 x 60,000", lambda: only(png(60_000, 60_000, rows=1)))
    found.add("images of 16,000 x 1,000 from one kilobyte", lambda: only(png(16_000, 1000)), harmless=("dataset",))
    found.add("images cut off", lambda: only(png(64, 64)[:60]))
    found.add("bitmaps that lie", lambda: only(bmp(2**31 - 1, 2**31 - 1)))
    found.add(
        "sounds that lie",
        lambda: zipped({f"{label}/{n}.wav": wav(length=2**32 - 1) for label in ("a", "b") for n in range(12)}),
        harmless=("dataset",),
    )
    found.add(
        "sounds of no channel",
        lambda: zipped({f"{label}/{n}.wav": wav(channels=0) for label in ("a", "b") for n in range(8)}),
    )
    found.add("pickles called images", lambda: only(a_pickle()), sample="dataset")
    found.add("pickles", lambda: zipped({f"{label}/{n}.pkl": a_pickle() for label in ("a", "b") for n in range(8)}))
    found.add("a saved torch archive", lambda: zipped({"archive/data.pkl": a_pickle(), "archive/version": b"3\n"}))
    found.add("texts", lambda: zipped({f"{label}/{n}.txt": b"hello" for label in ("a", "b") for n in range(8)}))
    found.add("another way of packing", lambda: zipped(folders, zipfile.ZIP_BZIP2))
    found.add("a spreadsheet", lambda: zipped({"[Content_Types].xml": b"<x/>", "xl/workbook.xml": b"<x/>"}))
