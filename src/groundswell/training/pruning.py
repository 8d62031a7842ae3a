"""Training on part of the archive: at its moments the encoder looks at every image, a rule chooses, the feed follows.

Between two moments nothing changes, so a checkpoint holds the chosen rows and how many sets were drawn; the vectors, on
disk while a set is chosen, are not kept. A draw costs one forward pass over the archive, and the clustering.
"""

from __future__ import annotations

import hashlib
import logging
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from groundswell import distributed, files, progress, rng
from groundswell.curation.pruning import Choice, budget_of, choose, levels_of
from groundswell.distributed import Heed
from groundswell.encoder.encoder import Encoder
from groundswell.errors import ModelError, UsageError
from groundswell.training.data import Feed
from groundswell.training.recipe import PruningSettings

log = logging.getLogger(__name__)

_BATCH = 256  # images a process embeds at a time


def check_rule(settings: PruningSettings, rows: int, batch_size: int) -> None:
    """Raise `UsageError` where less than a batch would be kept of so many images, or there are more clusters."""
    if settings.rule != "none":
        levels_of(rows, settings)  # now, and not at the first draw
    kept = budget_of(rows, settings)
    if kept < batch_size:
        raise UsageError(
            f"pruning would keep {kept} images, less than a batch of {batch_size}",
            where=f"pruning.keep={settings.keep} of {rows} images",
            fix=f"set pruning.keep={min(1.0, 4 * batch_size / rows):.2g} or more, or lower batch_size",
        )


