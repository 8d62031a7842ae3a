"""Mask images into uint8 classes: 255 is unknown in the archive, but the usual way to write yes in a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from groundswell.errors import DataError
from groundswell.products.folder.files import read_image

_SAMPLE = 64


class MaskRule(StrEnum):
    """What the values of a mask image mean."""

    BINARY = "binary"
    """0 is no and 255 is yes: stored as 0 and 1."""
    CLASSES = "classes"
    """Each value from 0 to 254 is a class; 255 is unknown."""


def mask_rule(name: str, paths: Sequence[str]) -> MaskRule:
    """The rule for all masks of a name, from a sample of them spread evenly: binary where all are 0 and 255.

    Raises
    ------
    DataError
        When none of the sample can be read.
    """
    values: set[int] = set()
    fault: DataError | None = None
    for path in paths[:: max(1, len(paths) // _SAMPLE)]:
        try:
            values.update(np.unique(_read(path)).tolist())
        except DataError as error:
            fault = error
    if not values:
        why = None if fault is None else f"{fault.where}: {fault.why or fault.what}"
        raise DataError(
            f"none of the masks in column {name!r} could be read",
            why=why,
            fix="paths are looked for beside the label table and in the source folder",
        )
    return MaskRule.BINARY if values <= {0, 255} and 255 in values else MaskRule.CLASSES


def read_mask(path: str, rule: MaskRule, size: tuple[int, ...]) -> NDArray[np.uint8]:
    """A mask of an image of ``size`` as uint8 [H, W].

    Raises
    ------
    DataError
        When it cannot be read, has another size, or holds values that its rule does not know.
    """
    values = _read(path)
    if values.shape != tuple(size):
        raise DataError("a mask has another size", why=f"its mask is {values.shape} and it is {tuple(size)}: {path}")
    if rule is MaskRule.BINARY:
        odd = np.setdiff1d(values, [0, 255])
        if odd.size:
            raise DataError("a mask has odd values", why=f"its mask holds {odd[0]} where others hold 0 and 255: {path}")
        return np.asarray(values == 255, dtype=np.uint8)
    return values


def _read(path: str) -> NDArray[np.uint8]:
    try:
        pixels = read_image(path).pixels
    except DataError as error:
        raise DataError("a mask could not be read", where=path, why=f"its mask: {error.why or error.what}") from error
    if len(pixels) != 1 or not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 255:
        raise DataError("a mask is no mask", where=path, why=f"its mask is not one channel of 0 to 255: {path}")
    if not np.array_equal(pixels, np.rint(pixels)):
        raise DataError("a mask is no mask", where=path, why=f"its mask does not hold whole numbers: {path}")
    return np.asarray(pixels[0], dtype=np.uint8)
