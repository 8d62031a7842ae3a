"""The part of ``groundswell ingest`` that is about SAFE products: their options, their plan, what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundswell.cli.app import PARTIAL, Outcome
from groundswell.errors import DataError, UsageError

if TYPE_CHECKING:
    from groundswell.archive.ingest import IngestReport
    from groundswell.archive.planning import Options
    from groundswell.archive.reader import Archive
    from groundswell.physics.imagette import Quantity
    from groundswell.products.folder.labels import Columns
    from groundswell.products.safe.source import SafeProducts

SPACING_M = 50.0
"""Of the cells, unless told otherwise."""

Overlap = Annotated[
    int | None, typer.Option(metavar="PX", min=0, help="Products: cells that neighbouring chips share.")
]
Denoise = Annotated[bool, typer.Option("--denoise/--no-denoise", help="Products: subtract thermal noise.")]
FilterName = Annotated[
    str | None,
    typer.Option(
        "--filter", metavar="box|kaiser", help="Products: window of the mean over a cell; kaiser is against aliasing."
    ),
]
Land = Annotated[
    float | None,
    typer.Option(metavar="SHARE", min=0, max=1, help="Products: set aside what is land by more than this (0.1)."),
]
KeepLand = Annotated[bool, typer.Option("--keep-land", help="Products: set nothing aside for land, as --land 1.")]
MaskLand = Annotated[bool, typer.Option("--mask-land", help="Products: cells on land count as without data.")]
Ice = Annotated[
    float | None,
    typer.Option(metavar="SHARE", min=0, max=1, help="Products: set aside what a level-2 product calls ice (0.1)."),
]
MinValid = Annotated[
    float | None, typer.Option(metavar="SHARE", min=0, max=1, help="Products: least share with data (0.5).")
]
KeepNoisy = Annotated[bool, typer.Option("--keep-noisy", help="Products: keep those with an implausible noise table.")]


def are_products(sources: Iterable[Path]) -> bool:
    """Whether the sources are SAFE products, not image files.

    `UsageError` where they are both, `DataError` where they are labels without images.
    """
    from groundswell.products.safe.find import find_products

    found = find_products(list(sources))
    if found.products and found.images:
        raise UsageError(
            "these are SAFE products and image files, and an archive is begun with one kind",
            where=f"{found.products[0]} and {found.images[0]}",
            why=f"{len(found.products)} products and {len(found.images)} images",
            fix="name the products, or the folders of images, in a command of their own",
        )
    if found.level2 and not found.products and not found.images:
        raise DataError(
            "these are level-2 products, which label the imagettes of level-1 products",
            where=found.level2[0].path,
            why=f"{len(found.level2)} level-2 files, and no level-1 product",
            fix="name the SLC products too, or join them to an archive: `groundswell collocate ARCHIVE OCN...`",
        )
    return bool(found.products)


def open_source(
    sources: list[Path],
    options: Options,
    told: dict[str, Any],
    quantity: Quantity | None,
    channels: tuple[str, ...] | None,
    allow_missing_channel: bool,
    labels: Path | None,
    columns: Columns,
    only_labelled: bool,
) -> SafeProducts:
    """The source for options of the archive and of the command line (``told``, by their names)."""
    from groundswell.physics.imagette import Quantity
    from groundswell.products.safe.settings import SafeSettings, Screening
    from groundswell.products.safe.source import SafeProducts

    if told["--filter"] not in (None, "box", "kaiser"):
        raise UsageError(f"--filter {told['--filter']}: not one of box, kaiser")
    if told["--keep-land"] and told["--land"] is not None:
        raise UsageError("--keep-land and --land contradict each other", fix="give one of them")
    limits = {
        "land": 1.0 if told["--keep-land"] else told["--land"],
        "ice": told["--ice"],
        "valid": told["--min-valid"],
    }
    assert options.spacing_m is not None
    settings = SafeSettings(
        spacing_m=options.spacing_m,
        quantity=quantity or Quantity.SIGMA0,
        denoise=not told["--no-denoise"],
        filter=told["--filter"] or "box",
        chip=options.size,
        overlap=told["--overlap"] or 0,
        channels=channels,
        allow_missing_channel=allow_missing_channel,
        screening=Screening(
            **{name: share for name, share in limits.items() if share is not None}, nesz=not told["--keep-noisy"]
        ),
        mask_land=told["--mask-land"],
        labels=labels,
        columns=columns,
        only_labelled=only_labelled,
    )
    return SafeProducts(sources, settings)


def facts(source: SafeProducts) -> dict[str, Any]:
    """What was found, JSON-able."""
    kinds = Counter(
        (image.mode, image.beam, "+".join(image.polarisations))
        for item in source.items.values()
        for image in [source.images[item.image]]
    )
    return {
        "products": len(source.listing.products),
        "files": len(source.ids()),
        "images": len(source.images),
        "imagettes": [
            {"mode": mode, "beam": beam, "polarisations": names, "count": count}
            for (mode, beam, names), count in sorted(kinds.items())
        ],
        "bytes": source.listing.bytes,
        "channels": [channel.name for channel in source.channels],
        "broken": [{"id": id_, "reason": reason} for id_, reason in sorted(source.broken.items())],
        "copies": [{"id": id_, "passed_over": paths} for id_, paths in sorted(source.listing.doubles.items())],
        "level2": {
            "files": len(source.found.level2),
            "imagettes": sum(bool(source.level2_of(item)) for item in source.items.values()),
        },
        "ignored": source.found.ignored,
    }


def describe(found: dict[str, Any]) -> list[str]:
    """`facts` as lines of text."""
    from groundswell.products.folder.plan import listed, size_text

    kinds = ", ".join(f"{k['beam']} {k['polarisations']} {k['count']}" for k in found["imagettes"])
    lines = [
        f"found       {found['products']} products, {size_text(found['bytes'])}: {found['images']} images, "
        f"{sum(k['count'] for k in found['imagettes'])} imagettes ({kinds or 'none'})"
    ]
    if found["copies"]:
        example = found["copies"][0]
        lines.append(
            f"copies      {len(found['copies'])} images are there more than once, and read once: {example['id']} is "
            f"in {example['passed_over'][0]} too"
        )
    if found["level2"]["files"]:
        lines.append(f"level 2     {found['level2']['files']} files, of {found['level2']['imagettes']} imagettes")
    if found["ignored"]:
        lines.append("passed over " + ", ".join(f"{name} {count}" for name, count in found["ignored"].items()))
    if found["broken"]:
        lines += [f"broken      {len(found['broken'])} products or scenes", *listed(found["broken"])]
    return lines


def notes(source: SafeProducts, options: Options) -> list[str]:
    """What the owner of the products should know."""
    from groundswell.physics.imagette import Quantity

    said = list(source.notes)
    joined = {one for item in source.items.values() for one in source.level2_of(item)}
    strangers = [one.name.stem for one in source.found.level2 if one.name is not None and one not in joined]
    if strangers:
        said.append(
            f"{len(strangers)} level-2 files are of no imagette among these (mission, orbit, datatake and image number "
            f"decide): {strangers[0]}" + (" ..." if len(strangers) > 1 else "")
        )
    others = [channel.name for channel in source.channels if channel.name != "VV"]
    if options.quantity is Quantity.ROUGHNESS_DB and others:
        said.append(f"roughness of {', '.join(others)} is against CMOD5.N, which is a model of VV")
    return said


def batch_of(source: SafeProducts) -> int:
    """Items to read at a time: the chips of one row, which one reading of their lines gives."""
    return max(8, *(item.tile.index[1] + 1 for item in source.items.values() if item.tile is not None), 0)


def plan(source: SafeProducts, options: Options, workers: int | None) -> Outcome:
    """What would be done: counts, bytes and an estimate of the time."""
    from dataclasses import asdict

    from rich.markup import escape

    from groundswell.archive.estimate import estimate
    from groundswell.archive.planning import stored_as
    from groundswell.archive.schema import row_bytes
    from groundswell.executors.tasks import cores
    from groundswell.products.folder.plan import size_text

    found, size = facts(source), source.size
    quantities, dtype = stored_as(source, options)
    archive = {
        "images": len(source.items),
        "size": list(size),
        "fit": options.fit,
        "channels": found["channels"],
        "quantity": quantities[0].value,
        "spacing_m": source.settings.spacing_m,
        "dtype": dtype,
        "bytes": len(source.items) * row_bytes(len(source.channels), *size, dtype),
    }
    time = estimate(source, options, workers or cores(), batch=batch_of(source))
    said = notes(source, options)
    lines = [
        "[bold]Plan[/bold] (nothing was written)",
        *map(escape, describe(found)),
        f"archive     at most {archive['images']} images of {size[0]} x {size[1]} ({options.fit}) at "
        f"{archive['spacing_m']:g} m, {escape(', '.join(archive['channels']))} as {archive['quantity']} in {dtype}, "
        f"about {size_text(archive['bytes'])}",
        f"time        about {duration(time.seconds)} with {time.workers} workers: {time.measured} images took "
        f"{time.seconds_per_image:.2g} s each to read and convert",
        *noted(said),
    ]
    data = {"dry_run": True, "found": found, "archive": archive, "time": asdict(time), "notes": said}
    return Outcome(data, "\n".join(lines))


def outcome(report: IngestReport, source: SafeProducts, said: list[str]) -> Outcome:
    """What became of the products.

    What was screened is as it should be, and leaves the exit code at 0; what is broken, labels included, makes it 4.
    """
    from rich.markup import escape

    from groundswell.archive.reader import open_archive
    from groundswell.archive.summary import attribution
    from groundswell.products.folder.plan import listed
    from groundswell.products.safe.settings import screened_for

    found = facts(source)
    screened = {item.id: screened_for(item) for item in report.rejected}
    aside = [{"id": item.id, "reason": item.reason} for item in report.rejected if screened[item.id]]
    broken = [{"id": item.id, "reason": item.reason} for item in report.rejected if not screened[item.id]]
    duplicates = [{"id": item.id, "reason": item.reason} for item in report.duplicates]
    counts = dict(sorted(Counter(name for name in screened.values() if name).items()))
    archive = open_archive(report.path)
    unlabelled = _unlabelled(archive, source)
    notice = attribution(archive.catalogue)
    data = {
        "archive": str(report.path),
        "written": report.written,
        "screened": {"counts": counts, "items": aside},
        "rejected": broken,
        "duplicates": duplicates,
        "unlabelled": unlabelled,
        "known": report.known,
        "shards": report.shards,
        "resumed_shards": report.resumed_shards,
        "attribution": notice,
        "notes": said,
        "found": found,
    }
    lines = [escape(line) for line in describe(found)]
    if report.written:
        lines.append(archive_line(report, archive, f" at {source.settings.spacing_m:g} m"))
    if counts:
        named = ", ".join(f"{name} {count}" for name, count in counts.items())
        lines += [f"screened    {len(aside)} ({named})", *map(escape, _by_reason(aside, 5))]
    if duplicates:
        lines += [f"duplicates  {len(duplicates)} set aside", *map(escape, listed(duplicates))]
    if broken:
        where = escape(str(report.path / "failures"))
        lines += [f"[red]set aside[/red]   {len(broken)} that are broken (listed in {where})"]
        lines += map(escape, _by_reason(broken))
    if unlabelled:
        lines += [
            f"[red]unlabelled[/red]  {len(unlabelled)} images are kept, but their level-2 file could not be read",
            *map(escape, _by_reason(unlabelled)),
        ]
    if not report.written:
        lines.append("[red]nothing[/red]     none of the images could be used, or all were screened")
    lines += noted(said)
    if notice:
        lines.append(notice)
    exit_code = PARTIAL if broken or unlabelled or source.found.unreadable else 0
    return Outcome(data, "\n".join(lines), exit_code if report.written else DataError.exit_code)


def _unlabelled(archive: Archive, source: SafeProducts) -> list[dict[str, str]]:
    """The images of this source whose level-2 file could not be read, with the reason."""
    frame = archive.catalogue
    if "label_ocn_problem" not in frame:
        return []
    told = frame[frame["label_ocn_problem"].notna() & frame["id"].isin(source.items)]
    return [{"id": i, "reason": why} for i, why in zip(told["id"], told["label_ocn_problem"], strict=True)]


def _by_reason(items: list[dict[str, str]], shown: int = 20) -> list[str]:
    """Items by their reasons, one a line: the first, and how many more there are.

    The chips of a scene share a reason, and so do images of each of which the same file is at fault.
    """
    groups: dict[str, list[dict[str, str]]] = {}
    for item in items:
        stem = item["id"].partition("/")[0].removeprefix("sim-")  # of the image's files
        groups.setdefault(item["reason"].replace(stem, "*"), []).append(item)
    lines = [
        f"  {first['id']} and {len(others)} more: {reason}" if others else f"  {first['id']}: {first['reason']}"
        for reason, (first, *others) in groups.items()
    ]
    return lines[:shown] + ([f"  ... and {len(lines) - shown} more reasons"] if len(lines) > shown else [])


def archive_line(report: IngestReport, archive: Archive, spacing: str = "") -> str:
    """What an ingest made: the archive, its images, what is stored, and how much of it an earlier run had written."""
    from rich.markup import escape

    stored = ", ".join(f"{channel.name} as {channel.quantity}" for channel in archive.channels)
    there = f" ({report.resumed_shards} of {report.shards} shards were there already)" if report.resumed_shards else ""
    return (
        f"[bold]archive[/bold]     {escape(str(report.path))}: {report.written} images of "
        f"{archive.height} x {archive.width}{spacing}, {escape(stored)} in {archive.schema.dtype}{there}"
    )


def noted(said: list[str], shown: int = 12) -> list[str]:
    """Notes, one a line."""
    from rich.markup import escape

    more = [f"... and {len(said) - shown} more (--json has all)"] if len(said) > shown else []
    return [f"[yellow]note[/yellow]        {escape(note)}" for note in [*said[:shown], *more]]


def duration(seconds: float) -> str:
    """Seconds for people, to two digits."""
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} s"
