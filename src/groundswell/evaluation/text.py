"""Results as text: per target one table of scores with intervals, one of paired differences, one line of verdict."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

Record = Mapping[str, Any]

_SHARES = ("accuracy", "f1", "auroc", "ap")  # shown in per cent
_UNITS = {"label_hs": "m", "label_hs_swell": "m", "label_hs_wind_sea": "m", "label_tp": "s", "label_wind_speed": "m/s"}


def render(record: Record, width: int = 100) -> str:
    """The contents of results.json as plain text of at most ``width`` columns."""
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
    data = record["data"]
    console.print(f"Data: {data['text']} {data['attribution'] or ''}".rstrip(), markup=False)
    for target in record["targets"]:
        console.print()
        for line in _facts(target):
            console.print(line, markup=False)
        console.print(_scores(record, target))
        if any(d["target"] == target["name"] for d in record["differences"]):
            console.print(_differences(record, target))
        for line in verdicts(record, target["name"]):
            console.print(line, markup=False)
    console.print("\n95 % intervals: groups resampled, studentised. * fewer than 8 groups: indicative.", markup=False)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue().rstrip()


def verdicts(record: Record, target: str) -> list[str]:
    """One line per comparison: in how many columns the interval of the paired difference favours which side."""
    facts = next(t for t in record["targets"] if t["name"] == target)
    compared: dict[tuple[str, str], list[Record]] = {}
    for row in shown(record, facts, "differences"):
        compared.setdefault((row["table"], _control_name(row)), []).append(row)
    lines = []
    for (table, control), rows in compared.items():
        better = [_column(r) for r in rows if r["favours"] == "table"]
        worse = [_column(r) for r in rows if r["favours"] == "control"]
        text = f"{table} is better than {control} in {len(better)} of {len(rows)} columns"
        if worse:
            text += f", worse in {len(worse)} ({', '.join(worse)})"
        if len(better) + len(worse) < len(rows):
            text += f", undecided in {len(rows) - len(better) - len(worse)}"
        lines.append(text + ".")
    return lines


def _facts(target: Record) -> Iterable[str]:
    parts = ", ".join(f"{p['name']} {p['rows']}" for p in target["parts"])
    train = target["train"]
    grouped = f"groups: {target['group']}" if target["group"] else "no group column: every row is its own group"
    yield f"{target['name']} ({target['task']}), {target['metric']}{_unit(target)}; {target['split']}; {grouped}"
    yield f"rows: train {train['rows']}, {parts}; target unknown and left out: {target['unknown']}"
    shared = ", ".join(f"{o['shared']} {o['kind']}" for o in target["overlap"] if o["shared"])
    checked = ", ".join(o["kind"] for o in target["overlap"])
    yield "shared by training and evaluated rows: " + (shared or f"nothing ({checked} checked)")


def _unit(target: Record) -> str:
    if any(share in target["metric"] for share in _SHARES):
        return " in %"
    unit = _UNITS.get(target["columns"][0]) if target["metric"] in ("rmse", "bias") else None
    return f" in {unit}" if unit else ""


def _column(row: Record) -> str:
    return f"{row['protocol']} {row['part']}"


def _columns(rows: Iterable[Record]) -> list[str]:
    return list(dict.fromkeys(_column(r) for r in rows))


def _number(value: float | None, percent: bool, sign: bool = False) -> str:
    if value is None or math.isnan(value):
        return "?"
    return f"{100 * value:{'+' if sign else ''}.1f}" if percent else f"{value:{'+' if sign else ''}.3g}"


def _cell(row: Record, percent: bool, sign: bool = False) -> str:
    star = "*" if row["indicative"] else ""
    low, high = (_number(row[k], percent, sign) for k in ("low", "high"))
    return f"{_number(row['value'], percent, sign)}{star}\n\\[{low}, {high}]"


def _grid(title: str, first: str, cells: Mapping[str, Mapping[str, str]], columns: list[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column.replace(" ", "\n", 1), justify="right", no_wrap=True)
    for name, row in cells.items():
        table.add_row(name.replace("[", "\\["), *(row.get(c, "") for c in columns))
    return table


def _scores(record: Record, target: Record) -> Table:
    percent = " in %" in _unit(target)
    rows = shown(record, target, "scores")
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        cells.setdefault(row["table"], {})[_column(row)] = _cell(row, percent)
    return _grid("scores", "table", cells, _columns(rows))


def shown(record: Record, target: Record, kind: str) -> list[Record]:
    """The ``scores`` or ``differences`` of the shown metric; of several seeds, their mean and the best difference."""
    rows = [r for r in record[kind] if r["target"] == target["name"] and r["metric"] == target["metric"]]
    return [r for r in rows if r["family"] is None or r.get("best_seed")]


def _control_name(row: Record) -> str:
    return f"{row['family']} (best seed)" if row["best_seed"] else row["control"]


def _differences(record: Record, target: Record) -> Table:
    percent = " in %" in _unit(target)
    rows = shown(record, target, "differences")
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        name = f"{row['table']} - {_control_name(row)}"
        cells.setdefault(name, {})[_column(row)] = _cell(row, percent, sign=True)
    return _grid("paired differences", "table - control", cells, _columns(rows))
