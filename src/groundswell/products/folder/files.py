"""One image file into float32 [C, H, W], or a named reason why not.

Files are known by their first bytes, not by their extension. Whatever is wrong with one becomes a `DataError`: a
truncated file, one that claims a size its bytes do not fill, a decompression bomb, a pickle.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from groundswell.errors import DataError
from groundswell.physics.imagette import FarRange
from groundswell.products.folder.bands import INCIDENCE, incidence_facts

if TYPE_CHECKING:
    from groundswell.products.folder.tiff import Layout

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy", ".nc", ".nc4", ".cdf")
"""What an image folder looks for."""
MAX_PIXELS = 2**26
"""Samples (pixels times bands) above which a file is refused: an imagette has some 10^5, a whole scene 10^9."""

T = TypeVar("T")
RGB = ("red", "green", "blue")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file's header says.

    Attributes
    ----------
    format : str
        ``png``, ``jpeg``, ``tiff``, ``npy`` or ``netcdf``.
    bands, height, width : int
    dtype : str
        Type of the samples in the file, such as ``uint8``.
    names : tuple of str, optional
        Band names, where the file has them.
    colour : bool
        8-bit red, green, blue; grey images are often stored so.
    gaps : bool
        Whether pixels may be without data: transparency, a no-data value, NetCDF.
    georeferenced : bool
        Whether it says where on a map it lies (GeoTIFF).
    """

    format: str
    bands: int
    height: int
    width: int
    dtype: str
    names: tuple[str, ...] | None = None
    colour: bool = False
    gaps: bool = False
    georeferenced: bool = False


@dataclass(slots=True)
class ImageFile:
    """A file that was read: float32 [C, H, W] (NaN where there is no data), its facts, metadata that it holds."""

    pixels: NDArray[np.float32]
    facts: Facts
    metadata: dict[str, object] = field(default_factory=dict)


def inspect_image(path: str | Path) -> Facts:
    """The facts of an image file, from its header alone.

    Raises
    ------
    DataError
        When it is no image, or its header is damaged.
    """
    return _guarded(Path(path), _inspect)


def read_image(path: str | Path) -> ImageFile:
    """Read an image file; grey stored as three equal channels comes back as one.

    Raises
    ------
    DataError
        When it is no image, truncated, damaged, too large, or holds what no image holds (complex numbers, objects).
    """
    return _guarded(Path(path), _read)


def check_turnable(image: ImageFile, far_range: FarRange) -> None:
    """Raise `DataError` where an image is to be turned whose file says itself which way its rows and columns lie."""
    told = [name for name in ("azimuth_spacing_m", "incidence_near_deg") if image.metadata.get(name) is not None]
    if told and far_range != "right":
        raise DataError(
            "the image cannot be turned",
            why=f"the file says itself which way its rows and columns lie ({', '.join(told)}): leave out --far-range",
        )


def _guarded(path: Path, read: Callable[[Path], T]) -> T:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(path)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError("an image file is missing", where=path) from error
    except Exception as error:  # what a parser raises on a damaged file knows no bounds
        text = (str(error).splitlines() or [""])[0].strip() or type(error).__name__
        raise DataError("an image could not be read", where=path, why=text.replace(f"{str(path)!r}", "it")) from error


def _kind(path: Path) -> str:
    with path.open("rb") as handle:
        start = handle.read(8)
    if not start:
        raise ValueError("the file is empty")
    signatures = {
        "png": (b"\x89PNG\r\n\x1a\n",),
        "jpeg": (b"\xff\xd8\xff",),
        "tiff": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
        "npy": (b"\x93NUMPY",),
        "netcdf": (b"CDF\x01", b"CDF\x02", b"CDF\x05", b"\x89HDF\r\n\x1a\n"),
    }
    for kind, starts in signatures.items():
        if start.startswith(starts):
            return kind
    if start[0] == 0x80 or start.startswith(b"PK"):
        raise ValueError("it is a pickle or an archive, which may run code when read: save it with numpy.save")
    raise ValueError(f"it is no PNG, JPEG, TIFF, NPY or NetCDF file (it starts with {start!r})")


def _inspect(path: Path) -> Facts:
    from groundswell.products.folder import netcdf, tiff

    kind = _kind(path)
    if kind in ("png", "jpeg"):
        return _open_picture(path, kind, load=False)[1]
    if kind == "npy":
        return _npy_layout(path)[0]
    if kind == "tiff":
        return _tiff_facts(tiff.inspect_tiff(path))[0]
    variables = netcdf.list_variables(path)
    return _checked(Facts(kind, len(variables.names), *variables.size, variables.dtype, variables.names, gaps=True))


def _read(path: Path) -> ImageFile:
    from groundswell.products.folder import netcdf, tiff

    kind = _kind(path)
    metadata: dict[str, object] = {}
    if kind in ("png", "jpeg"):
        pixels, facts = _open_picture(path, kind, load=True)
    elif kind == "npy":
        pixels, facts = _read_npy(path)
    elif kind == "tiff":
        pixels, layout = tiff.read_tiff(path, MAX_PIXELS)
        facts, angle = _tiff_facts(layout)
        if layout.georeferenced:
            from groundswell.products.folder import geotiff

            metadata = geotiff.metadata(path)
        if angle is not None:
            metadata |= incidence_facts(np.asarray(pixels[angle], dtype=np.float64))
            pixels = np.delete(pixels, angle, axis=0)
    else:
        _checked(_inspect(path))
        pixels, variables, metadata = netcdf.read_netcdf(path)
        facts = Facts(kind, len(variables.names), *variables.size, variables.dtype, variables.names, gaps=True)
    if (
        facts.colour
        and len(pixels) >= 3
        and np.array_equal(pixels[0], pixels[1])
        and np.array_equal(pixels[0], pixels[2])
    ):
        pixels = pixels[:1]
        facts = Facts(facts.format, 1, facts.height, facts.width, facts.dtype, gaps=facts.gaps)
    with np.errstate(over="ignore", invalid="ignore"):
        image = np.ascontiguousarray(pixels, dtype=np.float32)
    return ImageFile(image, facts, metadata)


