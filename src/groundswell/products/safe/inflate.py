"""Deflated members of zip files, read at any place without beginning anew.

A deflated stream can only be inflated from its beginning, and a scene is read in bands of lines, one by one. So the
state of the inflater is kept every so often, and reading goes on from the nearest place before: a member is inflated
about once, however many bands it is read in, and never held in memory or on disk.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from bisect import bisect_right
from operator import itemgetter
from pathlib import Path
from threading import Lock
from typing import Any

LEAST_STEP = 4 * 2**20
"""Bytes between two kept states, at least; a state takes about 45 kB."""
_MOST_MARKS = 128
_PACKED_PIECE = 2**16
_PIECE = 2**20


class Deflated:
    """One deflated member of a zip file.

    Parameters
    ----------
    path : Path
        The zip file.
    start, packed : int
        Where its deflated bytes begin, and how many they are.
    size, crc : int
        What the directory of the zip says of the inflated bytes. Every byte is checked the first time it is met.
    """

    def __init__(self, path: Path, start: int, packed: int, size: int, crc: int) -> None:
        self._arguments = (path, start, packed, size, crc)
        self._path, self._start, self._packed, self.size, self._crc = self._arguments
        self._step = max(LEAST_STEP, size // _MOST_MARKS)
        self._marks: list[tuple[int, int, Any]] = [(0, 0, zlib.decompressobj(-zlib.MAX_WBITS))]
        self._lock = Lock()
        self._met = self._sum = 0
        self._digest = hashlib.md5(usedforsecurity=False)
        self._go_to(0)

    def __reduce__(self) -> tuple[Any, ...]:
        return Deflated, self._arguments  # what is known of the stream stays in the process

    def _go_to(self, mark: int) -> None:
        self._at, self._into, state = self._marks[mark]
        self._state = state.copy()

    def read(self, at: int, count: int) -> bytes:
        """At most ``count`` bytes from ``at`` on; fewer only at the end.

        Raises
        ------
        zlib.error, EOFError, zipfile.BadZipFile, OSError
            When it is damaged, ends early, or is not what its checksum says.
        """
        end = min(at + count, self.size)
        pieces: list[bytes] = []
        with self._lock, self._path.open("rb", buffering=0) as file:
            nearest = bisect_right(self._marks, at, key=itemgetter(0)) - 1
            if not self._marks[nearest][0] <= self._at <= at:
                self._go_to(nearest)
            try:
                while self._at < end:
                    before = self._at
                    stops = (stop for stop in (at, self._met, end) if stop > before)  # no piece reaches across one
                    piece = self._inflate(file, min(before + _PIECE, *stops) - before)
                    if before >= at:
                        pieces.append(piece)
            except BaseException:
                self._go_to(0)  # the inflater may be anywhere
                raise
        return b"".join(pieces)

    def _inflate(self, file: Any, count: int) -> bytes:
        """The next bytes, at least one and at most ``count``."""
        piece = b""
        while not piece:
            file.seek(self._start + self._into)
            packed = file.read(min(_PACKED_PIECE, self._packed - self._into))
            if not self._state.eof:
                piece = self._state.decompress(packed, count)
                left = self._state.unused_data if self._state.eof else self._state.unconsumed_tail
                self._into += len(packed) - len(left)
            if not piece and (not packed or self._state.eof):
                raise EOFError(f"it ends at byte {self._at} of {self.size}")
        if self._at == self._met:
            self._sum = zlib.crc32(piece, self._sum)
            self._digest.update(piece)
            self._met += len(piece)
        self._at += len(piece)
        if self._at - self._marks[-1][0] >= self._step:
            self._marks.append((self._at, self._into, self._state.copy()))
        if self._met == self.size and self._sum != self._crc:
            raise zipfile.BadZipFile("its CRC-32 differs")
        return piece

    def md5(self) -> str:
        """The checksum of all bytes; those not met so far are read. Raises as `read`."""
        while self._met < self.size:
            self.read(self._met, _PIECE)
        return self._digest.hexdigest()


class DeflatedStream(io.RawIOBase):
    """A deflated member as a raw seekable stream."""

    def __init__(self, member: Deflated) -> None:
        super().__init__()
        self._member, self._at = member, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._member.size)[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._member.read(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
