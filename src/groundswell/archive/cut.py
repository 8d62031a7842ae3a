"""A source whose images are cut into chips: what is to be probed patch by patch, or is larger than an encoder sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundswell.archive.fit import UNKNOWN, Placement, fit_boxes, fit_mask, fit_metadata, fit_pixels
from groundswell.errors import UsageError
from groundswell.files import digest
from groundswell.physics.imagette import Imagette
from groundswell.products.source import Rejected, Source, chip_starts


class Cut:
    """Every image of a source as chips of one size: a `groundswell.products.source.Source`.

    A chip is called ``<image>#r<row>c<column>``. The last row and column of chips end where the image ends, so that
    they may share more than ``overlap`` with their neighbours. Each mask tells two labels of a chip: ``<mask>``, the
    value that most of its known pixels have (the smaller of two), and ``<mask>_share``, how many are not 0. Chips are
    grouped by their image unless it has a group. Where a chip lies on the map is not known: of the image, only the
    middle is.

    Parameters
    ----------
    source : Source
    sizes : mapping of str to (rows, columns)
        Of the images whose headers could be read; the others are asked of the source, which says why not.
    size : (rows, columns)
        Of a chip.
    overlap : int
        Pixels that neighbours share.

    Raises
    ------
    UsageError
        When chips overlap by all of themselves.
    """

    def __init__(
        self, source: Source, sizes: Mapping[str, tuple[int, int]], size: tuple[int, int], overlap: int = 0
    ) -> None:
        if not 0 <= overlap < min(size):
            raise UsageError(f"chips of {size[0]} x {size[1]} cannot share {overlap} pixels", fix="a smaller --overlap")
        self.source, self.size = source, size
        self.channels, self.mask_names, self.eight_bit = source.channels, source.mask_names, source.eight_bit
        self.description: dict[str, Any] = source.description | {"cut": {"size": list(size), "overlap": overlap}}
        self._chips: dict[str, tuple[str, Placement]] = {}
        self._whole: list[str] = []
        self._last: tuple[str, Imagette | Rejected] | None = None
        for id_ in source.ids():
            down, across = ([], []) if id_ not in sizes else map(chip_starts, sizes[id_], size, (overlap, overlap))
            for row, top in enumerate(down):
                for column, left in enumerate(across):
                    place = Placement(top, left, 1.0, 1.0, *size)
                    self._chips[f"{id_}#r{row:03d}c{column:03d}"] = (id_, place)
            if not (down and across):
                self._whole.append(id_)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}

    def ids(self) -> list[str]:
        """The names of all chips, and of the images that give none, sorted."""
        return sorted([*self._chips, *self._whole])

    def read(self, ids: Sequence[str]) -> list[Imagette | Rejected]:
        """The chips asked for, in that order; the image of neighbouring ones is read once."""
        return [self._read_one(id_) for id_ in ids]

    def _read_one(self, id_: str) -> Imagette | Rejected:
        name, place = self._chips.get(id_, (id_, None))
        if self._last is None or self._last[0] != name:
            self._last = (name, self.source.read([name])[0])
        image = self._last[1]
        if isinstance(image, Rejected):
            return Rejected(id_, image.reason)
        rows, columns = image.pixels.shape[1:]
        if place is None or place.top + place.height > rows or place.left + place.width > columns:
            return Rejected(id_, f"{rows} x {columns} pixels is smaller than a chip of {self.size[0]} x {self.size[1]}")
        masks = {mask: fit_mask(values, place) for mask, values in image.masks.items()}
        metadata = fit_metadata(image.metadata, place, (rows, columns))
        near, far = metadata.incidence_near_deg, metadata.incidence_far_deg
        centre = metadata.incidence_deg if near is None or far is None else (near + far) / 2
        return Imagette(
            pixels=fit_pixels(image.pixels, place, [channel.quantity for channel in self.channels])[0],
            channels=self.channels,
            metadata=replace(
                metadata,
                id=id_,
                group=metadata.group or name,
                source_hash=digest([metadata.source_hash, id_.removeprefix(name), list(self.size)]),
                incidence_deg=centre,
                lon=None,
                lat=None,
                footprint=None,
            ),
            labels=dict(image.labels) | self._told_by(masks),
            masks=masks,
            boxes=fit_boxes(image.boxes, place)[0],
        )

    def _told_by(self, masks: Mapping[str, NDArray[np.uint8]]) -> dict[str, Any]:
        labels: dict[str, Any] = {}
        for name in self.mask_names:
            known = masks[name][masks[name] != UNKNOWN] if name in masks else np.empty(0, np.uint8)
            labels[name] = int(np.bincount(known).argmax()) if known.size else None
            labels[f"{name}_share"] = float(np.count_nonzero(known) / known.size) if known.size else None
        return labels
