"""Embedding tables: what an encoder or a control makes of archives, and what every probe and search reads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from groundswell import progress
from groundswell.archive.reader import Archive
from groundswell.encoder import geoparquet
from groundswell.encoder.geoparquet import Dtype, Header
from groundswell.encoder.provenance import describe
from groundswell.errors import TableError, UsageError
from groundswell.files import digest, write_with
from groundswell.physics.imagette import Channel


class Embedder(Protocol):
    """What makes vectors of imagettes: an encoder, or a control."""

    @property
    def id(self) -> str:
        """Equal only for embedders that give equal vectors."""

    @property
    def preprocessing_hash(self) -> str:
        """Vectors made under two hashes are not comparable."""

    def embed_batch(
        self, pixels: NDArray[np.float32], channels: Sequence[Channel], rows: pd.DataFrame
    ) -> NDArray[np.float32]:
        """Vectors, float32 ``[n, D]``, of physical pixels, float32 ``[n, C, H, W]``, and their catalogue rows."""


@dataclass(frozen=True)
class EmbeddingTable:
    """An embedding table in memory.

    Attributes
    ----------
    vectors : float32 [N, D]
    frame : DataFrame, N rows
        Every other column: the catalogue's, labels, geometry (WKB), ``archive`` (counts into ``header.archives``).
    header : Header
    """

    vectors: NDArray[np.float32]
    frame: pd.DataFrame
    header: Header

    @classmethod
    def read(cls, path: str | Path, columns: Sequence[str] | None = None) -> EmbeddingTable:
        """Read a table; ``columns`` names those wanted beside the embedding (default all).

        Raises
        ------
        TableError
            When it is missing, damaged, no embedding table, or a column is not there.
        """
        file, header = geoparquet.open_file(path)
        wanted = geoparquet.names(file, columns)
        table = _read(file, [*wanted, geoparquet.EMBEDDING], path)
        chunks = [geoparquet.to_numpy(c, header.dimension) for c in table[geoparquet.EMBEDDING].chunks]
        vectors = np.concatenate(chunks) if chunks else np.empty((0, header.dimension), np.float32)
        if not np.isfinite(vectors).all():
            raise TableError(
                "an embedding table holds numbers that are not finite",
                where=path,
                why=f"{int((~np.isfinite(vectors)).any(axis=1).sum())} of {len(vectors)} rows",
                fix="embed again; where dtype float16 overflows, use float32",
            )
        return cls(vectors, table.select(wanted).to_pandas(), header)

    @staticmethod
    def read_header(path: str | Path) -> Header:
        """The header of a table alone."""
        return geoparquet.open_file(path)[1]

    @staticmethod
    def read_frame(path: str | Path) -> pd.DataFrame:
        """Every column but the embedding, which stays on disk (`geoparquet.vector_blocks` streams it)."""
        file, _ = geoparquet.open_file(path)
        frame: pd.DataFrame = _read(file, geoparquet.names(file, None), path).to_pandas()
        return frame

    def __len__(self) -> int:
        return len(self.frame)

    def where(self, expression: str) -> EmbeddingTable:
        """The rows for which a pandas expression holds, such as ``"split == 'train'"``.

        Raises
        ------
        UsageError
            When the expression does not make sense for these columns.
        """
        try:
            held = self.frame.eval(expression, engine="python", local_dict={}, global_dict={})
            keep = np.broadcast_to(np.asarray(held, dtype=bool), len(self))
        except Exception as error:  # whatever pandas makes of a user's text
            raise UsageError(
                "the selection does not make sense",
                where=expression,
                why=str(error),
                fix="compare columns to values, text in quotes: \"split == 'train' and label_hs > 3\"",
            ) from error
        header = self.header
        where = expression if header.where is None else f"({header.where}) and ({expression})"
        return EmbeddingTable(self.vectors[keep], self.frame[keep].reset_index(drop=True), replace(header, where=where))

    def write(self, path: str | Path) -> None:
        """Write the table as GeoParquet, whole or not at all."""
        columns = pa.Table.from_pandas(self.frame, preserve_index=False).replace_schema_metadata(None)
        geoparquet.write(Path(path), self.header, columns, [self.vectors])


def _read(file: pq.ParquetFile, columns: list[str], path: str | Path) -> pa.Table:
    try:
        return file.read(columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError("an embedding table is damaged", where=path, why=str(error), fix="embed again") from error


def join(tables: Sequence[EmbeddingTable]) -> EmbeddingTable:
    """Features side by side, rows matched by id in the order of the first table: "both together".

    Raises
    ------
    TableError
        When the tables do not hold the same ids, each once.
    """
    first = tables[0]
    parts = [first.vectors]
    ids = pd.Index(first.frame["id"])
    for other in tables[1:]:
        positions = pd.Index(other.frame["id"])
        if not ids.is_unique or not positions.is_unique or len(ids) != len(positions) or not ids.isin(positions).all():
            missing = ids.difference(positions)
            raise TableError(
                "tables are joined on equal ids, and these differ",
                where=f"{first.header.model} and {other.header.model}",
                why=f"{len(ids)} and {len(positions)} rows, {len(missing)} of the first missing in the second"
                + (f" ({missing[0]} ...)" if len(missing) else ""),
                fix="embed the same archives with the same --where",
            )
        parts.append(other.vectors[positions.get_indexer(ids)])
    vectors = np.concatenate(parts, axis=1)
    header = replace(
        first.header,
        model=" + ".join(t.header.model for t in tables),
        preprocessing_hash=digest([t.header.preprocessing_hash for t in tables]),
        dimension=vectors.shape[1],
    )
    return EmbeddingTable(vectors, first.frame, header)


def concat(tables: Sequence[EmbeddingTable]) -> EmbeddingTable:
    """Rows of several tables made by one encoder, one after the other.

    Raises
    ------
    TableError
        When they were made by different encoders or preprocessing.
    """
    first = tables[0].header
    offset, frames = 0, []
    for table in tables:
        require_same_encoder(first, table.header)
        frames.append(table.frame.assign(archive=table.frame["archive"] + offset))
        offset += len(table.header.archives)
    header = replace(
        first,
        archives=tuple(a for t in tables for a in t.header.archives),
        data=tuple(d for t in tables for d in t.header.data),
    )
    return EmbeddingTable(np.concatenate([t.vectors for t in tables]), pd.concat(frames, ignore_index=True), header)


def require_same_encoder(first: Header, second: Header) -> None:
    """Raise `TableError` unless two tables were made by one encoder under one preprocessing."""
    if first.preprocessing_hash != second.preprocessing_hash or first.model != second.model:
        raise TableError(
            "these tables were made by different encoders: their vectors cannot be compared",
            where=f"{first.model} (preprocessing {first.preprocessing_hash[:12]}) and "
            f"{second.model} (preprocessing {second.preprocessing_hash[:12]})",
            fix="embed both archives with one model",
        )


def embed(
    embedder: Embedder,
    archives: Sequence[Archive],
    output: str | Path,
    *,
    batch_size: int = 64,
    where: str | None = None,
    dtype: Dtype = "float32",
) -> Header:
    """Embed archives into one table, shard by shard; run again after a kill, it goes on from the last whole shard.

    Parameters
    ----------
    embedder : Embedder
    archives : sequence of Archive
    output : path
        The table. While it is being made, finished shards lie in ``OUTPUT.parts``. A table that already holds
        exactly this is kept; any other embedding table is replaced, anything else refused.
    where : str, optional
        A selection of catalogue rows.

    Raises
    ------
    UsageError
        When nothing is selected, an id comes twice, or ``output`` is another kind of file.
    TableError
        When archives give vectors of different widths.
    QuantityError, DataError
        When an archive is not what the embedder takes; checked on every archive before the first shard.
    """
    output = Path(os.path.abspath(output))  # noqa: PTH100 - relative archive paths need the folder, links kept
    views = [archive.where(where) if where else archive for archive in archives]
    columns = _columns(views, where)
    header = Header(
        model=embedder.id,
        preprocessing_hash=embedder.preprocessing_hash,
        dimension=_dimension(embedder, views),
        dtype=dtype,
        archives=tuple(_relative(a.path, output.parent) for a in archives),
        data=tuple(describe(view) for view in views),
        where=where,
    )
    if output.exists() and geoparquet.open_file(output)[1] == header:
        return header
    parts = output.with_name(output.name + ".parts")
    folder = parts / digest([header.model, header.preprocessing_hash, where, [d.hash for d in header.data]])[:16]
    shards = [(i, rows) for i, view in enumerate(views) for rows in _shards(view)]

    def part(archive: int, rows: NDArray[np.int64]) -> Path:
        return folder / f"{archive:03d}-{rows[0]:09d}.npy"

    with progress.bar(f"embed with {embedder.id}", total=columns.num_rows, unit="images") as bar:
        for archive, rows in shards:
            path = part(archive, rows)
            if path.exists():
                bar.advance(len(rows))
                continue
            vectors = []
            for start in range(0, len(rows), batch_size):
                some = rows[start : start + batch_size]
                view = views[archive]
                vectors.append(embedder.embed_batch(view.read(some), view.channels, view.catalogue.iloc[some]))
                bar.advance(len(some))
            joined = np.concatenate(vectors)
            write_with(path, lambda handle, joined=joined: np.save(handle, joined, allow_pickle=False))  # type: ignore[misc]
    geoparquet.write(output, header, columns, _parts(part(*shard) for shard in shards))
    shutil.rmtree(parts, ignore_errors=True)
    return header


def _parts(paths: Iterator[Path]) -> Iterator[NDArray[np.float32]]:
    for path in paths:
        yield np.load(path, allow_pickle=False)


def _columns(views: Sequence[Archive], where: str | None) -> pa.Table:
    """The catalogues one below the other, with the number of the archive; null where an archive lacks a column."""
    frames = [view.catalogue.assign(archive=np.int16(i)) for i, view in enumerate(views)]
    tables = [pa.Table.from_pandas(f, preserve_index=False).replace_schema_metadata(None) for f in frames if len(f)]
    if not tables:
        raise UsageError("no imagette is selected", where=where, fix="loosen --where, or give an archive that has some")
    columns = pa.concat_tables(tables, promote_options="permissive")
    ids = columns["id"].to_pandas()
    if ids.duplicated().any():
        raise UsageError(
            "an imagette comes twice", where=ids[ids.duplicated()].iloc[0], fix="give each archive once, or use --where"
        )
    return columns


def _dimension(embedder: Embedder, views: Sequence[Archive]) -> int:
    """Width of the vectors, by embedding one imagette of each archive: a misfit fails here, not hours later."""
    widths = set()
    for view in views:
        if len(view):
            row = np.array([0])
            widths.add(embedder.embed_batch(view.read(row), view.channels, view.catalogue.iloc[row]).shape[1])
    if len(widths) > 1:
        raise TableError(
            "the archives give vectors of different widths",
            where=", ".join(str(v.path) for v in views),
            why="their channels differ",
            fix="embed them into a table each",
        )
    return int(widths.pop())


def _shards(view: Archive) -> list[NDArray[np.int64]]:
    """The rows of each shard of an archive view, in order."""
    shard = view.catalogue["shard"].to_numpy()
    rows = np.arange(len(shard), dtype=np.int64)
    return [part for part in np.split(rows, np.flatnonzero(np.diff(shard)) + 1) if len(part)]


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive, on Windows
        return str(path)
