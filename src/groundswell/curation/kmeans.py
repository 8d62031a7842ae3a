"""k-means by Lloyd's algorithm over vectors that need not fit in memory: blocks of rows pass by, centroids stay.

A pass over n rows of width D with K centroids is one product of 2 n K D operations; in memory are the centroids, their
sums in float64, one block, and 8 bytes a row. The product in float32 finds the candidates; where two centroids are
closer to each other than its rounding, float64 decides pair by pair. So labels, sums and centroids do not depend on how
the rows were cut into blocks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundswell import progress, rng
from groundswell.device import float32_matmul
from groundswell.distributed import Heed
from groundswell.errors import DataError, UsageError

log = logging.getLogger(__name__)

Vectors = NDArray[np.floating]
Rows = NDArray[np.int64]
Init = Literal["k-means++", "random"]

_SCORES = 1 << 22
"""Scores in one block: 16 MiB, which the allocator hands out again block after block."""
_BLOCK_ROWS = 2048
_SLACK = 8.0 * 2.0**-24
"""Rounding of a float32 product of vectors of width D, over sqrt(D) and their lengths: eight standard deviations."""
_SEED_ROWS = 1 << 16
"""Among so many rows k-means++ draws, or 64 a centroid: what is rare must be among them."""
_MOST_DRAWN = 1000


@dataclass(frozen=True)
class Points:
    """Rows of an array, in memory or memory-mapped, read block by block.

    Attributes
    ----------
    vectors : float16 or float32 [N, D]
    rows : int64 [n], optional
        Which of them, in this order; None takes all.
    unit : bool
        Divide each row by its length (a row of zeros stays one).
    heed : callable
        Called before each block is read; it may stop the work by an error.
    """

    vectors: Vectors
    rows: Rows | None = None
    unit: bool = False
    heed: Heed = lambda: None

    def __len__(self) -> int:
        return len(self.vectors) if self.rows is None else len(self.rows)

    @property
    def width(self) -> int:
        """D."""
        return int(self.vectors.shape[1])

    def take(self, which: slice | Rows) -> Tensor:
        """float32 ``[n, D]`` of some of these rows, counted from the first of them.

        Raises
        ------
        DataError
            When a number is not finite.
        """
        chosen = self.vectors[which if self.rows is None else self.rows[which]]
        x = torch.from_numpy(np.array(chosen, dtype=np.float32))
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        if not bool(torch.isfinite(length).all()):
            raise DataError("vectors to cluster hold numbers that are not finite", fix="check what made them")
        return x / length.clamp_min(torch.finfo(torch.float32).tiny) if self.unit else x

    def blocks(self, count: int) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order, in blocks that suit ``count`` centroids."""
        step = max(64, min(_BLOCK_ROWS, _SCORES // count))
        for start in range(0, len(self), step):
            self.heed()
            some = slice(start, min(start + step, len(self)))
            yield some, self.take(some)


@dataclass(frozen=True)
class Clustering:
    """Centroids, and the nearest of them to each row.

    Attributes
    ----------
    centroids : float32 [K, D]
    labels : int32 [n]
    distances : float32 [n]
        Squared Euclidean distance to the own centroid.
    """

    centroids: Tensor
    labels: NDArray[np.int32]
    distances: NDArray[np.float32]

    @property
    def sizes(self) -> Rows:
        """int64 ``[K]``: rows of each cluster."""
        return np.bincount(self.labels, minlength=len(self.centroids)).astype(np.int64)

    @property
    def inertia(self) -> float:
        """Sum of the squared distances."""
        return float(self.distances.sum(dtype=np.float64))


def assign(points: Points, centroids: Tensor, device: torch.device | str = "cpu") -> Clustering:
    """The nearest of ``centroids``, float32 [K, D], to each point; of equally near ones the first."""
    return _read(points, centroids, device, None)


def kmeans(
    points: Points,
    count: int,
    seed: int,
    *,
    init: Init | Tensor | None = None,
    iterations: int = 50,
    tolerance: float = 1e-4,
    device: torch.device | str = "cpu",
) -> Clustering:
    """Lloyd's algorithm (Lloyd 1982, "Least squares quantization in PCM").

    With points of unit length the centroids are brought to unit length too (spherical k-means; Dhillon and Modha
    2001): the squared distance is then 2 - 2 cos. A cluster that has lost all its points starts anew at the point that
    lies farthest from its own centroid, as in scikit-learn.

    Parameters
    ----------
    points : Points
        n of width D.
    count : int
        K.
    seed : int
    init : "k-means++", "random", or float32 [K, D]
        Where the centroids start: drawn with the squared distance to those already drawn (Arthur and Vassilvitskii
        2007), among 65,536 of the points where there are more; at points drawn evenly; or here. Where nothing is said
        the first for up to 1,000 clusters: beyond, its K passes one after the other cost more than all that follow.
    iterations : int
        At most this many moves of the centroids.
    tolerance : float
        Stop where a move has lowered the inertia by less than this fraction; 0 goes on until no label changes.
    device : torch.device or str
        Where the products are made; sums are made on the CPU, in the order of the rows.

    Returns
    -------
    Clustering
        Labels and distances belong to its centroids.

    Raises
    ------
    UsageError
        When there are fewer points than clusters.
    DataError
        When a number is not finite.
    """
    if not 1 <= count <= len(points):
        raise UsageError(
            f"{len(points)} vectors cannot be divided into {count} clusters", fix="ask for fewer clusters, at least one"
        )
    if init is None:
        init = "k-means++" if count <= _MOST_DRAWN else "random"
    centroids = init.float() if isinstance(init, Tensor) else _start(points, count, seed, init)
    with progress.bar("k-means", total=iterations + 1, unit="passes") as bar:
        sums = _Sums.zero(centroids)
        found = _read(points, centroids, device, sums)
        bar.advance()
        for _ in range(iterations):
            refilled = _refill(points, found, sums)
            before, centroids = found, sums.means(centroids, points.unit)
            sums = _Sums.zero(centroids)
            found = _read(points, centroids, device, sums)
            bar.advance()
            settled = np.array_equal(before.labels, found.labels)
            if not refilled and (settled or before.inertia - found.inertia < tolerance * before.inertia):
                break
    empty = int((found.sizes == 0).sum())
    if empty:
        log.warning("%d of %d clusters are empty: there are fewer distinct vectors than clusters", empty, count)
    return found


@dataclass
class _Sums:
    """Sums of the points of each cluster, float64 [K, D], and their number, int64 [K]."""

    total: Tensor
    count: Tensor

    @classmethod
    def zero(cls, centroids: Tensor) -> _Sums:
        return cls(torch.zeros(centroids.shape, dtype=torch.float64), torch.zeros(len(centroids), dtype=torch.int64))

    def add(self, labels: Tensor, x: Tensor) -> None:
        """Add float64 points in their order: on a CPU `index_add_` takes them one after the other."""
        self.total.index_add_(0, labels, x)
        self.count.index_add_(0, labels, torch.ones_like(labels))

    def means(self, before: Tensor, unit: bool) -> Tensor:
        """The new centroids; one without points stays where it was."""
        mean = self.total / self.count.clamp_min(1)[:, None]
        if unit:
            length = torch.linalg.vector_norm(mean, dim=1, keepdim=True)
            mean = torch.where(length > 0, mean / length.clamp_min(1e-300), before.double())
        return torch.where(self.count[:, None] > 0, mean, before.double()).float()


def _read(points: Points, centroids: Tensor, device: torch.device | str, sums: _Sums | None) -> Clustering:
    """Assign every point, and add it to the sums of its cluster."""
    if centroids.shape[1] != points.width:
        raise UsageError("vectors and centroids differ in width", why=f"{points.width} and {centroids.shape[1]}")
    labels = np.empty(len(points), dtype=np.int32)
    distances = np.empty(len(points), dtype=np.float32)
    there = centroids.to(device)
    double = centroids.double()
    squares = double.square().sum(1)
    longest = float(squares.max().sqrt())
    squares = squares.float().to(device)
    for some, x in points.blocks(len(centroids)):
        slack = _SLACK * points.width**0.5 * longest * (torch.linalg.vector_norm(x, dim=1) + longest)
        with float32_matmul(there.device, "highest"):  # the slack is float32's, not TF32's
            scores = torch.addmm(squares, x.to(device), there.T, alpha=-2)
        limit = scores.amin(1) + slack.to(device)
        close = (scores <= limit[:, None]).flatten()
        # NumPy's is several times faster than torch's on a CPU.
        candidates = close.nonzero()[:, 0].cpu().numpy() if close.is_cuda else np.flatnonzero(close.numpy())
        row, column = np.divmod(candidates, len(centroids))
        x = x.double()
        label = torch.from_numpy(column if len(row) == len(x) else _decide(x, double, row, column))
        distance = (x - double[label]).square().sum(1)
        labels[some], distances[some] = label.numpy(), distance.numpy()
        if sums is not None:
            sums.add(label, x)
    return Clustering(centroids, labels, distances)


def _decide(x: Tensor, centroids: Tensor, row: Rows, column: Rows) -> Rows:
    """int64 ``[B]``: of the candidates (row, column), sorted by row, the nearest to each row; of equals the first."""
    several = np.bincount(row, minlength=len(x)) > 1
    label = np.empty(len(x), dtype=np.int64)
    single = ~several[row]
    label[row[single]] = column[single]
    row, column = row[~single], column[~single]
    distance = np.empty(len(row))
    step = max(1, _SCORES // x.shape[1])
    for start in range(0, len(row), step):
        some = slice(start, start + step)
        apart = x[torch.from_numpy(row[some])] - centroids[torch.from_numpy(column[some])]
        distance[some] = apart.square().sum(1).numpy()
    order = np.lexsort((column, distance, row))
    first = order[np.diff(row[order], prepend=-1) > 0]
    label[row[first]] = column[first]
    return label


def _refill(points: Points, found: Clustering, sums: _Sums) -> int:
    """Move the farthest points, one each, into the clusters that have none; how many."""
    empty = torch.nonzero(sums.count == 0)[:, 0].tolist()
    if not empty:
        return 0
    farthest = np.lexsort((np.arange(len(points)), -found.distances))
    moved = 0
    for point in farthest:
        old = int(found.labels[point])
        if moved == len(empty) or found.distances[point] <= 0:
            break
        if sums.count[old] > 1:
            x = points.take(np.array([point], dtype=np.int64))[0].double()
            sums.total[old] -= x
            sums.total[empty[moved]] = x
            sums.count[old] -= 1
            sums.count[empty[moved]] = 1
            moved += 1
    return moved


def _start(points: Points, count: int, seed: int, init: Init) -> Tensor:
    """float32 ``[K, D]``: where the centroids start."""
    order = rng.permutation(seed, len(points), "k-means", "start").numpy()
    if init == "random":
        return points.take(np.sort(order[:count]))
    x = points.take(np.sort(order[: max(_SEED_ROWS, 64 * count)]))
    random = rng.generator(rng.keys(seed, [0], "k-means++"))
    chosen = int(torch.randint(len(x), (), generator=random))
    squares = x.square().sum(1)
    nearest = torch.full((len(x),), torch.inf)
    picked = [chosen]
    for u in torch.rand(count - 1, generator=random, dtype=torch.float64).tolist():
        nearest = torch.minimum(nearest, (squares - 2.0 * (x @ x[chosen]) + squares[chosen]).clamp_min(0.0))
        nearest[chosen] = 0.0
        edges = nearest.double().cumsum(0)
        chosen = min(int(torch.searchsorted(edges, u * edges[-1], right=True)), len(x) - 1)
        picked.append(chosen)
    return x[picked]
