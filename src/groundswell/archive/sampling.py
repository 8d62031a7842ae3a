"""Block shuffle: random order without random reads, as a pure function of seed, epoch and batch index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from groundswell import rng
from groundswell.errors import UsageError


class BlockShuffle:
    """Batches that cover every row of an archive once per epoch.

    The shards are put in a random order, taken ``window`` at a time, and the rows of a window are mixed. Without a
    window all rows are mixed: right where the archive fits in memory. The position in training is the pair
    (epoch, batch index); nothing else needs to be saved.

    Parameters
    ----------
    sizes : sequence of int
        Rows of each shard, in catalogue order (`Archive.shard_sizes`).
    batch_size : int
    seed : int
    window : int, optional
        Shards that are mixed at a time (see `window_for`).
    drop_last : bool
        Leave out the last batch of an epoch where it is smaller than the others (the rows in it change each epoch).
    """

    def __init__(
        self, sizes: Sequence[int], batch_size: int, seed: int, window: int | None = None, *, drop_last: bool = False
    ) -> None:
        self.sizes, self.batch_size, self.seed = np.asarray(sizes, dtype=np.int64), batch_size, seed
        self.rows = int(self.sizes.sum())
        self.window = len(self.sizes) if window is None else window
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        self.batches_per_epoch = self.rows // batch_size if drop_last else -(-self.rows // batch_size)
        self._cached: tuple[int, NDArray[np.int64]] | None = None
        if batch_size < 1 or self.window < 1:
            raise UsageError("a batch and a shuffle window must hold something", where=f"{batch_size}, {window}")
        if self.batches_per_epoch == 0:
            raise UsageError(
                "not even one batch can be drawn",
                why=f"{self.rows} images, batches of {batch_size}",
                fix="use a smaller batch_size or more images",
            )

    def order(self, epoch: int) -> NDArray[np.int64]:
        """int64 ``[rows]``: every row once, in the order of an epoch."""
        if self._cached is None or self._cached[0] != epoch:
            shards = rng.permutation(self.seed, len(self.sizes), "shards", epoch).numpy()
            parts = []
            for number, first in enumerate(range(0, len(shards), self.window)):
                chosen = np.sort(shards[first : first + self.window])
                rows = np.concatenate([self._starts[s] + np.arange(self.sizes[s]) for s in chosen])
                parts.append(rows[rng.permutation(self.seed, len(rows), "rows", epoch, number).numpy()])
            self._cached = (epoch, np.concatenate(parts))
        return self._cached[1]

    def batch(self, epoch: int, index: int) -> NDArray[np.int64]:
        """int64 ``[batch_size]`` (or what is left, in the last batch): rows of batch ``index`` of an epoch."""
        if not 0 <= index < self.batches_per_epoch:
            raise IndexError(f"batch {index} of an epoch of {self.batches_per_epoch}")
        return self.order(epoch)[index * self.batch_size : (index + 1) * self.batch_size]


def window_for(sizes: Sequence[int], row_bytes: int, memory_bytes: float) -> int | None:
    """How many shards fit in a memory budget at once, at least one; None where all do."""
    if sum(sizes) * row_bytes <= memory_bytes:
        return None
    return max(1, int(memory_bytes // (max(sizes) * row_bytes)))
