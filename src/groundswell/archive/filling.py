"""The shards of one source: converted anywhere, written by one process, the same whoever did what and when.

An executor reads, fits and encodes (`convert`), in whatever processes it has; they write nothing. One process writes
their results in the order of the manifest, so it knows what all items before held, and commits shard after shard.

The rule of duplicates does not depend on order either: an item that cannot be stored is rejected on its own account,
and of the storable items of equal content the first in the manifests is stored.

Where earlier shards are not known, a shard is written as *pending*, as if there were no others: all its files are in
place, but its part lies in ``pending/`` and not in the catalogue. That is so for a task of an array (``--task i/n``),
which writes every n-th shard, and for what follows a shard that was lost with its worker. Once every earlier shard is
known, a pending one either holds nothing that they hold, and one rename commits it, or it is written anew with its
duplicates set aside.
So a kill at any moment, an array of any size and any number of workers end in the same bytes.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Generator, Iterator, Mapping, MutableMapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from groundswell import progress
from groundswell.archive.annotations import DUPLICATE, REJECTED, read_table
from groundswell.archive.catalogue import CommitRecord, part_paths, read_record
from groundswell.archive.planning import read_manifest
from groundswell.archive.prepare import prepare
from groundswell.archive.schema import ArchiveSchema, SourceRecord, catalogue_file, pending_file
from groundswell.archive.writer import Prepared, ShardWriter
from groundswell.errors import ArchiveError
from groundswell.executors.tasks import Executor, Lost, Serial
from groundswell.files import move
from groundswell.products.source import Rejected, Source

Ids = Sequence[str]
Results = Generator[list[Prepared | Rejected] | Lost, None, None]


@dataclass(frozen=True, slots=True)
class Work:
    """What fills shards: the archive, one source of it, and who converts."""

    folder: Path
    schema: ArchiveSchema
    record: SourceRecord
    source: Source
    executor: Executor
    batch: int
    label: str

    @contextmanager
    def converting(self, shards: Mapping[int, Ids], note: str = "") -> Iterator[tuple[progress.Bar, Results]]:
        """A bar, and the items of these shards as the archive stores them, batch by batch in order."""
        batches = (ids for shard in shards for ids in self.batches(shards[shard]))
        conversion = Conversion(self.source, self.schema, self.record.declared_spacing_m)
        executor, bars = (self.executor, progress.bar) if shards else (Serial(), progress.SilentReporter().bar)
        with (
            bars(self.label, sum(map(len, shards.values())), "images") as bar,
            closing(executor.map(convert, conversion, batches)) as results,
        ):
            bar.note(note)
            yield bar, results

    def batches(self, ids: Ids) -> list[Ids]:
        """The ids of one shard in the pieces that the source reads at a time."""
        return [ids[start : start + self.batch] for start in range(0, len(ids), self.batch)]


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a worker needs to know besides the ids of its items."""

    source: Source
    schema: ArchiveSchema
    spacing_m: float | None


def convert(conversion: Conversion, ids: Ids) -> list[Prepared | Rejected]:
    """Items of a source as the archive stores them, or why they are set aside; a function of the ids alone."""
    items = conversion.source.read(ids)
    return [
        item if isinstance(item, Rejected) else prepare(item, conversion.schema, conversion.spacing_m) for item in items
    ]


@dataclass
class Filled:
    """What became of the shards of a source: how many were there already, and why some could not be written."""

    resumed: int = 0
    lost: dict[int, str] = field(default_factory=dict)