def _tiff_facts(layout: Layout) -> tuple[Facts, int | None]:
    """The facts of a TIFF without its band of incidence angles, which is no channel; and the index of that band."""
    (bands, height, width), names, angle = layout.shape, layout.names, None
    if names is not None and bands > 1:
        angle = next((i for i, name in enumerate(names) if name.lower() in INCIDENCE), None)
    if names is not None and angle is not None:
        bands, names = bands - 1, (*names[:angle], *names[angle + 1 :])
    facts = Facts("tiff", bands, height, width, layout.dtype, names, layout.colour, layout.gaps, layout.georeferenced)
    return _checked(facts), angle


def _checked(facts: Facts) -> Facts:
    if min(facts.bands, facts.height, facts.width) < 1:
        raise ValueError("it has no pixels")
    if facts.bands * facts.height * facts.width > MAX_PIXELS:
        raise ValueError(
            f"{facts.bands} bands of {facts.width} x {facts.height} pixels are more than {MAX_PIXELS} samples: "
            "cut a scene into chips first"
        )
    return facts


def _open_picture(path: Path, kind: str, *, load: bool) -> tuple[NDArray[Any], Facts]:
    """PNG and JPEG through Pillow; transparent pixels become NaN."""
    from PIL import Image

    with Image.open(path, formats=(kind.upper(),)) as image:
        mode, (width, height) = image.mode, image.size
        bands = {"1": 1, "L": 1, "I;16": 1, "I": 1, "LA": 1, "P": 3, "RGB": 3, "RGBA": 3}.get(mode)
        if bands is None:
            raise ValueError(f"its colours are stored as {mode}, which no SAR image is")
        if kind == "png" and mode in ("RGB", "RGBA", "LA") and _png_bits(path) == 16:
            raise ValueError("it is a 16-bit PNG with several channels, of which half the bits would be lost: use TIFF")
        dtype = "uint16" if mode in ("I;16", "I") and kind == "png" else "uint8"
        names, gaps = RGB if bands == 3 else None, mode in ("RGBA", "LA") or "transparency" in image.info
        facts = _checked(Facts(kind, bands, height, width, dtype, names, bands == 3, gaps))
        if not load:
            return np.empty(0), facts
        image.load()
        if mode in ("P", "RGBA", "LA"):
            planes = np.moveaxis(np.asarray(image.convert("RGBA")), -1, 0)
            pixels = planes[:bands].astype(np.float32)
            pixels[:, planes[3] == 0] = np.nan
            return pixels, facts
        pixels = np.asarray(image.convert("L") if mode == "1" else image)
        pixels = np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels[None]
        if pixels.shape != (bands, height, width):
            raise ValueError(f"it decodes to {pixels.shape} where its header says {(bands, height, width)}")
        return pixels, facts


def _png_bits(path: Path) -> int:
    with path.open("rb") as handle:
        return handle.read(25)[24]


def _npy_layout(path: Path) -> tuple[Facts, bool]:
    """The facts of an .npy file, checked against its length, and whether its channels come last."""
    with path.open("rb") as handle:
        version = np.lib.format.read_magic(handle)
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in headers:  # version 3 is for named fields
            raise ValueError(f"it is an .npy file of version {version}, which no plain array needs")
        shape, _, dtype = headers[version](handle)
        start = handle.tell()
    if dtype.hasobject:
        raise ValueError("it holds Python objects (a pickle), which may run code when read: save plain numbers")
    if dtype.kind not in "uifb" or dtype.subdtype is not None:
        raise ValueError(f"it holds samples of type {dtype}, which no image has")
    expected, found = int(np.prod(shape, dtype=object)) * dtype.itemsize, path.stat().st_size - start
    if expected != found:
        raise ValueError(f"its pixels take {found} bytes where its header of {shape} needs {expected}")
    if len(shape) not in (2, 3):
        raise ValueError(f"an array of shape {shape} is no image: [rows, columns] or [channels, rows, columns] is")
    first = len(shape) == 2 or shape[0] <= min(shape[1:])
    last = len(shape) == 3 and shape[2] < min(shape[:2])
    if len(shape) == 3 and first == last:
        raise ValueError(
            f"in an array of shape {shape} the channel axis cannot be told: save [channels, rows, columns]"
        )
    bands, height, width = (1, *shape) if len(shape) == 2 else shape if first else (shape[2], *shape[:2])
    facts = _checked(Facts("npy", bands, height, width, dtype.name))
    return facts, len(shape) == 3 and last


def _read_npy(path: Path) -> tuple[NDArray[Any], Facts]:
    facts, channels_last = _npy_layout(path)
    array = np.load(path, allow_pickle=False)
    if channels_last:
        array = np.moveaxis(array, -1, 0)
    return array.reshape(facts.bands, facts.height, facts.width), facts
