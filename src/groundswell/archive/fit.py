"""Images of any size to one size: crop, pad or area-resize, for pixels, masks, boxes and metadata alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from groundswell.archive.schema import Fit
from groundswell.physics.footprint import scaled
from groundswell.physics.imagette import DECIBELS, Box, Metadata, Quantity

UNKNOWN = 255
"""Mask value of a pixel of which nothing is known."""
MIN_VISIBLE = 0.3
"""A box of which a smaller share lies inside the archived image is dropped."""

Pixels = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the fitted image lies on its source, in source pixels from the top left edge.

    Edge ``y`` of the fitted image is edge ``top + y * step_y`` of the source; columns alike. Steps are 1 unless the
    image is resized; ``top`` and ``left`` are negative where it is padded.
    """

    top: int
    left: int
    step_y: float
    step_x: float
    height: int
    width: int


def place(source: tuple[int, int], size: tuple[int, int], fit: Fit) -> Placement | str:
    """Where an image of ``source`` (rows, columns) is cut to ``size``, or the reason why it cannot be.

    ``crop`` takes the centre; ``pad`` takes the centre of a larger axis and centres a smaller one; ``resize`` takes
    all of it; ``none`` takes only images that have the size.
    """
    (rows, columns), (height, width) = source, size
    if fit == "resize":
        return Placement(0, 0, rows / height, columns / width, height, width)
    if fit == "none" and source != size:
        return f"{rows} x {columns} pixels where the archive has {height} x {width}; choose --size and --fit"
    if fit == "crop" and (rows < height or columns < width):
        return (
            f"{rows} x {columns} pixels is smaller than the crop of {height} x {width}; use --fit pad or a smaller size"
        )
    return Placement((rows - height) // 2, (columns - width) // 2, 1.0, 1.0, height, width)


def fit_pixels(
    pixels: Pixels, placement: Placement, quantities: Sequence[Quantity]
) -> tuple[Pixels, NDArray[np.bool_]]:
    """Pixels float32 ``[C, H, W]`` at their placement.

    Returns
    -------
    fitted : float32 [C, height, width]
        Padding is filled with the median of the source's outermost ring, each channel its own. Resizing averages by
        area, over valid pixels only, in power: decibels and amplitudes are averaged as what they stand for.
    measured : bool [C, height, width]
        False where the value is padding or NaN.
    """
    if placement.step_y != 1.0 or placement.step_x != 1.0:
        planes = [_resize(plane, placement, quantity) for plane, quantity in zip(pixels, quantities, strict=True)]
        fitted = np.stack(planes).astype(np.float32)
        return fitted, np.isfinite(fitted)
    window, inside, outside = _windows(placement, pixels.shape[1:])
    fitted = np.empty((len(pixels), placement.height, placement.width), dtype=np.float32)
    if inside != (slice(0, placement.height), slice(0, placement.width)):
        fitted[...] = np.array([ring_median(plane) for plane in pixels], dtype=np.float32)[:, None, None]
    fitted[:, *inside] = pixels[:, *window]
    measured = np.isfinite(fitted)
    measured[:, outside] = False
    return fitted, measured


def ring_median(plane: Pixels) -> float:
    """Median of the outermost ring of an image float32 ``[H, W]``; of the whole where the ring has no valid pixel."""
    ring = np.concatenate([plane[0], plane[-1], plane[1:-1, 0], plane[1:-1, -1]])
    valid = ring[np.isfinite(ring)]
    if valid.size == 0:
        valid = plane[np.isfinite(plane)]
    return float(np.median(valid)) if valid.size else float("nan")


def fit_mask(mask: NDArray[np.uint8], placement: Placement) -> NDArray[np.uint8]:
    """A mask uint8 ``[H, W]`` at its placement: 255 outside; where resized, the value that covers most of the cell."""
    if placement.step_y != 1.0 or placement.step_x != 1.0:
        values = np.unique(mask)
        cover = np.stack([_average((mask == value).astype(np.float64), placement) for value in values])
        # Shares that differ by rounding alone are a tie, which the smaller value wins.
        winner: NDArray[np.uint8] = values[np.argmax(np.round(cover, 9), axis=0)]
        return winner
    window, inside, _ = _windows(placement, mask.shape)
    fitted = np.full((placement.height, placement.width), UNKNOWN, dtype=np.uint8)
    fitted[inside] = mask[window]
    return fitted


def fit_boxes(boxes: Sequence[Box], placement: Placement) -> tuple[list[Box], int]:
    """Boxes at their placement, clipped to the image, and how many were dropped for being less than 30 % visible."""
    kept: list[Box] = []
    for box in boxes:
        x, width = (box.x - placement.left) / placement.step_x, box.width / placement.step_x
        y, height = (box.y - placement.top) / placement.step_y, box.height / placement.step_y
        left, right = max(x, 0.0), min(x + width, float(placement.width))
        top, bottom = max(y, 0.0), min(y + height, float(placement.height))
        shown = max(right - left, 0.0) * max(bottom - top, 0.0)
        if shown > 0.0 and shown >= MIN_VISIBLE * width * height:
            kept.append(Box(box.class_name, left, top, right - left, bottom - top))
    return kept, len(boxes) - len(kept)


def fit_metadata(metadata: Metadata, placement: Placement, source: tuple[int, int]) -> Metadata:
    """Metadata of the fitted image: spacings, incidence at the edge columns, footprint.

    The footprint shrinks or grows about its centre with the ground it covers; where rows and columns change by
    different shares, which no longer follows from the polygon alone, it becomes unknown.
    """
    rows, columns = source
    near, far = metadata.incidence_near_deg, metadata.incidence_far_deg
    if near is not None and far is not None and columns > 1:
        # Incidence belongs to column centres: column j of the fitted image lies at left + (j + 1/2) step - 1/2.
        start, stop = 0.5, placement.width - 0.5
        centres = [placement.left + edge * placement.step_x - 0.5 for edge in (start, stop)]
        near, far = (near + (far - near) * centre / (columns - 1) for centre in centres)
    share_y = placement.height * placement.step_y / rows
    share_x = placement.width * placement.step_x / columns
    footprint = metadata.footprint
    if footprint is not None and (share_y, share_x) != (1.0, 1.0):
        footprint = scaled(footprint, (share_y + share_x) / 2) if abs(share_y - share_x) < 0.05 else None
    return replace(
        metadata,
        incidence_near_deg=near,
        incidence_far_deg=far,
        azimuth_spacing_m=_times(metadata.azimuth_spacing_m, placement.step_y),
        range_spacing_m=_times(metadata.range_spacing_m, placement.step_x),
        footprint=footprint,
    )


def column_incidence(metadata: Metadata, width: int) -> NDArray[np.float64] | None:
    """Incidence (degrees) float64 ``[width]`` of each column, or None where the metadata does not say.

    A chip that knows only its centre incidence has that in every column.
    """
    near, far = metadata.incidence_near_deg, metadata.incidence_far_deg
    if near is not None and far is not None:
        from groundswell.physics.geometry import incidence_profile

        return np.asarray(incidence_profile(near, far, width))
    if metadata.incidence_deg is not None:
        return np.full(width, metadata.incidence_deg)
    return None


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _windows(
    placement: Placement, source: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice], NDArray[np.bool_]]:
    """The part of the source that is kept, where it lies in the fitted image, and what lies outside it."""
    top, left = max(placement.top, 0), max(placement.left, 0)
    bottom = min(placement.top + placement.height, source[0])
    right = min(placement.left + placement.width, source[1])
    inside = (
        slice(top - placement.top, bottom - placement.top),
        slice(left - placement.left, right - placement.left),
    )
    outside = np.ones((placement.height, placement.width), dtype=np.bool_)
    outside[inside] = False
    return (slice(top, bottom), slice(left, right)), inside, outside


