"""What an archive knows about places in its images: masks and boxes, on the square and the patches of an encoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundswell.archive.reader import Archive
from groundswell.encoder.attention import fitted

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
Masks = NDArray[np.uint8]

UNKNOWN = 255


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


def read_truths(archive: Archive, size: int, rows: Rows | None = None) -> list[Truth]:
    """The masks and boxes of an archive as truths, on squares of ``size`` px; those without any image are left out.

    Parameters
    ----------
    archive : Archive
    size : int
        Side of what the encoder sees, px.
    rows : int64 [n], optional
        The images to look in; all by default.
    """
    positions = np.arange(len(archive)) if rows is None else rows
    layers: dict[str, Masks] = {}
    for name, mask in archive.masks(positions).items():
        classes = [int(value) for value in np.unique(mask) if value not in (0, UNKNOWN)]
        for value in classes:
            there = np.where(mask == UNKNOWN, UNKNOWN, mask == value).astype(np.uint8)
            layers[name if classes == [1] else f"{name}={value}"] = there
    layers |= _boxes(archive, positions)
    found = []
    for name, layer in layers.items():
        some = np.flatnonzero(_both_sides(layer))
        if len(some):
            valid = np.isfinite(archive.read(positions[some])).all(axis=1)
            seen = fitted(np.where(valid, layer[some], UNKNOWN), size, fill=UNKNOWN)
            both = _both_sides(seen)
            found.append(Truth(name, positions[some[both]], seen[both]))
    return [truth for truth in found if len(truth.rows)]


def _both_sides(masks: Masks) -> NDArray[np.bool_]:
    return np.asarray((masks == 1).any(axis=(1, 2)) & (masks == 0).any(axis=(1, 2)))


def _boxes(archive: Archive, positions: Rows) -> dict[str, Masks]:
    """Each class of boxes as masks ``[n, H, W]``: 1 in every pixel that a box touches."""
    boxes = archive.boxes(positions)
    place = {int(row): i for i, row in enumerate(positions)}
    layers: dict[str, Masks] = {}
    start = boxes[["y", "x"]].to_numpy(dtype=np.float64)
    ends = np.ceil(start + boxes[["height", "width"]].to_numpy(dtype=np.float64)).clip(min=0).astype(np.int64)
    starts = np.floor(start).clip(min=0).astype(np.int64)
    for name, row, (top, left), (bottom, right) in zip(boxes["class_name"], boxes["row"], starts, ends, strict=True):
        title = f"boxes: {name}"
        if title not in layers:
            layers[title] = np.zeros((len(positions), archive.height, archive.width), np.uint8)
        layers[title][place[row], top:bottom, left:right] = 1
    return layers


def patch_counts(masks: Masks, grid: tuple[int, int]) -> tuple[Floats, Floats]:
    """How many pixels of each patch are there, and how many are not: two float64 ``[N, h, w]`` of ``[N, S, S]``."""
    parts = masks.reshape(len(masks), grid[0], masks.shape[1] // grid[0], grid[1], masks.shape[2] // grid[1])
    inside, outside = ((parts == value).sum(axis=(2, 4)).astype(np.float64) for value in (1, 0))
    return inside, outside
