"""Shares against brute force, levels against what was planted, resampling against the law of quantisation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from groundswell.curation import hierarchy as module
from groundswell.curation.hierarchy import Hierarchy, hierarchy, quotas, ranks, shared_out
from groundswell.curation.kmeans import Clustering, Points
from groundswell.errors import UsageError


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.floats(0, 1), st.integers(0, 99))
@settings(deadline=None)
def test_shares_are_as_even_as_the_sizes_allow(sizes: list[int], fraction: float, seed: int) -> None:
    total = sum(sizes)
    budget = round(fraction * total)
    share = shared_out(np.array(sizes, dtype=np.int64), budget, seed)
    # Brute force: one to each that has any left, round by round, until the budget is gone.
    rounds = np.zeros(len(sizes), dtype=np.int64)
    while rounds.sum() < budget:
        open_ = np.flatnonzero(rounds < sizes)
        rounds[open_[: budget - rounds.sum()]] += 1
    assert share.sum() == budget
    assert (share <= sizes).all()
    np.testing.assert_array_equal(np.sort(share), np.sort(rounds))
    # Only the last round may fall to others than in the brute force, and only where there is more to give.
    full = max(x for x in range(32) if np.minimum(sizes, x).sum() <= budget)
    assert (share >= np.minimum(sizes, full)).all()


def test_who_gets_what_is_left_over_is_drawn_by_seed() -> None:
    drawn = {tuple(shared_out(np.full(10, 5), 3, seed)) for seed in range(30)}
    assert len(drawn) > 20
    assert tuple(shared_out(np.full(10, 5), 3, 7)) == tuple(shared_out(np.full(10, 5), 3, 7))
    assert len({tuple(shared_out(np.full(10, 5), 3, 7, 1, cluster)) for cluster in range(30)}) > 20
    with pytest.raises(UsageError, match="51 cannot be drawn from 50"):
        shared_out(np.full(10, 5), 51, 0)


def planted(leaf_sizes: list[int], parents: list[int]) -> Hierarchy:
    labels = np.repeat(np.arange(len(leaf_sizes)), leaf_sizes).astype(np.int32)
    leaves = Clustering(np.zeros((len(leaf_sizes), 1)), labels, np.zeros(len(labels), np.float32))  # type: ignore[arg-type]
    counts = (len(leaf_sizes), max(parents) + 1)
    return Hierarchy(counts, leaves, (np.array(parents, dtype=np.int32),))


def test_quotas_share_at_the_top_first_by_points_and_not_by_children() -> None:
    tree = planted([100, 1, 50, 3, 2, 40], [0, 0, 1, 1, 1, 2])
    np.testing.assert_array_equal(tree.sizes(1), [101, 55, 40])
    # 30 of 196: ten to each of the three; 9 + 1; 5 + 3 + 2; 10.
    np.testing.assert_array_equal(quotas(tree, 30, 0), [9, 1, 5, 3, 2, 10])
    # Where one leaf is alone in its cluster, it gets more than its flat share of 196 / 6.
    assert quotas(tree, 120, 0).tolist() == [39, 1, 35, 3, 2, 40]
    np.testing.assert_array_equal(quotas(tree, 196, 0), [100, 1, 50, 3, 2, 40])


def test_levels_find_groups_of_groups_however_rare() -> None:
    """Three far groups of four near blobs each; the last group has one point in 60."""
    random = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], [3000, 2900, 100])
    blob = random.integers(0, 4, 6000)
    centre = np.eye(3)[group] * 100 + np.eye(4)[blob][:, :3] * 10
    x = (centre + 0.1 * random.normal(size=(6000, 3))).astype(np.float32)
    tree = hierarchy(Points(x), (12, 3), 1, iterations=50)
    top = tree.parents[0][tree.leaves.labels]
    assert len({(g, t) for g, t in zip(group.tolist(), top.tolist(), strict=True)}) == 3
    assert len(set(zip(group.tolist(), blob.tolist(), tree.leaves.labels.tolist(), strict=True))) == 12
    share = quotas(tree, 240, 0)
    np.testing.assert_array_equal(np.bincount(tree.parents[0], weights=share), [80, 80, 80])


def test_resampling_flattens_what_the_law_of_quantisation_tilts() -> None:
    """On a line the density of centroids goes as the cube root of that of the points (Panter and Dite 1951).

    Points of density 2x on [0, 1] give centroids of density x^(1/3), whose mean is 4/7; uniform ones have 1/2, and one
    perfect resampling would give x^(1/9), 10/19. Lloyd stops in a local optimum: over five seeds the mean of 20
    centroids has a standard error of 0.01.
    """
    x = Points(np.sqrt((np.arange(2000) + 0.5) / 2000).astype(np.float32)[:, None])
    means = {
        resamples: np.mean(
            [hierarchy(x, (20,), seed, resamples=resamples).leaves.centroids.mean() for seed in range(5)]
        )
        for resamples in (0, 10)
    }
    assert means[0] == pytest.approx(4 / 7, abs=0.02)
    assert means[10] == pytest.approx(1 / 2, abs=0.03)


def test_leaves_found_on_a_sample_take_in_every_point() -> None:
    random = np.random.default_rng(3)
    x = random.normal(size=(2000, 8)).astype(np.float32)
    tree = hierarchy(Points(x), (20, 4), 0, sample=400)
    assert tree.leaves.labels.shape == (2000,)
    centroids = tree.leaves.centroids.numpy()
    np.testing.assert_array_equal(
        tree.leaves.labels, ((x[:, None].astype(np.float64) - centroids[None]) ** 2).sum(2).argmin(1)
    )
    assert tree.sizes(1).sum() == 2000


def blobs(*centres: float, each: int = 200) -> NDArray[np.float32]:
    """float32 ``[len(centres) * each, 2]``: narrow blobs one after the other."""
    noise = np.random.default_rng(0).normal(size=(len(centres) * each, 2))
    return (np.repeat(np.array(centres), each)[:, None] + 0.1 * noise).astype(np.float32)


@pytest.mark.parametrize(("sample", "resamples"), [(100, 0), (None, 2), (100, 2)])
def test_leaves_are_found_on_points_drawn_evenly_of_the_rows_alone(sample: int | None, resamples: int) -> None:
    """The first blob is none of the rows; of the other two, one after the other, each gets a leaf."""
    x = blobs(500.0, 0.0, 10.0)
    tree = hierarchy(Points(x, rows=np.arange(200, 600)), (2,), 0, sample=sample, resamples=resamples)
    assert sorted(tree.leaves.centroids[:, 0].round().tolist()) == [0.0, 10.0]
    assert sorted(tree.leaves.sizes.tolist()) == [200, 200]


def test_every_level_is_clustered_again_on_half_a_mean_cluster_around_each_centroid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[Points, int, int, int]] = []
    plain = module.kmeans

    def spied(points: Points, count: int, seed: int, *, iterations: int, device: str) -> Clustering:
        calls.append((points, count, seed, iterations))
        return plain(points, count, seed, iterations=iterations, device=device)

    monkeypatch.setattr(module, "kmeans", spied)
    x = np.random.default_rng(1).normal(size=(900, 4)).astype(np.float32)
    hierarchy(Points(x, unit=True), (30, 5), 7, resamples=2, iterations=4)
    assert [count for _, count, _, _ in calls] == [30] * 3 + [5] * 3
    assert {iterations for _, _, _, iterations in calls} == {4}
    assert len({seed for _, _, seed, _ in calls}) == 6
    assert all(points.unit for points, _, _, _ in calls)
    # Of 900 in 30 the 15 nearest to each centroid, of 30 in 5 the 3: as many, where every cluster has them.
    sizes = [len(points) for points, _, _, _ in calls]
    assert (sizes[0], sizes[3]) == (900, 30)
    first = plain(Points(x, unit=True), 30, calls[0][2], iterations=4)
    assert sizes[1] == np.minimum(first.sizes, 15).sum()
    near = calls[1][0].rows
    assert near is not None
    for leaf in range(30):
        own = np.flatnonzero(first.labels == leaf)
        expected = own[np.argsort(first.distances[own], kind="stable")[:15]]
        assert set(near[np.isin(near, own)].tolist()) == set(expected.tolist())


def test_ranks_count_within_clusters() -> None:
    place, size = ranks(np.array([1, 0, 1, 1, 0], dtype=np.int32), np.array([5.0, 2.0, 1.0, 5.0, 1.0]))
    np.testing.assert_array_equal(place, [1, 1, 0, 2, 0])
    np.testing.assert_array_equal(size, [3, 2, 3, 3, 2])


@pytest.mark.parametrize("counts", [(), (10, 10), (5, 20), (10, 0), (51, 5)])
def test_levels_that_do_not_fall_are_refused(counts: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="cannot be divided"):
        hierarchy(Points(np.ones((50, 2), np.float32)), counts, 0)
