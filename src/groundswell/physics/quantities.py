"""Conversions between quantities: the few that physics allows, and an error naming the fix for the rest.

``sigma0``, ``sigma0_db`` and ``roughness_db`` hold the same calibrated information and convert both ways (roughness
needs the incidence of each column). They and ``amplitude`` can be rendered as a ``quicklook``. Nothing leads back
from ``amplitude``, ``ratio`` or ``quicklook`` to a calibrated value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundswell.errors import QuantityError
from groundswell.physics.imagette import Quantity

FLOOR_DB = -45.0
"""Level at which sigma0 is floored on the way to decibels; noise removal leaves zeros and negatives below it."""

REFERENCE_WIND = 10.0
"""Wind speed of the roughness reference, m/s."""
REFERENCE_PHI_DEG = 45.0
"""Wind direction of the roughness reference relative to the antenna look, degrees."""

LOW_PERCENTILE, HIGH_PERCENTILE = 1.0, 99.0

MEANINGS: dict[Quantity, str] = {
    Quantity.SIGMA0: "calibrated backscatter, linear (an ocean image has a median of about 0.001 to 0.5)",
    Quantity.SIGMA0_DB: "calibrated backscatter in decibels (about -30 to 0 over the ocean)",
    Quantity.ROUGHNESS_DB: "sigma0 in dB minus CMOD5.N at 10 m/s and 45 degrees (about -10 to +5)",
    Quantity.AMPLITUDE: "uncalibrated magnitude: |z| or detected digital numbers, whatever their scale",
    Quantity.RATIO: "VV over VH, linear",
    Quantity.QUICKLOOK: "8-bit picture stretched by its own percentiles, absolute level lost",
}
"""What each quantity is, in words for people who must choose one."""

_CALIBRATED = (Quantity.SIGMA0, Quantity.SIGMA0_DB, Quantity.ROUGHNESS_DB)

Floats = NDArray[np.floating[Any]]


def choices() -> str:
    """The quantities and their meanings, one a line."""
    return "\n".join(f"{quantity.value}: {meaning}" for quantity, meaning in MEANINGS.items())


def roughness_reference_db(incidence_deg: Floats | float) -> NDArray[np.float64]:
    """10 log10 of CMOD5.N at 10 m/s and 45 degrees: incidence [...] in degrees to dB [...].

    Source: Hersbach (2008), ECMWF technical memorandum 554, for the model.
    """
    import torch  # here: a worker that ingests products starts a second sooner without

    from groundswell.physics.gmf import cmod5n

    incidence = torch.as_tensor(np.asarray(incidence_deg, dtype=np.float64))
    sigma0 = cmod5n(REFERENCE_WIND, REFERENCE_PHI_DEG, incidence)
    return np.asarray(10.0 * torch.log10(sigma0).numpy())


def convert(
    pixels: NDArray[np.float32],
    source: Quantity | str,
    target: Quantity | str,
    incidence_deg: Floats | None = None,
) -> NDArray[np.float32]:
    """One quantity as another.

    Parameters
    ----------
    pixels : float32 [N, H, W]
        NaN where there is no valid data, which stays NaN.
    source, target : Quantity
    incidence_deg : [N, W], optional
        Incidence of each column, degrees; needed to and from ``roughness_db``.

    Returns
    -------
    float32 [N, H, W]
        Decibels made from linear sigma0 are floored at `FLOOR_DB` (before the roughness reference is subtracted). A
        quicklook holds whole numbers from 0 to 255: the power (sigma0, or the square of the amplitude), linear
        between the 1st and 99th percentile of the valid pixels of each image.

    Raises
    ------
    QuantityError
        For a conversion that physics does not allow, or when the incidence is missing.
    """
    source, target = Quantity(source), Quantity(target)
    if pixels.ndim != 3:
        raise QuantityError("a conversion takes pixels [images, rows, columns]", why=f"the shape is {pixels.shape}")
    if source is target:
        return pixels.astype(np.float32, copy=False)
    if target is Quantity.QUICKLOOK and (source in _CALIBRATED or source is Quantity.AMPLITUDE):
        return quicklook(_power(pixels, source))
    if source in _CALIBRATED and target in _CALIBRATED:
        decibels = _decibels(pixels) if source is Quantity.SIGMA0 else pixels.astype(np.float64)
        if Quantity.ROUGHNESS_DB in (source, target):
            sign = 1.0 if source is Quantity.ROUGHNESS_DB else -1.0
            decibels += sign * _reference(incidence_deg, pixels.shape, source, target)[:, None, :]
        values = 10.0 ** (decibels / 10.0) if target is Quantity.SIGMA0 else decibels
        return values.astype(np.float32)
    raise QuantityError(f"{source.value} cannot become {target.value}", why=_WHY.get(source, _WHY_TARGET), fix=_FIX)


def quicklook(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stretch each image linearly between the 1st and 99th percentile of its finite pixels, to 0 .. 255, rounded.

    float32 [N, H, W] to float32 [N, H, W]; NaN stays NaN. An image whose two percentiles are equal becomes 0.
    """
    stretched = np.full(pixels.shape, np.nan, dtype=np.float32)
    for image, out in zip(pixels, stretched, strict=True):
        valid = image[np.isfinite(image)]
        if valid.size == 0:
            continue
        low, high = np.percentile(valid.astype(np.float64), [LOW_PERCENTILE, HIGH_PERCENTILE])
        scale = 255.0 / (high - low) if high > low else 0.0
        out[...] = np.rint(np.clip((image.astype(np.float64) - low) * scale, 0.0, 255.0))
    return stretched


