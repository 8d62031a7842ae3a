"""Clusters of clusters, and samples that are balanced from the top down (Vo et al. 2024, arXiv 2405.15613).

k-means puts most of its centroids where most of the points are. Clustering the centroids themselves, again and again,
and resampling inside a level (k-means once more on a few points near each centroid, a flatter set than the points),
brings the centroids closer to uniform over the space that the points cover. A sample that is shared out evenly over the
clusters of the top, and inside each over its children, then holds what is rare as well as what is common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from groundswell import rng
from groundswell.curation.kmeans import Clustering, Points, Rows, assign, kmeans
from groundswell.errors import UsageError


@dataclass(frozen=True)
class Hierarchy:
    """Leaves of points, clusters of leaves, clusters of these, and so on.

    Attributes
    ----------
    counts : tuple of int
        K_t, clusters of each level, leaves first.
    leaves : Clustering
        Of every point.
    parents : tuple of int32 [K_t]
        For each level but the last, from the leaves upwards: the cluster of the next level that each cluster is in.
    """

    counts: tuple[int, ...]
    leaves: Clustering
    parents: tuple[NDArray[np.int32], ...]

    def sizes(self, level: int) -> Rows:
        """int64 ``[K_t]``: points (not children) of each cluster of a level, 0 for the leaves."""
        sizes = self.leaves.sizes
        for parent, count in zip(self.parents[:level], self.counts[1:], strict=False):
            sizes = np.bincount(parent, weights=sizes, minlength=count).astype(np.int64)
        return sizes


def check_counts(counts: Sequence[int], rows: int) -> None:
    """Raise `UsageError` where so many points cannot be clustered into these counts, leaves first."""
    falling = all(below > above for below, above in pairwise(counts))
    if not counts or not falling or counts[-1] < 1 or counts[0] > rows:
        raise UsageError(
            f"{rows} vectors cannot be divided into {', '.join(map(str, counts))} clusters",
            where="clusters, leaves first",
            fix="leave them out, or give falling numbers, each level's fewer than what it divides",
        )


def hierarchy(
    points: Points,
    counts: Sequence[int],
    seed: int,
    *,
    sample: int | None = None,
    resamples: int = 0,
    iterations: int = 20,
    device: torch.device | str = "cpu",
) -> Hierarchy:
    """Cluster points, then their centroids, level by level.

    Parameters
    ----------
    points : Points
        N of width D. Where they are of unit length, so are the centroids of every level.
    counts : sequence of int
        Clusters of each level, leaves first, each fewer than the one before.
    seed : int
    sample : int, optional
        The leaves are found on so many of the points, drawn evenly; then every point goes to the nearest leaf.
    resamples : int
        How often each level is clustered once more, on the points nearest to its centroids: half the mean size of a
        cluster from each.
    iterations : int
        Of k-means.

    Raises
    ------
    UsageError
        When the counts do not fall, or there are fewer points than leaves.
    """
    check_counts(counts, len(points) if sample is None else min(sample, len(points)))
    chosen = points
    if sample is not None and sample < len(points):
        rows = np.sort(rng.permutation(seed, len(points), "clustered").numpy()[:sample])
        chosen = replace(points, rows=rows if points.rows is None else points.rows[rows])
    one = partial(_level, seed=seed, resamples=resamples, iterations=iterations, device=device)
    found = one(chosen, counts[0], 0)
    leaves = found if chosen is points else assign(points, found.centroids, device)
    parents = []
    for level, count in enumerate(counts[1:], start=1):
        below = replace(points, vectors=found.centroids.numpy(), rows=None)
        found = one(below, count, level)
        parents.append(found.labels)
    return Hierarchy(tuple(counts), leaves, tuple(parents))


def _level(
    points: Points,
    count: int,
    level: int,
    *,
    seed: int,
    resamples: int,
    iterations: int,
    device: torch.device | str,
) -> Clustering:
    """The clusters of one level, resampled."""
    found = kmeans(points, count, _seed(seed, level, 0), iterations=iterations, device=device)
    nearest = max(1, len(points) // (2 * count))
    for again in range(1, resamples + 1):
        rank, _ = ranks(found.labels, found.distances)
        near = np.flatnonzero(rank < nearest)
        if len(near) < count:  # fewer distinct points than clusters: nothing to flatten
            break
        flat = replace(points, rows=near if points.rows is None else points.rows[near])
        again_found = kmeans(flat, count, _seed(seed, level, again), iterations=iterations, device=device)
        found = assign(points, again_found.centroids, device)
    return found


def _seed(seed: int, *parts: int) -> int:
    return int(rng.keys(seed, [0], "level", *parts)[0])


def ranks(labels: NDArray[np.int32], score: NDArray[np.floating]) -> tuple[Rows, Rows]:
    """The place of each row in its cluster by rising score, from 0, and the size of that cluster: int64 ``[N]`` each.

    Equal scores rank in the order of the rows.
    """
    order = np.lexsort((score, labels))
    sizes = np.bincount(labels)
    starts = np.cumsum(sizes) - sizes
    place = np.empty(len(labels), dtype=np.int64)
    place[order] = np.arange(len(labels)) - starts[labels[order]]
    return place, sizes[labels].astype(np.int64)


def quotas(tree: Hierarchy, budget: int, seed: int) -> Rows:
    """int64 ``[K]``: how many points each leaf gives to a sample of ``budget``, shared evenly from the top down.

    Raises
    ------
    UsageError
        When there are not so many points.
    """
    levels = len(tree.parents)
    share = shared_out(tree.sizes(levels), budget, seed, levels, 0)
    for level in reversed(range(levels)):
        parent, sizes = tree.parents[level], tree.sizes(level)
        below = np.zeros(len(sizes), dtype=np.int64)
        for cluster in np.flatnonzero(share):
            children = np.flatnonzero(parent == cluster)
            below[children] = shared_out(sizes[children], int(share[cluster]), seed, level, int(cluster))
        share = below
    return share


def shared_out(sizes: Rows, budget: int, seed: int, *parts: int) -> Rows:
    """Share ``budget`` as evenly as int64 ``sizes`` allow: ``min(x, size)`` each, and one more here and there.

    x is the largest whole number whose shares do not exceed the budget; what is left goes, one each, to clusters that
    have more than x, drawn with the seed and ``parts``.

    Raises
    ------
    UsageError
        When the sizes do not add up to the budget.
    """
    total = int(sizes.sum())
    if not 0 <= budget <= total:
        raise UsageError(f"a sample of {budget} cannot be drawn from {total} points")
    if budget == total:
        return sizes.copy()
    ordered = np.sort(sizes)
    # Below position i all give what they have; x more than ordered[i - 1] is affordable to the rest.
    given = np.concatenate([[0], np.cumsum(ordered)])[:-1]
    left = len(ordered) - np.arange(len(ordered))
    affordable = (budget - given) // left
    x = int(affordable[np.argmax(affordable < ordered)])
    share = np.minimum(sizes, x)
    above = np.flatnonzero(sizes > x)
    lucky = rng.permutation(seed, len(above), "remainder", *parts).numpy()[: budget - int(share.sum())]
    share[above[lucky]] += 1
    return share
