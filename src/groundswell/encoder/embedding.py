"""From archives to an embedding table, shard by shard."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
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
    views = [archive.where(where) for archive in archives]
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
