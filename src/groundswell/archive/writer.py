"""One shard on its way to disk: pixels and annotations first, the catalogue part, which commits it, last."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from groundswell.archive.annotations import DUPLICATE, REJECTED, box_table, failure_table, write_table
from groundswell.archive.catalogue import CommitRecord, FileRecord, Row, write_part
from groundswell.archive.encoding import Codes, decode
from groundswell.archive.schema import (
    ArchiveSchema,
    ChannelSchema,
    box_file,
    catalogue_file,
    failure_file,
    mask_file,
    pending_file,
    shard_file,
)
from groundswell.archive.statistics import ChannelTally
from groundswell.files import TEMPORARY, remove, replacing, sha256_file
from groundswell.physics.imagette import Box


@dataclass(frozen=True, slots=True)
class Prepared:
    """An imagette ready to be stored: codes ``[C, H, W]``, masks uint8 ``[M, H, W]``, boxes, catalogue row."""

    row: Row
    codes: Codes
    masks: NDArray[np.uint8]
    boxes: list[Box]
    dropped_boxes: int


class _NpyRows:
    """A ``.npy`` file written row by row; its header is put right once the number of rows is known."""

    def __init__(self, handle: IO[bytes], dtype: str, row_shape: tuple[int, ...], planned: int) -> None:
        self.handle, self.dtype, self.row_shape = handle, np.dtype(dtype), row_shape
        self.rows = 0
        self.header_bytes = len(self._header(planned))
        handle.write(self._header(planned))

    def _header(self, rows: int) -> bytes:
        # numpy leaves room for a growing first axis, so that the header of fewer rows is as long.
        text = io.BytesIO()
        described = {"descr": self.dtype.str, "fortran_order": False, "shape": (rows, *self.row_shape)}
        np.lib.format.write_array_header_1_0(text, described)
        return text.getvalue()

    def append(self, row: NDArray[Any]) -> None:
        assert row.dtype == self.dtype and row.shape == self.row_shape  # noqa: PT018 - one condition of the format
        self.handle.write(np.ascontiguousarray(row).data)
        self.rows += 1

    def finish(self) -> None:
        header = self._header(self.rows)
        assert len(header) == self.header_bytes
        self.handle.seek(0)
        self.handle.write(header)


@contextmanager
def _npy_rows(path: Path, dtype: str, row_shape: tuple[int, ...], planned: int) -> Iterator[_NpyRows]:
    """A ``.npy`` file that stands at ``path`` when the block ends, or not at all."""
    with replacing(path) as handle:
        rows = _NpyRows(handle, dtype, row_shape, planned)
        yield rows
        rows.finish()


class _Tally:
    """Statistics of one channel as its planes go by: integer codes are counted, and decoded once at the end."""

    def __init__(self, channel: ChannelSchema, dtype: str) -> None:
        self.channel = channel
        self.floats = ChannelTally.empty(channel.quantity)
        self.codes = None if dtype == "float32" else np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
        self.counts = np.zeros(0 if self.codes is None else len(self.codes), dtype=np.int64)

    def add(self, plane: Codes) -> None:
        if self.codes is None:
            self.floats = self.floats.merge(ChannelTally.of(plane, self.channel.quantity))
        else:
            self.counts += np.bincount(plane.ravel(), minlength=len(self.codes))

    def total(self) -> ChannelTally:
        if self.codes is None:
            return self.floats
        values = decode(self.codes[:, None, None, None], [self.channel]).ravel()
        return ChannelTally.of_counts(values, self.counts, self.channel.quantity)


@dataclass
class ShardWriter:
    """Writes one shard; nothing of it counts before `commit` has returned.

    A ``pending`` shard does not count even then: its part waits outside the catalogue.

    Use as a context manager around `add` and `set_aside`, then call `commit`::

        with ShardWriter(folder, schema, number, planned) as shard:
            shard.add(prepared)
        record = shard.commit()
    """

    folder: Path
    schema: ArchiveSchema
    number: int
    planned: int
    pending: bool = False
    rows: list[Row] = field(default_factory=list)
    boxes: list[tuple[str, Box]] = field(default_factory=list)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    dropped_boxes: int = 0

    def __enter__(self) -> ShardWriter:
        """Clear what a killed writer left of this shard, and open its files."""
        remove(self.folder / pending_file(self.number))  # before any file that it vouches for changes
        for name in (box_file(self.number), failure_file(self.number), catalogue_file(self.number)):
            remove(self.folder / (name + TEMPORARY))
        for name in (box_file(self.number), failure_file(self.number)):
            remove(self.folder / name)
        size = (self.schema.height, self.schema.width)
        shape = (len(self.schema.channels), *size)
        with ExitStack() as stack:
            path = self.folder / shard_file(self.number)
            self._pixels = stack.enter_context(_npy_rows(path, self.schema.dtype, shape, self.planned))
            self._masks = None
            if self.schema.masks:
                path, shape = self.folder / mask_file(self.number), (len(self.schema.masks), *size)
                self._masks = stack.enter_context(_npy_rows(path, "uint8", shape, self.planned))
            self._stack = stack.pop_all()
        self._tallies = [_Tally(channel, self.schema.dtype) for channel in self.schema.channels]
        return self

    def add(self, prepared: Prepared) -> None:
        """Append one imagette."""
        self._pixels.append(prepared.codes)
        if self._masks is not None:
            self._masks.append(prepared.masks)
        for tally, plane in zip(self._tallies, prepared.codes, strict=True):
            tally.add(plane)
        self.rows.append(prepared.row)
        self.boxes += [(prepared.row.metadata.id, box) for box in prepared.boxes]
        self.dropped_boxes += prepared.dropped_boxes

    def set_aside(self, id_: str, kind: str, reason: str) -> None:
        """Record an item that is not stored (``rejected`` or ``duplicate``), and why."""
        self.failures.append((id_, kind, reason))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the pixel and mask files, or leave no trace of them after an error."""
        self._stack.__exit__(kind, error, trace)

    def commit(self) -> CommitRecord:
        """Write boxes and failures, then the catalogue part."""
        names = [shard_file(self.number)]
        if self._masks is not None:
            names.append(mask_file(self.number))
        if self.boxes:
            write_table(self.folder / box_file(self.number), box_table(self.boxes))
            names.append(box_file(self.number))
        if self.failures:
            write_table(self.folder / failure_file(self.number), failure_table(self.failures))
            names.append(failure_file(self.number))
        record = CommitRecord(
            shard=self.number,
            rows=len(self.rows),
            planned=self.planned,
            rejected=sum(kind == REJECTED for _, kind, _ in self.failures),
            duplicates=sum(kind == DUPLICATE for _, kind, _ in self.failures),
            dropped_boxes=self.dropped_boxes,
            files={
                name: FileRecord((self.folder / name).stat().st_size, sha256_file(self.folder / name)) for name in names
            },
            tallies=tuple(tally.total() for tally in self._tallies),
        )
        part = pending_file if self.pending else catalogue_file
        write_part(self.folder / part(self.number), self.rows, record)
        return record
