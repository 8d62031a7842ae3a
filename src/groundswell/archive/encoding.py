"""Physical values to stored codes and back, by CF ``scale_factor`` / ``add_offset``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundswell.archive.schema import ChannelSchema, DType
from groundswell.errors import UsageError
from groundswell.physics.imagette import DECIBELS, Channel, Quantity
from groundswell.physics.quantities import FLOOR_DB

STEP_DB = 0.002
"""Step of stored decibels: far below speckle (0.5 dB at 78 looks), and 65535 of them reach from -45 to +86 dB."""
STEP_GREY = 1.0 / 256.0
"""Step of grey levels in uint16: whole levels stay exact, and averages of them (``--fit resize``) nearly so."""
FILL = 65535

Codes = NDArray[Any]


def default_dtype(quantities: Sequence[Quantity], *, eight_bit: bool = False) -> DType:
    """uint16 where every channel is in decibels, uint8 where every one fits a byte, else float32.

    A quicklook fits a byte; so does the amplitude of a source whose pixels are ``eight_bit``.
    """
    if all(quantity in DECIBELS for quantity in quantities):
        return "uint16"
    if all(_is_grey(quantity, eight_bit) for quantity in quantities):
        return "uint8"
    return "float32"


def _is_grey(quantity: Quantity, eight_bit: bool) -> bool:
    """Whether a channel holds grey levels from 0 to 255."""
    return quantity is Quantity.QUICKLOOK or (quantity is Quantity.AMPLITUDE and eight_bit)


def channel_schema(channel: Channel, dtype: DType, *, eight_bit: bool = False) -> ChannelSchema:
    """How a channel is stored, which came from a source of ``eight_bit`` pixels or not.

    Raises
    ------
    UsageError
        When the quantity has no fixed range that the integer type could hold.
    """
    name, quantity = channel.name, channel.quantity
    if dtype == "float32":
        return ChannelSchema(name=name, quantity=quantity)
    if dtype == "uint16" and quantity in DECIBELS:
        return ChannelSchema(
            name=name, quantity=quantity, scale_factor=STEP_DB, add_offset=FLOOR_DB, fill=FILL, floor_db=FLOOR_DB
        )
    if _is_grey(quantity, eight_bit):
        step = 1.0 if dtype == "uint8" else STEP_GREY
        return ChannelSchema(name=name, quantity=quantity, scale_factor=step, fill=None if dtype == "uint8" else FILL)
    raise UsageError(
        f"{quantity.value} cannot be stored as {dtype}",
        where=f"channel {name}",
        why="whole numbers hold decibels (uint16), and quicklooks and the amplitude of 8-bit files that lack no pixel "
        "(uint8, uint16); all else has no fixed range",
        fix="use --dtype float32, or for calibrated values --quantity sigma0_db",
    )


def floored(values: NDArray[np.float32], channel: ChannelSchema) -> NDArray[np.bool_]:
    """Which physical values ``[...]`` lie at or below the floor of their channel; none where it has no floor."""
    if channel.floor_db is None:
        return np.zeros(values.shape, dtype=np.bool_)
    return np.asarray(values <= channel.floor_db)


def encode(values: NDArray[np.float32], channels: Sequence[ChannelSchema], dtype: DType) -> Codes:
    """Physical values float32 ``[n, C, H, W]`` as codes ``[n, C, H, W]`` of ``dtype``.

    Decibels below the floor (minus infinity too) are stored at the floor; values above the range at its top. NaN
    becomes the fill, and NaN where ``fill`` is None must have been refused before. The error is at most half a step.
    """
    if dtype == "float32":
        return np.where(np.isfinite(values), values, np.float32(np.nan)).astype(np.float32, copy=False)
    codes = np.empty(values.shape, dtype=dtype)
    top = np.iinfo(dtype).max
    for c, channel in enumerate(channels):
        steps = (values[:, c].astype(np.float64) - channel.add_offset) / channel.scale_factor
        highest = top if channel.fill is None else top - 1
        invalid = np.isnan(steps) | np.isposinf(steps)
        rounded = np.clip(np.rint(np.where(invalid, 0.0, steps)), 0, highest).astype(dtype)
        if channel.fill is not None:
            rounded[invalid] = channel.fill
        codes[:, c] = rounded
    return codes


def decode(codes: Codes, channels: Sequence[ChannelSchema]) -> NDArray[np.float32]:
    """Codes ``[n, C, H, W]`` as physical values float32 ``[n, C, H, W]``, NaN where the code is the fill."""
    if codes.dtype == np.float32:
        return np.array(codes, dtype=np.float32)
    values = np.empty(codes.shape, dtype=np.float32)
    for c, channel in enumerate(channels):
        out = values[:, c]
        np.multiply(codes[:, c], np.float32(channel.scale_factor), out=out, dtype=np.float32, casting="unsafe")
        out += np.float32(channel.add_offset)
        if channel.fill is not None:
            out[codes[:, c] == channel.fill] = np.nan
    return values
