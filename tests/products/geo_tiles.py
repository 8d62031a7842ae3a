"""Small GeoTIFF tiles for tests, as Google Earth Engine writes them: float, LZW, named bands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import Affine

UTM = ("EPSG:32632", Affine(10.0, 0.0, 500000.0, 0.0, -10.0, 5004480.0))
DEGREES = ("EPSG:4326", Affine(1e-4, 0.0, 9.0, 0.0, -1e-4, 60.0))


def write_tile(
    path: Path, bands: np.ndarray, names: tuple[str, ...] | None = ("VV", "VH"), place: Any = UTM, **profile: Any
) -> Path:
    """Write bands [C, H, W] with their names at a place (system, affine); ``tags`` are metadata."""
    tags = profile.pop("tags", {})
    options = {"compress": "lzw", **profile}
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=bands.dtype, crs=place[0],
        transform=place[1], **options,
    ) as out:  # fmt: skip
        out.write(bands)
        out.update_tags(**tags)
        if names is not None:
            out.descriptions = names
    return path


def decibels(bands: int = 2, size: tuple[int, int] = (24, 20), seed: int = 0) -> np.ndarray:
    """float32 [bands, height, width]: VV about -10 dB, VH about -17 dB, with speckle."""
    levels = np.resize([0.1, 0.02], bands)[:, None, None]
    power = levels * np.random.default_rng(seed).gamma(4.0, 0.25, (bands, *size))
    return (10.0 * np.log10(power)).astype(np.float32)
