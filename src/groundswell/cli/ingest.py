"""`groundswell ingest`: Sentinel-1 products, or folders of images, with their labels, into an archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundswell.cli import ingest_composite as seasonal
from groundswell.cli import ingest_products as safe
from groundswell.cli.app import PARTIAL, Outcome, verb
from groundswell.cli.execution import Execution, ExecutorName, Sbatch, Scheduler, Submit, Task, Workers, carry_out
from groundswell.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from groundswell.archive.ingest import IngestReport
    from groundswell.archive.planning import Options
    from groundswell.archive.schema import DType, Fit
    from groundswell.physics.imagette import FarRange, Quantity
    from groundswell.products.folder.images import ImageFolder
    from groundswell.products.source import Source

_FITS = ("crop", "pad", "resize", "cut")
_DTYPES = ("uint8", "uint16", "float32")


@verb
def ingest(
    context: typer.Context,
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="SAFE products (folders, .zip, .tar), or image files, or folders of either, searched through.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="ARCHIVE", help="The archive to write.")],
    quantity: Annotated[
        str | None,
        typer.Option(
            metavar="Q",
            help="What the pixels are: sigma0, sigma0_db, roughness_db, amplitude, ratio or quicklook. "
            "Sentinel-1 quick-looks (-QL- in the name) may leave it out; products are read as sigma0, or amplitude.",
        ),
    ] = None,
    convert_to: Annotated[
        str | None,
        typer.Option(
            metavar="Q", help="What to store instead; linear sigma0 becomes sigma0_db unless --dtype float32."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW",
            help="Rows and columns of an archived image, and of the chips of a scene. Products: 20 km for wave mode, "
            "else 256.",
        ),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(
            metavar="crop|pad|resize|cut",
            help="Images of another size: crop the centre (smaller ones are set aside), pad (a window, filled with "
            "the median of the image's outermost ring; the rule for products), resize (area average), or cut into "
            "chips of --size, with labels from their part of each mask.",
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Label table, CSV or Parquet, one row an image.")
    ] = None,
    labels_key: Annotated[
        str | None, typer.Option(metavar="COL", help="Its column of paths, file names or stems; found if not given.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="COL", help="A column to keep as label_COL (repeat); all by default.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="COL", help="The column that names what must never straddle a split.")
    ] = None,
    split: Annotated[str | None, typer.Option(metavar="COL", help="The column of train, test and the like.")] = None,
    incidence: Annotated[
        str | None, typer.Option(metavar="COL", help="The column of centre incidence, degrees.")
    ] = None,
    mask: Annotated[
        list[str] | None, typer.Option(metavar="COL", help="A column of paths to mask images (repeat).")
    ] = None,
    only_labelled: Annotated[
        bool, typer.Option("--only-labelled", help="Leave out images that the label table does not name.")
    ] = False,
    boxes: Annotated[Path | None, typer.Option(metavar="FILE", help="Boxes as COCO JSON, joined by file_name.")] = None,
    bands: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Names of the bands, in the order of the file, for files that do not say: VH,VV is for files of two "
            "bands, VV for files of one. Repeat for each number of bands.",
        ),
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(
            "--channels",
            "--polarisations",
            metavar="NAMES",
            help="Channels to keep (VV,VH); those all files share by default.",
        ),
    ] = None,
    allow_missing_channel: Annotated[
        bool, typer.Option("--allow-missing-channel", help="Keep files without one of --channels.")
    ] = False,
    colour_to_grey: Annotated[
        bool, typer.Option("--colour-to-grey", help="Take the luminance of colour images.")
    ] = False,
    far_range: Annotated[
        str | None,
        typer.Option(
            metavar="right|up|left|down",
            help="The side of the image files on which far range lies, to which shadows fall. They are turned, with "
            "masks and boxes, so that it is on the right, as in every archive.",
        ),
    ] = None,
    spacing: Annotated[
        float | None,
        typer.Option(
            metavar="M",
            help="Pixel spacing, metres, of images that do not know theirs; of products, the cells to average to (50).",
            min=0.0,
        ),
    ] = None,
    overlap: safe.Overlap = None,
    denoise: safe.Denoise = True,
    filter_: safe.FilterName = None,
    land: safe.Land = None,
    keep_land: safe.KeepLand = False,
    mask_land: safe.MaskLand = False,
    ice: safe.Ice = None,
    min_valid: safe.MinValid = None,
    keep_noisy: safe.KeepNoisy = False,
    composite: seasonal.Statistic = None,
    grid: seasonal.GridText = None,
    orbit_pass: seasonal.OrbitPass = None,
    dtype: Annotated[str | None, typer.Option(metavar="uint8|uint16|float32", help="How pixels are stored.")] = None,
    shard_mb: Annotated[float, typer.Option(help="Size of a shard, megabytes.", min=0.001)] = 256.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")] = False,
    executor: ExecutorName = "local",
    workers: Workers = None,
    scheduler: Scheduler = None,
    task: Task = None,
    submit: Submit = False,
    sbatch: Sbatch = None,
) -> Outcome:
    """Bring Sentinel-1 products, or folders of images with labels, masks and boxes, into an archive.

    Products (Level-1 SLC of wave mode; GRD, cut into chips) become calibrated, denoised sigma0 on square cells of
    ground. What is land, ice by a level-2 product among the sources, nearly empty or of an implausible noise table is
    screened: listed with its reason, and no error. Labels come from level-2 products and from a table of ids.

    Images may be PNG, JPEG, TIFF (any number of bands), .npy and NetCDF; 8-bit, 16-bit and float. Sentinel-1 file
    names give mission, beam, polarisation, time, orbit and datatake. Columns of the label table that are named as in
    the catalogue (split, group, lon, lat, time, incidence_deg, range_spacing_m ...) become metadata; the others become
    label_ columns. What cannot be used is set aside with a reason, listed, and recorded in the archive; the exit code
    is then 4. A run that was interrupted continues when the same command is given again, with any executor.

    Example: `groundswell ingest S1A_WV_SLC__1SSV_20190101T000000_20190101T002000_025285_02CBD5_1234.SAFE -o archive`

    Example: a folder of calibrated ship chips of many sizes, one or two bands, with a table of ships

        groundswell ingest chips -o ships --quantity sigma0 --bands VV --bands VH,VV --channels VV
        --size 64 --fit pad --labels labels.csv --label class --label length --group product --dry-run
    """
    from groundswell.archive.cut import Cut
    from groundswell.archive.planning import Options
    from groundswell.products.folder.images import FolderSettings, ImageFolder
    from groundswell.products.folder.labels import Columns

    execution = Execution(executor, workers, scheduler, task, submit, sbatch)
    execution.check()
    shape = None if size is None else parse_size(size)
    if fit is not None:
        _one_of("--fit", fit, _FITS)
    if dtype is not None:
        _one_of("--dtype", dtype, _DTYPES)
    declared = None if quantity is None else _quantity("--quantity", quantity)
    stored = None if convert_to is None else _quantity("--convert-to", convert_to)
    wanted = None if channels is None else _names(channels)
    columns = Columns(
        key=labels_key,
        labels=None if not label else tuple(label),
        group=group,
        split=split,
        incidence=incidence,
        masks=tuple(mask or ()),
    )
    if fit == "cut" and (composite is not None or safe.are_products(sources)):
        raise UsageError(
            "--fit cut is for image files", why="products are cut into chips in any case", fix="leave it out"
        )
    kind: Fit | None = "none" if fit == "cut" else fit  # type: ignore[assignment]
    sample_type: DType | None = dtype  # type: ignore[assignment]
    told = {"--overlap": overlap, "--no-denoise": not denoise, "--filter": filter_, "--land": land, "--ice": ice}
    told |= {"--keep-land": keep_land, "--mask-land": mask_land, "--min-valid": min_valid, "--keep-noisy": keep_noisy}
    if composite is not None:
        _refuse({"--far-range": far_range}, "image files one by one")
        named = [_names(text) for text in bands or ()]
        mosaic = seasonal.open_source(sources, composite, grid, orbit_pass, shape, declared, named)
        options = Options(mosaic.size, kind or "crop", stored, sample_type, None, shard_mb)
        if dry_run:
            return seasonal.plan(mosaic)
        done = carry_out(context, mosaic, output, options, execution, batch=1)
        return done if isinstance(done, Outcome) else seasonal.outcome(done, mosaic)
    _refuse({"--grid": grid, "--orbit-pass": orbit_pass}, "--composite")
    if safe.are_products(sources):
        pictures = {"--mask": mask, "--boxes": boxes, "--bands": bands, "--colour-to-grey": colour_to_grey}
        _refuse(pictures | {"--far-range": far_range}, "image files")
        asked = Options(shape, kind or "pad", stored, sample_type, spacing or safe.SPACING_M, shard_mb)
        source = safe.open_source(
            sources, asked, told, declared, wanted, allow_missing_channel, labels, columns, only_labelled
        )
        options = replace(asked, size=source.size)
        if dry_run:
            return safe.plan(source, options, workers)
        report = carry_out(context, source, output, options, execution, batch=safe.batch_of(source))
        return report if isinstance(report, Outcome) else safe.outcome(report, source, safe.notes(source, options))
    _refuse({name: value for name, value in told.items() if name != "--overlap" or fit != "cut"}, "SAFE products")
    folder = ImageFolder(
        sources,
        FolderSettings(
            quantity=declared,
            bands=tuple(_names(text) for text in bands or ()),
            channels=wanted,
            allow_missing_channel=allow_missing_channel,
            colour_to_grey=colour_to_grey,
            far_range=parse_far_range(far_range),
            only_labelled=only_labelled,
            labels=labels,
            boxes=boxes,
            columns=columns,
        ),
    )
    options = Options(shape or _common_size(folder), kind or "crop", stored, sample_type, spacing, shard_mb)
    images: Source = folder
    if fit == "cut":
        images = Cut(folder, folder.sizes(), options.size or _common_size(folder), overlap or 0)
    if dry_run:
        return _plan(folder, images, options, workers)
    report = carry_out(context, images, output, options, execution)
    return report if isinstance(report, Outcome) else _outcome(report, folder, options)


def _refuse(given: Mapping[str, object], kind: str) -> None:
    """`UsageError` for options (name to value) that are for sources of another kind."""
    for option, value in given.items():
        if value is not None and value is not False:
            raise UsageError(f"{option} is for {kind}, and there are none among the sources", fix="leave it out")


def parse_size(text: str) -> tuple[int, int]:
    """``64`` or ``64x96`` as (rows, columns); `UsageError` for anything else."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and 0 < int(part) <= 65536 for part in parts):
        raise UsageError(f"{text!r} is no size", fix="write --size 64, or --size ROWSxCOLUMNS such as 64x96")
    return int(parts[0]), int(parts[-1])


