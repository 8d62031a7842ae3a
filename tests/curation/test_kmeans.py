"""k-means against scikit-learn, closed forms, and brute force; on disk as in memory, whatever the blocks."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from groundswell.curation import kmeans as module
from groundswell.curation.kmeans import Points, assign, kmeans
from groundswell.errors import DataError, UsageError

Floats = NDArray[np.float32]


def blobs(count: int = 600, width: int = 16, seed: int = 0, overlap: float = 1.0) -> Floats:
    """float32 ``[count, width]`` around seven centres."""
    random = np.random.default_rng(seed)
    centres = 2.0 * random.normal(size=(7, width))
    return (centres[random.integers(0, 7, count)] + overlap * random.normal(size=(count, width))).astype(np.float32)


@pytest.mark.parametrize("overlap", [0.3, 3.0])
@pytest.mark.parametrize("count", [3, 7, 20])
def test_lloyd_is_that_of_scikit_learn_from_the_same_start(count: int, overlap: float) -> None:
    x = blobs(overlap=overlap)
    start = x[np.random.default_rng(1).choice(len(x), count, replace=False)]
    peer = KMeans(count, init=start, n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(x.astype(np.float64))
    ours = kmeans(Points(x), count, 0, init=torch.from_numpy(start), iterations=300, tolerance=0)
    # Both stop where no label changes, so only rounding is between them: float32 centroids (6e-8), distances squared.
    assert ours.inertia == pytest.approx(peer.inertia_, rel=1e-6)
    np.testing.assert_array_equal(ours.labels, peer.labels_)
    np.testing.assert_allclose(ours.centroids.numpy(), peer.cluster_centers_, rtol=0, atol=1e-5)


def test_drawn_starts_come_as_near_as_those_of_scikit_learn() -> None:
    x = blobs(2000, overlap=0.3)
    peer = min(KMeans(7, n_init=1, random_state=seed).fit(x).inertia_ for seed in range(5))
    ours = [kmeans(Points(x), 7, seed).inertia for seed in range(5)]
    assert min(ours) == pytest.approx(peer, rel=0.01)
    even = [kmeans(Points(x), 7, seed, init="random").inertia for seed in range(5)]
    assert np.mean(ours) <= np.mean(even)  # what k-means++ is for


def test_one_cluster_is_the_mean_and_its_inertia_the_scatter() -> None:
    x = blobs()
    found = kmeans(Points(x), 1, 0)
    np.testing.assert_allclose(found.centroids[0], x.mean(axis=0, dtype=np.float64), atol=1e-6)
    assert found.inertia == pytest.approx(((x - x.mean(axis=0, dtype=np.float64)) ** 2).sum(), rel=1e-6)


def test_one_cluster_of_unit_vectors_is_their_direction() -> None:
    x = blobs()
    unit = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float64)
    total = unit.sum(axis=0)
    found = kmeans(Points(x, unit=True), 1, 0)
    np.testing.assert_allclose(found.centroids[0], total / np.linalg.norm(total), atol=1e-6)
    # sum |u - c|^2 = 2 n - 2 |sum u|
    assert found.inertia == pytest.approx(2 * len(x) - 2 * np.linalg.norm(total), rel=1e-6)


def test_as_many_clusters_as_points_leave_nothing_over() -> None:
    x = blobs(30)
    found = kmeans(Points(x), 30, 0)
    assert found.inertia == 0.0
    assert sorted(found.labels.tolist()) == list(range(30))


def test_spherical_centroids_have_length_one_and_labels_the_largest_cosine() -> None:
    x = blobs(overlap=2.0)
    found = kmeans(Points(x, unit=True), 9, 3)
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1.0, atol=1e-6)
    cosine = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ found.centroids.numpy().T
    np.testing.assert_array_equal(found.labels, cosine.argmax(axis=1))
    np.testing.assert_allclose(found.distances, 2 - 2 * cosine.max(axis=1), atol=1e-5)


@pytest.mark.parametrize("unit", [False, True])
def test_what_is_found_does_not_depend_on_blocks_or_on_where_the_vectors_lie(
    unit: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = blobs(1500, overlap=3.0).astype(np.float16)
    rows = np.sort(np.random.default_rng(2).choice(1500, 1100, replace=False))
    np.save(tmp_path / "x.npy", x)
    points = Points(x[rows].astype(np.float32), unit=unit)
    whole = kmeans(points, 40, 5)
    assert whole.inertia < kmeans(points, 40, 5, iterations=1).inertia  # the sums over blocks tell, too
    monkeypatch.setattr(module, "_SCORES", 40 * 67)
    cut = kmeans(Points(np.load(tmp_path / "x.npy", mmap_mode="r"), rows, unit), 40, 5)
    for one, other in ((whole.labels, cut.labels), (whole.distances, cut.distances)):
        np.testing.assert_array_equal(one, other)
    assert torch.equal(whole.centroids, cut.centroids)


@given(st.integers(0, 10**6), st.integers(1, 40), st.floats(0.0, 1e4))
@settings(max_examples=40, deadline=None)
def test_labels_are_the_nearest_in_float64_even_where_float32_cannot_tell(seed: int, count: int, away: float) -> None:
    """Far from the origin |c|^2 - 2 x.c loses its digits; twins of centroids tie exactly, and the first one wins."""
    random = np.random.default_rng(seed)
    x = (away + random.normal(size=(50, 5))).astype(np.float32)
    centroids = (away + random.normal(size=(count, 5))).astype(np.float32)
    centroids = np.concatenate([centroids, centroids[::-1], centroids + np.float32(1e-3)])
    squares = ((x[:, None].astype(np.float64) - centroids[None].astype(np.float64)) ** 2).sum(axis=2)
    found = assign(Points(x), torch.from_numpy(centroids))
    np.testing.assert_array_equal(found.labels, squares.argmin(axis=1))
    np.testing.assert_allclose(found.distances, squares.min(axis=1), rtol=1e-6)  # rounded once, to float32


def test_inertia_falls_from_pass_to_pass() -> None:
    x = Points(blobs(overlap=3.0))
    start = x.take(np.arange(12))
    inertia = [kmeans(x, 12, 0, init=start, iterations=i, tolerance=0).inertia for i in range(1, 8)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(inertia))
    assert inertia[-1] < inertia[0]


def test_a_cluster_that_nothing_is_near_starts_anew_at_the_farthest_point() -> None:
    x = np.array([[0.0], [0.1], [0.2], [5.0], [9.0]], dtype=np.float32)
    found = kmeans(Points(x), 3, 0, init=torch.tensor([[0.1], [100.0], [200.0]]), tolerance=0)
    assert found.sizes.min() > 0
    assert sorted(found.centroids[:, 0].tolist()) == pytest.approx([0.1, 5.0, 9.0])


def test_a_cluster_of_one_is_not_emptied_to_fill_another() -> None:
    """9 lies farthest from its centroid, and is alone there: one of the three near 0.1 moves to the empty cluster."""
    x = np.array([[0.0], [0.1], [0.2], [9.0]], dtype=np.float32)
    found = kmeans(Points(x), 3, 0, init=torch.tensor([[0.1], [8.0], [100.0]]), iterations=1, tolerance=0)
    assert sorted(found.sizes.tolist()) == [1, 1, 2]
    assert found.centroids[1, 0] == 9.0


def test_it_stops_after_the_first_move_that_lowers_the_inertia_by_less_than_the_tolerance() -> None:
    x = blobs(overlap=3.0)
    start = torch.from_numpy(x[:12].copy())
    series = [kmeans(Points(x), 12, 0, init=start, iterations=i, tolerance=0).inertia for i in range(12)]
    gains = [(before - after) / before for before, after in itertools.pairwise(series)]
    for tolerance in (0.05, 0.01, 0.003):
        passes: list[int] = []
        points = Points(x, heed=lambda passes=passes: passes.append(1))  # a block is a pass here
        found = kmeans(points, 12, 0, init=start, tolerance=tolerance)
        moves = next(i for i, gain in enumerate(gains, start=1) if gain < tolerance)
        assert (len(passes), found.inertia) == (moves + 1, series[moves])


def test_fewer_distinct_vectors_than_clusters_are_said_and_not_split(caplog: pytest.LogCaptureFixture) -> None:
    x = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    found = kmeans(Points(x), 8, 0)
    assert found.inertia == 0.0
    assert sorted(found.sizes[found.sizes > 0].tolist()) == [10, 10, 10]
    assert "5 of 8 clusters are empty" in caplog.text


def test_same_seed_same_clusters_other_seed_others() -> None:
    x = Points(blobs(overlap=3.0))
    first, again, other = (kmeans(x, 30, seed, iterations=3) for seed in (1, 1, 2))
    assert torch.equal(first.centroids, again.centroids)
    assert not torch.equal(first.centroids, other.centroids)


def test_bad_input_is_named() -> None:
    with pytest.raises(UsageError, match="5 vectors cannot be divided into 6"):
        kmeans(Points(blobs(5)), 6, 0)
    with pytest.raises(DataError, match="not finite"):
        kmeans(Points(np.array([[1.0, np.nan]], dtype=np.float32)), 1, 0)
    with pytest.raises(UsageError, match="differ in width"):
        assign(Points(blobs(5)), torch.zeros(2, 3))
