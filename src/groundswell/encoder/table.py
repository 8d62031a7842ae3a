"""Embedding tables in memory: read, select, join, write. What every probe and search reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from groundswell.archive.catalogue import LABEL, label_array
from groundswell.encoder import geoparquet
from groundswell.encoder.embedding import Embedder as Embedder
from groundswell.encoder.embedding import embed as embed
from groundswell.encoder.geoparquet import Header as Header
from groundswell.errors import TableError, UsageError
from groundswell.files import digest
from groundswell.products.folder.labels import label_name
from groundswell.products.folder.tables import read_table


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

    def where(self, expression: str | None) -> EmbeddingTable:
        """The rows for which a pandas expression holds, such as ``"split == 'train'"``; None selects all.

        Raises
        ------
        UsageError
            When the expression does not make sense for these columns.
        """
        if expression is None:
            return self
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

    def with_labels(self, path: str | Path) -> EmbeddingTable:
        """The table with the columns of a label table (Parquet, CSV) whose column ``id`` names imagettes, as of
        `groundswell collocate`; rows of imagettes that are not in this table are left out.

        Raises
        ------
        DataError
            When the label table is damaged.
        UsageError
            When it has no column ``id``.
        TableError
            When an id comes twice, none is in this table, or a label is there already.
        """
        given = read_table(path)
        positions = pd.Index(given.texts("id"))
        order = positions.get_indexer(pd.Index(self.frame["id"].astype(str))) if positions.is_unique else None
        if order is None or (order < 0).all():
            why = (
                "an id comes twice"
                if order is None
                else f"it names {positions[0]}, the table {self.frame['id'].iloc[0]}"
            )
            raise TableError("a label table does not fit an embedding table", where=path, why=why)
        labels: dict[str, pd.Series] = {}
        for name in given.columns:
            label = LABEL + label_name(name)
            if name == "id":
                continue
            if label in self.frame or label in labels:
                raise TableError(
                    f"there are two columns {label}", where=path, fix="rename the column of the label table"
                )
            values = given.values(name)
            labels[label] = label_array([values[i] if i >= 0 else None for i in order]).to_pandas()
        return replace(self, frame=pd.concat([self.frame, pd.DataFrame(labels, index=self.frame.index)], axis=1))

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
