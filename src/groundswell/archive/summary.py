"""``statistics.json``: figures of the whole archive, merged from its catalogue parts, and the hashes of those."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundswell.archive.annotations import read_table
from groundswell.archive.catalogue import CommitRecord, part_paths
from groundswell.archive.schema import SCHEMA_FILE, STATISTICS_FILE, ArchiveSchema
from groundswell.archive.statistics import ChannelTally, merged
from groundswell.files import digest, sha256_file, write_json

if TYPE_CHECKING:
    import pandas as pd


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


def sentinel1_years(catalogue: pd.DataFrame) -> tuple[int, ...]:
    """Years of the real Sentinel-1 images among rows of a catalogue (``id``, ``mission``, ``time``), sorted.

    What the simulator made is known by its ids, ``sim-...``.
    """
    import pandas as pd

    simulated = catalogue["id"].astype("string").str.startswith("sim-")
    mission = catalogue["mission"].astype("string").str.upper()
    real = catalogue[~simulated & mission.str.startswith("S1").fillna(False)]
    years = pd.to_datetime(real["time"], utc=True).dt.year.dropna().astype(int).unique()
    return tuple(sorted(int(year) for year in years))


def notice(years: Iterable[int]) -> str | None:
    """What the Copernicus licence asks to be said of data of these years; None without any."""
    found = sorted(set(years))
    if not found:
        return None
    span = str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}"
    return f"Contains modified Copernicus Sentinel data {span}."


def attribution(catalogue: pd.DataFrame) -> str | None:
    """The Copernicus notice of an archive, None where no real Sentinel-1 image is in it."""
    return notice(sentinel1_years(catalogue))


def write_statistics(folder: Path, schema: ArchiveSchema, records: Sequence[CommitRecord]) -> None:
    """Write ``statistics.json``: the figures, the notice, and the hashes of what has no other record of its own."""
    facts = (read_table(path, columns=["id", "mission", "time"]).to_pandas() for path in part_paths(folder))
    years = [year for part in facts for year in sentinel1_years(part)]
    content = summarise(schema, records) | {
        "attribution": notice(years),
        "hashes": {SCHEMA_FILE: sha256_file(folder / SCHEMA_FILE)} | part_hashes(folder),
    }
    write_json(folder / STATISTICS_FILE, content | {"digest": digest(content)})
