"""``groundswell stats``: what an archive holds, what is odd about it, and whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundswell.cli.app import Outcome, verb

if TYPE_CHECKING:
    from groundswell.archive.reader import Archive
    from groundswell.archive.statistics import ChannelTally

_BARS = " ▁▂▃▄▅▆▇█"
_BAR_COUNT = 60
_MANY = 20
_EXAMPLES = 3


@verb
def stats(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="The archive to look at.")],
    verify: Annotated[bool, typer.Option("--verify", help="Check every file against its recorded hash.")] = False,
) -> Outcome:
    """Show what an archive holds: counts, quantities, splits, labels, values, and what is odd.

    Figures come from the catalogue and take seconds however large the archive is. With --verify every byte is read
    and compared with the hash that was recorded when it was written; damage is named by file, with exit code 3.

    Example: groundswell stats archive --verify
    """
    from groundswell.archive.verify import verify as check
    from groundswell.errors import ArchiveError

    if verify:
        damage = check(archive)
        if damage:
            raise ArchiveError(
                f"damaged files in the archive: {len(damage)}",
                where=archive,
                why="\n".join(f"{d.file}: {d.reason}" for d in damage),
                fix="for a shard NNNNNN, delete catalogue/NNNNNN.parquet and run the same ingest again: it writes that "
                "shard anew; any other file comes from a copy",
            )
    from groundswell.archive.reader import open_archive

    data = _describe(open_archive(archive))
    if verify:
        data["verified"] = True
    return Outcome(data=data, text=_text(data))


def _describe(archive: Archive) -> dict[str, Any]:
    from groundswell.archive.catalogue import LABEL
    from groundswell.archive.oddities import oddities

    catalogue = archive.catalogue
    schema = archive.schema
    labels = {name: _label(catalogue[name]) for name in catalogue.columns if name.startswith(LABEL)}
    channels = archive.statistics["channels"]
    for name, tally in archive.tallies.items():
        channels[name]["histogram"] = _histogram(tally)
    return {
        "path": str(archive.path),
        "complete": archive.complete,
        **{key: value for key, value in archive.statistics.items() if key != "channels"},
        "height": schema.height,
        "width": schema.width,
        "dtype": schema.dtype,
        "fit": schema.fit,
        "spacing_m": schema.spacing_m,
        "masks": list(schema.masks),
        "boxes": len(archive.boxes(slice(None))),
        "channels": channels,
        "splits": _counts(catalogue["split"]),
        "groups": int(catalogue["group"].nunique()),
        "labels": labels,
        "set_aside": _set_aside(archive),
        "odd": oddities(archive),
    }


def _counts(column: Any, most: int | None = None) -> dict[str, int]:
    """How often each value occurs, sorted by value; the ``most`` frequent ones alone where that is given."""
    counts = column.value_counts()
    counts = counts.sort_index() if most is None else counts.head(most)
    return {str(value): int(count) for value, count in counts.items()}


def _label(column: Any) -> dict[str, Any]:
    """A table of values; where those are too many to list, the spread of numbers or the most frequent texts."""
    import pandas as pd

    described: dict[str, Any] = {"known": int(column.notna().sum())}
    if pd.api.types.is_float_dtype(column) or (pd.api.types.is_numeric_dtype(column) and column.nunique() > _MANY):
        if column.notna().any():
            figures = ("mean", "std", "min", "median", "max")
            described |= {name: None if pd.isna(v := getattr(column, name)()) else float(v) for name in figures}
        return described
    if column.nunique() > _MANY:
        return described | {"different": int(column.nunique()), "most": _counts(column, _EXAMPLES)}
    return described | {"values": _counts(column)}


def _set_aside(archive: Archive) -> dict[str, int]:
    """How many items were set aside, by the general form of the reason (numbers left out)."""
    import re
    from collections import Counter

    from groundswell.archive.ingest import read_failures

    rows = [row for record in archive.records for row in read_failures(archive.path, record)]
    forms = Counter("duplicate" if kind == "duplicate" else re.sub(r"\d+(\.\d+)?", "N", why) for _, kind, why in rows)
    return dict(forms.most_common())


def _histogram(tally: ChannelTally) -> dict[str, Any]:
    """Counts in equal steps between the 0.1 and 99.9 percent quantiles, from the finer bins of the archive."""
    import numpy as np

    from groundswell.archive.statistics import bins_of

    if not tally.moments.count:
        return {"edges": [], "counts": []}
    low, high = tally.quantile(0.001), tally.quantile(0.999)
    edges = bins_of(tally.quantity).edges()
    inside = np.flatnonzero((edges[1:] > low) & (edges[:-1] < high))
    if inside.size == 0:
        return {"edges": [low, high], "counts": [tally.moments.count]}
    step = -(-inside.size // _BAR_COUNT)
    starts = inside[::step]
    counts = np.add.reduceat(tally.histogram[1:-1][: inside[-1] + 1], starts)
    return {"edges": [*edges[starts].tolist(), float(edges[inside[-1] + 1])], "counts": counts.tolist()}


def _text(data: dict[str, Any]) -> str:
    from rich.markup import escape

    size = f"{data['height']} x {data['width']}"
    spacing = "unknown spacing" if data["spacing_m"] is None else f"{data['spacing_m']:g} m"
    state = "" if data["complete"] else ", [yellow]not finished[/yellow]"
    lines = [
        f"[bold]{escape(data['path'])}[/bold]: {data['images']} imagettes in {data['shards']} shards{state}",
        f"  {size} pixels, {spacing}, stored as {data['dtype']}, fitted by {data['fit']}",
    ]
    aside = {name: data[name] for name in ("rejected", "duplicates", "dropped_boxes") if data[name]}
    if aside:
        lines.append("  set aside: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in aside.items()))
        lines += [f"    {count} x {escape(reason)}" for reason, count in data["set_aside"].items()]
    for name, channel in data["channels"].items():
        lines += _channel_text(escape(name), channel)
    if data["masks"]:
        lines.append(f"masks: {escape(', '.join(data['masks']))}")
    if data["boxes"]:
        lines.append(f"boxes: {data['boxes']}")
    if data["splits"]:
        lines.append("splits: " + escape(", ".join(f"{name} {count}" for name, count in data["splits"].items())))
    if data["groups"]:
        lines.append(f"groups: {data['groups']}")
    for name, label in data["labels"].items():
        lines.append(f"{escape(name)}: {escape(_label_text(label))}")
    if data["odd"]:
        lines.append("[yellow]what is odd[/yellow]")
        lines += [f"  {escape(sentence)}" for sentence in data["odd"]]
    if data.get("verified"):
        lines.append("[green]every file is as it was written[/green]")
    return "\n".join(lines)


def _channel_text(name: str, channel: dict[str, Any]) -> list[str]:
    if not channel["count"]:
        return [f"{name} ({channel['quantity']}): no values"]
    quantiles = channel["quantiles"]
    lines = [
        f"{name} ({channel['quantity']}): mean {channel['mean']:.4g}, std {channel['std']:.4g}, "
        f"range {channel['minimum']:.4g} to {channel['maximum']:.4g}, "
        f"5 / 50 / 95 % {quantiles['0.05']:.4g} / {quantiles['0.5']:.4g} / {quantiles['0.95']:.4g}"
    ]
    histogram = channel["histogram"]
    highest = max(histogram["counts"])
    if highest:
        bars = "".join(_BARS[-(-count * (len(_BARS) - 1) // highest)] for count in histogram["counts"])
        lines.append(f"  {histogram['edges'][0]:.4g} |{bars}| {histogram['edges'][-1]:.4g}")
    return lines


def _label_text(label: dict[str, Any]) -> str:
    if "values" in label:
        return ", ".join(f"{value} {count}" for value, count in label["values"].items())
    if "different" in label:
        most = ", ".join(f"{value} {count}" for value, count in label["most"].items())
        return f"{label['different']} different values, most often {most}"
    if "mean" not in label:
        return "empty"
    spread = f"mean {label['mean']:.4g}, range {label['min']:.4g} to {label['max']:.4g}"
    return f"{spread} ({label['known']} known)"
