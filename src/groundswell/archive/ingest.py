"""From a source to an archive: fix the plan, then convert, fit, encode and commit shard by shard.

Killed at any moment, the same call continues where the catalogue ends, and the finished archive has the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from groundswell import progress
from groundswell.archive.annotations import DUPLICATE, REJECTED, read_table
from groundswell.archive.catalogue import CommitRecord, part_paths, read_record
from groundswell.archive.planning import (
    Options,
    append_source,
    check_folder,
    check_same,
    new_ids,
    read_manifest,
    same_description,
    unfinished,
    wanted_schema,
)
from groundswell.archive.prepare import prepare
from groundswell.archive.schema import (
    ArchiveSchema,
    DType,
    Fit,
    SourceRecord,
    catalogue_file,
    failure_file,
    is_archive,
    read_schema,
    write_schema,
)
from groundswell.archive.summary import write_statistics
from groundswell.archive.writer import ShardWriter
from groundswell.errors import ArchiveError, DataError, UsageError
from groundswell.physics.imagette import Imagette, Quantity
from groundswell.products.source import Rejected, Source

LOCK_FILE = ".lock"


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What became of a source.

    Attributes
    ----------
    path : Path
        The archive.
    written : int
        Images of this source in the archive, those of earlier runs included.
    rejected, duplicates : list of Rejected
        Every item set aside, with its reason.
    known : int
        Items that another source of the archive had brought before.
    dropped_boxes : int
        Boxes of which less than 30 % was left after fitting.
    shards, resumed_shards : int
        Shards of this source, and how many of them an earlier run had finished.
    """

    path: Path
    written: int
    rejected: list[Rejected]
    duplicates: list[Rejected]
    known: int
    dropped_boxes: int
    shards: int
    resumed_shards: int


def ingest(
    source: Source,
    output: str | Path,
    *,
    size: tuple[int, int] | None = None,
    fit: Fit = "crop",
    quantity: Quantity | None = None,
    dtype: DType | None = None,
    spacing_m: float | None = None,
    shard_mb: float = 256.0,
    shard_rows: int | None = None,
    batch: int = 64,
) -> IngestReport:
    """Write a source to an archive, continue one that was interrupted, or append to a finished one.

    Parameters
    ----------
    source : Source
    output : path
        The archive: a new or empty folder, or an archive of the same settings.
    size : (height, width), optional
        Pixels of an archived image; without it every image must have the size of the first.
    fit : {"crop", "pad", "resize"}
        How images of another size are treated: centre crop (smaller ones are set aside), a window (larger ones are
        centre-cropped, smaller ones filled with the median of their outermost ring), or an area average.
    quantity : Quantity, optional
        What to store; by default linear sigma0 becomes ``sigma0_db`` (unless ``dtype`` is float32), all else stays.
    dtype : {"uint8", "uint16", "float32"}, optional
        By default uint16 for decibels (step 0.002 dB, floor -45 dB), uint8 for quicklooks and for amplitude from
        8-bit files (unless resized), else float32.
    spacing_m : float, optional
        Pixel spacing (m) of images that do not know their own.
    shard_mb, shard_rows : float, int
        Size of a shard, in 10^6 bytes or in images.
    batch : int
        Images read from the source at a time.

    Raises
    ------
    UsageError
        When the archive was made with other settings, or another process is writing it.
    QuantityError
        When physics does not allow the conversion.
    DataError
        When the source is empty.
    """
    folder = Path(output)
    check_folder(folder)
    options = Options(size, fit, quantity, dtype, spacing_m, shard_mb, shard_rows)
    with _only_writer(folder):
        schema = _open_or_begin(folder, source, options)
        own = [record for record in schema.sources if same_description(record, source)]
        resumed = [_fill(folder, schema, record, source, batch) for record in own]
        ids, known = new_ids(folder, schema, source)
        if ids:
            schema = append_source(folder, schema, source, ids, known, options)
            write_schema(folder, schema)
            own.append(schema.sources[-1])
            resumed.append(_fill(folder, schema, own[-1], source, batch))
        write_statistics(folder, schema, [read_record(path) for path in part_paths(folder)])
    return _report(folder, own, sum(resumed), known)


def _open_or_begin(folder: Path, source: Source, options: Options) -> ArchiveSchema:
    """The schema of the archive, new or as it stands, once this source with these options may be added to it."""
    if not source.ids():
        raise DataError("the source has no images", where=str(source.description))
    if not is_archive(folder):
        return wanted_schema(source, options, None)
    stored = read_schema(folder)
    check_same(stored, wanted_schema(source, options, stored), folder)
    for record in stored.sources:
        if same_description(record, source):
            if record.declared_spacing_m != options.spacing_m:
                raise UsageError(
                    "the archive was made with other settings",
                    where=folder,
                    why=f"spacing_m: the archive has {record.declared_spacing_m}, asked for {options.spacing_m}",
                    fix="use the settings of the archive, or write to another folder",
                )
        elif unfinished(folder, record):
            raise UsageError(
                "the archive is not finished with another source",
                where=folder,
                why=f"{unfinished(folder, record)} of {record.shards} shards are missing of {record.description}",
                fix="run the interrupted ingest again first, with its own source and settings",
            )
    return stored