def fill(work: Work) -> Filled:
    """Write and commit every shard of a source that the catalogue does not have."""
    folder = work.folder
    plan = read_manifest(folder, work.record)
    seen = _hashes_before(folder, work.record.first_shard)
    missing = {shard: ids for shard, ids in plan.items() if not is_written(folder, shard)}
    filled = Filled(resumed=len(plan) - len(missing))
    again: dict[int, dict[str, str]] = {}
    note = f"{filled.resumed} of {len(plan)} shards were there" if filled.resumed else ""
    with work.converting(missing, note) as (bar, results):
        for shard, ids in plan.items():
            if shard in missing:
                # After a lost shard nothing is known of what lies before.
                known = {} if filled.lost else seen
                reason = _write(work, shard, ids, results, known, bar, pending=bool(filled.lost))
                if reason is not None:
                    filled.lost[shard] = reason
            elif (folder / catalogue_file(shard)).is_file():
                _check_whole(folder, read_record(folder / catalogue_file(shard)))
                seen.update(_hashes(folder / catalogue_file(shard)))
            elif not filled.lost:
                hashes = _hashes(folder / pending_file(shard))
                repeated = {content: seen[content] for content in hashes if content in seen}
                if repeated:
                    again[shard] = repeated
                else:
                    move(folder / pending_file(shard), folder / catalogue_file(shard))
                seen.update({content: id_ for content, id_ in hashes.items() if content not in repeated})
    rewritten = {shard: plan[shard] for shard in again}
    with work.converting(rewritten, "shards with duplicates") as (bar, results):
        for shard, ids in rewritten.items():
            reason = _write(work, shard, ids, results, again[shard], bar, pending=False)
            if reason is not None:
                filled.lost[shard] = reason
    return filled


def write_pending(work: Work, shards: Mapping[int, Ids]) -> dict[int, str]:
    """Write these shards as pending, knowing nothing of the others; those that were lost, with the reason."""
    lost = {}
    with work.converting(shards) as (bar, results):
        for shard, ids in shards.items():
            reason = _write(work, shard, ids, results, {}, bar, pending=True)
            if reason is not None:
                lost[shard] = reason
    return lost


def is_written(folder: Path, shard: int) -> bool:
    """Whether a shard is committed, or pending with all its files."""
    if (folder / catalogue_file(shard)).is_file():
        return True
    part = folder / pending_file(shard)
    try:
        return part.is_file() and _damage(folder, read_record(part)) is None
    except ArchiveError:
        return False


class _WorkerLost(Exception):
    """Leaves a shard that cannot be finished, and with it its temporary files."""


def _write(
    work: Work,
    shard: int,
    ids: Ids,
    results: Results,
    seen: MutableMapping[str, str],
    bar: progress.Bar,
    *,
    pending: bool,
) -> str | None:
    """Write one shard from the next results, and add what it holds to ``seen``; why not, where a worker was lost."""
    own: dict[str, str] = {}
    batches = iter(work.batches(ids))
    try:
        with ShardWriter(work.folder, work.schema, shard, len(ids), pending) as writer:
            for batch in batches:
                result = next(results)
                if isinstance(result, Lost):
                    raise _WorkerLost(f"{result.reason}, while it had {batch[0]} ... {batch[-1]}")
                for id_, item in zip(batch, result, strict=True):
                    _store(writer, id_, item, ChainMap(own, seen))
                bar.advance(len(batch))
    except _WorkerLost as error:
        _skip(batches, results)
        return str(error)
    writer.commit()
    seen.update(own)
    return None


def _skip(batches: Iterator[Ids], results: Results) -> None:
    for _ in batches:
        next(results)


def _store(writer: ShardWriter, id_: str, item: Prepared | Rejected, seen: MutableMapping[str, str]) -> None:
    if isinstance(item, Rejected):
        writer.set_aside(id_, REJECTED, item.reason)
        return
    content = item.row.metadata.source_hash
    if content is not None and content in seen:
        writer.set_aside(id_, DUPLICATE, f"same content as {seen[content]}")
        return
    writer.add(item)
    if content is not None:
        seen[content] = id_


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


def _damage(folder: Path, record: CommitRecord) -> tuple[Path, str] | None:
    """The first file of a shard that is missing or has another size than recorded, and what is wrong with it."""
    for name, file in record.files.items():
        path = folder / name
        if not path.is_file():
            return path, "the file is missing"
        if path.stat().st_size != file.bytes:
            return path, f"{path.stat().st_size} bytes instead of {file.bytes}"
    return None


def _check_whole(folder: Path, record: CommitRecord) -> None:
    """A committed shard has all its files, of the recorded size (their hashes are for ``stats --verify``)."""
    damage = _damage(folder, record)
    if damage is not None:
        raise ArchiveError(
            "a finished shard of the archive is damaged",
            where=damage[0],
            why=damage[1],
            fix=f"delete {folder / catalogue_file(record.shard)} and run the same ingest again: "
            "it writes that shard anew",
        )
