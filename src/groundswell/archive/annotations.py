"""What goes with the pixels of a shard: boxes, and the list of what was set aside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from groundswell.errors import ArchiveError
from groundswell.files import write_bytes
from groundswell.physics.imagette import Box

BOXES = pa.schema(
    [
        ("id", pa.string()),
        ("class_name", pa.string()),
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("width", pa.float64()),
        ("height", pa.float64()),
    ]
)

FAILURES = pa.schema([("id", pa.string()), ("kind", pa.string()), ("reason", pa.string())])
REJECTED, DUPLICATE = "rejected", "duplicate"


def box_table(boxes: Sequence[tuple[str, Box]]) -> pa.Table:
    """(imagette id, box) pairs as a table; edges and sizes in archived pixels, 0-based."""
    rows = [
        {"id": id_, "class_name": b.class_name, "x": b.x, "y": b.y, "width": b.width, "height": b.height}
        for id_, b in boxes
    ]
    return pa.Table.from_pylist(rows, schema=BOXES)


def failure_table(failures: Sequence[tuple[str, str, str]]) -> pa.Table:
    """(id, kind, reason) triples as a table; kind is ``rejected`` or ``duplicate``."""
    columns = list(zip(*failures, strict=True)) or [(), (), ()]
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=FAILURES)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file with page checksums, whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    write_bytes(path, sink.getvalue().to_pybytes())


def read_table(path: Path, **options: Any) -> pa.Table:
    """Read a Parquet file of an archive, checking its page checksums.

    Raises
    ------
    ArchiveError
        When it is missing or damaged.
    """
    try:
        return pq.read_table(path, page_checksum_verification=True, partitioning=None, **options)
    except (OSError, pa.ArrowException) as error:
        raise ArchiveError(
            "a file of an archive is missing or damaged",
            where=path,
            why=str(error).splitlines()[0],
            fix="`groundswell stats ARCHIVE --verify` names every damaged file",
        ) from error
