"""Search of an embedding table: by a row of it, by every row of another, by an image file, or by a crop of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from groundswell.archive.reader import Archive, open_archive
from groundswell.archive.schema import is_archive
from groundswell.encoder.encoder import Encoder
from groundswell.encoder.geoparquet import Header, vector_blocks
from groundswell.encoder.table import EmbeddingTable, require_same_encoder
from groundswell.errors import ArchiveError, DataError, TableError, UsageError, did_you_mean
from groundswell.physics.imagette import Imagette
from groundswell.search.index import exclusion_codes, top_k


@dataclass(frozen=True)
class Hits:
    """What a search found.

    Attributes
    ----------
    scores : float32 [k]
        Cosines, highest first; at most as many as were asked for.
    frame : DataFrame, k rows
        Their rows of the table.
    query : DataFrame or None
        The row that asked, where one did.
    table : DataFrame, N rows
        All of the table: which labels it has cannot be told from a few rows.
    """

    scores: NDArray[np.float32]
    frame: pd.DataFrame
    query: pd.DataFrame | None
    table: pd.DataFrame


def search_row(path: str | Path, row_id: str, k: int, *, exclude_group: bool = False) -> Hits:
    """The k nearest to a row of a table, itself left out, and with ``exclude_group`` its whole group.

    Raises
    ------
    TableError
        When the table is damaged or has no such row.
    """
    frame = EmbeddingTable.read_frame(path)
    position = np.flatnonzero(frame["id"].to_numpy() == row_id)
    if not len(position):
        raise TableError(
            f"the table has no imagette {row_id!r}",
            where=path,
            fix=did_you_mean(row_id, frame["id"]) if len(frame) < 100_000 else "look its id up in the table",
        )
    row = int(position[0])
    codes = exclusion_codes(frame, "group" if exclude_group and "group" in frame else "id")
    vector = _row_vector(path, row)
    scores, rows = top_k(vector[None], vector_blocks(path), k, exclude=(codes[row : row + 1], codes))
    return _hits(scores[0], rows[0], frame, frame.iloc[[row]])


def search_table(path: str | Path, queries: str | Path, k: int, *, exclude_group: bool = False) -> list[Hits]:
    """The k nearest in a table to each row of another, in its order.

    A row of the same id, which is the same image, is left out, and with ``exclude_group`` all rows of the query's
    group.

    Raises
    ------
    TableError
        When another encoder or preprocessing made the other table, or it has no rows.
    """
    asking = EmbeddingTable.read(queries)
    require_same_encoder(EmbeddingTable.read_header(path), asking.header)
    if not len(asking):
        raise TableError("the table of queries has no rows", where=queries, fix="embed the images to look for")
    frame = EmbeddingTable.read_frame(path)
    parts = [_excluded(part, exclude_group) for part in (asking.frame, frame)]
    codes, _ = pd.factorize(pd.concat(parts, ignore_index=True))
    exclude = (codes[: len(asking)].astype(np.int64), codes[len(asking) :].astype(np.int64))
    scores, rows = top_k(asking.vectors, vector_blocks(path), k, exclude=exclude)
    return [_hits(s, r, frame, asking.frame.iloc[[i]]) for i, (s, r) in enumerate(zip(scores, rows, strict=True))]


def _excluded(frame: pd.DataFrame, by_group: bool) -> pd.Series:
    """What a row must not share with a query: its id or, where it has one and that is asked for, its group."""
    own = "id " + frame["id"].astype(str)
    if not by_group or "group" not in frame:
        return own
    return own.where(frame["group"].isna(), "group " + frame["group"].astype(str))


def search_image(path: str | Path, encoder: Encoder, image: Imagette, k: int) -> Hits:
    """The k rows of a table nearest to an image, which the encoder of the table embeds.

    Raises
    ------
    TableError
        When another encoder or preprocessing made the table.
    """
    header = EmbeddingTable.read_header(path)
    require_encoder(header, encoder, path)
    vector = encoder.encode([image])
    scores, rows = top_k(vector, vector_blocks(path), k)
    return _hits(scores[0], rows[0], EmbeddingTable.read_frame(path), None)


def require_encoder(header: Header, encoder: Encoder, path: str | Path) -> None:
    """Raise `TableError` unless the encoder made the table, under the same preprocessing."""
    if header.preprocessing_hash != encoder.preprocessing_hash:
        why = f"preprocessing {header.preprocessing_hash[:12]} made the table, the model has "
        why += encoder.preprocessing_hash[:12]
    elif header.model != encoder.id:
        why = f"{header.model} made the table, and this is {encoder.id}"
    else:
        return
    raise TableError(
        "the model did not make this table: their vectors cannot be compared",
        where=path,
        why=why,
        fix="give the model that made it, or embed the archive with this one",
    )


def thumbnails(
    header: Header, table: str | Path, frame: pd.DataFrame, archives: Sequence[Path] | None = None
) -> list[NDArray[np.float32]]:
    """The first channel, float32 ``[H, W]``, of rows of a table, read from its archives.

    Parameters
    ----------
    header : Header
    table : path
        Where the table is: its header names archives relative to it.
    frame : DataFrame
        Rows of the table, with the columns ``id`` and ``archive``.
    archives : sequence of Path, optional
        Where the archives are now, in the order of the header.

    Raises
    ------
    UsageError
        When another number of archives is given than the table was made from.
    DataError
        When an archive has moved, or no longer has the imagette.
    """
    paths = [Path(table).parent / a for a in header.archives] if archives is None else list(archives)
    if len(paths) != len(header.archives):
        raise UsageError(
            f"the table was made from {len(header.archives)} archives, and {len(paths)} are given",
            why=", ".join(header.archives),
            fix="give --archive once for each, in this order",
        )
    opened = {int(i): _open(paths[i]) for i in sorted(set(frame["archive"]))}
    positions = {i: pd.Index(archive.catalogue["id"]) for i, archive in opened.items()}
    images = []
    for number, name in zip(frame["archive"], frame["id"], strict=True):
        if name not in positions[number]:
            raise DataError(
                f"the archive no longer has the imagette {name!r}",
                where=opened[number].path,
                fix="embed the archive again",
            )
        images.append(opened[number].read([positions[number].get_loc(name)])[0, 0])
    return images


def _open(path: Path) -> Archive:
    try:
        return open_archive(path)
    except ArchiveError as error:
        if is_archive(path):
            raise
        raise ArchiveError(
            error.what,
            where=path,
            why="the table was made from an archive at this place",
            fix="if it has moved, add --archive PATH, once for each archive of the table; without -o none is needed",
        ) from error


def _row_vector(path: str | Path, row: int) -> NDArray[np.float32]:
    start = 0
    for block in vector_blocks(path):
        if row < start + len(block):
            return np.asarray(block[row - start])
        start += len(block)
    raise TableError("an embedding table is shorter than its index", where=path, fix="embed again")


def _hits(
    scores: NDArray[np.float32], rows: NDArray[np.int64], frame: pd.DataFrame, query: pd.DataFrame | None
) -> Hits:
    found = rows >= 0
    return Hits(scores[found], frame.iloc[rows[found]].reset_index(drop=True), query, frame)
