"""The plot of an ablation: left the scores, right the differences to the base; one row of panels a measure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from groundswell.ablation.grid import BASE
from groundswell.ablation.table import MEASURE
from groundswell.files import write_with
from groundswell.report.labels import is_share, metric_name, protocol_name, spaced

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE, _RED, _GREY, _GREEN = "#3f90da", "#bd1f01", "#94a4a2", "#2f7d4f"


def draw_ablation(table: pd.DataFrame, values: pd.DataFrame, title: str, note: str, path: Path) -> None:
    """Write the plot of the metrics to show.

    Parameters
    ----------
    table : DataFrame
        Of `summarise`.
    values : DataFrame
        Of `long_table`: every run is a small dot.
    title, note : str
        Above and below.
    path : Path
        ``.png``.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    shown = table[table["headline"]]
    measures = list(shown.groupby(MEASURE, sort=False))
    names = list(dict.fromkeys(shown["cell"]))
    height = 0.75 + len(measures) * (1.0 + 0.27 * len(names))
    settings: dict[Any, Any] = {"font.size": 9, "axes.titlesize": 9.5, "axes.titlelocation": "left"}
    settings |= {"axes.titleweight": "bold", "text.parse_math": False, "axes.linewidth": 0.7}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(11.0, height), dpi=130, layout="constrained")
        axes = figure.subplots(len(measures), 2, squeeze=False)
        for row, (key, rows) in enumerate(measures):
            target, protocol, part, metric = (str(k) for k in key)
            same = values[(values[MEASURE] == pd.Series(dict(zip(MEASURE, key, strict=True)))).all(axis=1)]
            scale = 100.0 if is_share(metric) else 1.0
            unit = " (%)" if is_share(metric) else ""
            left, right = axes[row]
            left.set_title(f"{spaced(target)}, {protocol_name(protocol)}, {part}: {metric_name(metric)}{unit}")
            right.set_title("minus base, paired by seed")
            _scores(left, rows, same, names, scale)
            if is_share(metric):  # Student's interval of few seeds does not know that
                low, high = left.get_xlim()
                left.set_xlim(max(low, -2), min(high, 102))
            _differences(right, rows, same, names, scale)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, weight="bold")
        figure.supxlabel(note, x=0.01, ha="left", fontsize=8, color="0.35")
        write_with(path, lambda handle: figure.savefig(handle, format="png"))


def _scores(axes: Axes, rows: pd.DataFrame, values: pd.DataFrame, names: list[str], scale: float) -> None:
    for row in rows.to_dict("records"):
        y = names.index(row["cell"])
        control = row["kind"] == "control"
        colour = _GREY if control else "black" if row["cell"] == BASE else _BLUE
        one = values.loc[values["cell"] == row["cell"], "value"].to_numpy(dtype=np.float64) * scale
        axes.plot(one, np.full(len(one), y), "|", color=colour, markersize=7, alpha=0.6)
        axes.plot([row["low"] * scale, row["high"] * scale], [y, y], color=colour, linewidth=2.2, alpha=0.45)
        axes.plot(row["mean"] * scale, y, "s" if control else "o", color=colour, markersize=5)
        if row["failed"]:
            axes.annotate(
                f"{row['failed']} failed", (0.99, y), xycoords=("axes fraction", "data"), ha="right", va="center",
                color=_RED, fontsize=8,
            )  # fmt: skip
    base = rows.loc[rows["cell"] == BASE, "mean"].to_numpy(dtype=np.float64) * scale
    if len(base) and np.isfinite(base[0]):
        axes.axvline(float(base[0]), color="black", linewidth=0.7, linestyle=":")
    _dress(axes, names, labels=True)


def _differences(axes: Axes, rows: pd.DataFrame, values: pd.DataFrame, names: list[str], scale: float) -> None:
    base = values[values["cell"] == BASE].set_index("seed")["value"]
    for row in rows.to_dict("records"):
        if row["cell"] == BASE or row["kind"] == "control" or not row["pairs"]:
            continue
        y = names.index(row["cell"])
        colour = {"cell": _GREEN, BASE: _RED}.get(row["favours"] or "", "0.45")
        own = values[values["cell"] == row["cell"]].set_index("seed")["value"]
        one = (own - base).dropna().to_numpy(dtype=np.float64) * scale
        axes.plot(one, np.full(len(one), y), "|", color=colour, markersize=7, alpha=0.6)
        ends = [row["difference_low"] * scale, row["difference_high"] * scale]
        axes.plot(ends, [y, y], color=colour, linewidth=2.2, alpha=0.45)
        axes.plot(row["difference"] * scale, y, "o", color=colour, markersize=5)
    axes.axvline(0, color="black", linewidth=0.7, linestyle=":")
    _dress(axes, names, labels=False)


def _dress(axes: Axes, names: list[str], labels: bool) -> None:
    axes.set_yticks(range(len(names)), names if labels else [""] * len(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.2, linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
