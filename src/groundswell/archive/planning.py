"""Before the first shard: what the archive is to be, and which item goes to which shard, fixed on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from groundswell.archive.annotations import read_table, write_table
from groundswell.archive.catalogue import part_paths
from groundswell.archive.encoding import channel_schema, default_dtype
from groundswell.archive.schema import (
    SCHEMA_VERSION,
    ArchiveSchema,
    DType,
    Fit,
    SourceRecord,
    catalogue_file,
    is_archive,
    manifest_file,
    row_bytes,
)
from groundswell.errors import ArchiveError, DataError, UsageError
from groundswell.files import sha256_file
from groundswell.physics.imagette import Channel, Imagette, Quantity
from groundswell.physics.quantities import convert
from groundswell.products.source import Source

SPACING_TOLERANCE = 0.01
"""Within which two spacings count as one: those that images give for themselves vary a little."""
_PEEK = 64
_SAMPLED_OVERLAP = 16


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller asked of `ingest`; see there."""

    size: tuple[int, int] | None = None
    fit: Fit = "crop"
    quantity: Quantity | None = None
    dtype: DType | None = None
    spacing_m: float | None = None
    shard_mb: float = 256.0
    shard_rows: int | None = None


def wanted_schema(source: Source, options: Options, stored: ArchiveSchema | None) -> ArchiveSchema:
    """The schema that a source and options ask for, without sources.

    Raises
    ------
    UsageError, QuantityError
        When the options contradict each other or physics.
    DataError
        When the size is left to the images and none can be read.
    """
    quantities, dtype = stored_as(source, options)
    channels = tuple(
        channel_schema(Channel(channel.name, quantity), dtype, eight_bit=source.eight_bit)
        for channel, quantity in zip(source.channels, quantities, strict=True)
    )
    fit: Fit = "none" if options.size is None else options.fit
    sized = options if stored is None else replace(options, size=options.size or (stored.height, stored.width))
    size, spacing = _size_and_spacing(source, sized)
    if min(size) < 1:
        raise UsageError("the size of an image must be positive", where=f"size {size[0]} x {size[1]}")
    rows = options.shard_rows
    if rows is None:
        rows = max(1, int(options.shard_mb * 1e6) // row_bytes(len(channels), *size, dtype))
    if rows < 1:
        raise UsageError("a shard must hold at least one image", where=f"shard_rows {rows}")
    return ArchiveSchema(
        schema_version=SCHEMA_VERSION,
        channels=channels,
        height=size[0],
        width=size[1],
        dtype=dtype,
        spacing_m=spacing,
        fit=fit,
        masks=source.mask_names,
        shard_rows=rows,
        sources=(),
    )


def stored_as(source: Source, options: Options) -> tuple[list[Quantity], DType]:
    """The quantity of each channel of a source as an archive would store it, and the type that would hold them.

    Raises
    ------
    QuantityError
        When physics does not allow the conversion asked for.
    """
    quantities = [_target(channel, options) for channel in source.channels]
    averaged = options.size is not None and options.fit == "resize"  # no longer whole numbers
    return quantities, options.dtype or default_dtype(quantities, eight_bit=source.eight_bit and not averaged)


def _target(channel: Channel, options: Options) -> Quantity:
    """The quantity to store: as asked; else linear sigma0 becomes decibels, unless it is kept as float32."""
    target = options.quantity
    if target is None:
        to_db = channel.quantity is Quantity.SIGMA0 and options.dtype != "float32"
        target = Quantity.SIGMA0_DB if to_db else channel.quantity
    if target is not channel.quantity:
        # Refused here if physics does not allow it, rather than image by image.
        convert(np.ones((1, 2, 2), np.float32), channel.quantity, target, np.full((1, 2), 35.0))
    return target


def _size_and_spacing(source: Source, options: Options) -> tuple[tuple[int, int], float | None]:
    if options.size is not None and options.spacing_m is not None:
        return options.size, options.spacing_m
    first = _first_imagette(source)
    size = options.size
    if size is None:
        if first is None:
            raise DataError(
                "no size is known for the archive",
                why=f"none of the first {_PEEK} images could be read",
                fix="give --size, or look at the images: `groundswell ingest` lists what is wrong with each",
            )
        size = (first.pixels.shape[1], first.pixels.shape[2])
    if options.spacing_m is not None or first is None:
        return size, options.spacing_m
    spacings = (first.metadata.azimuth_spacing_m, first.metadata.range_spacing_m)
    agree = None not in spacings and abs(spacings[0] / spacings[1] - 1.0) < 0.01  # type: ignore[operator]
    return size, spacings[1] if agree else None


def _first_imagette(source: Source) -> Imagette | None:
    for id_ in sorted(set(source.ids()))[:_PEEK]:
        item = source.read([id_])[0]
        if isinstance(item, Imagette):
            return item
    return None


def check_same(stored: ArchiveSchema, wanted: ArchiveSchema, source: Source, path: Path) -> None:
    """Refuse settings that differ from those the archive was made with.

    Raises
    ------
    UsageError
        It names every setting that differs.
    """
    differing = []
    for name in ("channels", "height", "width", "dtype", "fit", "shard_rows"):
        have, want = getattr(stored, name), getattr(wanted, name)
        if have != want:
            differing.append(f"{name}: the archive has {_show(have)}, asked for {_show(want)}")
    if not _same_spacing(stored, wanted):
        differing.append(f"spacing_m: the archive has {_show(stored.spacing_m)}, asked for {_show(wanted.spacing_m)}")
    for name in ("denoise", "filter"):  # how products become pixels: an archive holds one way
        before = [record.description[name] for record in stored.sources if name in record.description]
        if before and name in source.description and source.description[name] != before[0]:
            differing.append(f"{name}: the archive has {before[0]}, asked for {source.description[name]}")
    if not set(wanted.masks) <= set(stored.masks):
        differing.append(f"masks: the archive has {_show(stored.masks)}, the source brings {_show(wanted.masks)}")
    if differing:
        raise UsageError(
            "the archive was made with other settings",
            where=path,
            why="\n".join(differing),
            fix="use the settings of the archive, or write to another folder",
        )


def _same_spacing(stored: ArchiveSchema, wanted: ArchiveSchema) -> bool:
    """Whether images of one spacing may join those of the other, as far as both are known.

    The spacing is that before fitting, so that it tells nothing of images that are resized.
    """
    if stored.spacing_m is None or wanted.spacing_m is None or stored.fit == "resize":
        return True
    return abs(wanted.spacing_m / stored.spacing_m - 1.0) <= SPACING_TOLERANCE


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(_show(part) for part in value) or "none"
    if hasattr(value, "quantity"):
        return f"{value.name} ({value.quantity.value}, floor {value.floor_db}, step {value.scale_factor:g})"
    return str(value)


def same_description(record: SourceRecord, source: Source) -> bool:
    """Whether a recorded source is this one (equal as JSON, in which both end up)."""
    return bool(_as_json(record.description) == _as_json(source.description))


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def append_source(
    folder: Path, schema: ArchiveSchema, source: Source, ids: Sequence[str], duplicates: int, options: Options
) -> ArchiveSchema:
    """The schema with one more source, whose manifest of sorted ids is on disk; the caller writes the schema."""
    number = len(schema.sources)
    first = schema.shard_count
    table = pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "shard": pa.array(first + np.arange(len(ids)) // schema.shard_rows, pa.int64()),
        }
    )
    write_table(folder / manifest_file(number), table)
    record = SourceRecord(
        description=_as_json(source.description),
        declared_spacing_m=options.spacing_m,
        manifest=manifest_file(number),
        manifest_sha256=sha256_file(folder / manifest_file(number)),
        items=len(ids),
        first_shard=first,
        shards=-(-len(ids) // schema.shard_rows),
        duplicates=duplicates,
    )
    return schema.model_copy(update={"sources": (*schema.sources, record)})


def read_manifest(folder: Path, record: SourceRecord) -> dict[int, list[str]]:
    """Shard to the ids planned for it, in order.

    Raises
    ------
    ArchiveError
        When the manifest is missing or is not the one that the archive was begun with.
    """
    path = folder / record.manifest
    if not path.is_file() or sha256_file(path) != record.manifest_sha256:
        raise ArchiveError(
            "the manifest of an archive is missing or damaged",
            where=path,
            fix="begin the archive anew in an empty folder; what is in it can still be read",
        )
    table = read_table(path)
    plan: dict[int, list[str]] = {record.first_shard + i: [] for i in range(record.shards)}
    for id_, shard in zip(table["id"].to_pylist(), table["shard"].to_pylist(), strict=True):
        plan[shard].append(id_)
    return plan


def unfinished(folder: Path, record: SourceRecord) -> int:
    """How many shards of a source are not committed."""
    shards = range(record.first_shard, record.first_shard + record.shards)
    return sum(not (folder / catalogue_file(shard)).is_file() for shard in shards)


def known_ids(folder: Path) -> dict[str, str | None]:
    """Id to source hash of every imagette in the catalogue."""
    known: dict[str, str | None] = {}
    for path in part_paths(folder):
        table = read_table(path, columns=["id", "source_hash"])
        known.update(zip(table["id"].to_pylist(), table["source_hash"].to_pylist(), strict=True))
    return known


def new_ids(folder: Path, schema: ArchiveSchema, source: Source) -> tuple[list[str], int]:
    """The sorted ids of a source that the archive does not have, and how many it has from other sources.

    Raises
    ------
    UsageError
        When an id is taken by an image with other content, or the archive has every id of a source that is described
        otherwise: the same source with other settings.
    """
    planned: set[str] = set()
    own = [record for record in schema.sources if same_description(record, source)]
    for record in own:
        planned.update(*read_manifest(folder, record).values())
    fresh = sorted(set(source.ids()) - planned)
    known = known_ids(folder) if fresh and schema.sources else {}
    shared = [id_ for id_ in fresh if id_ in known]
    if shared and not own and len(shared) == len(fresh):
        before = _as_json(schema.source)
        now = _as_json(source.description)
        differing = [
            f"{key}: {before.get(key)} in the archive, {now.get(key)} now"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
        raise UsageError(
            "the archive has every image of this source already, read with other settings",
            where=folder,
            why="\n".join(differing),
            fix="repeat the settings that it was made with, or write to another folder",
        )
    _check_content(folder, source, shared, known)
    return [id_ for id_ in fresh if id_ not in known], len(shared)


def _check_content(folder: Path, source: Source, shared: list[str], known: dict[str, str | None]) -> None:
    """Compare a sample of the shared ids by content hash: equal ids must mean equal images."""
    step = max(1, len(shared) // _SAMPLED_OVERLAP)
    for item in source.read(shared[::step][:_SAMPLED_OVERLAP]) if shared else []:
        if isinstance(item, Imagette):
            have, now = known[item.metadata.id], item.metadata.source_hash
            if have is not None and now is not None and have != now:
                raise UsageError(
                    "the archive has another image of the same id",
                    where=item.metadata.id,
                    why="the content of the source file differs from what was ingested under this id",
                    fix="write to another folder, or rename the new images (an id is the path inside the folder)",
                )


def check_folder(folder: Path) -> None:
    """Refuse to write an archive into a folder that holds something else.

    Raises
    ------
    UsageError
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError("the archive must be a folder", where=folder, why="a file stands there")
    ours = {".lock", "manifests", "archive.json.tmp"}
    if folder.is_dir() and not is_archive(folder):
        others = sorted(path.name for path in folder.iterdir() if path.name not in ours)
        if others:
            raise UsageError(
                "the folder is not empty and is not an archive",
                where=folder,
                why=f"it holds {', '.join(others[:5])}{' ...' if len(others) > 5 else ''}",
                fix="choose an empty or a new folder",
            )
