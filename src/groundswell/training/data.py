"""From archives to normalised batches: each is a pure function of seed, epoch and index, so two integers resume it."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundswell import distributed, progress
from groundswell.archive.reader import Archive
from groundswell.archive.sampling import BlockShuffle, window_for
from groundswell.encoder.preprocessing import Preprocessing
from groundswell.errors import ArchiveError, UsageError

log = logging.getLogger(__name__)

PRELOAD = 0.25  # fraction of the free memory that a preloaded archive may take
_CHUNK = 256  # images read at a time when preloading
_WINDOW_BYTES = 8e9  # archived pixels that are shuffled together


def check_there(archives: Sequence[Archive]) -> None:
    """Raise `ArchiveError` where the archives hold no image at all."""
    if not any(map(len, archives)):
        raise ArchiveError(
            "there is no image to train on",
            where=", ".join(str(a.path) for a in archives),
            why="the archive is empty, or parts of it are missing",
            fix="`groundswell stats ARCHIVE --verify` names what is missing: ingest it again",
        )


def check_once(archives: Sequence[Archive]) -> None:
    """Raise `UsageError` where two archives, or selections of them, are the same."""
    seen: dict[str, Path] = {}
    for archive in filter(len, archives):
        if archive.hash in seen:
            raise UsageError(
                "the same images are given twice",
                where=f"{seen[archive.hash]}, {archive.path}",
                why="each would count twice, and two views of it would pass for views of two images",
                fix="name the archive once",
            )
        seen[archive.hash] = archive.path


def warn_of_gaps(archives: Sequence[Archive]) -> None:
    """Say which archives lack a part, as after an ingest that was interrupted: their other images are trained on."""
    for archive in archives:
        if not archive.complete:
            log.warning(
                "%s is incomplete: it has %d of %d shards (`groundswell stats %s --verify` names what is missing)",
                *(archive.path, len(archive.records), archive.schema.shard_count, archive.path),
            )


def check_images(archives: Sequence[Archive], batch_size: int) -> int:
    """How many images the archives hold.

    Raises
    ------
    UsageError
        When there are fewer than a batch, or their sizes differ.
    """
    rows = sum(map(len, archives))
    if len({(a.height, a.width) for a in archives}) > 1:
        raise UsageError(
            "the archives hold images of different sizes",
            where=", ".join(f"{a.path}: {a.height} x {a.width}" for a in archives),
            fix="ingest them at one --size, or pretrain on one of them",
        )
    if rows < batch_size:
        raise UsageError(
            f"a batch of {batch_size} needs as many images, and there are {rows}",
            where=", ".join(str(a.path) for a in archives),
            fix=f"lower batch_size (batch_size={max(rows // 4, 2)}), or check `where`",
        )
    return rows


class Feed:
    """Normalised batches of one or several archives of the same image size.

    What does not fit into memory is read by a thread, which is a batch ahead of the training.

    Pixels pass through float16 whether they are preloaded or read again each epoch (its rounding, at most 2^-11 of
    the value, is far below speckle): a run does not depend on how much memory was free.

    Parameters
    ----------
    archives : sequence of Archive
        Rows are counted through them in order.
    preprocessing : Preprocessing
        Only `normalise` is used: views are cut from whole imagettes.
    batch_size : int
    seed : int
        Of the shuffle.
    device : torch.device
        Where batches, and preloaded pixels, live.
    free : int, optional
        Bytes of memory to reckon with; measured where not given.

    Attributes
    ----------
    kept : int64 [n] or None
        The rows that batches are drawn from, rising; None draws from all.

    Raises
    ------
    UsageError
        As `check_images`.
    """

    def __init__(
        self,
        archives: Sequence[Archive],
        preprocessing: Preprocessing,
        batch_size: int,
        seed: int,
        device: torch.device,
        free: int | None = None,
    ) -> None:
        self.archives = archives
        self.preprocessing = preprocessing
        self.device = device
        self.starts = np.cumsum([0, *(len(a) for a in archives)])
        self.rows = check_images(archives, batch_size)
        sizes = [size for a in archives for size in a.shard_sizes]
        # The order must not depend on the machine either: a fixed budget, and not the memory that happens to be free.
        window = window_for(sizes, max(a.schema.row_bytes for a in archives), _WINDOW_BYTES)
        self.batch_size = batch_size
        self.kept: NDArray[np.int64] | None = None
        self._shuffle_of = partial(BlockShuffle, batch_size=batch_size, seed=seed, window=window, drop_last=True)
        self._shards = np.cumsum([0, *sizes])
        self.shuffle = self._shuffle_of(sizes)
        self.batches_per_epoch = self.shuffle.batches_per_epoch

        height, width = archives[0].height, archives[0].width
        needed = 2 * self.rows * len(preprocessing.channels) * height * width
        free = free_memory(device) if free is None else free
        self.preloaded: Tensor | None = None
        # One thread reads ahead; a monitor may read the same archives meanwhile.
        self._reader = ThreadPoolExecutor(1, "read ahead")
        self._ahead: tuple[int, int, Future[Tensor]] | None = None
        if needed <= PRELOAD * free:
            log.info("preloading %d images, normalised, as %.0f MB of float16 on %s", self.rows, needed / 1e6, device)
            self.preloaded = self._preload()
        else:
            log.info(
                "reading batches from disk: %d images are %.0f MB of float16, more than a quarter of the free %.0f MB",
                *(self.rows, needed / 1e6, free / 1e6),
            )

    def batch(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Batch ``index`` of ``epoch``: normalised images float32 ``[B, C, H, W]`` and their rows, int64 ``[B]``.

        Of several processes each has its own part, and B is the batch size over their number.
        """
        rows = self._own_rows(epoch, index)
        if self.preloaded is not None:
            return self.images(rows), torch.from_numpy(rows)
        if self._ahead is not None and self._ahead[:2] == (epoch, index):
            reading = self._ahead[2]
        else:
            reading = self._reader.submit(self._read, rows)
        epoch, index = (epoch, index + 1) if index + 1 < self.batches_per_epoch else (epoch + 1, 0)
        self._ahead = epoch, index, self._reader.submit(self._read, self._own_rows(epoch, index))
        return reading.result().to(self.device).float(), torch.from_numpy(rows)

    def _own_rows(self, epoch: int, index: int) -> NDArray[np.int64]:
        return distributed.own(self._rows_at(self.shuffle.batch(epoch, index)))

    def images(self, rows: NDArray[np.int64]) -> Tensor:
        """Normalised images float32 ``[n, C, H, W]`` of these rows, on the device."""
        if self.preloaded is None:
            return self._reader.submit(self._read, rows).result().to(self.device).float()
        return self.preloaded[torch.from_numpy(rows).to(self.device)].float()

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Draw from these rows alone, int64 ``[n]``, rising: an epoch is now once through them, shuffled as before."""
        self.kept, self._ahead = rows, None
        # The shuffle counts what is left of each shard; its positions are places in `kept`.
        self.shuffle = self._shuffle_of(np.diff(np.searchsorted(rows, self._shards)).tolist())
        self.batches_per_epoch = self.shuffle.batches_per_epoch

    def drawn(self, epoch: int, batches: int) -> NDArray[np.int64]:
        """The rows of the first ``batches`` batches of an epoch, int64 ``[batches * B]``."""
        return self._rows_at(self.shuffle.order(epoch)[: batches * self.batch_size])

    def _rows_at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return places if self.kept is None else self.kept[places]

    def _read(self, rows: NDArray[np.int64]) -> Tensor:
        """float16 ``[n, C, H, W]``, normalised, in the order of ``rows``."""
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        out: Tensor | None = None
        for i in np.unique(owner):
            mine = np.flatnonzero(owner == i)
            archive, local = self.archives[i], rows[mine] - self.starts[i]
            normalised = self.preprocessing.normalise(
                archive.read(local), archive.channels, archive.catalogue.iloc[local]
            ).half()
            if out is None:
                out = torch.empty(len(rows), *normalised.shape[1:], dtype=torch.float16)
            out[torch.from_numpy(mine)] = normalised
        assert out is not None
        return out

    def _preload(self) -> Tensor:
        parts = []
        with progress.bar("preload", total=self.rows, unit="images") as bar:
            for start in range(0, self.rows, _CHUNK):
                chunk = np.arange(start, min(start + _CHUNK, self.rows), dtype=np.int64)
                parts.append(self._read(chunk).to(self.device))
                bar.advance(len(chunk))
        return torch.cat(parts)


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take on ``device``: of the machine, or of its container where that is less."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 4 << 30
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # no container, or one without a limit ("max")
    return max(free, 0) // distributed.processes_here()
