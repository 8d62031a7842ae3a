"""Pixels of a measurement TIFF, by blocks of lines: complex int16 (SLC) or uint16 (GRD), as |DN|^2 in float32.

A header from the wild is not trusted: the pixels must be as many as the annotation says, lie inside the file, one
strip after the other, and be there to the last byte. Blocks are read into memory of their own, not mapped: a file cut
off while it is read gives an error and never a signal.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from groundswell.errors import ProductError
from groundswell.products.safe.container import Container, Stream

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it warns of is checked here

_NONE, _DEFLATE, _ZSTD = (1,), (8, 32946), (50000,)
_COMPLEX_INT16, _UINT16 = (5, 32), (1, 16)  # sample format and bits
_TAGS = {"offsets": (273, 324), "counts": (279, 325)}
_GDAL_NODATA = 42113
_LONGEST_RUN = 8 * 2**20  # bytes read at once

Block = tuple[NDArray[np.float32], NDArray[np.bool_]]


@dataclass(frozen=True)
class Measurement:
    """The pixels of one polarisation of one image.

    Attributes
    ----------
    container, name
        The TIFF file.
    lines, samples : int
    complex : bool
    dtype : str
        Of one number on disk, with its byte order.
    offsets, counts : int64 [chunks]
        Bytes of each strip or tile; chunks run along range first.
    chunk : (lines, samples)
        Of a strip or tile.
    compression : int
    predictor : bool
        Horizontal differences are stored.
    nodata : int or None
        Value of pixels without data beside 0.
    """

    container: Container
    name: str
    lines: int
    samples: int
    complex: bool
    dtype: str
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    chunk: tuple[int, int]
    compression: int
    predictor: bool
    nodata: int | None

    @property
    def where(self) -> str:
        """The address of the file, for messages."""
        return self.container.where(self.name)

    def blocks(self, lines: slice, samples: slice, height: int) -> Iterator[tuple[int, Block]]:
        """|DN|^2 float32 ``[k, w]`` and where there is data ``[k, w]``, with the first line of each block.

        Lines and samples are given by their first and last + 1; ``height`` is k, less in the last block.

        Raises
        ------
        ProductError
            When bytes are missing or damaged.
        """
        with self.container.stream(self.name) as stream:
            for first in range(lines.start, lines.stop, height):
                count = min(height, lines.stop - first)
                yield first, self._power(self._numbers(stream, first, count), samples)
            if lines.stop == self.lines:
                stream.finish()

    def _power(self, numbers: NDArray[Any], samples: slice) -> Block:
        """|DN|^2 of whole lines of int16 ``[k, W, 2]`` or uint16 ``[k, W]``, and where it is data, in ``samples``."""
        part = numbers[:, samples]
        squares = np.multiply(part, part, dtype=np.float32)
        power = squares[..., 0] + squares[..., 1] if self.complex else squares
        valid = power > 0.0
        if not valid.all():
            zero = (numbers.view(np.int32)[..., 0] if self.complex else numbers) == 0
            valid = ~_gaps(zero)[:, samples]
        if self.nodata and not self.complex:
            valid &= part != self.nodata
        return power, valid

    def _numbers(self, stream: Stream, first: int, count: int) -> NDArray[Any]:
        """Lines ``first`` to ``first + count``: [k, W, 2] or [k, W] in the file's own type."""
        tall, wide = self.chunk
        across = -(-self.samples // wide)
        low, high = first // tall, -(-(first + count) // tall)
        parts = 2 if self.complex else 1
        if across == 1 and wide == self.samples and self.compression in _NONE:
            whole = self._contiguous(stream, low, high).reshape(-1, self.samples, parts)
        else:
            whole = np.empty(((high - low) * tall, across * wide, parts), np.dtype(self.dtype))
            for index in range(low * across, high * across):
                down, right = divmod(index - low * across, across)
                part = self._chunk(stream, index, parts)
                whole[down * tall : down * tall + len(part), right * wide : (right + 1) * wide] = part
        block = whole[first - low * tall : first - low * tall + count, : self.samples]
        return block if self.complex else block[..., 0]

    def _contiguous(self, stream: Stream, low: int, high: int) -> NDArray[Any]:
        """The strips ``low`` to ``high``; neighbours on disk are read in one go."""
        total = int(self.counts[low:high].sum())
        data = np.empty(total, np.uint8)
        start = 0
        breaks = np.flatnonzero(self.offsets[low + 1 : high] != (self.offsets + self.counts)[low : high - 1]) + 1
        for begin, end in pairwise([0, *breaks.tolist(), high - low]):
            length = int(self.counts[low + begin : low + end].sum())
            stream.seek(int(self.offsets[low + begin]))
            self._fill(stream, data[start : start + length])
            start += length
        return data.view(self.dtype)

    def _fill(self, stream: Stream, target: NDArray[np.uint8]) -> None:
        view, at = target.data, 0
        while at < len(view):
            count = stream.readinto(view[at : at + _LONGEST_RUN])
            if not count:
                raise self._bad("is truncated", "it ends before its last line")
            at += count

    def _chunk(self, stream: Stream, index: int, parts: int) -> NDArray[Any]:
        """One strip or tile, decompressed to no more than its size."""
        tall, wide = self.chunk
        dtype = np.dtype(self.dtype)
        packed = np.empty(int(self.counts[index]), np.uint8)
        stream.seek(int(self.offsets[index]))
        self._fill(stream, packed)
        full = tall * wide * parts * dtype.itemsize
        across = -(-self.samples // wide)
        tall_here = min(tall, self.lines - index // across * tall)
        data = _decompress(packed.tobytes(), self.compression, full) if self.compression not in _NONE else packed
        if data is None or len(data) not in (full, tall_here * wide * parts * dtype.itemsize):
            found = "damaged" if data is None else f"{len(data)} bytes"
            raise self._bad("holds damaged pixels", f"strip or tile {index}: {found} where its size needs {full}")
        pixels = np.frombuffer(data, dtype).reshape(-1, wide, parts)
        return np.cumsum(pixels, axis=1, dtype=dtype) if self.predictor else pixels

    def _bad(self, what: str, why: str) -> ProductError:
        return _bad(self.where, what, why)


def _gaps(zero: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where zeros ``[k, W]`` of whole lines are gaps: where one has another beside it, or the edge of the image.

    A lone zero is a dark pixel: without wind, speckle and noise round to 0 once in some thousand pixels, and to leave
    those out would make the mean too bright.
    """
    out = zero.copy()
    out[:, 1:-1] &= zero[:, :-2] | zero[:, 2:]
    return out


def _bad(where: str, what: str, why: str, fix: str = "download the product again") -> ProductError:
    return ProductError(f"the measurement {what}", where=where, why=why, fix=fix)


def _decompress(data: bytes, compression: int, limit: int) -> bytes | None:
    """At most ``limit`` bytes, or None when the data is damaged or holds more."""
    if compression in _DEFLATE:
        inflater = zlib.decompressobj()
        try:
            out = inflater.decompress(data, limit + 1)
        except zlib.error:
            return None
        return out if len(out) <= limit else None
    import pyarrow

    try:
        out = pyarrow.input_stream(pyarrow.BufferReader(data), compression="zstd").read(limit + 1)
    except (OSError, pyarrow.ArrowException):
        return None
    return bytes(out) if len(out) <= limit else None


@contextmanager
def _header(container: Container, name: str) -> Iterator[Any]:
    """The first page of the TIFF; whatever its reader raises about a damaged file is `ProductError`."""
    where = container.where(name)
    stream = container.open(name)
    try:
        with stream, tifffile.TiffFile(stream, offset=0, size=container.size(name)) as tiff:
            yield tiff.pages[0]
    except ProductError:
        raise
    except Exception as error:  # tifffile raises anything at all over a damaged header
        raise _bad(where, "is no readable TIFF", f"{type(error).__name__}: {error}") from error


def open_measurement(container: Container, name: str, lines: int, samples: int, *, complex: bool) -> Measurement:
    """The measurement in ``name``, by its header; its pixels are not read.

    Raises
    ------
    ProductError
        When it is missing, truncated (wherever), of another size or type than the annotation says, or its header is
        inconsistent.
    """
    length = container.size(name)
    where = container.where(name)
    with _header(container, name) as page:
        found = (int(page.imagelength), int(page.imagewidth))
        if found != (lines, samples):
            raise _bad(
                where,
                "does not have the size that its annotation says",
                f"{found[0]} lines of {found[1]} samples, the annotation says {lines} of {samples}",
            )
        kind = (int(page.sampleformat or 1), int(page.bitspersample))
        if int(page.samplesperpixel) != 1 or kind != (_COMPLEX_INT16 if complex else _UINT16):
            wanted = "complex 16-bit integers" if complex else "unsigned 16-bit integers"
            why = f"sample format {kind[0]}, {kind[1]} bits, {page.samplesperpixel} bands where the annotation says"
            raise _bad(where, "holds other pixels than its annotation says", f"{why} {wanted}")
        compression, predictor = int(page.compression), int(page.predictor)
        if compression not in _NONE + _DEFLATE + _ZSTD or predictor not in (1, 2) or (predictor == 2 and complex):
            raise _bad(
                where,
                "is compressed in a way that is not read here",
                f"compression {compression}, predictor {predictor}; products of ESA are not compressed",
                "convert it to an uncompressed TIFF",
            )
        tiled = bool(page.is_tiled)
        chunk = (int(page.tilelength), int(page.tilewidth)) if tiled else (min(int(page.rowsperstrip), lines), samples)
        offsets, counts = (_list(page, codes[tiled]) for codes in _TAGS.values())
        tables = [(0, 8)]
        tables += [(tag.valueoffset, tag.valueoffset + tag.valuebytecount) for tag in page.tags]
        nodata = page.tags.get(_GDAL_NODATA)
        order = page.parent.byteorder
    measurement = Measurement(
        *(container, name, lines, samples, complex, f"{order}{'i2' if complex else 'u2'}"),
        *(offsets, counts, chunk, compression, predictor == 2, _nodata(nodata)),
    )
    _check_chunks(measurement, length, tables)
    return measurement


def _list(page: Any, code: int) -> NDArray[np.int64]:
    tag = page.tags.get(code)
    return np.atleast_1d(np.asarray(() if tag is None else tag.value, dtype=np.int64))


def _nodata(tag: Any) -> int | None:
    try:
        return None if tag is None else int(float(str(tag.value).strip("\0 ")))
    except (ValueError, OverflowError):
        return None


def _check_chunks(m: Measurement, length: int, tables: list[tuple[int, int]]) -> None:
    """Strips or tiles must be as many as the size needs, as long as it needs, apart from each other, and there."""
    tall, wide = m.chunk
    if not (0 < tall <= 65536 and 0 < wide <= 2 * max(m.samples, 512)):
        raise _bad(m.where, "has a damaged header", f"strips or tiles of {tall} by {wide} pixels")
    across, down = -(-m.samples // wide), -(-m.lines // tall)
    if not len(m.offsets) == len(m.counts) == across * down:
        why = f"it lists {len(m.offsets)} and {len(m.counts)} strips where its size needs {across * down}"
        raise _bad(m.where, "has a damaged header", why)
    if m.compression in _NONE:
        item = np.dtype(m.dtype).itemsize * (2 if m.complex else 1)
        rows = np.full(down, tall)
        if wide == m.samples:
            rows[-1] = m.lines - (down - 1) * tall
        if not np.array_equal(m.counts, np.repeat(rows * wide * item, across)):
            raise _bad(m.where, "has a damaged header", "its strips are not as long as its size needs")
    ends = m.offsets + m.counts
    if np.any(m.offsets <= 0) or np.any(m.counts <= 0) or np.any(ends <= m.offsets):
        raise _bad(m.where, "lacks pixels", "strips are missing")
    if ends.max() > length:
        why = f"its pixels reach to byte {ends.max()}, the file has {length}"
        raise _bad(m.where, "is truncated", why)
    if length > 2 * ends.max() + 2**24:  # beside pixels a TIFF holds tables, of some bytes a line
        why = f"its pixels end at byte {ends.max()}, the file has {length}: packed, it may be a bomb"
        raise _bad(m.where, "holds much more than its pixels", why)
    order = np.argsort(m.offsets, kind="stable")
    starts, stops = m.offsets[order], ends[order]
    overlap = bool(np.any(starts[1:] < stops[:-1]))
    for begin, end in tables:
        at = int(np.searchsorted(starts, end))  # strips before this one begin before the table ends
        overlap |= at > 0 and stops[at - 1] > begin
    if overlap or (m.compression in _NONE and np.any(np.diff(order) < 0)):
        raise _bad(m.where, "has a damaged header", "its strips overlap, or are not in the order of lines")
