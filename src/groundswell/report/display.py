"""An imagette as a grey picture for people."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundswell.physics.imagette import Quantity
from groundswell.physics.quantities import HIGH_PERCENTILE, LOW_PERCENTILE

_DECIBELS = {Quantity.SIGMA0_DB, Quantity.ROUGHNESS_DB}


def grey(pixels: NDArray[np.float32], quantity: Quantity) -> NDArray[np.uint8]:
    """uint8 ``[n, H, W]`` of one channel, float32 ``[n, H, W]``: each image linear from its 1st to its 99th percentile.

    Decibels are shown as power, as in a quick-look. Pixels without valid data and constant images are black.
    """
    values = np.asarray(pixels, dtype=np.float64)
    if quantity in _DECIBELS:
        values = 10 ** (values / 10)
    values = np.where(np.isfinite(values), values, np.nan)
    out = np.zeros(values.shape, dtype=np.uint8)
    for image, drawn in zip(values, out, strict=True):
        known: NDArray[Any] = image[~np.isnan(image)]
        if not known.size:
            continue
        low, high = np.percentile(known, [LOW_PERCENTILE, HIGH_PERCENTILE])
        if high > low:
            drawn[:] = np.nan_to_num(np.clip((image - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)
    return out
