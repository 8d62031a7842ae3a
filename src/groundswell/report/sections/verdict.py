"""What may be claimed: the paired differences whose intervals lie on one side of zero, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from groundswell.report.blocks import Block, Section, Text, Tone, Verdicts
from groundswell.report.inputs import ResultsFolder
from groundswell.report.labels import is_share, metric_name, number, protocol_name, spaced, unit

Record = Mapping[str, Any]

TONES: dict[str | None, Tone] = {"table": "win", "control": "loss", None: "tie"}
_WORDS = {"win": "is better than", "loss": "is worse than", "tie": "cannot be told apart from"}


def verdict_section(results: Sequence[ResultsFolder]) -> Section:
    """What beats what, by which interval."""
    lead = (
        "A claim rests on the interval of a paired difference: both sides judged on the same images, groups of images "
        "resampled. Ahead or behind: the whole 95 % interval lies on one side of zero."
    )
    items = verdict(results)
    if not items:
        return Section("verdict", "Verdict", [Text("No control was judged beside the model, so nothing is claimed.")])
    blocks: list[Block] = [Verdicts(items)]
    if any(claims_gain_only(f.record, t) for f in results for t in f.record["targets"]):
        blocks.append(
            Text(
                "Of wave height and wind only the gain of encoder and statistics together over statistics alone is "
                "claimed: on simulated backscatter, statistics nearly invert the model that made the images.",
                note=True,
            )
        )
    return Section("verdict", "Verdict", blocks, lead)


def verdict(results: Sequence[ResultsFolder]) -> list[tuple[Tone, str]]:
    """One sentence for each target, part and comparison; protocols that agree share one."""
    items: list[tuple[Tone, str]] = []
    for folder in results:
        for target in folder.record["targets"]:
            grouped: dict[tuple[str, str, str, Tone], list[Record]] = {}
            for row in claimed(folder.record, target):
                key = (row["part"], row["table"], control_name(row), TONES[row["favours"]])
                grouped.setdefault(key, []).append(row)
            for (part, table, control, tone), rows in grouped.items():
                figures = "; ".join(f"{protocol_name(r['protocol'])} {_difference(r, target)}" for r in rows)
                where = f"{spaced(target['name'])} ({part}, {rows[0]['rows']:,} images)"
                few = " Fewer than 8 groups: indicative." if any(r["indicative"] for r in rows) else ""
                items.append((tone, f"{table} {_WORDS[tone]} {control} on {where}: {figures}.{few}"))
    return items


def claimed(record: Record, target: Record) -> Iterator[Record]:
    """The paired differences that the verdict speaks of: headline metric; of several seeds, the best one.

    Where `claims_gain_only`, only both together against statistics.
    """
    gain_only = claims_gain_only(record, target)
    for row in of_target(record["differences"], target):
        if row["metric"] != target["metric"]:
            continue
        if gain_only and not (row["table"] == both(record, target) and row["control"] in _statistics(record)):
            continue
        if row["best_seed"] or (row["family"] is None and not row["control"].endswith("(mean of seeds)")):
            yield row


def claims_gain_only(record: Record, target: Record) -> bool:
    """Whether only the gain of both together is claimed: regressions on simulated images, judged together too."""
    simulated = any(d["simulated"] for d in record["data"]["archives"])
    return simulated and target["task"] == "regression" and both(record, target) is not None


def both(record: Record, target: Record) -> str | None:
    """The table of model and statistics side by side: judged, but not among the tables given."""
    given = {t["name"] for t in record["tables"]}
    made = (row["table"] for row in of_target(record["differences"], target))
    return next((table for table in made if table not in given), None)


def _statistics(record: Record) -> set[str]:
    return {t["name"] for t in record["tables"] if t["encoder"].startswith("statistics")}


def control_name(row: Record) -> str:
    """The control of a difference for people."""
    return f"{row['family']} (best seed)" if row["best_seed"] else str(row["control"])


def _difference(row: Record, target: Record) -> str:
    metric = row["metric"]
    suffix = " points" if is_share(metric) else f" {unit(target['columns'][0])}".rstrip()
    value = f"{metric_name(metric)} {number(row['value'], metric, signed=True)}{suffix}"
    if row["low"] is None or row["high"] is None:
        return f"{value} (no interval: it does not vary between groups)"
    return f"{value} [{number(row['low'], metric, signed=True)}, {number(row['high'], metric, signed=True)}]"


def of_target(rows: Sequence[Record], target: Record) -> Iterator[Record]:
    """The rows of results.json that belong to a target."""
    return (row for row in rows if row["target"] == target["name"])
