"""What `groundswell ingest --composite` has of its own: its options, its plan and its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundswell.cli.app import PARTIAL, Outcome
from groundswell.errors import UsageError

if TYPE_CHECKING:
    from groundswell.archive.ingest import IngestReport
    from groundswell.physics.imagette import Quantity
    from groundswell.products.composites.composite import Composite

Statistic = Annotated[
    str | None,
    typer.Option(
        "--composite",
        metavar="median|mean",
        help="Compose GRD products or GeoTIFFs of one day each to four seasons of VV, VH and VV/VH on --grid.",
    ),
]
GridText = Annotated[
    str | None,
    typer.Option(
        "--grid",
        metavar="FILE|CRS,W,S,E,N,M",
        help="Of a composite: a GeoTIFF, or system, bounds and spacing in its units.",
    ),
]
OrbitPass = Annotated[
    str | None,
    typer.Option(
        metavar="ascending|descending", help="Of a composite: take that pass alone (as published: ascending)."
    ),
]


def open_source(
    sources: Sequence[Path],
    statistic: str,
    grid: str | None,
    orbit_pass: str | None,
    tile: tuple[int, int] | None,
    quantity: Quantity | None,
    bands: Sequence[tuple[str, ...]],
) -> Composite:
    """The source that the options ask for; `UsageError` where they do not go together."""
    from groundswell.products.composites.composite import STATISTICS, Composite, CompositeSettings
    from groundswell.products.folder.grid import parse_grid

    if grid is None:
        raise UsageError("a composite needs the ground to cover", fix="add --grid with a GeoTIFF or EPSG:...,W,S,E,N,M")
    for known in STATISTICS:
        if statistic == known:
            settings = CompositeSettings(
                grid=parse_grid(grid), statistic=known, tile=tile, orbit_pass=orbit_pass, quantity=quantity,
                bands=next(iter(bands), None),
            )  # fmt: skip
            return Composite(sources, settings)
    raise UsageError(f"--composite {statistic}: not one of {', '.join(STATISTICS)}")


def plan(source: Composite) -> Outcome:
    """What would be done, without writing."""
    from rich.markup import escape

    data = {"dry_run": True, "found": _found(source), "images": len(source.ids()), "notes": source.notes()}
    return Outcome(data, "\n".join(["[bold]Plan[/bold] (nothing was written)", *map(escape, _lines(source))]))


def outcome(report: IngestReport, source: Composite) -> Outcome:
    """What was written, set aside and left out."""
    from rich.markup import escape

    from groundswell.errors import DataError
    from groundswell.products.folder.plan import listed

    rejected = [{"id": item.id, "reason": item.reason} for item in report.rejected]
    data = {
        "archive": str(report.path), "written": report.written, "rejected": rejected, "known": report.known,
        "shards": report.shards, "resumed_shards": report.resumed_shards, "found": _found(source),
        "notes": source.notes(),
    }  # fmt: skip
    lines = [
        *_lines(source),
        f"archive     {report.path}: {report.written} tiles of {source.size[0]} x {source.size[1]}",
    ]
    if rejected:
        lines += [f"set aside   {len(rejected)} tiles", *listed(rejected)]
    incomplete = bool(rejected or source.rejected)
    code = DataError.exit_code if not report.written else PARTIAL if incomplete else 0
    return Outcome(data, "\n".join(map(escape, lines)), code)


def _found(source: Composite) -> dict[str, Any]:
    return {
        **source.description,
        "set_aside": [{"id": item.id, "reason": item.reason} for item in source.rejected],
    }


def _lines(source: Composite) -> list[str]:
    from groundswell.products.folder.plan import listed

    about = source.description
    seasons = ", ".join(f"{name} {season['acquisitions']}" for name, season in about["seasons"].items())
    lines = [
        f"composite   {about['statistic']} of {len(source.acquisitions)} acquisitions: {seasons}",
        f"grid        {source.settings.grid.name}, {len(source.ids())} tiles of {source.size[0]} x {source.size[1]}",
        f"channels    {', '.join(about['channels'])}",
        *(f"place       {text}" for text in about["geometry"]),
    ]
    if source.rejected:
        lines.append(f"left out    {len(source.rejected)} acquisitions")
        lines += listed([{"id": item.id, "reason": item.reason} for item in source.rejected])
    return [*lines, *(f"note        {note}" for note in source.notes())]
