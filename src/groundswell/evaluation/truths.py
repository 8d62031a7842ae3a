"""What an archive knows about places in its images: masks and boxes, on the square and the patches of an encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from groundswell.archive.reader import Archive
from groundswell.encoder.attention import fitted

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
Masks = NDArray[np.uint8]

UNKNOWN = 255
_CHUNK = 64
"""Images whose masks and pixels are in memory at a time."""


@dataclass(frozen=True)
class Truth:
    """Where something is, in some images of an archive.

    Attributes
    ----------
    name : str
        A mask, ``mask=value`` where a mask has several classes, or ``boxes: class``.
    rows : int64 [n]
        Images in which it is in one place and not in another.
    masks : uint8 [n, S, S]
        1 there, 0 not there, 255 unknown or without a valid pixel; on the square that the encoder sees.
    """

    name: str
    rows: Rows
    masks: Masks


def read_truths(archive: Archive, size: int, rows: Rows | None = None, most: int | None = None) -> list[Truth]:
    """The masks and boxes of an archive as truths, on squares of ``size`` px; those without any image are left out.

    Memory holds the masks that are returned and those of a few images more: a first pass finds which images these are.

    Parameters
    ----------
    archive : Archive
    size : int
        Side of what the encoder sees, px.
    rows : int64 [n], optional
        The images to look in; all by default.
    most : int, optional
        Images a truth, evenly spaced among those that have it; all by default.
    """
    positions = np.arange(len(archive)) if rows is None else rows
    boxes = archive.boxes(positions)
    found: dict[tuple[str, int], list[Rows]] = {}
    for some in _chunks(positions):
        for key, layer in _layers(archive, boxes, some).items():
            found.setdefault(key, []).append(_seen(archive, some, layer, size)[0])
    order = [*archive.schema.masks, *(_title(name) for name in boxes["class_name"].unique())]
    truths = []
    for name, value in sorted(found, key=lambda key: (order.index(key[0]), key[1])):
        chosen = _thinned(np.concatenate(found[name, value]), most)
        if len(chosen):
            masks = [
                _seen(archive, some, _layers(archive, boxes, some)[name, value], size)[1] for some in _chunks(chosen)
            ]
            alone = [other for mask, other in found if mask == name] == [1]
            truths.append(Truth(name if alone else f"{name}={value}", chosen, np.concatenate(masks)))
    return truths


def _chunks(rows: Rows) -> Iterator[Rows]:
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK]


def _thinned(rows: Rows, most: int | None) -> Rows:
    if most is None or len(rows) <= most:
        return rows
    return rows[np.unique(np.linspace(0, len(rows) - 1, most).round().astype(np.int64))]


def _layers(archive: Archive, boxes: pd.DataFrame, rows: Rows) -> dict[tuple[str, int], Masks]:
    """What is in some images, by the name of a mask (or of boxes) and its class: ``[n, H, W]`` as in `Truth`."""
    layers: dict[tuple[str, int], Masks] = {}
    for name, mask in archive.masks(rows).items():
        for value in np.unique(mask[(mask != 0) & (mask != UNKNOWN)]):
            layers[name, int(value)] = np.where(mask == UNKNOWN, mask, (mask == value).view(np.uint8))
    return layers | _boxes(archive, boxes, rows)


def _seen(archive: Archive, rows: Rows, layer: Masks, size: int) -> tuple[Rows, Masks]:
    """Of some images and their layer: those with both sides on the square that the encoder sees, and their masks."""
    some = _both_sides(layer)
    rows = rows[some]
    valid = np.isfinite(archive.read(rows)).all(axis=1)
    masks = fitted(np.where(valid, layer[some], np.uint8(UNKNOWN)), size, fill=UNKNOWN)
    both = _both_sides(masks)
    return rows[both], masks[both]


def _both_sides(masks: Masks) -> NDArray[np.bool_]:
    return np.asarray((masks == 1).any(axis=(1, 2)) & (masks == 0).any(axis=(1, 2)))


def _boxes(archive: Archive, boxes: pd.DataFrame, rows: Rows) -> dict[tuple[str, int], Masks]:
    """Each class of boxes as masks ``[n, H, W]``: 1 in every pixel that a box touches."""
    own = boxes[boxes["row"].isin(rows)]
    place = {int(row): i for i, row in enumerate(rows)}
    layers: dict[tuple[str, int], Masks] = {}
    start = own[["y", "x"]].to_numpy(dtype=np.float64)
    ends = np.ceil(start + own[["height", "width"]].to_numpy(dtype=np.float64)).clip(min=0).astype(np.int64)
    starts = np.floor(start).clip(min=0).astype(np.int64)
    for name, row, (top, left), (bottom, right) in zip(own["class_name"], own["row"], starts, ends, strict=True):
        key = _title(name), 1
        if key not in layers:
            layers[key] = np.zeros((len(rows), archive.height, archive.width), np.uint8)
        layers[key][place[row], top:bottom, left:right] = 1
    return layers


def _title(class_name: str) -> str:
    return f"boxes: {class_name}"


def patch_counts(masks: Masks, grid: tuple[int, int]) -> tuple[Floats, Floats]:
    """How many pixels of each patch are there, and how many are not: two float64 ``[N, h, w]`` of ``[N, S, S]``."""
    parts = masks.reshape(len(masks), grid[0], masks.shape[1] // grid[0], grid[1], masks.shape[2] // grid[1])
    inside, outside = ((parts == value).sum(axis=(2, 4)).astype(np.float64) for value in (1, 0))
    return inside, outside