def looks_like_dn(values: NDArray[Any]) -> str | None:
    """Why values declared linear ``sigma0`` cannot be that (digital numbers, decibels), or None when they may be.

    ``values`` [...], any shape, NaN ignored.
    """
    valid = np.asarray(values, dtype=np.float64).ravel()
    valid = valid[np.isfinite(valid)]
    if valid.size == 0:
        return None
    median, largest = float(np.median(valid)), float(valid.max())
    if median < -1.0:
        return f"half of the values lie below {median:.3g}: they look like decibels, not linear sigma0"
    if largest > 1.0 and np.array_equal(valid, np.rint(valid)):
        return f"every value is a whole number, up to {largest:.0f}: they look like digital numbers, not sigma0"
    if median > 10.0:
        return f"half of the values exceed {median:.3g} (+10 dB is 10): they look like digital numbers, not sigma0"
    return None


def _power(pixels: NDArray[np.float32], source: Quantity) -> NDArray[np.float32]:
    """What a quick-look shows: power, so that the same image gives the same quick-look from sigma0 and from dB.

    Real wave-mode quick-looks are linear in power: over homogeneous patches their local skewness is twice the slope of
    local deviation against local mean, as for gamma speckle (2/sqrt(L) and 1/sqrt(L)); amplitude would give once.
    """
    if source is Quantity.SIGMA0:
        return pixels
    if source is Quantity.AMPLITUDE:
        return np.square(pixels)
    return np.asarray(10.0 ** (pixels.astype(np.float64) / 10.0), dtype=np.float32)


def _decibels(sigma0: NDArray[np.float32]) -> NDArray[np.float64]:
    linear = np.maximum(sigma0.astype(np.float64), 10.0 ** (FLOOR_DB / 10.0))  # np.maximum keeps NaN
    return np.asarray(10.0 * np.log10(linear))


def _reference(
    incidence_deg: Floats | None, shape: tuple[int, ...], source: Quantity, target: Quantity
) -> NDArray[np.float64]:
    if incidence_deg is None:
        raise QuantityError(
            f"{source.value} to {target.value} needs the incidence angle of every column",
            why="roughness is measured against a sea of 10 m/s, whose brightness depends on the incidence",
            fix="give incidence_near_deg and incidence_far_deg in the catalogue or label table, or stay with sigma0_db",
        )
    incidence = np.asarray(incidence_deg, dtype=np.float64)
    if incidence.shape != (shape[0], shape[2]):
        raise QuantityError(
            "the incidence must have one angle for each image and column",
            why=f"shape {incidence.shape} for pixels {shape}, where {(shape[0], shape[2])} is needed",
        )
    if not np.isfinite(incidence).all() or incidence.min() <= 0.0 or incidence.max() >= 90.0:
        raise QuantityError(
            f"{source.value} to {target.value} needs incidence angles between 0 and 90 degrees",
            why=f"{int((~np.isfinite(incidence)).any(axis=1).sum())} of {shape[0]} images have unknown incidence; "
            f"known angles span {np.nanmin(incidence):.4g} to {np.nanmax(incidence):.4g}"
            if np.isfinite(incidence).any()
            else "no image has a known incidence",
            fix="fill incidence_near_deg and incidence_far_deg, or leave out the images without them",
        )
    return roughness_reference_db(incidence)


_WHY = {
    Quantity.AMPLITUDE: "amplitude is uncalibrated: the constant that links it to sigma0 is not in the image",
    Quantity.QUICKLOOK: "a quick-look is stretched by its own percentiles: its absolute level is lost",
    Quantity.RATIO: "a ratio of two channels does not hold either of them",
}
_WHY_TARGET = "the calibrated value does not hold it: it is another measurement"
_FIX = (
    "ingest the data again from calibrated values (sigma0), or use an encoder made for this quantity; the other way "
    "round, sigma0, sigma0_db, roughness_db and amplitude can all be rendered with `ingest --convert-to quicklook`"
)
