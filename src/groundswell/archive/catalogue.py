"""The catalogue: one Parquet part per shard, which is also the record that commits the shard.

A part holds one row per imagette. Its schema metadata holds the `CommitRecord`: the hash and size of every file of
the shard, counts, and the sums from which the statistics of the archive are merged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from groundswell.archive.annotations import read_table, write_table
from groundswell.archive.statistics import ChannelTally
from groundswell.errors import ArchiveError
from groundswell.physics.imagette import METADATA_FIELDS, Label, Metadata

if TYPE_CHECKING:
    import pandas as pd

LABEL = "label_"
_KEY = b"groundswell"

_TYPES: dict[str, pa.DataType] = {
    "image_number": pa.int64(),
    "orbit": pa.int64(),
    "time": pa.timestamp("us", tz="UTC"),
    "footprint": pa.binary(),
    "denoised": pa.bool_(),
} | {
    name: pa.float64() for name in METADATA_FIELDS if name in {"lon", "lat", "nesz_db"} or name.endswith(("_deg", "_m"))
}

METADATA_SCHEMA = pa.schema([(name, _TYPES.get(name, pa.string())) for name in METADATA_FIELDS])


@dataclass(frozen=True, slots=True)
class Row:
    """One imagette of a catalogue part."""

    metadata: Metadata
    labels: dict[str, Label]
    valid_fraction: float
    floored_fraction: float


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size and SHA-256 of one file of a shard."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """What a catalogue part says of its shard.

    Attributes
    ----------
    shard, rows : int
        Number of the shard and of the imagettes in it.
    planned : int
        Items of the manifest that it stands for; ``planned == rows + rejected + duplicates``.
    rejected, duplicates, dropped_boxes : int
    files : dict
        Path in the archive to its `FileRecord`.
    tallies : tuple of ChannelTally
        One per channel.
    """

    shard: int
    rows: int
    planned: int
    rejected: int
    duplicates: int
    dropped_boxes: int
    files: dict[str, FileRecord]
    tallies: tuple[ChannelTally, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "shard": self.shard,
            "rows": self.rows,
            "planned": self.planned,
            "rejected": self.rejected,
            "duplicates": self.duplicates,
            "dropped_boxes": self.dropped_boxes,
            "files": {name: {"bytes": f.bytes, "sha256": f.sha256} for name, f in sorted(self.files.items())},
            "tallies": [tally.to_json() for tally in self.tallies],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CommitRecord:
        """The record that `to_json` wrote."""
        files = {name: FileRecord(**file) for name, file in value["files"].items()}
        tallies = tuple(ChannelTally.from_json(tally) for tally in value["tallies"])
        return cls(**{**value, "files": files, "tallies": tallies})


def part_table(rows: Sequence[Row], record: CommitRecord) -> pa.Table:
    """The catalogue part of a shard, with its commit record in the schema metadata."""
    columns: dict[str, pa.Array] = {}
    for field in METADATA_SCHEMA:
        columns[field.name] = pa.array([_cell(getattr(row.metadata, field.name)) for row in rows], field.type)
    columns["valid_fraction"] = pa.array([row.valid_fraction for row in rows], pa.float64())
    columns["floored_fraction"] = pa.array([row.floored_fraction for row in rows], pa.float64())
    columns["shard"] = pa.array([record.shard] * len(rows), pa.int64())
    columns["row"] = pa.array(range(len(rows)), pa.int64())
    for name in sorted({name for row in rows for name in row.labels}):
        columns[LABEL + name] = label_array([row.labels.get(name) for row in rows])
    text = json.dumps(record.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return pa.table(columns).replace_schema_metadata({_KEY: text.encode()})


def _cell(value: Any) -> Any:
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)  # metadata times are UTC
    return value


def label_array(values: Sequence[Label]) -> pa.Array:
    """Label values as one column: whole numbers (true and false are 1 and 0), real numbers, else text."""
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    known = [value for value in plain if value is not None]
    if not known:
        return pa.nulls(len(plain))
    if all(isinstance(value, bool | int) for value in known):
        return pa.array([None if value is None else int(value) for value in plain], pa.int64())
    if all(isinstance(value, bool | int | float) for value in known):
        return pa.array([None if value is None else float(value) for value in plain], pa.float64())
    return pa.array([None if value is None else str(value) for value in plain], pa.string())


def write_part(path: Path, rows: Sequence[Row], record: CommitRecord) -> None:
    """Write a catalogue part: from here on its shard is part of the archive."""
    write_table(path, part_table(rows, record))


def read_record(path: Path) -> CommitRecord:
    """The commit record of a catalogue part, from its footer alone.

    Raises
    ------
    ArchiveError
        When the part is damaged.
    """
    try:
        return _record(pq.read_schema(path), path)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, str(error).splitlines()[0]) from error


def _record(schema: pa.Schema, path: Path) -> CommitRecord:
    try:
        return CommitRecord.from_json(json.loads((schema.metadata or {})[_KEY]))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, "it has no readable commit record") from error


def _damaged(path: Path, why: str) -> ArchiveError:
    return ArchiveError(
        "a part of the catalogue is damaged",
        where=path,
        why=why,
        fix="delete this file and run the same ingest again: it writes that shard anew",
    )


def part_paths(folder: Path) -> list[Path]:
    """The catalogue parts of an archive, in the order of their shards."""
    return sorted((folder / "catalogue").glob("[0-9]*.parquet"))


def read_catalogue(folder: Path) -> tuple[pd.DataFrame, list[CommitRecord]]:
    """Every catalogue part as one frame (index 0 .. n-1, in shard order), and their commit records.

    Raises
    ------
    ArchiveError
        When a part is damaged.
    """
    tables, records = [], []
    for path in part_paths(folder):
        table = read_table(path)
        record = _record(table.schema, path)
        if table.num_rows != record.rows:
            raise _damaged(path, f"it has {table.num_rows} rows where its record says {record.rows}")
        tables.append(table.replace_schema_metadata(None))
        records.append(record)
    if not tables:
        empty = CommitRecord(0, 0, 0, 0, 0, 0, {}, ())
        tables = [part_table([], empty).replace_schema_metadata(None)]
    return _concatenate(tables).to_pandas(), records


def _concatenate(tables: list[pa.Table]) -> pa.Table:
    """Parts whose label columns differ as one table: a label becomes the widest of its types, null where absent."""
    types: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for field in table.schema:
            types.setdefault(field.name, set()).add(field.type)
    fields = [pa.field(name, _widest(found)) for name, found in types.items()]
    labels = sorted((f for f in fields if f.name.startswith(LABEL)), key=lambda f: f.name)
    schema = pa.schema([f for f in fields if not f.name.startswith(LABEL)] + labels)
    aligned = []
    for table in tables:
        columns = [
            table[f.name].cast(f.type) if f.name in table.column_names else pa.nulls(table.num_rows, f.type)
            for f in schema
        ]
        aligned.append(pa.table(columns, schema=schema))
    return pa.concat_tables(aligned)


def _widest(types: set[pa.DataType]) -> pa.DataType:
    known = types - {pa.null()}
    if len(known) == 1:
        return next(iter(known))
    if not known:
        return pa.float64()
    return pa.float64() if known <= {pa.int64(), pa.float64()} else pa.string()
