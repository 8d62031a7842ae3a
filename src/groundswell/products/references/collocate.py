"""Collocation: what buoys, altimeters and models say near an imagette, as labels keyed by its id.

Great-circle distances (haversine), so the date line and the poles are places like any other. Every label says how far
in time and space its reference lies, and which it is: ``<name>_dt_min``, ``<name>_km``, ``<name>_src``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from groundswell import progress
from groundswell.errors import DataError, UsageError
from groundswell.files import write_bytes
from groundswell.products.folder.labels import label_name
from groundswell.products.references.ocn import KEYS
from groundswell.products.references.points import NANOSECONDS_AN_HOUR, Pairs, Reference

Match = Literal["nearest", "mean"]
_PAIRS_AT_ONCE = 2_000_000
_KEY = b"groundswell"


@dataclass(frozen=True, slots=True)
class Criteria:
    """What counts as a match.

    Attributes
    ----------
    hours, km : float
        The longest time difference and great-circle distance. 3 h and 100 km by default: the window of Quach et al.
        (2021) for wave mode and altimeters, and half their radius.
    match : "nearest" or "mean"
        ``nearest`` takes the reference with the smallest (dt / hours)^2 + (distance / km)^2. ``mean`` takes all,
        weighted by distance with (R^2 - r^2) / (R^2 + r^2) (Cressman 1959, Mon. Weather Rev. 87), adds their number
        and spread as ``<name>_n`` and ``<name>_std``, and names the nearest as source.
    """

    hours: float = 3.0
    km: float = 100.0
    match: Match = "nearest"

    def __post_init__(self) -> None:
        if not (0.0 < self.hours < 24 * 366 and 0.0 < self.km < 20_000.0):
            raise UsageError("a window or radius of collocation makes no sense", why=f"{self.hours} h, {self.km} km")


@dataclass(slots=True)
class _Best:
    """For each imagette the nearest reference of one variable so far, and sums over all of them.

    ``sums`` holds, by row, the number of references, and the sums of w, w x, w x^2, w dt and w km with the weight w.
    """

    count: int
    score: NDArray[np.float64] = field(init=False)
    value: NDArray[np.float64] = field(init=False)
    minutes: NDArray[np.float64] = field(init=False)
    km: NDArray[np.float64] = field(init=False)
    source: NDArray[np.int64] = field(init=False)
    sums: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.score = np.full(self.count, np.inf)
        self.value, self.minutes, self.km = (np.full(self.count, np.nan) for _ in range(3))
        self.source = np.full(self.count, -1, dtype=np.int64)
        self.sums = np.zeros((6, self.count))

    def add(self, rows: NDArray[np.int64], pairs: Pairs, name: str, first_source: int, criteria: Criteria) -> None:
        known = np.isfinite(pairs.values[name])
        local, value = pairs.imagette[known], pairs.values[name][known]
        minutes, km = pairs.minutes[known], pairs.km[known]
        if criteria.match == "mean":
            weight = (criteria.km**2 - km**2) / (criteria.km**2 + km**2)
            parts = (np.ones_like(weight), weight, weight * value, weight * value**2, weight * minutes, weight * km)
            for total, part in zip(self.sums, parts, strict=True):
                total[rows] += np.bincount(local, part, minlength=len(rows))
        score = (minutes / (60 * criteria.hours)) ** 2 + (km / criteria.km) ** 2
        order = np.lexsort((score, local))
        first = order[np.flatnonzero(np.diff(local[order], prepend=-1))]
        first = first[score[first] < self.score[rows[local[first]]]]
        to = rows[local[first]]
        self.score[to], self.value[to] = score[first], value[first]
        self.minutes[to], self.km[to] = minutes[first], km[first]
        self.source[to] = pairs.source[known][first] + first_source


def collocate(
    catalogue: pd.DataFrame, references: Sequence[tuple[str, Reference]], criteria: Criteria | None = None
) -> pd.DataFrame:
    """Join references to imagettes in time and space.

    Parameters
    ----------
    catalogue : DataFrame
        Columns ``id``, ``time`` (UTC), ``lon``, ``lat`` (degrees), as of an archive. Rows without time or place match
        nothing.
    references : sequence of (prefix, Reference)
        A variable is called ``<prefix>_<variable>``, or as it is for an empty prefix. Variables of one name are taken
        together: twelve months of one model are one reference.
    criteria : Criteria

    Returns
    -------
    DataFrame
        One row for each row of the catalogue: ``id`` and, for each variable, its value, ``_dt_min`` (reference less
        imagette, minutes), ``_km``, ``_src`` (and ``_n``, ``_std`` for means); empty where nothing matched.

    Raises
    ------
    DataError
        When no imagette has a time and a place, or none has a match.
    """
    criteria = criteria or Criteria()
    stamps = pd.to_datetime(catalogue["time"], utc=True)
    lon, lat = (pd.to_numeric(catalogue[c]).to_numpy(np.float64, na_value=np.nan) for c in ("lon", "lat"))
    placed = np.flatnonzero(stamps.notna().to_numpy() & np.isfinite(lon) & np.isfinite(lat))
    if not len(placed):
        raise DataError("no imagette of the archive has a time and a place", fix="ingest products, which have both")
    time = stamps.dt.tz_localize(None).to_numpy().astype("datetime64[ns]").astype(np.int64)
    rows = placed[np.argsort(time[placed], kind="stable")]
    best: dict[str, _Best] = {}
    sources: list[str] = []
    with progress.bar("collocate", total=len(rows) * len(references), unit="imagettes") as bar:
        for prefix, reference in references:
            names = {v: label_name(f"{prefix}_{v}" if prefix else v) for v in reference.variables}
            for start, stop, pairs in _batches(time[rows], lon[rows], lat[rows], reference, criteria):
                for variable, name in names.items():
                    one = best.setdefault(name, _Best(len(catalogue)))
                    one.add(rows[start:stop], pairs, variable, len(sources), criteria)
                bar.advance(stop - start)
            sources += reference.sources
    if not any(np.isfinite(one.score).any() for one in best.values()):
        raise _no_match(time[rows], references, criteria)
    columns: dict[str, Any] = {"id": catalogue["id"].to_numpy()}
    for name, one in best.items():
        for key, column in _columns(name, one, sources, criteria).items():
            if key in columns:
                raise UsageError(f"two labels would be called {key!r}", fix="give a table a prefix: NAME=TABLE")
            columns[key] = column
    return pd.DataFrame(columns)


def _batches(
    time: NDArray[np.int64],
    lon: NDArray[np.float64],
    lat: NDArray[np.float64],
    reference: Reference,
    criteria: Criteria,
) -> Any:
    """(start, stop, pairs) of stretches of imagettes that have about `_PAIRS_AT_ONCE` pairs and lie close in time."""
    longest = round(max(criteria.hours, 1.0) * NANOSECONDS_AN_HOUR)
    start, size = 0, 256
    while start < len(time):
        stop = min(start + size, int(np.searchsorted(time, time[start] + longest, side="right")))
        pairs = reference.pairs(time[start:stop], lon[start:stop], lat[start:stop], criteria.hours, criteria.km)
        yield start, stop, pairs
        each = max(1.0, len(pairs.imagette) / (stop - start))
        start, size = stop, int(np.clip(_PAIRS_AT_ONCE / each, 1, 4 * size))


def _columns(name: str, one: _Best, sources: list[str], criteria: Criteria) -> dict[str, Any]:
    text = pd.array([sources[code] if code >= 0 else None for code in one.source.tolist()], dtype="string")
    value, minutes, km, extra = one.value, one.minutes, one.km, {}
    if criteria.match == "mean":
        count, weight, *moments = one.sums
        scale = np.where(weight > 0.0, weight, np.nan)
        value, square, minutes, km = (moment / scale for moment in moments)
        extra = {
            f"{name}_n": count.astype(np.int64),
            f"{name}_std": np.sqrt((square - value**2).clip(min=0.0)),
        }
    return {name: value, f"{name}_dt_min": minutes, f"{name}_km": km, f"{name}_src": text} | extra


def _no_match(time: NDArray[np.int64], references: Sequence[tuple[str, Reference]], criteria: Criteria) -> DataError:
    def span(stamps: NDArray[np.int64]) -> str:
        if not len(stamps):
            return "no times"
        return f"{np.datetime64(int(stamps.min()), 'ns'):.16} to {np.datetime64(int(stamps.max()), 'ns'):.16}"

    tables = "; ".join(f"{', '.join(r.sources[:2])}: {len(r):,} values, {span(r.time)}" for _, r in references)
    return DataError(
        f"no imagette has a reference within {criteria.hours:g} h and {criteria.km:g} km",
        why=f"imagettes: {span(time)}; {tables}",
        fix="check times and places of the tables, or widen --hours and --km",
    )


def join_ocn(catalogue: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Labels of level-2 files for the imagettes of the same mission, orbit, datatake and image number.

    Parameters
    ----------
    catalogue : DataFrame
        Columns ``id`` and `groundswell.products.references.ocn.KEYS`, as of an archive.
    labels : DataFrame
        As of `groundswell.products.safe.level2.read_ocn_labels`.

    Returns
    -------
    DataFrame
        One row for each row of the catalogue: ``id``, the labels, and ``ocn_id``, the level-2 file; empty where there
        is none.

    Raises
    ------
    DataError
        When no imagette has a level-2 file.
    """
    right = labels.drop(columns=["time", "lon", "lat"]).rename(columns={"id": "ocn_id"})
    left = catalogue[["id", *KEYS]].copy()
    for frame in (left, right):
        for key in KEYS:
            frame[key] = frame[key].astype("Int64" if key in ("orbit", "image_number") else "string")
    joined = left.merge(right, on=list(KEYS), how="left", validate="many_to_one").drop(columns=list(KEYS))
    if joined["ocn_id"].isna().all():
        raise DataError(
            "no imagette has a level-2 file",
            why=f"for example {labels['id'].iloc[0]}, where the archive holds {catalogue['id'].iloc[0]}",
            fix="give the OCN products of the same datatakes",
        )
    return joined


def write_labels(path: str | Path, labels: pd.DataFrame, record: dict[str, Any]) -> None:
    """Write a label table as Parquet, whole or not at all; ``record`` says how it was made."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(labels, preserve_index=False)
    table = table.replace_schema_metadata({_KEY: json.dumps(record, sort_keys=True).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())


def record_of(criteria: Criteria, references: Sequence[tuple[str, Reference]]) -> dict[str, Any]:
    """What a label table says of its making: the criteria, and for each reference its sources and size."""
    tables = [
        {"prefix": p, "sources": r.sources[:100], "values": len(r), "variables": r.variables} for p, r in references
    ]
    return {"criteria": asdict(criteria), "references": tables}
