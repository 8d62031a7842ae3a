"""What the probes found: scores, paired differences, confusion and scatter, every number from results.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from groundswell.report.blocks import Bar, Block, Cell, Details, Figure, Matrix, Section, Table, Text, Tone, cells
from groundswell.report.figures import draw_scatter
from groundswell.report.inputs import ResultsFolder
from groundswell.report.labels import is_share, metric_name, number, protocol_name, spaced, unit
from groundswell.report.sections.verdict import (
    TONES,
    Record,
    both,
    claims_gain_only,
    control_name,
    of_target,
    verdict_section,
)

Panel = tuple[str, str, Any, Any]

_BESIDE = {
    "classification": ("accuracy", "balanced_accuracy", "macro_f1"),
    "multi-label": ("macro_auroc", "macro_ap", "micro_auroc", "micro_ap"),
    "regression": ("rmse", "bias", "scatter_index", "r2"),
}
MOST_MATRIX = 25
MOST_PANELS = 4


def score_sections(results: Sequence[ResultsFolder]) -> list[Section]:
    """The verdict over all results, then a chapter for each target."""
    if not results:
        return []
    sections = [verdict_section(results)]
    for folder in results:
        for target in folder.record["targets"]:
            sections.append(_target_section(folder, target, f"scores-{len(sections)}"))
    return sections


def _target_section(folder: ResultsFolder, target: Record, section_id: str) -> Section:
    record = folder.record
    blocks: list[Block] = [Text(_facts(target), note=True)]
    found = list(of_target(record["scores"], target))
    for part in dict.fromkeys(row["part"] for row in found):
        for protocol in dict.fromkeys(row["protocol"] for row in found):
            blocks.append(scores_table(record, target, part, protocol))
            differences = differences_table(record, target, part, protocol)
            if differences.rows:
                blocks.append(differences)
        blocks += _pictures(folder, target, part, section_id)
    fitted = [
        (p["path"], ", ".join(f"{k} {v}" for k, v in p["chosen"].items())) for p in of_target(record["probes"], target)
    ]
    blocks.append(Details("What each probe chose on its training rows", pairs=fitted))
    name = spaced(target["name"])
    return Section(section_id, name[:1].upper() + name[1:], blocks)


def _facts(target: Record) -> str:
    train = target["train"]
    group = f"grouped by {target['group']}" if target["group"] else "each image its own group"
    parts = ", ".join(f"{p['name']} {p['rows']:,}" for p in target["parts"])
    shared = [f"{o['shared']} {o['kind']}" for o in target["overlap"] if o["shared"]]
    checked = ", ".join(o["kind"] for o in target["overlap"])
    overlap = (
        f"shared by both sides: {', '.join(shared)}" if shared else f"nothing shared by both sides ({checked} checked)"
    )
    unknown = f"; unknown and left out: {target['unknown']:,}" if target["unknown"] else ""
    how = f"{target['task'].capitalize()}; split: {target['split']}, {group}"
    return f"{how}. Images: train {train['rows']:,}, {parts}{unknown}; {overlap}."


def _rows(record: Record, target: Record, part: str, protocol: str) -> dict[str, dict[str, Record]]:
    """Scores of each table that is shown (single seeds are not), by metric."""
    found: dict[str, dict[str, Record]] = {}
    for row in of_target(record["scores"], target):
        if row["part"] == part and row["protocol"] == protocol and row["family"] is None:
            found.setdefault(row["table"], {})[row["metric"]] = row
    return found


def scores_table(record: Record, target: Record, part: str, protocol: str) -> Table:
    """The headline metric of every table with its interval, then the other metrics."""
    metric = target["metric"]
    rows = _rows(record, target, part, protocol)
    beside = [m for m in _BESIDE[target["task"]] if m != metric]
    limits = _limits([r[metric] for r in rows.values()])
    first = next(iter(rows.values()))[metric]
    head = ["", _headed(metric, target), "95 % interval", "", *(_headed(m, target) for m in beside)]
    body = []
    for table, row in rows.items():
        one = row[metric]
        spread = one.get("seed_standard_deviation")
        name = table if spread is None else f"{table}, ± {number(spread, metric)} between seeds"
        others = [number(row[m]["value"], m, signed=m == "bias") if m in row else "" for m in beside]
        body.append(cells(name, number(one["value"], metric), _interval(one), Cell("", _bar(one, limits)), *others))
    caption = f"{protocol_name(protocol)}, {part}: {first['rows']:,} images in {first['groups']:,} groups"
    return Table(head, body, caption)


def differences_table(record: Record, target: Record, part: str, protocol: str) -> Table:
    """Paired differences in the headline metric, each drawn against zero."""
    metric = target["metric"]
    rows = [
        r
        for r in of_target(record["differences"], target)
        if r["part"] == part and r["protocol"] == protocol and r["metric"] == metric
        and (r["family"] is None or r["best_seed"])
        and (not claims_gain_only(record, target) or r["table"] == both(record, target))
    ]  # fmt: skip
    limits = _limits(rows, zero=True)
    body = []
    for r in rows:
        tone = TONES[r["favours"]]
        name = f"{r['table']} \N{MINUS SIGN} {control_name(r)}"
        star = "*" if r["indicative"] else ""
        value = Cell(number(r["value"], metric, signed=True) + star, tone=tone)
        body.append(cells(name, value, _interval(r, signed=True), Cell("", _bar(r, limits, zero=True, tone=tone))))
    few = "; * fewer than 8 groups: indicative" if any(r["indicative"] for r in rows) else ""
    heading = f"difference in {_headed(metric, target).replace('(%)', '(points)')}"
    return Table(
        ["", heading, "95 % interval", ""], body, f"Paired differences, {protocol_name(protocol)}, {part}{few}"
    )


def _headed(metric: str, target: Record) -> str:
    name = metric_name(metric)
    if is_share(metric):
        return f"{name} (%)"
    units = unit(target["columns"][0])
    return f"{name} ({units})" if metric in ("rmse", "bias") and units else name


def _interval(row: Record, signed: bool = False) -> str:
    if row["low"] is None or row["high"] is None:
        return "not defined"
    low, high = (number(row[k], row["metric"], signed=signed) for k in ("low", "high"))
    return f"{low} to {high}"


def _limits(rows: Sequence[Record], zero: bool = False) -> tuple[float, float]:
    ends = [v for r in rows for v in (r["low"], r["value"], r["high"]) if v is not None and np.isfinite(v)]
    ends += [0.0] if zero else []
    if not ends or min(ends) == max(ends):
        return (ends[0] - 1 if ends else 0.0, ends[0] + 1 if ends else 1.0)
    margin = 0.06 * (max(ends) - min(ends))
    return min(ends) - margin, max(ends) + margin


def _bar(row: Record, limits: tuple[float, float], zero: bool = False, tone: Tone = "none") -> Bar | None:
    if row["value"] is None:
        return None
    low, high = limits

    def at(value: float | None) -> float:
        known = row["value"] if value is None or not np.isfinite(value) else value
        return 100 * (known - low) / (high - low)

    return Bar(at(row["low"]), at(row["value"]), at(row["high"]), at(0.0) if zero else None, tone)


def _pictures(folder: ResultsFolder, target: Record, part: str, section_id: str) -> list[Block]:
    if target["task"] == "classification":
        return list(_matrices(folder.record, target, part))
    if target["task"] == "regression":
        return list(_scatters(folder, target, part, section_id))
    return list(_tags(folder.record, target, part))


def _matrices(record: Record, target: Record, part: str) -> Iterator[Block]:
    """The confusion matrix of the model under the last protocol (linear where it was run)."""
    model = record["tables"][0]["name"]
    found = [r for r in of_target(record["confusion"], target) if r["part"] == part and r["table"] == model]
    if found and len(target["classes"]) <= MOST_MATRIX:
        classes = [spaced(c) for c in target["classes"]]
        caption = (
            f"Confusion of {model}, {protocol_name(found[-1]['protocol'])}, {part}: rows observed, columns predicted"
        )
        yield Matrix(classes, found[-1]["matrix"], caption)


def _scatters(folder: ResultsFolder, target: Record, part: str, section_id: str) -> Iterator[Block]:
    """Observed against predicted: model, both together, statistics and the physical inversion side by side."""
    record, units = folder.record, unit(target["columns"][0])
    for protocol in dict.fromkeys(r["protocol"] for r in of_target(record["scores"], target)):
        panels: list[Panel] = []
        for table, row in _rows(record, target, part, protocol).items():
            if table.endswith("(mean of seeds)") or len(panels) == MOST_PANELS:
                continue
            frame = folder.results.predictions_of(target["columns"][0], protocol, table, part)
            observed, predicted = (frame[c].to_numpy(dtype=np.float64) for c in ("observed", "predicted"))
            panels.append((table, scatter_text(row, units), observed, predicted))
        name, label = spaced(target["name"]), f"({units})" if units else ""
        svg = draw_scatter(
            panels, f"observed {label}", f"predicted {label}", f"{section_id}-{protocol}-{part}".replace(" ", "-")
        )
        alt = f"Observed against predicted {name}: " + ", ".join(f"{t}: {text}" for t, text, _, _ in panels)
        caption = (
            f"{name}, {protocol_name(protocol)}, {part}. The line is perfect agreement; 99.6 % of points are shown."
        )
        yield Figure(svg, alt.replace("\n", ", "), caption[:1].upper() + caption[1:])


def scatter_text(row: Mapping[str, Record], units: str) -> str:
    """Bias, RMSE, scatter index and R2 of one table, as drawn into its panel."""
    lines = []
    for metric in ("bias", "rmse", "scatter_index", "r2"):
        suffix = " %" if is_share(metric) else f" {units}".rstrip() if metric in ("bias", "rmse") else ""
        lines.append(f"{metric_name(metric)} {number(row[metric]['value'], metric, signed=metric == 'bias')}{suffix}")
    return "\n".join(lines)


def _tags(record: Record, target: Record, part: str) -> Iterator[Block]:
    """The AUROC of every tag under the last protocol, tables side by side."""
    protocol = list(dict.fromkeys(r["protocol"] for r in of_target(record["scores"], target)))[-1]
    rows = _rows(record, target, part, protocol)
    body = [
        cells(spaced(tag), *(number(row[f"auroc:{tag}"]["value"], f"auroc:{tag}") for row in rows.values()))
        for tag in target["classes"]
    ]
    yield Table(["tag", *rows], body, f"AUROC (%) of each tag, {protocol_name(protocol)}, {part}")
