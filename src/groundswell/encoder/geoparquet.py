"""Embedding tables as files: GeoParquet 1.1 with one embedding a row and a header of our own.

The geometry is the footprint where it is known, else the point (lon, lat), else null; longitude and latitude on
WGS 84 (OGC:CRS84, the default of the specification, geoparquet.org/releases/v1.1.0).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from groundswell.encoder.provenance import DataUsed
from groundswell.errors import TableError, did_you_mean
from groundswell.files import replacing

FORMAT = 1
KEY = b"groundswell"
EMBEDDING, GEOMETRY = "embedding", "geometry"
ROW_GROUP_BYTES = 64 * 2**20

Dtype = Literal["float32", "float16"]
_ARROW = {"float32": pa.float32(), "float16": pa.float16()}
_GEO = {
    "version": "1.1.0",
    "primary_column": GEOMETRY,
    "columns": {GEOMETRY: {"encoding": "WKB", "geometry_types": []}},  # empty: points, polygons or none, mixed
}


@dataclass(frozen=True, slots=True)
class Header:
    """What an embedding table says of itself.

    Attributes
    ----------
    model : str
        Id of the encoder or control.
    preprocessing_hash : str
        Vectors made under two hashes are not comparable.
    dimension : int
    dtype : "float32" or "float16"
        As stored.
    archives : tuple of str
        Where the imagettes are, relative to the folder of the table where possible; the column ``archive`` of the
        table counts into it.
    data : tuple of DataUsed
        What each of these archives holds.
    where : str or None
        The selection.
    """

    model: str
    preprocessing_hash: str
    dimension: int
    dtype: Dtype
    archives: tuple[str, ...]
    data: tuple[DataUsed, ...]
    where: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON-able dictionary."""
        return {
            "format": FORMAT,
            "model": self.model,
            "preprocessing_hash": self.preprocessing_hash,
            "dimension": self.dimension,
            "dtype": self.dtype,
            "archives": list(self.archives),
            "data": [d.to_json() for d in self.data],
            "where": self.where,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Header:
        """The inverse of `to_json`."""
        fields = {k: v for k, v in value.items() if k != "format"}
        fields["archives"] = tuple(value["archives"])
        fields["data"] = tuple(DataUsed.from_json(d) for d in value["data"])
        return cls(**fields)


def geometry(columns: pa.Table) -> pa.Array:
    """WKB geometry of catalogue rows: footprint, else point, else null."""
    count = columns.num_rows

    def floats(name: str) -> NDArray[np.float64]:
        if name not in columns.column_names:
            return np.full(count, np.nan)
        values = columns[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
        return np.asarray(values, dtype=np.float64)

    lon, lat = floats("lon"), floats("lat")
    known = np.isfinite(lon) & np.isfinite(lat)
    points = np.full(count, None, dtype=object)
    points[known] = shapely.to_wkb(shapely.points(lon[known], lat[known]))
    if "footprint" in columns.column_names:
        footprints = columns["footprint"].to_pylist()
        return pa.array([f or p for f, p in zip(footprints, points, strict=True)], type=pa.binary())
    return pa.array(points, type=pa.binary())


def write(path: Path, header: Header, columns: pa.Table, blocks: Iterable[NDArray[np.float32]]) -> None:
    """Write a table, whole or not at all.

    Parameters
    ----------
    columns : pyarrow Table, N rows
        Every column but the embedding; ``footprint``, ``lon`` and ``lat`` become the geometry.
    blocks : iterable of float32 [n_i, D]
        The embeddings, in the order of the rows; the n_i add up to N.
    """
    if GEOMETRY not in columns.column_names:
        columns = columns.append_column(GEOMETRY, geometry(columns))
    rest = [c for c in columns.column_names if c not in ("id", GEOMETRY, "footprint")]
    columns = columns.select(["id", GEOMETRY, *rest])
    embedding = pa.field(EMBEDDING, pa.list_(_ARROW[header.dtype], header.dimension))
    metadata = {b"geo": json.dumps(_GEO).encode(), KEY: json.dumps(header.to_json(), sort_keys=True).encode()}
    schema = pa.schema([columns.schema.field(0), embedding, *list(columns.schema)[1:]], metadata=metadata)
    group = max(1, ROW_GROUP_BYTES // (header.dimension * np.dtype(header.dtype).itemsize))
    compression = dict.fromkeys(columns.column_names, "zstd")
    compression[f"{EMBEDDING}.list.element"] = "none"  # mantissas do not compress, and reading is then a copy
    done = 0
    with (
        replacing(path) as handle,
        pq.ParquetWriter(handle, schema, compression=compression, use_dictionary=columns.column_names) as writer,
    ):
        for block in _regroup(blocks, group):
            flat = pa.array(block.astype(header.dtype, copy=False).reshape(-1), type=_ARROW[header.dtype])
            vectors = pa.FixedSizeListArray.from_arrays(flat, header.dimension)
            part = columns.slice(done, len(block)).add_column(1, embedding, vectors)
            writer.write_table(part.cast(schema), row_group_size=group)
            done += len(block)
        if done != columns.num_rows:
            raise TableError(f"{columns.num_rows} rows and {done} embeddings do not make a table", where=path)


def _regroup(blocks: Iterable[NDArray[np.float32]], size: int) -> Iterator[NDArray[np.float32]]:
    """The same rows in blocks of exactly ``size`` (the last may be shorter), so that row groups do not depend on
    how the work was cut."""
    held: list[NDArray[np.float32]] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block)
        if count >= size:
            joined = np.concatenate(held)
            whole = count - count % size
            for start in range(0, whole, size):
                yield joined[start : start + size]
            held, count = [joined[whole:]], count - whole
    if count:
        yield np.concatenate(held)


def open_file(path: str | Path) -> tuple[pq.ParquetFile, Header]:
    """An embedding table, memory-mapped, and its header; nothing else is read yet.

    Raises
    ------
    TableError
        When it is missing, damaged, of another version, or no embedding table.
    """
    path = Path(path)
    if not path.is_file():
        raise TableError(
            "there is no embedding table here", where=path, fix="make one: groundswell embed MODEL ARCHIVE -o TABLE"
        )
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(
            "an embedding table could not be read",
            where=path,
            why=str(error),
            fix="write it again: groundswell embed MODEL ARCHIVE -o TABLE",
        ) from error
    text = (file.schema_arrow.metadata or {}).get(KEY)
    if text is None or EMBEDDING not in file.schema_arrow.names:
        raise TableError(
            "a Parquet file, but no embedding table of groundswell",
            where=path,
            why="its header has no key 'groundswell', or it has no column 'embedding'",
            fix="make one: groundswell embed MODEL ARCHIVE -o TABLE",
        )
    value = json.loads(text)
    if value.get("format") != FORMAT:
        raise TableError(
            f"an embedding table of the unknown version {value.get('format')!r}",
            where=path,
            why=f"this groundswell reads version {FORMAT}",
            fix="update groundswell, or embed again",
        )
    return file, Header.from_json(value)


def vector_blocks(path: str | Path, size: int = 65536) -> Iterator[NDArray[np.float32]]:
    """The embeddings of a table, float32 ``[n_i, D]`` blocks of at most ``size`` rows: a table larger than memory."""
    file, header = open_file(path)
    for batch in file.iter_batches(batch_size=size, columns=[EMBEDDING]):
        yield to_numpy(batch.column(0), header.dimension)


def to_numpy(column: pa.FixedSizeListArray, dimension: int) -> NDArray[np.float32]:
    """An embedding column as float32 ``[n, D]``."""
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float32).reshape(-1, dimension)


def names(file: pq.ParquetFile, wanted: Sequence[str] | None) -> list[str]:
    """The columns to read beside the embedding: all, or those wanted."""
    known = [name for name in file.schema_arrow.names if name != EMBEDDING]
    if wanted is None:
        return known
    for name in wanted:
        if name not in known:
            raise TableError(f"the embedding table has no column {name!r}", fix=did_you_mean(name, known))
    return list(wanted)
