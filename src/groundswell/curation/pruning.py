"""Which fraction of an archive to train on, from vectors of all of it: three rules.

``oceansar1``   Kerdreux et al. 2025 (arXiv 2504.06962): hierarchical k-means on a random part of the archive, a
                fraction rho of the whole, and a parameter eta between images near the centroid of their cluster and
                images far from it. Seen in the abstract and in reviews; shares, levels and the use of eta are ours.
``oceansar2``   arXiv 2601.07392 prunes what is redundant and raises what is rare, more cheaply; how is not published.
                Ours: one flat k-means with a tenth of the clusters, and a draw without replacement in which an image
                weighs ``size of its cluster ** -power``.
``balanced``    Vo et al. 2024 (arXiv 2405.15613): hierarchical k-means with resampling, shares evened out from the top
                down, images drawn evenly inside a leaf.

All work on vectors of unit length. A draw is always from the whole archive, so that what was dropped can return.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from groundswell import rng
from groundswell.config import Settings
from groundswell.curation.hierarchy import Hierarchy, check_counts, hierarchy, quotas, ranks
from groundswell.curation.kmeans import Points, Rows, Vectors
from groundswell.distributed import Heed

Rule = Literal["none", "oceansar1", "oceansar2", "balanced"]

_LEAF_ROWS = 50
"""Clustered vectors to a leaf where the counts are ours: fewer leave its centroid to chance."""
_MOST_LEAVES = 10_000


class RuleSettings(Settings):
    """A rule and its numbers. None of the published systems gives theirs: all defaults are ours."""

    rule: Rule = "none"
    keep: float = Field(default=0.3, gt=0, le=1)
    """Fraction of the archive that is kept (rho of OceanSAR-1)."""
    diversity: float = Field(default=0.5, ge=0, le=1)
    """oceansar1: fraction of the images of a cluster that are its farthest, the rest being its nearest (eta)."""
    power: float = Field(default=1.0, ge=0)
    """oceansar2: how strongly large clusters are held back; 0 draws evenly, 1 makes clusters alike."""
    resamples: int = Field(default=10, ge=0)
    """balanced: how often each level is clustered once more."""
    clusters: tuple[int, ...] | None = None
    """Of each level, leaves first; None takes a fiftieth of the clustered vectors, at most 10,000, and two levels of a
    tenth each above."""
    sample: int = Field(default=1_000_000, ge=1)
    """Vectors that the clusters are found on, where there are more."""
    iterations: int = Field(default=20, ge=1)
    """Of k-means, at most."""


@dataclass(frozen=True)
class Choice:
    """What a rule has chosen.

    Attributes
    ----------
    rows : int64 [n]
        Rising.
    entropy, kept_entropy : float
        Entropy of the histogram of clusters over its largest possible value, of all rows and of those kept. By its own
        clusters every rule looks balanced: judge it by labels or by another encoder.
    """

    rows: Rows
    entropy: float
    kept_entropy: float


def choose(
    vectors: Vectors,
    settings: RuleSettings,
    seed: int,
    device: torch.device | str = "cpu",
    heed: Heed = lambda: None,
) -> Choice:
    """Choose ``keep`` of the rows of float16 or float32 ``[N, D]`` vectors, in memory or memory-mapped.

    The same vectors, settings and seed give the same rows. ``heed``, which may stop the work by an error, is called
    between blocks of rows.

    Raises
    ------
    UsageError
        When the clusters asked for do not fit the number of rows.
    DataError
        When a number is not finite.
    """
    points = Points(vectors, unit=True, heed=heed)
    budget = budget_of(len(points), settings)
    if settings.rule == "none":
        return Choice(np.arange(len(points), dtype=np.int64), 1.0, 1.0)
    tree = hierarchy(
        points,
        levels_of(len(points), settings),
        seed,
        sample=settings.sample,
        resamples=settings.resamples if settings.rule == "balanced" else 0,
        iterations=settings.iterations,
        device=device,
    )
    labels = tree.leaves.labels
    if settings.rule == "oceansar2":
        rows = _weighted(tree.leaves.sizes[labels].astype(np.float64) ** -settings.power, budget, seed)
    elif settings.rule == "oceansar1":
        rows = _near_and_far(tree, quotas(tree, budget, seed), settings.diversity)
    else:
        place, _ = ranks(labels, rng.permutation(seed, len(points), "leaf").numpy())
        rows = np.flatnonzero(place < quotas(tree, budget, seed)[labels])
    kept = np.bincount(labels[rows], minlength=len(tree.leaves.sizes))
    return Choice(rows.astype(np.int64), evenness(tree.leaves.sizes), evenness(kept.astype(np.int64)))


def budget_of(rows: int, settings: RuleSettings) -> int:
    """How many of ``rows`` are kept, at least one."""
    return rows if settings.rule == "none" else max(1, round(settings.keep * rows))


def levels_of(rows: int, settings: RuleSettings) -> tuple[int, ...]:
    """How many clusters each level has, leaves first; oceansar2 takes the second level of those given alone.

    Raises
    ------
    UsageError
        When they do not fit the number of rows.
    """
    clustered = min(rows, settings.sample)
    counts = settings.clusters or default_counts(clustered)
    if settings.rule == "oceansar2":
        counts = counts[1:2] or counts
    check_counts(counts, clustered)
    return counts


def default_counts(rows: int) -> tuple[int, ...]:
    """Clusters of up to three levels for the clustering of so many vectors, leaves first."""
    leaves = min(max(rows // _LEAF_ROWS, 1), _MOST_LEAVES)
    return tuple(count for count in (leaves, leaves // 10, leaves // 100) if count == leaves or count > 1)


def evenness(sizes: Rows) -> float:
    """Entropy of int64 ``[K]`` sizes over log K: 1 where all are alike, 0 where one has all (and for K = 1: 1)."""
    share = sizes[sizes > 0] / sizes.sum()
    return float(-(share * np.log(share)).sum() / np.log(len(sizes))) if len(sizes) > 1 else 1.0


def _near_and_far(tree: Hierarchy, quota: Rows, diversity: float) -> Rows:
    """The rows of each leaf's quota that are farthest from its centroid, a fraction ``diversity``, and the nearest."""
    labels = tree.leaves.labels
    place, size = ranks(labels, tree.leaves.distances)
    far = np.floor(diversity * quota + 0.5).astype(np.int64)
    return np.flatnonzero((place < (quota - far)[labels]) | (place >= size - far[labels]))


def _weighted(weights: NDArray[np.float64], budget: int, seed: int) -> Rows:
    """A draw without replacement: the smallest of ``-log(u) / weight`` (Efraimidis and Spirakis 2006)."""
    random = rng.generator(rng.keys(seed, [0], "draw"))
    waiting = -torch.rand(len(weights), generator=random, dtype=torch.float64).clamp_min(1e-300).log().numpy() / weights
    return np.sort(np.argsort(waiting, kind="stable")[:budget])
