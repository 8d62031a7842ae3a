"""Damaged copies of image files: truncated at many lengths, single bytes changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

HEIGHT, WIDTH = 24, 20


def speckled(bands: int = 1, seed: int = 0) -> np.ndarray:
    """float32 [bands, 24, 20]: gamma noise about 0.1."""
    return np.random.default_rng(seed).gamma(4.0, 0.025, (bands, HEIGHT, WIDTH)).astype(np.float32)


def write_samples(folder: Path) -> dict[str, Path]:
    """One small file of every format and layout that can be read."""
    import tifffile
    import xarray as xr
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    power = speckled(2)
    grey = np.clip(power[0] * 1000, 0, 255).astype(np.uint8)
    paths = {name: folder / name for name in SAMPLES}
    Image.fromarray(grey).save(paths["grey.png"])
    Image.fromarray(grey.astype(np.uint16) * 200).save(paths["deep.png"])
    Image.fromarray(np.stack([grey] * 3, -1)).save(paths["rgb.png"])
    Image.fromarray(grey).save(paths["grey.jpg"], quality=95)
    Image.fromarray(np.stack([grey] * 3, -1)).save(paths["rgb.jpg"], quality=95)
    tifffile.imwrite(paths["one.tif"], power[0])
    tifffile.imwrite(paths["two.tif"], np.moveaxis(power, 0, -1), planarconfig="contig", photometric="minisblack")
    tifffile.imwrite(paths["planar.tif"], power, planarconfig="separate", photometric="minisblack")
    tifffile.imwrite(paths["deflate.tif"], power[0], compression="zlib", rowsperstrip=5)
    tifffile.imwrite(paths["tiled.tif"], power[0], tile=(16, 16))
    Image.fromarray(grey).save(paths["lzw.tif"], compression="tiff_lzw")
    np.save(paths["one.npy"], power[0])
    np.save(paths["two.npy"], power.astype(np.float64))
    data = xr.Dataset(
        {
            "VV": (("y", "x"), power[0]),
            "VH": (("y", "x"), power[1], {"_FillValue": np.float32(-999)}),
            "incidence": (("x",), np.linspace(30.0, 31.0, WIDTH)),
        }
    )
    data.to_netcdf(paths["classic.nc"], engine="scipy")
    data.to_netcdf(paths["hdf5.nc"], engine="h5netcdf")
    return paths


SAMPLES = (
    "grey.png", "deep.png", "rgb.png", "grey.jpg", "rgb.jpg", "one.tif", "two.tif", "planar.tif", "deflate.tif",
    "tiled.tif", "lzw.tif", "one.npy", "two.npy", "classic.nc", "hdf5.nc",
)  # fmt: skip


def truncated(content: bytes, count: int) -> Iterator[bytes]:
    """``count`` prefixes of a file, from nothing to all but one byte."""
    for length in np.unique(np.linspace(0, len(content) - 1, count).astype(int)):
        yield content[:length]


def changed(content: bytes, count: int, seed: int) -> Iterator[tuple[int, bytes]]:
    """``count`` copies with one to three bytes changed, half of them in the first 200: (first position, content)."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        mutant = bytearray(content)
        reach = min(200, len(content)) if index % 2 else len(content)
        places = rng.integers(0, reach, rng.integers(1, 4))
        for place in places:
            mutant[place] ^= int(rng.integers(1, 256))
        yield int(places.min()), bytes(mutant)
