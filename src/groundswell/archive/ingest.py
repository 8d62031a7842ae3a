"""From a source to an archive: fix the plan, then convert, fit, encode and commit shard by shard.

Killed at any moment, the same call continues where the catalogue ends, and the finished archive has the same bytes,
whichever executor does the work (`groundswell.archive.filling` says why).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

from groundswell.archive.annotations import DUPLICATE, REJECTED, read_table
from groundswell.archive.catalogue import CommitRecord, part_paths, read_record
from groundswell.archive.filling import Work, fill, is_written, write_pending
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
from groundswell.archive.schema import (
    PENDING,
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
from groundswell.errors import DataError, GroundswellError, UsageError
from groundswell.executors.tasks import Executor, Serial, Share
from groundswell.locks import LOCK_FILE, held
from groundswell.physics.imagette import Quantity
from groundswell.products.source import Rejected, Source
from groundswell.signals import stoppable

BUSY = "another process is writing this archive"
AGAIN = "run the same command again: it writes what is missing, and what is there is kept"


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
    batch: int = 8,
    executor: Executor | None = None,
    label: str = "ingest",
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
        Images read from the source at a time, by one worker.
    executor : Executor, optional
        Who reads and converts; by default this process alone. The bytes of the archive do not depend on it.
    label : str
        What the progress bar says.

    Raises
    ------
    UsageError
        When the archive was made with other settings, or another process is writing it.
    QuantityError
        When physics does not allow the conversion.
    DataError
        When the source is empty.
    GroundswellError
        When a worker died: which, and the shard that is missing. All others are written.
    StoppedBySignal
        After Ctrl-C or SIGTERM; shards that were finished stay.
    """
    folder = Path(output)
    options = Options(size, fit, quantity, dtype, spacing_m, shard_mb, shard_rows)
    with stoppable(folder, AGAIN, lambda: _kept(folder)), _planned(folder, source, options) as (schema, own, known):
        resumed = 0
        lost: dict[int, str] = {}
        for record in own:
            filled = fill(Work(folder, schema, record, source, executor or Serial(), batch, label))
            resumed += filled.resumed
            lost |= filled.lost
        if lost:
            raise _unwritten(folder, lost, sum(record.shards for record in own))
        rmtree(folder / PENDING, ignore_errors=True)
        write_statistics(folder, schema, [read_record(path) for path in part_paths(folder)])
    return _report(folder, own, resumed, known)


def plan_ingest(source: Source, output: str | Path, options: Options) -> int:
    """Fix on disk what an archive is to be, and which item goes to which shard; the number of shards to write.

    For an array of `ingest_share`; raises as `ingest` does.
    """
    folder = Path(output)
    with _planned(folder, source, options) as (_, own, _):
        return len([shard for record in own for shard in _shards(record) if not is_written(folder, shard)])


def ingest_share(
    source: Source,
    output: str | Path,
    share: Share,
    options: Options,
    *,
    batch: int = 8,
    executor: Executor | None = None,
) -> list[int]:
    """Write one share of the shards of a planned source; `ingest` then joins them. The shards that this call wrote.

    Any number of shares may be written at the same time, in any order, on any machines that see the archive.

    Raises
    ------
    UsageError
        When `plan_ingest` has not been called with this source and these options, or `ingest` is at work.
    GroundswellError, StoppedBySignal
        As in `ingest`.
    """
    folder = Path(output)
    done: list[int] = []
    with ExitStack() as stack:
        stack.enter_context(stoppable(folder, AGAIN, lambda: _kept(folder)))
        if is_archive(folder):
            stack.enter_context(held(folder / LOCK_FILE, BUSY, shared=True))
            schema = _open_or_begin(folder, source, options)
            own = [record for record in schema.sources if same_description(record, source)]
        if not is_archive(folder) or not own:
            raise UsageError(
                "the archive has no plan of this source",
                where=folder,
                fix="run the same command with --executor slurm instead of --task: it writes the plan",
            )
        for record in own:
            plan = read_manifest(folder, record)
            mine = {shard: plan[shard] for shard in share.of(_shards(record)) if not is_written(folder, shard)}
            for shard in mine:
                lock = folder / PENDING / f"{shard:06d}.lock"
                stack.enter_context(held(lock, f"another process is writing shard {shard} of this archive"))
            lost = write_pending(Work(folder, schema, record, source, executor or Serial(), batch, "ingest"), mine)
            if lost:
                raise _unwritten(folder, lost, len(mine))
            done += mine
    return done


def _shards(record: SourceRecord) -> range:
    return range(record.first_shard, record.first_shard + record.shards)


@contextmanager
def _planned(folder: Path, source: Source, options: Options) -> Iterator[tuple[ArchiveSchema, list[SourceRecord], int]]:
    """Hold the archive for writing, with every item of the source planned: schema, own records, items known before."""
    check_folder(folder)
    with held(folder / LOCK_FILE, BUSY):
        schema = _open_or_begin(folder, source, options)
        ids, known = new_ids(folder, schema, source)
        if ids:
            schema = append_source(folder, schema, source, ids, known, options)
            write_schema(folder, schema)
        yield schema, [record for record in schema.sources if same_description(record, source)], known


def _kept(folder: Path) -> str:
    """What is there when a signal stops the work."""
    return f"{len(part_paths(folder)) + len(list(folder.glob(f'{PENDING}/*.parquet')))} shards are written"


def _unwritten(folder: Path, lost: dict[int, str], shards: int) -> GroundswellError:
    return GroundswellError(
        f"{len(lost)} of {shards} shards could not be written",
        where=folder,
        why="\n".join(f"shard {shard}: {reason}" for shard, reason in sorted(lost.items())),
        fix=f"{AGAIN}; a worker ended by SIGKILL has mostly run out of memory: --workers 1 needs least",
    )


def _open_or_begin(folder: Path, source: Source, options: Options) -> ArchiveSchema:
    """The schema of the archive, new or as it stands, once this source with these options may be added to it."""
    if not source.ids():
        raise DataError("the source has no images", where=str(source.description))
    if not is_archive(folder):
        return wanted_schema(source, options, None)
    stored = read_schema(folder)
    check_same(stored, wanted_schema(source, options, stored), source, folder)
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
