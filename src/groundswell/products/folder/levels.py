"""Whether values can be what they are declared to be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from groundswell.errors import DataError
from groundswell.physics.imagette import Quantity
from groundswell.physics.quantities import looks_like_dn
from groundswell.products.folder.bands import is_ratio

WRONG_LEVEL = "wrong level: "
"""Start of the reason for which `check_values` sets an image aside."""
_MASKED = 1e-3  # share of pixels that float decibels may have at 0 dB in every channel


def check_values(pixels: NDArray[np.float32], quantity: Quantity) -> None:
    """`DataError` for pixels ``[C, H, W]`` that the declared quantity cannot have."""
    reason = looks_like_dn(pixels) if quantity is Quantity.SIGMA0 else None
    if quantity is Quantity.QUICKLOOK:
        valid = pixels[np.isfinite(pixels)]
        if valid.size and (valid.min() < 0 or valid.max() > 255):
            reason = f"values from {valid.min():g} to {valid.max():g} where a quick-look has 0 to 255"
    if quantity is Quantity.SIGMA0_DB and len(pixels) > 1:
        masked = float(np.mean((pixels == 0.0).all(axis=0)))
        if masked > _MASKED:
            reason = (
                f"{100 * masked:.2g} % of the pixels are exactly 0 dB in every channel, as masked pixels are that were "
                "exported without a no-data value; name it in the file (gdal_edit.py -a_nodata 0)"
            )
    if reason is not None:
        raise DataError("the values are not of the declared quantity", why=WRONG_LEVEL + reason)


def can_only_be_decibels(images: Iterable[tuple[Sequence[str], NDArray[np.float32]]]) -> bool:
    """Whether in all (band names, pixels ``[C, H, W]``) at least half of each band but the ratios lies below -1."""
    seen = False
    for names, pixels in images:
        for name, plane in zip(names, pixels, strict=True):
            valid = plane[np.isfinite(plane)]
            if valid.size and not is_ratio(name):
                seen = True
                if np.median(valid) > -1.0:
                    return False
    return seen
