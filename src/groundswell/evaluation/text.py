"""Results as text: per target one table of scores with intervals, one of paired differences, one line of verdict."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

Record = Mapping[str, Any]

_NAME, _CELL = 24, 17  # columns that a name and a score with its interval take
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
        for table in (*_scores(record, target, width), *_differences(record, target, width)):
            console.print(table)
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
    weighted = ", classes weighted alike" if target["balance"] else ""
    metric = f"{target['metric']}{_unit(target)}{weighted}"
    yield f"{target['name']} ({target['task']}), {metric}; {target['split']}; {grouped}"
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


def _number(value: float | None, percent: bool, sign: bool = False) -> str:
    if value is None or math.isnan(value):
        return "?"
    return f"{100 * value:{'+' if sign else ''}.1f}" if percent else f"{value:{'+' if sign else ''}.3g}"


def _cell(row: Record, percent: bool, sign: bool = False) -> str:
    star = "*" if row["indicative"] else ""
    low, high = (_number(row[k], percent, sign) for k in ("low", "high"))
    return f"{_number(row['value'], percent, sign)}{star}\n[{low}, {high}]"


def _grids(title: str, first: str, rows: Iterable[tuple[str, Record, str]], width: int) -> list[Table]:
    """Rows by name, columns by protocol and part; a table for each protocol where one does not fit the width."""
    cells: dict[str, dict[tuple[str, str], str]] = {}
    columns: dict[tuple[str, str], None] = {}
    for name, row, text in rows:
        column = (row["protocol"], row["part"])
        columns[column] = None
        cells.setdefault(name, {})[column] = text
    fit = max(1, (width - _NAME) // max(_CELL, *(len(part) + 3 for _, part in columns), 0)) if columns else 1
    whole = list(columns)
    groups = [whole]
    if len(whole) > fit:
        alike = [[c for c in whole if c[0] == protocol] for protocol in dict.fromkeys(p for p, _ in whole)]
        groups = [group[i : i + fit] for group in alike for i in range(0, len(group), fit)]
    tables = []
    for group in groups if whole else []:
        table = Table(title=title, title_justify="left", title_style="", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column(first, min_width=16)
        for protocol, part in group:
            table.add_column(f"{protocol}\n{part}", justify="right", no_wrap=True)
        for name, row_cells in cells.items():
            table.add_row(escape(name), *(escape(row_cells.get(column, "")) for column in group))
        tables.append(table)
    return tables


def _scores(record: Record, target: Record, width: int) -> list[Table]:
    percent = " in %" in _unit(target)
    rows = [(r["table"], r, _cell(r, percent)) for r in shown(record, target, "scores")]
    return _grids("scores", "table", rows, width)


def _differences(record: Record, target: Record, width: int) -> list[Table]:
    percent = " in %" in _unit(target)
    rows = [
        (f"{r['table']} - {_control_name(r)}", r, _cell(r, percent, sign=True))
        for r in shown(record, target, "differences")
    ]
    return _grids("paired differences", "table - control", rows, width)


def shown(record: Record, target: Record, kind: str) -> list[Record]:
    """The ``scores`` or ``differences`` of the shown metric; of several seeds, their mean and the best difference."""
    rows = [r for r in record[kind] if r["target"] == target["name"] and r["metric"] == target["metric"]]
    return [r for r in rows if r["family"] is None or r.get("best_seed")]


def _control_name(row: Record) -> str:
    return f"{row['family']} (best seed)" if row["best_seed"] else row["control"]
