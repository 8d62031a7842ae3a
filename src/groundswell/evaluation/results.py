"""The RESULTS folder: everything a probe found, on disk and back.

    results.json         data used, splits, groups, every score and paired difference with its interval
    predictions.parquet  id, target, protocol, table, part, observed and predicted
    probes/              the fitted probes (`fitted`)

``observed`` and ``predicted`` hold numbers (values, tags and their scores); classes are in ``observed_class`` and
``predicted_class``, with the probability of every class in ``scores``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from groundswell.errors import DataError, UsageError
from groundswell.evaluation.fitted import FittedProbe, load_probe
from groundswell.evaluation.text import render
from groundswell.files import read_json, replacing_folder, write_json, write_with

FORMAT = 1
RECORD, PREDICTIONS, PROBES = "results.json", "predictions.parquet", "probes"
_KEY = ("target", "protocol", "table", "part")


@dataclass(frozen=True)
class Results:
    """What a probe found.

    ``record`` is the contents of results.json (undefined numbers NaN here, null there); ``predictions`` one row per
    imagette, target, protocol, table and part; ``probes`` the fitted probes by the name of their folder.
    """

    record: Mapping[str, Any]
    predictions: pd.DataFrame
    probes: Mapping[str, FittedProbe] = field(default_factory=dict)

    @property
    def scores(self) -> pd.DataFrame:
        """Every score: target, protocol, part, table, metric, rows, value, low, high, standard_error, groups."""
        return pd.DataFrame(self.record["scores"])

    @property
    def differences(self) -> pd.DataFrame:
        """Every paired difference, table minus control, as `scores`; ``favours`` says which side of zero it lies on."""
        return pd.DataFrame(self.record["differences"])

    def predictions_of(self, target: str, protocol: str, table: str, part: str) -> pd.DataFrame:
        """``id``, ``observed`` and ``predicted`` of one probe on one part: texts for classes, else numbers.

        Raises
        ------
        UsageError
            When there is no such probe or part.
        """
        frame = self.predictions
        for column, value in zip(_KEY, (target, protocol, table, part), strict=True):
            frame = frame[frame[column] == value]
        if frame.empty:
            raise UsageError(
                "these results have no such predictions",
                where=f"target {target}, protocol {protocol}, table {table}, part {part}",
                why="; ".join(f"{c}: {', '.join(map(str, self.predictions[c].unique()[:8]))}" for c in _KEY),
            )
        suffix = "_class" if frame["observed"].isna().all() else ""
        columns = {f"observed{suffix}": "observed", f"predicted{suffix}": "predicted"}
        return frame[["id", *columns]].rename(columns=columns).reset_index(drop=True)

    def text(self, width: int = 100) -> str:
        """Tables for people: scores with intervals, paired differences, one line of verdict."""
        return render(self.record, width)

    def __str__(self) -> str:
        return self.text()

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the RESULTS folder, whole or not at all.

        Raises
        ------
        UsageError
            When there is something at ``path``, unless ``overwrite`` and it is a RESULTS folder.
        """
        target = Path(path).absolute()
        refuse_existing(target, overwrite)
        table = pa.Table.from_pandas(self.predictions, preserve_index=False)
        with replacing_folder(target) as folder:
            for name, probe in self.probes.items():
                probe.save(folder / PROBES / name)
            write_with(folder / PREDICTIONS, lambda handle: pq.write_table(table, handle, compression="zstd"))
            write_json(folder / RECORD, for_json(self.record))
        return target

    @classmethod
    def read(cls, path: str | Path) -> Results:
        """Read a RESULTS folder.

        Raises
        ------
        DataError
            When it is missing, damaged or of an unknown version.
        """
        folder = Path(path)
        if not is_results(folder):
            raise DataError(
                "there are no results here", where=folder, fix="groundswell probe ... -o RESULTS makes them"
            )
        record = read_json(folder / RECORD)
        if record.get("format") != FORMAT:
            raise DataError(
                f"results of the unknown version {record.get('format')!r}", where=folder, fix="update groundswell"
            )
        try:
            predictions = pq.read_table(folder / PREDICTIONS).to_pandas()
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError("the predictions could not be read", where=folder / PREDICTIONS, why=str(error)) from error
        probes = {p.name: load_probe(p) for p in sorted((folder / PROBES).iterdir())}
        return cls(_with_nan(record), predictions, probes)


def refuse_existing(path: str | Path, overwrite: bool = False) -> None:
    """Raise `UsageError` when something is at ``path``, unless it is a RESULTS folder and may be overwritten."""
    target = Path(path)
    exists = target.is_file() or (target.is_dir() and any(target.iterdir()))
    if exists and not (overwrite and is_results(target)):
        raise UsageError(
            "there is something at the place of the results already",
            where=target,
            fix="choose another --output" + (", or replace these results with --overwrite" * is_results(target)),
        )


def is_results(path: str | Path) -> bool:
    """Whether ``path`` is a RESULTS folder."""
    return (Path(path) / RECORD).is_file()


_NUMBERS = ("value", "low", "high", "standard_error", "seed_standard_deviation")


def for_json(value: Any) -> Any:
    """``value`` with every number that is not finite as None, as JSON has no NaN."""
    if isinstance(value, Mapping):
        return {k: for_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [for_json(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(record: dict[str, Any]) -> dict[str, Any]:
    for key in ("scores", "differences"):
        for row in record[key]:
            row.update({n: math.nan for n in _NUMBERS if n in row and row[n] is None})
    return record
