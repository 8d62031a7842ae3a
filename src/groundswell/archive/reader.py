"""Reading an archive: memory-mapped pixels, the catalogue as a frame, selections, and the ways out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from groundswell.archive.annotations import BOXES, read_table
from groundswell.archive.catalogue import CommitRecord, read_catalogue
from groundswell.archive.encoding import Codes, decode
from groundswell.archive.schema import (
    ArchiveSchema,
    box_file,
    mask_file,
    read_schema,
    shard_file,
)
from groundswell.archive.statistics import ChannelTally
from groundswell.archive.summary import part_hashes, summarise, tallies
from groundswell.errors import ArchiveError, UsageError, did_you_mean
from groundswell.files import digest
from groundswell.physics.imagette import Channel

if TYPE_CHECKING:
    import xarray as xr

    from groundswell.archive.export import ImagetteDataset
    from groundswell.archive.verify import Damage

BOX_COLUMNS = ["id", "row", "class_name", "x", "y", "width", "height"]
_OPEN_SHARDS = 64


class Archive:
    """An archive on disk, or a selection of one: n imagettes of C channels, H rows (azimuth), W columns (range).

    Attributes
    ----------
    path : Path
    schema : ArchiveSchema
    catalogue : DataFrame
        One row per imagette, index 0 .. n-1: metadata, ``valid_fraction``, ``floored_fraction``, ``shard``, ``row``
        (in the shard) and ``label_*``. Rows of a shard lie together, in order.
    records : tuple of CommitRecord
        What each shard recorded when it was committed (of the whole archive, whatever is selected).
    """

    def __init__(
        self,
        path: Path,
        schema: ArchiveSchema,
        catalogue: pd.DataFrame,
        records: Sequence[CommitRecord],
        selection: NDArray[np.int64] | None = None,
    ) -> None:
        self.path, self.schema, self.records = path, schema, tuple(records)
        self.catalogue = catalogue
        self._selection = selection
        self._shard = catalogue["shard"].to_numpy(np.int64)
        self._row = catalogue["row"].to_numpy(np.int64)
        self._maps: dict[str, Codes] = {}

    def __len__(self) -> int:
        return len(self.catalogue)

    def __repr__(self) -> str:
        channels = ", ".join(f"{c.name} ({c.quantity.value})" for c in self.channels)
        return f"<Archive {self.path}: {len(self)} imagettes, {self.height} x {self.width}, {channels}>"

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Name and quantity of each channel, as `read` returns them."""
        return self.schema.names

    @property
    def height(self) -> int:
        """Rows of an imagette."""
        return self.schema.height

    @property
    def width(self) -> int:
        """Columns of an imagette."""
        return self.schema.width

    @property
    def shard_sizes(self) -> list[int]:
        """Imagettes of each shard that has any, in catalogue order: what the block shuffle needs."""
        if len(self) == 0:
            return []
        starts = np.flatnonzero(np.diff(self._shard, prepend=self._shard[0] - 1))
        return [int(size) for size in np.diff(np.append(starts, len(self)))]

    @property
    def complete(self) -> bool:
        """Whether every shard that was planned is there (an interrupted ingest leaves an archive readable)."""
        return len(self.records) == self.schema.shard_count

    @cached_property
    def hash(self) -> str:
        """Identity of the content: a digest of channels, hashes of catalogue parts, and selection."""
        channels = [channel.model_dump(mode="json") for channel in self.schema.channels]
        whole = digest({"channels": channels, "parts": part_hashes(self.path)})
        return whole if self._selection is None else digest([whole, self._selection.tolist()])

    @property
    def statistics(self) -> dict[str, Any]:
        """Counts and, per channel, moments, range and quantiles of the whole archive (whatever is selected)."""
        return summarise(self.schema, self.records)

    @property
    def tallies(self) -> dict[str, ChannelTally]:
        """Moments and histogram of each channel of the whole archive, by channel name."""
        return tallies(self.schema, self.records)

    def read(self, rows: ArrayLike | slice) -> NDArray[np.float32]:
        """Pixels of imagettes, in physical values.

        Parameters
        ----------
        rows : int [n] or slice
            Positions in the catalogue, in any order, repeats allowed.

        Returns
        -------
        float32 [n, C, H, W]
            In the quantity of each channel; NaN where there is no valid data.

        Raises
        ------
        ArchiveError
            When a shard is missing or damaged.
        """
        shape = (len(self.schema.channels), self.height, self.width)
        return decode(self._gather(self._positions(rows), shard_file, self.schema.dtype, shape), self.schema.channels)

    def masks(self, rows: ArrayLike | slice) -> dict[str, NDArray[np.uint8]]:
        """Masks of imagettes by name, uint8 ``[n, H, W]`` each; 255 is unknown."""
        if not self.schema.masks:
            return {}
        shape = (len(self.schema.masks), self.height, self.width)
        stack = self._gather(self._positions(rows), mask_file, "uint8", shape)
        return {name: np.ascontiguousarray(stack[:, m]) for m, name in enumerate(self.schema.masks)}

    def boxes(self, rows: ArrayLike | slice) -> pd.DataFrame:
        """Boxes of imagettes: ``id, row`` (position in this archive), ``class_name, x, y, width, height`` (pixels)."""
        positions = np.unique(self._positions(rows))
        wanted = pd.DataFrame({"id": self.catalogue["id"].to_numpy()[positions], "row": positions})
        have = {record.shard for record in self.records if box_file(record.shard) in record.files}
        shards = sorted(have & set(self._shard[positions].tolist()))
        tables = [read_table(self.path / box_file(shard)) for shard in shards]
        boxes = pa.concat_tables([BOXES.empty_table(), *tables]).to_pandas().merge(wanted, on="id")
        ordered: pd.DataFrame = boxes.sort_values("row", kind="stable")[BOX_COLUMNS].reset_index(drop=True)
        return ordered

    def where(self, expression: str | None) -> Archive:
        """The imagettes for which an expression over the catalogue's columns holds, as an archive of its own.

        None selects all, by this archive itself.

        Examples: ``split == 'train'``, ``label_hs > 3 and beam == 'WV1'``, ``valid_fraction > 0.99``.

        Raises
        ------
        UsageError
            When the expression cannot be understood, or selects nothing.
        """
        if expression is None:
            return self
        mask = self._evaluate(expression)
        chosen = np.flatnonzero(mask)
        if chosen.size == 0:
            raise UsageError(
                f"the selection {expression!r} holds for none of {len(self)} imagettes",
                where=self.path,
                fix="`groundswell stats ARCHIVE` shows the columns and their values",
            )
        base = chosen if self._selection is None else self._selection[chosen]
        return Archive(self.path, self.schema, self.catalogue.iloc[chosen].reset_index(drop=True), self.records, base)

    def to_xarray(self) -> xr.Dataset:
        """A dataset read on demand: one variable per channel ``(imagette, azimuth, range)`` with CF attributes."""
        from groundswell.archive.export import to_xarray

        return to_xarray(self)

    def to_torch(self) -> ImagetteDataset:
        """A ``torch.utils.data.Dataset`` of ``{"pixels": float32 [C, H, W], "row": int, "id": str}``."""
        from groundswell.archive.export import ImagetteDataset

        return ImagetteDataset(self)

    def verify(self) -> list[Damage]:
        """Check every file of the archive against its recorded hash: what is damaged or missing, by file."""
        from groundswell.archive.verify import verify

        return verify(self.path)

    def _evaluate(self, expression: str) -> NDArray[np.bool_]:
        try:
            result = self.catalogue.eval(expression, engine="python", local_dict={}, global_dict={})
        except pd.errors.UndefinedVariableError as error:
            name = str(error).split("'")[1]
            fix = did_you_mean(name, self.catalogue.columns)
            raise UsageError(f"the catalogue has no column {name!r}", where=expression, fix=fix) from error
        except Exception as error:  # pandas lets errors of every kind through from what the user wrote
            raise UsageError(
                "a selection could not be understood",
                where=expression,
                why=str(error) or type(error).__name__,
                fix="compare columns to values, text in quotes: \"split == 'train' and label_hs > 3\"",
            ) from error
        mask = np.asarray(result)
        if mask.dtype == object and all(value is None or isinstance(value, bool | np.bool_) for value in mask.ravel()):
            mask = np.array([value is True or value is np.True_ for value in mask.ravel()])
        if mask.shape != (len(self),) or mask.dtype != np.bool_:
            raise UsageError(
                "a selection must be true or false for each imagette",
                where=expression,
                fix="compare a column to a value, for example \"split == 'train'\"",
            )
        return mask

    def _positions(self, rows: ArrayLike | slice) -> NDArray[np.int64]:
        if isinstance(rows, slice):
            return np.arange(len(self))[rows]
        positions = np.atleast_1d(np.asarray(rows))
        if positions.size == 0:
            return np.zeros(0, dtype=np.int64)
        if positions.ndim != 1 or positions.dtype.kind not in "iu":
            raise UsageError(
                "rows must be whole numbers",
                why=f"an array of shape {positions.shape} and type {positions.dtype} was given",
                fix="give positions in the catalogue; for a condition use archive.where(...)",
            )
        if positions.min() < 0 or positions.max() >= len(self):
            raise UsageError(
                f"a row lies outside the archive of {len(self)} imagettes",
                where=self.path,
                why=f"rows {positions.min()} to {positions.max()} were asked for",
            )
        return positions.astype(np.int64)

    def _gather(self, positions: NDArray[np.int64], name: Any, dtype: str, shape: tuple[int, ...]) -> Codes:
        out = np.empty((len(positions), *shape), dtype=dtype)
        shards = self._shard[positions]
        for shard in np.unique(shards):
            where = np.flatnonzero(shards == shard)
            where = where[np.argsort(self._row[positions[where]], kind="stable")]  # read forwards
            out[where] = self._map(name(int(shard)), dtype, shape)[self._row[positions[where]]]
        return out

    def _map(self, name: str, dtype: str, shape: tuple[int, ...]) -> Codes:
        mapped = self._maps.get(name)  # a feed's thread and a monitor read one archive: no step may lean on another
        if mapped is None:
            path = self.path / name
            try:
                mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise ArchiveError(
                    "a shard of the archive is missing or damaged",
                    where=path,
                    why=str(error),
                    fix="`groundswell stats ARCHIVE --verify` names every damaged file",
                ) from error
            if mapped.shape[1:] != shape or mapped.dtype != np.dtype(dtype):
                raise ArchiveError(
                    "a shard does not hold what the archive describes",
                    where=path,
                    why=f"it holds {mapped.dtype} {mapped.shape[1:]} where {dtype} {shape} is described",
                )
            if len(self._maps) >= _OPEN_SHARDS:
                self._maps.pop(list(self._maps)[0], None)  # noqa: RUF015 - at once, as an iterator is not
            self._maps[name] = mapped
        return mapped

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # maps are reopened by the process that needs them


def open_archive(path: str | Path) -> Archive:
    """Open an archive; one whose ingest was interrupted opens with what was committed.

    Raises
    ------
    ArchiveError
        When there is none, a newer groundswell wrote it, or its description or catalogue is damaged.
    """
    folder = Path(path)
    schema = read_schema(folder)
    catalogue, records = read_catalogue(folder)
    return Archive(folder, schema, catalogue, records)
