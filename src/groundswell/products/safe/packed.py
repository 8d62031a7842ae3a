"""Members of zip and tar files: where they are, which must not be read, and streams of their bytes.

Nothing is unpacked to disk. Headers are not trusted: names that lead out, links, doubles and encrypted members are
refused one by one; a packed tar may inflate to no more than a fixed multiple of its size.
"""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from groundswell.products.safe.inflate import Deflated

RATIO_LIMIT = 200
"""Largest ratio to which a document, or a whole gzipped tar, may inflate; XML of real products reaches about 15."""
MEMBER_LIMIT = 20_000
"""Most files of a product; a real one has some hundreds."""
STREAM_LIMIT = 64 * 2**30
"""Largest tar that is inflated, bytes."""
_READ_LIMIT = 16 * 2**20  # bytes that a tar reader may ask for at once: no header is a reason for more
DAMAGE = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, zlib.error, struct.error, OSError, EOFError),
    *(ValueError, RuntimeError, NotImplementedError, OverflowError, IndexError, RecursionError),
)


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a file lies, as plain bytes, in a file on disk."""

    path: Path
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Member:
    size: int
    packed: int
    extent: Extent | None  # None: only through the archive
    key: Any = None


def open_packed(kind: str, path: Path, member: Member) -> BinaryIO:
    """A seekable stream of a member's bytes that shares no state with any other; closing it closes the archive."""
    if member.extent is not None:
        return cast(BinaryIO, io.BufferedReader(_Slice(member.extent), 2**18))
    if kind == "zip":
        return cast(BinaryIO, _OwnedZip(path, member.key))
    return cast(BinaryIO, io.BufferedReader(_Window(path, member.key, member.size), 2**18))


def _checked(name: str, members: dict[str, Member], refused: dict[str, str]) -> str | None:
    """The POSIX name of an archive member, or None (noted in ``refused``) where it must not be used."""
    clean = name.removeprefix("./")
    parts = clean.split("/")
    if not clean or clean.startswith("/") or "\\" in clean or ":" in parts[0] or ".." in parts or "\0" in clean:
        refused[name] = "its name leads out of the product"
        return None
    clean = "/".join(part for part in parts if part not in ("", "."))
    if clean in members or clean in refused:
        members.pop(clean, None)
        refused[clean] = "the archive holds it more than once"
        return None
    return clean


def list_zip(path: Path, refused: dict[str, str]) -> dict[str, Member]:
    """The members of a zip file; those that must not be read go to ``refused`` with the reason. Raises `DAMAGE`."""
    members: dict[str, Member] = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as handle:
        infos = archive.infolist()
        if len(infos) > MEMBER_LIMIT:
            raise ValueError(f"it holds more than {MEMBER_LIMIT} files")
        for info in infos:
            if info.is_dir() or (name := _checked(info.orig_filename, members, refused)) is None:
                continue
            mode = info.external_attr >> 16
            if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                refused[name] = "it is a link or a special file"
            elif info.flag_bits & 1:
                refused[name] = "it is encrypted"
            else:
                members[name] = Member(info.file_size, info.compress_size, _stored(handle, path, info), info)
    return members


def _stored(handle: BinaryIO, path: Path, info: zipfile.ZipInfo) -> Extent | None:
    """The place of a member that is not compressed."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        return None
    start = _content(handle, info)
    return None if start is None else Extent(path, start, info.file_size)


def _content(handle: BinaryIO, info: zipfile.ZipInfo) -> int | None:
    """Where the bytes of a member begin: its local header is 30 bytes, its name and its extra field."""
    handle.seek(info.header_offset)
    header = handle.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        return None
    name, extra = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + int(name) + int(extra)


def open_deflated(path: Path, member: Member) -> Deflated | None:
    """A member of a zip file to be read at any place; None where it is not deflated."""
    info: zipfile.ZipInfo = member.key
    if member.extent is not None or info.compress_type != zipfile.ZIP_DEFLATED:
        return None
    with path.open("rb") as handle:
        start = _content(handle, info)
    return None if start is None else Deflated(path, start, info.compress_size, info.file_size, info.CRC)


def list_tar(path: Path, refused: dict[str, str]) -> dict[str, Member]:
    """The members of a tar file, plain or gzipped, as `list_zip`."""
    with path.open("rb") as handle:
        packed = handle.read(2) == b"\x1f\x8b"
    members: dict[str, Member] = {}
    with _Capped(path) as stream, tarfile.open(fileobj=cast(Any, stream), mode="r:") as archive:
        for info in archive:
            if len(members) + len(refused) > MEMBER_LIMIT:
                raise ValueError(f"it holds more than {MEMBER_LIMIT} files")
            if info.isdir() or (name := _checked(info.name, members, refused)) is None:
                continue
            if not info.isreg() or info.issparse():
                refused[name] = "it is a link, a sparse or a special file"
                continue
            extent = None if packed else Extent(path, info.offset_data, info.size)
            members[name] = Member(info.size, info.size, extent, info.offset_data)
    return members


class _Slice(io.RawIOBase):
    """The bytes of an extent, as a raw seekable stream with its own file handle."""

    def __init__(self, extent: Extent) -> None:
        super().__init__()
        self._file: Any = extent.path.open("rb", buffering=0)
        self._start, self._size, self._at = extent.offset, extent.size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, min(len(buffer), self._size - self._at))]
        self._file.seek(self._start + self._at)
        count = int(self._file.readinto(view) or 0)
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Window(_Slice):
    """The bytes of a member of a gzipped tar: a slice of the inflated stream."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        io.RawIOBase.__init__(self)
        self._file: Any = _Capped(path)
        self._start, self._size, self._at = offset, size, 0

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._at, _READ_LIMIT))
        self._file.seek(self._start + self._at)
        data = self._file.read(count)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Capped:
    """A tar file, inflated, that refuses to go beyond `RATIO_LIMIT` or to give more than `_READ_LIMIT` at once."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        self._stream: Any = gzip.GzipFile(path) if packed else path.open("rb")
        self._end = min(STREAM_LIMIT, RATIO_LIMIT * path.stat().st_size + 2**20)

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence or not 0 <= offset <= self._end:
            raise ValueError(f"it inflates to more than {self._end} bytes")
        return int(self._stream.seek(offset))

    def tell(self) -> int:
        return int(self._stream.tell())

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _READ_LIMIT:
            raise ValueError(f"a header of {count} bytes")
        return bytes(self._stream.read(count))

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> _Capped:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _OwnedZip(io.BufferedReader):
    """A member of a zip file that closes the file with it."""

    def __init__(self, path: Path, info: zipfile.ZipInfo) -> None:
        self._archive = zipfile.ZipFile(path)
        try:
            raw = self._archive.open(info)
        except BaseException:
            self._archive.close()
            raise
        super().__init__(cast(io.RawIOBase, raw), 2**18)

    def close(self) -> None:
        super().close()
        self._archive.close()