def _fill(folder: Path, schema: ArchiveSchema, record: SourceRecord, source: Source, batch: int) -> int:
    """Write every shard of a source that the catalogue does not have; the number of those that it had."""
    plan = read_manifest(folder, record)
    seen = _hashes_before(folder, record.first_shard)
    resumed = 0
    with progress.bar("ingest", total=record.items, unit="images") as bar:
        for shard, ids in plan.items():
            if (folder / catalogue_file(shard)).is_file():
                _check_whole(folder, read_record(folder / catalogue_file(shard)))
                seen.update(_hashes(folder / catalogue_file(shard)))
                resumed += 1
                bar.advance(len(ids))
                continue
            with ShardWriter(folder, schema, shard, len(ids)) as writer:
                for start in range(0, len(ids), batch):
                    wanted = ids[start : start + batch]
                    for id_, item in zip(wanted, source.read(wanted), strict=True):
                        _take(writer, schema, record, id_, item, seen)
                    bar.advance(len(wanted))
            writer.commit()
    return resumed


def _take(
    writer: ShardWriter,
    schema: ArchiveSchema,
    record: SourceRecord,
    id_: str,
    item: Imagette | Rejected,
    seen: dict[str, str],
) -> None:
    if isinstance(item, Rejected):
        writer.set_aside(id_, REJECTED, item.reason)
        return
    source_hash = item.metadata.source_hash
    if source_hash is not None and source_hash in seen:
        writer.set_aside(id_, DUPLICATE, f"same content as {seen[source_hash]}")
        return
    prepared = prepare(item, schema, record.declared_spacing_m)
    if isinstance(prepared, Rejected):
        writer.set_aside(id_, REJECTED, prepared.reason)
        return
    writer.add(prepared)
    if source_hash is not None:
        seen[source_hash] = id_


def _hashes(part: Path) -> dict[str, str]:
    """Source hash to id of the imagettes of a catalogue part, where a hash is known."""
    table = read_table(part, columns=["source_hash", "id"])
    pairs = zip(table["source_hash"].to_pylist(), table["id"].to_pylist(), strict=True)
    return {source_hash: id_ for source_hash, id_ in pairs if source_hash is not None}


def _hashes_before(folder: Path, shard: int) -> dict[str, str]:
    seen: dict[str, str] = {}
    for path in part_paths(folder):
        if int(path.stem) < shard:
            seen.update(_hashes(path))
    return seen


def _check_whole(folder: Path, record: CommitRecord) -> None:
    """A committed shard has all its files, of the recorded size (their hashes are for ``stats --verify``)."""
    for name, file in record.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != file.bytes:
            raise ArchiveError(
                "a finished shard of the archive is damaged",
                where=path,
                why=f"{path.stat().st_size} bytes instead of {file.bytes}" if path.is_file() else "the file is missing",
                fix=f"delete {folder / catalogue_file(record.shard)} and run the same ingest again: "
                "it writes that shard anew",
            )


def _report(folder: Path, own: list[SourceRecord], resumed: int, known: int) -> IngestReport:
    records = [
        read_record(folder / catalogue_file(shard))
        for source in own
        for shard in range(source.first_shard, source.first_shard + source.shards)
    ]
    failures = [row for record in records for row in read_failures(folder, record)]
    return IngestReport(
        path=folder,
        written=sum(record.rows for record in records),
        rejected=[Rejected(id_, reason) for id_, kind, reason in failures if kind == REJECTED],
        duplicates=[Rejected(id_, reason) for id_, kind, reason in failures if kind == DUPLICATE],
        known=known,
        dropped_boxes=sum(record.dropped_boxes for record in records),
        shards=len(records),
        resumed_shards=resumed,
    )


def read_failures(folder: Path, record: CommitRecord) -> list[tuple[str, str, str]]:
    """(id, kind, reason) of what was set aside while a shard was written."""
    if failure_file(record.shard) not in record.files:
        return []
    table = read_table(folder / failure_file(record.shard))
    return list(zip(*(table[name].to_pylist() for name in ("id", "kind", "reason")), strict=True))


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Hold the archive for writing; the operating system lets go of it however the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("wb") as handle:
        if os.name == "posix":
            import fcntl

            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    "another process is writing this archive",
                    where=folder,
                    fix="wait until it has finished, or stop it; what it has committed is kept",
                ) from None
        yield