class Pruner:
    """Keeps the feed on the images that a rule has chosen.

    Parameters
    ----------
    settings : PruningSettings
    feed : Feed
    seed : int
    scratch : Path
        A folder for the vectors while a set is chosen.

    Attributes
    ----------
    drawn : int
        Moments that are past.
    figures : dict
        Of the last draw, for the log: ``kept`` (images), ``kept_set`` (digest of their rows), ``kept_overlap`` (share
        of them that the set before held, too), ``cluster_entropy`` and ``kept_entropy`` (of the rule's own clusters),
        ``seen`` (share of the archive that had been trained on when the set was drawn).

    Raises
    ------
    UsageError
        As `check_rule`.
    """

    def __init__(self, settings: PruningSettings, feed: Feed, seed: int, scratch: Path) -> None:
        self.settings, self.feed, self.seed, self.scratch = settings, feed, seed, scratch
        self.drawn = 0
        self.figures: dict[str, Any] = {}
        self._since = 0  # the epoch in which the present set came
        self._seen = np.zeros(feed.rows, dtype=np.bool_)
        check_rule(settings, feed.rows, feed.batch_size)

    def due(self, progress: float) -> bool:
        """Whether the next moment has come."""
        return self._moments(progress) > self.drawn

    def _moments(self, progress: float) -> int:
        """Moments up to and including a progress in [0, 1]."""
        if self.settings.rule == "none" or progress < self.settings.warmup - 1e-9:
            return 0
        return 1 + int((progress - self.settings.warmup) / self.settings.every + 1e-9)

    def draw(self, encoder: Encoder, progress: float, epoch: int, index: int, heed: Heed = lambda: None) -> None:
        """Choose anew from the whole archive; ``epoch`` and ``index`` say what the feed would have given next.

        Of several processes each embeds its part; the first one chooses for all. ``heed``, which may stop the run by
        an error, is called all the while, and nothing has changed until all is chosen.
        """
        start = time.monotonic()
        path = self.scratch / "vectors.npy"
        embed(self.feed, encoder, path, heed)
        moment = self._moments(progress)
        embedded = time.monotonic()
        chosen = np.zeros(self.feed.rows, dtype=np.uint8)
        entropies = [0.0, 0.0]
        try:
            choice = distributed.by_first(lambda heed: self._choose(path, moment, encoder.device, heed), heed)
        finally:
            if distributed.is_first():
                path.unlink()
        self.drawn = moment
        self._note_seen(epoch, index)
        if choice is not None:
            chosen[choice.rows] = 1
            entropies = [choice.entropy, choice.kept_entropy]
        rows = np.flatnonzero(distributed.total(torch.from_numpy(chosen)).numpy()).astype(np.int64)
        before = self.feed.kept
        overlap = 1.0 if before is None else float(np.isin(rows, before, assume_unique=True).mean())
        self.feed.keep(rows)
        self._since = epoch + (index > 0)
        self.figures = {
            "kept": len(rows),
            "kept_set": digest(rows)[:12],
            "kept_overlap": overlap,
            "cluster_entropy": distributed.first(entropies[0]),
            "kept_entropy": distributed.first(entropies[1]),
            "seen": float(self._seen.mean()),
        }
        log.info(
            "%s keeps %d of %d images (%s), %.1f %% of them as before; entropy of clusters %.3f of all, %.3f of the "
            "kept; %.1f %% of the images seen so far; %.1f s to embed, %.1f s to choose",
            *(self.settings.rule, len(rows), self.feed.rows, self.figures["kept_set"], 100 * overlap),
            *(self.figures["cluster_entropy"], self.figures["kept_entropy"], 100 * self.figures["seen"]),
            *(embedded - start, time.monotonic() - embedded),
        )

    def _choose(self, path: Path, moment: int, device: torch.device, heed: Heed) -> Choice:
        seed = int(rng.keys(self.seed, [moment], "pruning")[0])
        return choose(np.load(path, mmap_mode="r"), self.settings, seed, device, heed)

    def _note_seen(self, epoch: int, index: int) -> None:
        for past in range(self._since, epoch):
            self._seen[self.feed.drawn(past, self.feed.batches_per_epoch)] = True
        self._seen[self.feed.drawn(epoch, index)] = True

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold; row sets are packed, eight rows to a byte."""
        kept = np.zeros(self.feed.rows, dtype=np.bool_)
        kept[slice(None) if self.feed.kept is None else self.feed.kept] = True
        return {
            "drawn": self.drawn,
            "since": self._since,
            "kept": None if self.feed.kept is None else torch.from_numpy(np.packbits(kept)),
            "hash": None if self.feed.kept is None else digest(self.feed.kept),
            "seen": torch.from_numpy(np.packbits(self._seen)),
            "figures": self.figures,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave.

        Raises
        ------
        ModelError
            When the kept rows do not have the hash that was recorded.
        """
        self.drawn, self._since, self.figures = state["drawn"], state["since"], state["figures"]
        self._seen = np.unpackbits(state["seen"].numpy(), count=self.feed.rows).astype(np.bool_)
        if state["kept"] is not None:
            rows = np.flatnonzero(np.unpackbits(state["kept"].numpy(), count=self.feed.rows)).astype(np.int64)
            if digest(rows) != state["hash"]:
                raise ModelError("the rows that a checkpoint keeps are not those that were drawn", where=state["hash"])
            self.feed.keep(rows)


def digest(rows: NDArray[np.int64]) -> str:
    """Hex SHA-256 of row numbers."""
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()


def embed(feed: Feed, encoder: Encoder, path: Path, heed: Heed = lambda: None) -> None:
    """Write unit vectors of every image of a feed, float16 ``[N, D]`` as .npy; the first process writes them.

    As the encoder sees images in use: without views, cut to its size.
    """
    header = {"descr": "<f2", "fortran_order": False, "shape": (feed.rows, encoder.dim)}
    step = _BATCH * distributed.world_size()
    writing = files.replacing(path) if distributed.is_first() else nullcontext()
    with progress.bar("embed for pruning", total=feed.rows, unit="images") as bar, writing as handle:
        if handle is not None:
            np.lib.format.write_array_header_1_0(handle, header)
        for start in range(0, feed.rows, step):
            heed()
            count = min(step, feed.rows - start)
            # Every process must bring as many to `gather`: past the end the last row stands in.
            rows = distributed.own(np.minimum(np.arange(start, start + _even(count)), feed.rows - 1))
            images = encoder.preprocessing.fit(feed.images(rows))
            vectors = distributed.gather(F.normalize(encoder.pooled(images)).half())
            if handle is not None:
                handle.write(vectors[:count].cpu().numpy().tobytes())
            bar.advance(count)


def _even(count: int) -> int:
    """The next multiple of the number of processes."""
    return -(-count // distributed.world_size()) * distributed.world_size()
