"""Level-2 wave-mode files wherever they lie, on disk or in a packed product, and their labels as a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from groundswell.errors import DataError
from groundswell.products.names import MeasurementName, parse_measurement
from groundswell.products.references.ocn import KEYS, OceanProduct, open_ocn
from groundswell.products.safe.container import open_container
from groundswell.products.source import Rejected, reason_of


@dataclass(frozen=True, slots=True)
class Level2:
    """A level-2 wave-mode file: on disk, or ``member`` of a packed product."""

    path: Path
    member: str | None = None

    @property
    def place(self) -> Path:
        """Where it lies, a packed product taken for a folder."""
        return self.path / (self.member or "")

    @property
    def name(self) -> MeasurementName | None:
        """What its file name says."""
        return parse_measurement(self.place.name)

    def open(self) -> OceanProduct:
        """Read it; `DataError` when it is damaged."""
        if self.member is None:
            return open_ocn(self.path)
        return open_ocn(self.place, open_container(self.path).read(self.member))


def is_level2(file: str) -> bool:
    """Whether a file, by its name, is a level-2 wave-mode file."""
    name = parse_measurement(file.rsplit("/", 1)[-1])
    return name is not None and (name.kind, name.mode) == ("OCN", "WV") and file.endswith(".nc")


def read_ocn_labels(files: Iterable[Level2]) -> tuple[pd.DataFrame, list[Rejected]]:
    """The labels of level-2 wave-mode files.

    Of several versions of one imagette the last processed counts.

    Returns
    -------
    frame : DataFrame
        One row an imagette: `KEYS`, ``id`` (of the level-2 file), ``time``, ``lon``, ``lat`` and every label.
    rejected : list of Rejected
        Files that could not be read, with the reason.
    """
    rows: list[dict[str, Any]] = []
    rejected = []
    for file in sorted(files, key=lambda one: one.place):
        try:
            product = file.open()
        except DataError as error:
            rejected.append(Rejected(str(file.place), reason_of(error)))
            continue
        keys = {key: getattr(product.name, key) for key in KEYS}
        place = {"id": product.id, "time": product.time, "lon": product.lon, "lat": product.lat}
        rows.append(keys | place | product.labels() | {"processed": product.processed or ""})
    frame = pd.DataFrame(rows)
    if rows:
        frame = frame.sort_values("processed", kind="stable").drop_duplicates(list(KEYS), keep="last")
        frame = frame.sort_values("id").drop(columns="processed").reset_index(drop=True)
    return frame, rejected
