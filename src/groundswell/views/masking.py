"""Which patches a student does not see: blocks for iBOT, single patches for MAE. Draws come from keys alone.

True is masked, patches are counted row by row.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundswell import rng
from groundswell.errors import UsageError

MIN_PATCHES = 4
MIN_ASPECT = 0.3
TRIES = 10  # of one block before a mask is left as it is
_CHUNK = 32  # tries drawn at a time


def block_masks(keys: Tensor, grid: tuple[int, int], ratio: tuple[float, float], probability: float) -> Tensor:
    """Masks of overlapping blocks, as DINOv2 draws them for iBOT.

    Of the B images ``int(B * probability)`` are masked, in a random order; the i-th of these n masks
    ``int(patches * r)`` patches, r uniform in the i-th of n equal parts of ``ratio``, so that the ratios of a batch
    cover the whole range. Blocks are added until that many are masked: at most 10 tries for each, area uniform from 4
    patches to what is still missing and at most half the grid, aspect log-uniform from 0.3 to 1 / 0.3; a block is
    taken where it is smaller than the grid both ways and covers at least one new patch, and at most as many as are
    missing and half the grid. Where no try fits, the mask ends early, so a mask may have fewer patches than its target,
    never more.

    Parameters
    ----------
    keys : int64 [B]
        One for each view. Where a mask lies is a function of its key and of its target; which images are masked, and
        their targets, depend on the set of keys in the batch and not on their order.
    grid : (rows, columns)
        Of patches.
    ratio : (low, high)
        Of patches that are masked in a masked image, from 0 to 1.
    probability : float
        Of an image to be masked, from 0 to 1.

    Returns
    -------
    bool [B, rows * columns], on the device of the keys

    Raises
    ------
    UsageError
        When the grid is empty, or ratio or probability lie outside 0 to 1.

    Source: Oquab et al. 2023 (arXiv 2304.07193); facebookresearch/dinov2@b8931f7, data/masking.py and data/collate.py,
    whose block sampler is that of BEiT (Bao et al. 2022, arXiv 2106.08254, algorithm 1). Its cap of half the grid
    is set in train/train.py.
    """
    height, width = grid
    if height < 1 or width < 1:
        raise UsageError("a mask needs at least one patch", where=f"grid {height} x {width}")
    if not 0 <= ratio[0] <= ratio[1] <= 1 or not 0 <= probability <= 1:
        raise UsageError(
            "the masked ratio must be (low, high) with 0 <= low <= high <= 1, the probability from 0 to 1",
            where=f"ratio {ratio}, probability {probability}",
        )
    device, keys = keys.device, keys.cpu()
    missing = _targets(keys, height * width, ratio, probability).numpy()
    # Some tens of rounds of small arrays, where a call of numpy costs a third of one of torch.
    masks, tries = np.zeros((len(keys), height, width), bool), np.zeros(len(keys), int)
    row, column = np.arange(height)[:, None], np.arange(width)
    for step in range(TRIES * height * width):
        active = np.flatnonzero((missing > 0) & (tries < TRIES))
        if not len(active):
            break
        if step % _CHUNK == 0:
            drawn = rng.uniform(keys, f"block masks/{step // _CHUNK}", 4 * _CHUNK).double().view(-1, _CHUNK, 4).numpy()
        u = drawn[active, step % _CHUNK].T
        most = missing[active]
        cap = np.minimum(most, height * width // 2)
        area = MIN_PATCHES + (cap - MIN_PATCHES) * u[0]
        aspect = np.exp(math.log(MIN_ASPECT) * (1 - 2 * u[1]))
        h, w = np.sqrt(area * aspect).round(), np.sqrt(area / aspect).round()
        top, left = np.floor(u[2] * (height - h + 1)), np.floor(u[3] * (width - w + 1))
        block = _between(row, top, top + h) & _between(column, left, left + w)
        before = masks[active]
        new = (block & ~before).sum((1, 2))
        taken = (h < height) & (w < width) & (new > 0) & (new <= cap)
        masks[active] = before | (block & taken[:, None, None])
        missing[active] = most - np.where(taken, new, 0)
        tries[active] = np.where(taken, 0, tries[active] + 1)
    return torch.from_numpy(masks).flatten(1).to(device)


def _between(place: NDArray[np.int64], low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which places lie in each of n ranges, their upper ends left out: bool, n times the shape of ``place``."""
    return (place >= low[:, None, None]) & (place < high[:, None, None])


def _targets(keys: Tensor, patches: int, ratio: tuple[float, float], probability: float) -> Tensor:
    """int64 ``[B]``: how many patches of each image to mask; 0 for those left whole."""
    count = int(len(keys) * probability)
    targets = torch.zeros(len(keys), dtype=torch.int64)
    if count:
        low, high = ratio
        # Ties of the 24-bit draws fall to the key, so that the order of the batch never decides.
        by_key = torch.argsort(keys)
        chosen = by_key[torch.argsort(rng.uniform(keys[by_key], "block masks/order")[:, 0], stable=True)[:count]]
        within = rng.uniform(keys[chosen], "block masks/ratio")[:, 0].double()
        share = low + (high - low) * (torch.arange(count) + within) / count
        targets[chosen] = (patches * share).long()
    return targets


def random_masks(keys: Tensor, tokens: int, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Masks of single patches for MAE: of every image, exactly ``int(tokens * (1 - ratio))`` patches are kept.

    Parameters
    ----------
    keys : int64 [B]
    tokens : int
        Patches of an image (no class token).
    ratio : float
        Of patches that are masked, between 0 and 1.

    Returns
    -------
    keep : int64 [B, n_keep]
        The patches that the encoder sees, in the random order in which it sees them.
    mask : bool [B, tokens]
        True where masked.
    restore : int64 [B, tokens]
        Position of each patch in ``[kept, masked]``: ``gather(1, restore)`` brings these back into the image's order.

    All on the device of the keys.

    Raises
    ------
    UsageError
        When nothing would be kept, or nothing masked.

    Source: He et al. 2022 (arXiv 2111.06377); facebookresearch/mae@efb2a80, models_mae.py, ``random_masking``.
    """
    kept = kept_patches(tokens, ratio)
    shuffle = torch.argsort(rng.uniform(keys, "random masks", tokens), dim=1, stable=True)
    restore = torch.argsort(shuffle, dim=1)
    return shuffle[:, :kept], restore >= kept, restore


def kept_patches(tokens: int, ratio: float) -> int:
    """How many patches `random_masks` keeps; `UsageError` where that is none or all of them."""
    kept = int(tokens * (1 - ratio))
    if not 0 < kept < tokens:
        raise UsageError(
            f"masking {ratio:g} of {tokens} patches keeps {kept}",
            why="the encoder needs at least one patch to see, and the loss one that it does not",
            fix="choose a ratio between 0 and 1 that leaves both, or smaller patches",
        )
    return kept
