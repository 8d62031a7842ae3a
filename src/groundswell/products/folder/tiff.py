"""TIFF images: any number of bands, integer or float, with a header that is checked against the file's own length.

tifffile fills missing strips with zeros and trusts the size in the header; a file from the wild must not be trusted.
"""

from __future__ import annotations

import logging
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it warns of is checked here

_UNCOMPRESSED, _DEFLATE = (1,), (8, 32946)
_STRIPS = (273, 279, 324, 325)  # offsets and lengths of strips, of tiles
_GDAL_METADATA, _GDAL_NODATA = 42112, 42113
_GEO_KEYS = 34735
_MATTERS = (33550, 33922, 34264, _GEO_KEYS, 34736, 34737, _GDAL_METADATA, _GDAL_NODATA)  # place, band names, gaps
_DESCRIPTION = re.compile(r'<Item\s+name="DESCRIPTION"\s+sample="(\d+)"[^>]*>([^<]+)</Item>', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the header of a TIFF says: (bands, height, width), type, band names where it has them.

    ``colour`` is 8-bit red, green, blue; ``gaps`` whether it names a no-data value; ``georeferenced`` whether it says
    where on a map it lies (GeoTIFF).
    """

    shape: tuple[int, int, int]
    dtype: str
    names: tuple[str, ...] | None
    colour: bool
    gaps: bool
    georeferenced: bool


def inspect_tiff(path: Path) -> Layout:
    """The layout of a TIFF, from its header.

    Raises
    ------
    ValueError
        When it holds no plain image, or less or more pixel data than its header says.
    """
    with tifffile.TiffFile(path) as tiff:
        return _layout(tiff, path.stat().st_size)


def read_tiff(path: Path, limit: int) -> tuple[NDArray[Any], Layout]:
    """Pixels [C, H, W] in the file's own type (float32 with NaN where it names a no-data value), and the layout.

    Raises
    ------
    ValueError
        As `inspect_tiff`; also when the image has more than ``limit`` pixels in all bands.
    """
    with tifffile.TiffFile(path) as tiff:
        layout = _layout(tiff, path.stat().st_size)
        if int(np.prod(layout.shape)) > limit:
            raise ValueError(f"{layout.shape[2]} x {layout.shape[1]} pixels is more than the limit of {limit}")
        pages = _pages(tiff)
        for page in pages:
            if page.compression in _DEFLATE:
                _check_deflate(page, tiff)
        if any(page.compression not in _UNCOMPRESSED + _DEFLATE or page.predictor > 1 for page in pages):
            planes = _by_gdal(path, layout, limit, pages)
        else:
            planes = np.stack([page.asarray() for page in pages]) if len(pages) > 1 else pages[0].asarray()
            if len(pages) == 1 and pages[0].axes == "YXS":
                planes = np.moveaxis(planes, -1, 0)
        nodata = _text(pages[0], _GDAL_NODATA)
    planes = planes.reshape(layout.shape)
    return (planes if nodata is None else _mask(planes, nodata)), layout


def _layout(tiff: Any, length: int) -> Layout:
    pages = _pages(tiff)
    first = pages[0]
    _check_tags(first, tiff)
    for page in pages:
        _check_page(page, length)
        if page.shape != first.shape or page.dtype != first.dtype:
            raise ValueError("its pages differ in size or type: give each image its own file")
    if len(pages) > 1 and first.axes != "YX":
        raise ValueError(f"it has {len(pages)} pages of {first.axes} data, which is no single image")
    axes = {"YX": (1, *first.shape[:2]), "YXS": (first.shape[-1], *first.shape[:2]), "SYX": first.shape}
    shape = (len(pages), *first.shape) if len(pages) > 1 else axes[first.axes]
    bands, height, width = (int(n) for n in shape)
    named = dict(_DESCRIPTION.findall(_text(first, _GDAL_METADATA) or ""))
    names = tuple(named.get(str(i), "").strip() for i in range(bands))
    colour = int(first.photometric) in (2, 6) and bands in (3, 4) and first.dtype == np.uint8
    gaps = _text(first, _GDAL_NODATA) is not None
    mapped = _GEO_KEYS in first.tags
    return Layout((bands, height, width), first.dtype.name, names if all(names) else None, colour, gaps, mapped)


def _pages(tiff: Any) -> list[Any]:
    """The full-resolution pages (overviews and masks of a cloud-optimised file left out)."""
    pages = [page for page in list(tiff.pages)[:64] if not page.is_reduced and not page.is_mask]
    if not pages:
        raise ValueError("it holds no image")
    return pages


def _check_tags(page: Any, tiff: Any) -> None:
    """tifffile passes over entries whose value lies beyond the end: not those that say what and where pixels are."""
    count, entry, order = ("Q", 20, tiff.byteorder) if tiff.is_bigtiff else ("H", 12, tiff.byteorder)
    tiff.filehandle.seek(page.offset)
    (number,) = struct.unpack(order + count, tiff.filehandle.read(struct.calcsize(order + count)))
    header = tiff.filehandle.read(number * entry)
    codes = [struct.unpack_from(order + "H", header, at)[0] for at in range(0, len(header) - 1, entry)]
    lost = [code for code in codes if code in _MATTERS and code not in page.tags]
    if lost:
        raise ValueError(f"it is truncated or damaged: the values of the tags {lost} of its header cannot be read")


def _check_page(page: Any, length: int) -> None:
    if page.axes not in ("YX", "YXS", "SYX") or min(page.shape) < 1:
        raise ValueError(f"it holds {page.axes} data of shape {page.shape}, which is no image")
    if page.dtype is None or page.dtype.kind == "c":
        raise ValueError("it holds complex or unknown samples: a single-look complex product needs its magnitude first")
    if page.dtype.kind not in "uif":
        raise ValueError(f"it holds samples of type {page.dtype}")
    offsets, counts = page.dataoffsets, page.databytecounts
    chunks = int(np.prod(page.chunked))
    # tifffile cuts the lists in the header to what the size needs; the lists themselves tell when the size is wrong.
    listed = [int(tag.count) for code in _STRIPS if (tag := page.tags.get(code)) is not None]
    if listed != [chunks, chunks] or not len(offsets) == len(counts) == chunks:
        raise ValueError(f"its header lists {listed} strips or tiles where its size needs {chunks}")
    if any(count <= 0 or offset <= 0 for offset, count in zip(offsets, counts, strict=True)):
        raise ValueError("strips of pixels are missing")
    if max(offset + count for offset, count in zip(offsets, counts, strict=True)) > length:
        raise ValueError("it is truncated: its header points beyond its end")
    if page.compression in _UNCOMPRESSED and page.bitspersample >= 8:
        tiled = chunks * int(np.prod(page.chunks)) * page.dtype.itemsize
        expected = tiled if page.is_tiled else page.nbytes
        if sum(counts) != expected:
            raise ValueError(f"its pixels take {sum(counts)} bytes where its size needs {expected}")


def _check_deflate(page: Any, tiff: Any) -> None:
    """Every strip must inflate to no more than its share: a bomb of zeros is refused before it is inflated."""
    height, share = page.shape[1 if page.axes == "SYX" else 0], int(np.prod(page.chunks)) * page.dtype.itemsize
    rows = page.chunks[1 if page.axes == "SYX" else 0]
    down = page.chunked[1 if page.axes == "SYX" else 0]
    per_row = share // rows
    for index, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        strip = index % down if not page.is_tiled else 0
        expected = share if page.is_tiled else min(rows, height - strip * rows) * per_row
        tiff.filehandle.seek(offset)
        inflater = zlib.decompressobj()
        try:
            inflated = len(inflater.decompress(tiff.filehandle.read(count), expected + 1))
        except zlib.error as error:
            raise ValueError(f"compressed pixels are damaged ({error})") from error
        # Some writers compress whole strips even where the image ends inside the last one.
        if inflated not in (expected, share):
            raise ValueError(f"a strip inflates to {inflated} bytes or more where its size needs {expected}")


def _by_gdal(path: Path, layout: Layout, limit: int, pages: list[Any]) -> NDArray[Any]:
    """LZW, predictors and the like, which tifffile leaves to an optional package."""
    from groundswell.products.folder.geotiff import read_all

    if len(pages) > 1:
        raise ValueError("its pages are compressed in a way that is read for one page only: save them as one image")
    if int(np.prod(pages[0].chunks)) > limit:
        raise ValueError(f"its strips or tiles of {pages[0].chunks} samples are more than the limit of {limit}")
    pixels = read_all(path)
    if pixels.shape != layout.shape or pixels.dtype.name != layout.dtype:
        raise ValueError(f"it decodes to {pixels.shape} of {pixels.dtype} where its header says {layout.shape}")
    return pixels


def _text(page: Any, tag: int) -> str | None:
    value = page.tags.get(tag)
    return None if value is None or not isinstance(value.value, str) else value.value.strip("\x00 ")


def _mask(planes: NDArray[Any], nodata: str) -> NDArray[np.float32]:
    pixels = planes.astype(np.float32)
    try:
        value = float(nodata)
    except ValueError:
        return pixels
    pixels[planes == value] = np.nan
    return pixels
