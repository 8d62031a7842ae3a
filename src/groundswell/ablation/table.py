"""The table of an ablation: of each cell the mean over seeds, and its difference to the base, paired by seed.

Intervals are Student's t over seeds: how far another seed may lie. They say nothing of other images; the interval of
each single run, which resamples groups of images, is in results.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from groundswell.ablation.grid import BASE, Grid
from groundswell.ablation.runs import FAILED, Record
from groundswell.evaluation.metrics import LOWER_IS_BETTER
from groundswell.files import write_bytes, write_with
from groundswell.report.labels import metric_name, number, protocol_name, spaced

MEASURE = ["target", "protocol", "part", "metric"]


def over_seeds(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean, and the ends of Student's interval of it; NaN where fewer than two values leave nothing to tell."""
    from scipy.stats import t

    known = np.asarray(values, dtype=np.float64)
    if not known.size:
        return math.nan, math.nan, math.nan
    mean = float(known.mean())
    if known.size < 2:
        return mean, math.nan, math.nan
    half = float(t.ppf(0.5 + level / 2, known.size - 1) * known.std(ddof=1) / math.sqrt(known.size))
    return mean, mean - half, mean + half


def long_table(records: Sequence[Record]) -> pd.DataFrame:
    """One row a run and measure: cell, seed, target, protocol, part, metric, headline, value."""
    rows = [
        {"cell": record["cell"], "seed": record["seed"], **{c: score[c] for c in MEASURE}}
        | {"headline": score["headline"], "value": score["value"]}
        for record in records
        for score in record["scores"]
    ]
    return pd.DataFrame(rows, columns=["cell", "seed", *MEASURE, "headline", "value"])


def summarise(grid: Grid, runs: Sequence[Record], controls: Sequence[Record]) -> pd.DataFrame:
    """One row a cell (then a control) and measure.

    Returns
    -------
    DataFrame
        cell, kind (``cell`` or ``control``), changes, target, protocol, part, metric, headline; mean, low, high over
        ``seeds`` runs; difference, difference_low, difference_high to the base over the ``pairs`` seeds that both
        have; ``favours``: ``cell`` (``control``) or ``base`` where the interval lies on one side of zero, else missing;
        failed: how many runs.
    """
    values = long_table([*runs, *controls])
    names = [cell.name for cell in grid.cells]
    changes = {cell.name: _in_words(cell.overrides) for cell in grid.cells}
    others = list(dict.fromkeys(str(record["cell"]) for record in controls))
    measures = values[[*MEASURE, "headline"]].drop_duplicates().to_dict("records")
    rows: list[dict[str, Any]] = []
    for measure in measures:
        same = values[(values[MEASURE] == pd.Series({k: measure[k] for k in MEASURE})).all(axis=1)]
        base = _by_seed(same, BASE)
        for name in [*names, *others]:
            own = _by_seed(same, name)
            mean, low, high = over_seeds(list(own.values()))
            shared = [seed for seed in own if seed in base]
            if None in own:  # a control without seeds stands beside every seed of the base
                pairs = [own[None] - value for value in base.values()]
            else:
                pairs = [own[seed] - base[seed] for seed in shared]
            difference = over_seeds([] if name == BASE else pairs)
            kind = "cell" if name in changes else "control"
            row = {"cell": name, "kind": kind, "changes": changes.get(name, ""), **measure}
            row |= {"mean": mean, "low": low, "high": high, "seeds": len(own)}
            row |= dict(zip(("difference", "difference_low", "difference_high"), difference, strict=True))
            row["pairs"] = 0 if name == BASE else len(pairs)
            row["favours"] = _favours(str(measure["metric"]), difference, kind)
            row["failed"] = sum(r["cell"] == name and r["status"] == FAILED for r in runs)
            rows.append({str(key): value for key, value in row.items()})
    return pd.DataFrame(rows)


def _by_seed(values: pd.DataFrame, cell: str) -> dict[int | None, float]:
    own = values[(values["cell"] == cell) & values["value"].notna()]
    return {
        None if pd.isna(seed) else int(seed): float(value)
        for seed, value in zip(own["seed"], own["value"], strict=True)
    }


def _favours(metric: str, difference: tuple[float, float, float], kind: str) -> str | None:
    _, low, high = difference
    if metric == "bias" or not (low > 0 or high < 0):
        return None
    return kind if (low > 0) != (metric in LOWER_IS_BETTER) else BASE


def _in_words(overrides: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in overrides.items())


def write_table(table: pd.DataFrame, folder: Path) -> list[Path]:
    """``table.csv``, ``table.parquet`` (every metric) and ``table.md`` (the metric to show)."""
    paths = [folder / f"table.{ending}" for ending in ("csv", "parquet", "md")]
    write_bytes(paths[0], table.to_csv(index=False).encode())
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    write_with(paths[1], lambda handle: pq.write_table(arrow, handle, compression="zstd"))
    write_bytes(paths[2], markdown(table).encode())
    return paths


def markdown(table: pd.DataFrame) -> str:
    """The metric to show of each target, protocol and part, as Markdown tables."""
    parts = []
    shown = table[table["headline"]]
    for (target, protocol, part, metric), rows in shown.groupby(MEASURE, sort=False):
        title = f"{spaced(target)}, {protocol_name(str(protocol))}, {part}: {metric_name(str(metric))}"
        lines = [
            f"### {title}",
            "",
            "| cell | mean over seeds | difference to base | seeds | changes |",
            "|---|---|---|---|---|",
        ]
        for row in rows.to_dict("records"):
            metric = str(metric)
            mean = _cell(row["mean"], row["low"], row["high"], metric)
            difference = _cell(row["difference"], row["difference_low"], row["difference_high"], metric, signed=True)
            seeds = f"{row['seeds']}" + (f" ({row['failed']} failed)" if row["failed"] else "")
            name = f"*{row['cell']}*" if row["kind"] == "control" else row["cell"]
            lines.append(f"| {name} | {mean} | {difference} | {seeds} | {row['changes']} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cell(value: float, low: float, high: float, metric: str, signed: bool = False) -> str:
    if math.isnan(value):
        return ""
    text = number(value, metric, signed=signed)
    if math.isnan(low):
        return text
    return f"{text} [{number(low, metric, signed=signed)}, {number(high, metric, signed=signed)}]"