def _overlaps(source: int, target: int) -> NDArray[np.float64]:
    """float64 ``[target, source]``: the share of each target cell that each source cell covers; rows sum to 1."""
    edges = np.arange(target + 1) * (source / target)
    cells = np.arange(source)
    low = np.maximum(edges[:-1, None], cells[None])
    high = np.minimum(edges[1:, None], cells[None] + 1)
    return np.asarray(np.clip(high - low, 0.0, None) * (target / source))


def _average(plane: NDArray[np.float64], placement: Placement) -> NDArray[np.float64]:
    """Area average of float64 ``[H, W]`` over the cells of the fitted image."""
    rows = _overlaps(plane.shape[0], placement.height)
    columns = _overlaps(plane.shape[1], placement.width)
    return np.asarray(rows @ plane @ columns.T)


def _resize(plane: Pixels, placement: Placement, quantity: Quantity) -> NDArray[np.float64]:
    """Area average over valid pixels; a cell with less than half of its area valid has no value."""
    power = _to_power(plane.astype(np.float64), quantity)
    valid = np.isfinite(power)
    share = _average(valid.astype(np.float64), placement)
    total = _average(np.where(valid, power, 0.0), placement)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _from_power(np.where(share >= 0.5, total / share, np.nan), quantity)


def _to_power(values: NDArray[np.float64], quantity: Quantity) -> NDArray[np.float64]:
    if quantity in DECIBELS:
        return np.asarray(10.0 ** (values / 10.0))
    return np.asarray(np.square(values) if quantity is Quantity.AMPLITUDE else values)


def _from_power(power: NDArray[np.float64], quantity: Quantity) -> NDArray[np.float64]:
    if quantity in DECIBELS:
        return np.asarray(10.0 * np.log10(power))
    return np.asarray(np.sqrt(power) if quantity is Quantity.AMPLITUDE else power)