def parse_far_range(text: str | None) -> FarRange:
    """The side of an image on which far range lies, ``right`` unless it is given; `UsageError` for no side."""
    from typing import get_args

    from groundswell.physics.imagette import FarRange

    side: FarRange = "right" if text is None else text  # type: ignore[assignment]
    _one_of("--far-range", side, get_args(FarRange))
    return side


def _quantity(option: str, name: str) -> Quantity:
    from groundswell.physics.imagette import Quantity
    from groundswell.physics.quantities import choices

    try:
        return Quantity(name)
    except ValueError:
        raise UsageError(f"{option} {name}: there is no such quantity", fix="choose one of\n" + choices()) from None


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{option} {value}: not one of {', '.join(allowed)}", fix=did_you_mean(value, allowed))


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise UsageError(f"{text!r} is no list of names", fix="separate different names by commas, such as VH,VV")
    return names


def _common_size(folder: ImageFolder) -> tuple[int, int]:
    """The size of all files; `UsageError` where they differ, for then the user must choose."""
    from collections import Counter

    sizes = Counter(folder.sizes().values())
    if len(sizes) > 1:
        smallest = min(min(size) for size in sizes)
        listed = ", ".join(f"{h} x {w} ({count} files)" for (h, w), count in sizes.most_common(4))
        raise UsageError(
            f"the images have {len(sizes)} sizes, and an archive has one",
            where=folder.listing.root,
            why=listed + (", ..." if len(sizes) > 4 else ""),
            fix=f"choose --size, and --fit crop, pad or resize; every image holds a centre crop of --size {smallest}",
        )
    return next(iter(sizes))


