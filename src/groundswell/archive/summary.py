"""``statistics.json``: figures of the whole archive, merged from its catalogue parts, and the hashes of those."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundswell.archive.catalogue import CommitRecord, part_paths
from groundswell.archive.schema import SCHEMA_FILE, STATISTICS_FILE, ArchiveSchema
from groundswell.archive.statistics import ChannelTally, merged
from groundswell.files import digest, sha256_file, write_json


def tallies(schema: ArchiveSchema, records: Sequence[CommitRecord]) -> dict[str, ChannelTally]:
    """Moments and histogram of each channel by name, merged over the shards."""
    return {
        channel.name: merged((record.tallies[c] for record in records), channel.quantity)
        for c, channel in enumerate(schema.channels)
    }


def summarise(schema: ArchiveSchema, records: Sequence[CommitRecord]) -> dict[str, Any]:
    """Counts and figures per channel, as JSON."""
    return {
        "images": sum(record.rows for record in records),
        "shards": len(records),
        "rejected": sum(record.rejected for record in records),
        "duplicates": sum(record.duplicates for record in records) + sum(s.duplicates for s in schema.sources),
        "dropped_boxes": sum(record.dropped_boxes for record in records),
        "channels": {name: tally.summary() for name, tally in tallies(schema, records).items()},
    }


def part_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every catalogue part, by its path in the archive."""
    return {f"catalogue/{path.name}": sha256_file(path) for path in part_paths(folder)}


def write_statistics(folder: Path, schema: ArchiveSchema, records: Sequence[CommitRecord]) -> None:
    """Write ``statistics.json``: the figures, and the hashes of what has no other record of its own."""
    content = summarise(schema, records) | {
        "hashes": {SCHEMA_FILE: sha256_file(folder / SCHEMA_FILE)} | part_hashes(folder)
    }
    write_json(folder / STATISTICS_FILE, content | {"digest": digest(content)})
