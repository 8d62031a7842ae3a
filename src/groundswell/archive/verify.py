"""Is every byte of an archive what was written? Hashes of all files, chained from ``statistics.json`` to the shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from groundswell import progress
from groundswell.archive.annotations import read_table
from groundswell.archive.catalogue import CommitRecord, part_paths, read_record
from groundswell.archive.schema import STATISTICS_FILE, ArchiveSchema, catalogue_file, read_schema
from groundswell.archive.summary import part_hashes, summarise
from groundswell.errors import ArchiveError, DataError
from groundswell.files import digest, read_json, sha256_file


@dataclass(frozen=True, slots=True)
class Damage:
    """A file of the archive (its path inside it) that is not as it was written, and why."""

    file: str
    reason: str


def verify(folder: Path) -> list[Damage]:
    """Check every file of an archive; an empty list means that all is whole.

    ``statistics.json`` holds its own digest and the hashes of ``archive.json`` and of the catalogue parts; a part
    holds the hashes of its shard's files; ``archive.json`` those of the manifests. An unfinished archive has no
    hashes of its catalogue parts yet: those are checked by their page checksums alone.

    Raises
    ------
    ArchiveError
        When ``archive.json`` cannot be read at all.
    """
    schema = read_schema(folder)
    damage: list[Damage] = []
    records: list[CommitRecord] = []
    parts = part_paths(folder)
    sizes = [sum(f.stat().st_size for f in folder.glob(f"*/{part.stem}.*")) for part in parts]
    with progress.bar("verify", total=round(sum(sizes) / 1e6, 1), unit="MB") as bar:
        for part, size in zip(parts, sizes, strict=True):
            try:
                record = read_record(part)
                read_table(part)
            except ArchiveError as error:
                damage.append(Damage(f"catalogue/{part.name}", error.why or error.what))
                continue
            records.append(record)
            damage += _check_files(folder, record)
            bar.advance(size / 1e6)
    for source in schema.sources:
        manifest = folder / source.manifest
        if not manifest.is_file():
            damage.append(Damage(source.manifest, "missing"))
        elif sha256_file(manifest) != source.manifest_sha256:
            damage.append(Damage(source.manifest, _CHANGED))
    return damage + _check_statistics(folder, schema, records, already={d.file for d in damage})


_CHANGED = "its content has changed (SHA-256 differs)"


def _check_files(folder: Path, record: CommitRecord) -> list[Damage]:
    damage = []
    for name, file in record.files.items():
        path = folder / name
        if not path.is_file():
            damage.append(Damage(name, "missing"))
        elif path.stat().st_size != file.bytes:
            damage.append(Damage(name, f"{path.stat().st_size} bytes instead of {file.bytes}"))
        elif sha256_file(path) != file.sha256:
            damage.append(Damage(name, _CHANGED))
    return damage


def _check_statistics(
    folder: Path, schema: ArchiveSchema, records: list[CommitRecord], already: set[str]
) -> list[Damage]:
    path = folder / STATISTICS_FILE
    expected = {catalogue_file(shard) for shard in range(schema.shard_count)}
    missing = sorted(expected - {f"catalogue/{part.name}" for part in part_paths(folder)})
    if not path.is_file():
        return [] if missing else [Damage(STATISTICS_FILE, "missing; run the ingest again to have it written")]
    try:
        content = dict(read_json(path))
        stored_digest, hashes = content.pop("digest"), dict(content["hashes"])
    except (DataError, KeyError, TypeError, ValueError):
        return [Damage(STATISTICS_FILE, "it cannot be read")]
    if digest(content) != stored_digest:
        return [Damage(STATISTICS_FILE, _CHANGED)]
    # Parts that the last finished ingest had must still be there; those after it belong to an unfinished one.
    damage = [Damage(name, "missing") for name in missing if name in hashes]
    now = part_hashes(folder)
    if not missing:
        now["archive.json"] = sha256_file(folder / "archive.json")
    for name, value in now.items():
        if name in hashes and hashes[name] != value and name not in already:
            damage.append(Damage(name, _CHANGED))
    if not missing and not damage and not already:
        content.pop("hashes")
        content.pop("attribution", None)  # of the catalogue, which has hashes of its own
        if content != summarise(schema, records):
            damage.append(Damage(STATISTICS_FILE, "it does not agree with the catalogue; run the ingest again"))
    return damage