def _plan(folder: ImageFolder, source: Source, options: Options, workers: int | None) -> Outcome:
    from dataclasses import asdict

    from rich.markup import escape

    from groundswell.archive.estimate import estimate
    from groundswell.archive.planning import stored_as
    from groundswell.archive.schema import row_bytes
    from groundswell.executors.tasks import cores
    from groundswell.products.folder import plan

    found, notes, size = plan.facts(folder), plan.notes(folder, options.fit), options.size
    assert size is not None
    (target, *_), dtype = stored_as(folder, options)
    count = len(source.ids())
    pixels = row_bytes(len(folder.channels), *size, dtype) + row_bytes(len(folder.mask_names), *size, "uint8")
    archive = {
        "images": count - len(found["unreadable"]),
        "size": list(size),
        "fit": options.fit,
        "channels": found["channels"],
        "quantity": target.value,
        "dtype": dtype,
        "bytes": count * pixels,
    }
    time = estimate(source, options, workers or cores())
    names, bytes_ = ", ".join(archive["channels"]), plan.size_text(archive["bytes"])
    lines = [
        "[bold]Plan[/bold] (nothing was written)",
        *map(escape, plan.describe(found)),
        f"archive     {archive['images']} images of {size[0]} x {size[1]} ({options.fit}), {escape(names)} as "
        f"{target.value} in {dtype}, about {bytes_}",
        f"time        about {safe.duration(time.seconds)} with {time.workers} workers: {time.measured} images took "
        f"{time.seconds_per_image:.2g} s each to read and convert",
        *safe.noted(notes),
    ]
    return Outcome(
        {"dry_run": True, "found": found, "archive": archive, "time": asdict(time), "notes": notes}, "\n".join(lines)
    )


