"""One imagette made ready for an archive: convert its quantity, fit its size, encode it; or say why it cannot be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from groundswell.archive.catalogue import Row
from groundswell.archive.encoding import encode, floored
from groundswell.archive.fit import (
    UNKNOWN,
    Placement,
    column_incidence,
    fit_boxes,
    fit_mask,
    fit_metadata,
    fit_pixels,
    place,
)
from groundswell.archive.schema import ArchiveSchema
from groundswell.archive.writer import Prepared
from groundswell.errors import QuantityError
from groundswell.physics.imagette import DECIBELS, Channel, Imagette, Metadata, Quantity
from groundswell.physics.quantities import convert
from groundswell.products.source import Rejected

Pixels = NDArray[np.float32]


def prepare(imagette: Imagette, schema: ArchiveSchema, spacing_m: float | None = None) -> Prepared | Rejected:
    """An imagette as the archive stores it, or the reason why it is set aside.

    Size first, then quantity: areas are averaged in linear power, and negatives of sigma0 last until the step to
    decibels. Only a quicklook is stretched before it is cut, for its percentiles are those of the whole image.
    ``spacing_m`` stands in where the metadata has no pixel spacing.
    """
    metadata = _completed(imagette.metadata, spacing_m)
    chosen = _choose(imagette, schema)
    if isinstance(chosen, str):
        return Rejected(metadata.id, chosen)
    pixels, given = chosen
    placement = place(pixels.shape[1:], (schema.height, schema.width), schema.fit)
    if isinstance(placement, str):
        return Rejected(metadata.id, placement)
    fitted_metadata = fit_metadata(metadata, placement, pixels.shape[1:])
    try:
        values, measured, below = _fit_and_convert(pixels, given, placement, schema, metadata, fitted_metadata)
    except QuantityError as error:
        return Rejected(metadata.id, f"{error.what}: {error.why}" if error.why else error.what)
    reason = _unusable(values, measured, schema)
    if reason is not None:
        return Rejected(metadata.id, reason)
    codes = encode(values[None], schema.channels, schema.dtype)[0]
    for plane, channel in zip(codes, schema.channels, strict=True):
        stored = plane[plane != channel.fill] if channel.fill is not None else plane[np.isfinite(plane)]
        if stored.size and stored.min() == stored.max():
            value = float(stored[0]) * channel.scale_factor + channel.add_offset
            return Rejected(metadata.id, f"constant: every pixel of {channel.name} is {value:g}")
    boxes, dropped = fit_boxes(imagette.boxes, placement)
    row = Row(
        fitted_metadata, imagette.labels, float(measured.mean()), float((below & measured).sum() / measured.sum())
    )
    return Prepared(row, codes, _masks(imagette, schema, placement), boxes, dropped)


def _completed(metadata: Metadata, spacing_m: float | None) -> Metadata:
    """Metadata with the declared spacing where it has none, and the group that follows from it."""
    return replace(
        metadata,
        azimuth_spacing_m=spacing_m if metadata.azimuth_spacing_m is None else metadata.azimuth_spacing_m,
        range_spacing_m=spacing_m if metadata.range_spacing_m is None else metadata.range_spacing_m,
        group=metadata.group or metadata.datatake or metadata.product_id,
    )


def _choose(imagette: Imagette, schema: ArchiveSchema) -> tuple[Pixels, tuple[Channel, ...]] | str:
    """The channels of the archive, in its order, or what is missing; infinities become NaN or the floor."""
    index = {channel.name: i for i, channel in enumerate(imagette.channels)}
    missing = [channel.name for channel in schema.channels if channel.name not in index]
    if missing:
        return f"wrong channels: it has {', '.join(index) or 'none'}, and no {', '.join(missing)}"
    order = [index[channel.name] for channel in schema.channels]
    pixels = imagette.pixels[order].astype(np.float32)
    channels = tuple(imagette.channels[i] for i in order)
    for plane, channel, stored in zip(pixels, channels, schema.channels, strict=True):
        if channel.quantity in DECIBELS and stored.floor_db is not None:
            plane[np.isneginf(plane)] = stored.floor_db  # no power at all: below the floor, not without a value
        plane[~np.isfinite(plane)] = np.nan
    return pixels, channels


def _fit_and_convert(
    pixels: Pixels,
    given: tuple[Channel, ...],
    placement: Placement,
    schema: ArchiveSchema,
    metadata: Metadata,
    fitted_metadata: Metadata,
) -> tuple[Pixels, NDArray[np.bool_], NDArray[np.bool_]]:
    """Values of the archive's quantities, which of them were measured, and which lie at or below the floor."""
    quantities = [channel.quantity for channel in given]
    targets = [channel.quantity for channel in schema.channels]
    for c, (source, target) in enumerate(zip(quantities, targets, strict=True)):
        if target is Quantity.QUICKLOOK and source is not target:
            pixels[c] = _convert(pixels[c], source, target, metadata)
            quantities[c] = target
    values, measured = fit_pixels(pixels, placement, quantities)
    below = np.zeros(values.shape, dtype=np.bool_)
    for c, (source, channel) in enumerate(zip(quantities, schema.channels, strict=True)):
        if channel.floor_db is not None:
            floor = 10.0 ** (channel.floor_db / 10.0) if source is Quantity.SIGMA0 else channel.floor_db
            below[c] = values[c] <= floor
        values[c] = _convert(values[c], source, channel.quantity, fitted_metadata)
        below[c] |= floored(values[c], channel)
    return values, measured, below


def _convert(plane: Pixels, source: Quantity, target: Quantity, metadata: Metadata) -> Pixels:
    if source is target:
        return plane
    incidence = column_incidence(metadata, plane.shape[1])
    return np.asarray(convert(plane[None], source, target, None if incidence is None else incidence[None])[0])


def _unusable(values: Pixels, measured: NDArray[np.bool_], schema: ArchiveSchema) -> str | None:
    if not measured.any():
        return "no valid pixel: every one is NaN or infinite"
    for c, channel in enumerate(schema.channels):
        if schema.dtype == "uint8" and np.isnan(values[c]).any():
            count = int(np.isnan(values[c]).sum())
            return f"{count} pixels of {channel.name} are NaN, which uint8 cannot hold; use --dtype uint16"
    return None


def _masks(imagette: Imagette, schema: ArchiveSchema, placement: Placement) -> NDArray[np.uint8]:
    """uint8 ``[M, H, W]`` in the archive's order; a mask that the imagette lacks is unknown everywhere."""
    masks = np.full((len(schema.masks), schema.height, schema.width), UNKNOWN, dtype=np.uint8)
    for m, name in enumerate(schema.masks):
        if name in imagette.masks:
            masks[m] = fit_mask(imagette.masks[name], placement)
    return masks