def _outcome(report: IngestReport, folder: ImageFolder, options: Options) -> Outcome:
    from rich.markup import escape

    from groundswell.archive.reader import open_archive
    from groundswell.errors import DataError
    from groundswell.products.folder import plan

    found, notes = plan.facts(folder), plan.notes(folder, options.fit)
    rejected = [{"id": item.id, "reason": item.reason} for item in report.rejected]
    duplicates = [{"id": item.id, "reason": item.reason} for item in report.duplicates]
    data = {
        "archive": str(report.path),
        "written": report.written,
        "rejected": rejected,
        "duplicates": duplicates,
        "known": report.known,
        "dropped_boxes": report.dropped_boxes,
        "shards": report.shards,
        "resumed_shards": report.resumed_shards,
        "notes": notes,
        "found": found,
    }
    lines = [escape(line) for line in plan.describe(found)]
    exit_code = 0
    if report.written:
        lines.append(safe.archive_line(report, open_archive(report.path)))
    if report.dropped_boxes:
        lines.append(f"boxes       {report.dropped_boxes} dropped: less than 30 % of them is inside the archived image")
    if duplicates:
        lines += [f"duplicates  {len(duplicates)} files set aside", *map(escape, plan.listed(duplicates))]
    if rejected:
        exit_code = PARTIAL
        where = escape(str(report.path / "failures"))
        lines.append(f"[red]set aside[/red]   {len(rejected)} of {found['files']} files (listed in {where})")
        lines += map(escape, plan.listed(rejected))
    if not report.written:
        exit_code = DataError.exit_code
        lines.append("[red]nothing[/red]     none of the files could be used")
    return Outcome(data, "\n".join([*lines, *safe.noted(notes)]), exit_code)
