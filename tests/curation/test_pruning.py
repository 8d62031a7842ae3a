"""What the rules choose: closed forms where the clusters are known, and what each number does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from groundswell import rng
from groundswell.curation.hierarchy import hierarchy, quotas
from groundswell.curation.kmeans import Points
from groundswell.curation.pruning import RuleSettings, choose, default_counts, evenness, levels_of
from groundswell.errors import UsageError

SIZES = [5000, 3000, 1000, 100, 20]
CLASSES = np.repeat(np.arange(5), SIZES)
RULES = ("oceansar1", "oceansar2", "balanced")


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    """float32 ``[9120, 12]``: five directions, far apart, of very different frequency."""
    random = np.random.default_rng(0)
    return (np.eye(12)[CLASSES] + 0.02 * random.normal(size=(len(CLASSES), 12))).astype(np.float32)


@pytest.mark.parametrize("rule", RULES)
def test_the_choice_is_a_sorted_set_of_the_asked_size_and_a_function_of_the_seed(
    rule: str, vectors: NDArray[np.float32], tmp_path: Path
) -> None:
    settings = RuleSettings(rule=rule, keep=0.2, clusters=(20, 3), resamples=1)
    first = choose(vectors, settings, 1)
    assert len(first.rows) == round(0.2 * len(vectors))
    assert (np.diff(first.rows) > 0).all()
    assert first.rows[0] >= 0
    assert first.rows[-1] < len(vectors)
    np.save(tmp_path / "v.npy", vectors)
    again = choose(np.load(tmp_path / "v.npy", mmap_mode="r"), settings, 1)
    np.testing.assert_array_equal(first.rows, again.rows)
    assert (first.entropy, first.kept_entropy) == (again.entropy, again.kept_entropy)
    assert not np.array_equal(first.rows, choose(vectors, settings, 2).rows)


@pytest.mark.parametrize("rule", ["oceansar1", "balanced"])
def test_shares_of_known_clusters_are_even_up_to_what_they_have(rule: str, vectors: NDArray[np.float32]) -> None:
    """912 over five: 20 and 100 give all they have, the others (912 - 120) / 3 = 264 each."""
    choice = choose(vectors, RuleSettings(rule=rule, keep=0.1, clusters=(5,)), 0)
    np.testing.assert_array_equal(np.bincount(CLASSES[choice.rows]), [264, 264, 264, 100, 20])
    share = np.array([264, 264, 264, 100, 20]) / 912
    assert choice.kept_entropy == pytest.approx(-(share * np.log(share)).sum() / np.log(5))
    assert choice.entropy == pytest.approx(evenness(np.array(SIZES)))


def test_diversity_goes_from_the_nearest_to_the_farthest(vectors: NDArray[np.float32]) -> None:
    """One cluster: its centroid is the direction of the sum of the unit vectors."""
    some = vectors[:500]
    unit = some / np.linalg.norm(some, axis=1, keepdims=True)
    total = unit.sum(axis=0, dtype=np.float64)
    nearest_first = np.argsort(-(unit @ (total / np.linalg.norm(total))), kind="stable")
    for diversity, expected in (
        (0.0, nearest_first[:100]),
        (1.0, nearest_first[400:]),
        (0.25, np.concatenate([nearest_first[:75], nearest_first[475:]])),
    ):
        settings = RuleSettings(rule="oceansar1", keep=0.2, clusters=(1,), diversity=diversity)
        np.testing.assert_array_equal(choose(some, settings, 0).rows, np.sort(expected))


def test_power_goes_from_an_even_draw_to_clusters_alike(vectors: NDArray[np.float32]) -> None:
    """Of 5000 and 3000 rows 200 are drawn: 125 and 75 expected by number, 100 each by weight; 4 s.d. are 28."""
    pair = vectors[:8000]
    for power, expected in ((0.0, 125), (1.0, 100)):
        settings = RuleSettings(rule="oceansar2", keep=0.025, clusters=(20, 2), power=power)
        drawn = [int((choose(pair, settings, seed).rows < 5000).sum()) for seed in range(6)]
        assert np.mean(drawn) == pytest.approx(expected, abs=28 / 6**0.5)


def by_hand(vectors: NDArray[np.float32], settings: RuleSettings, seed: int) -> list[int]:
    """The rows that a rule is to choose, leaf by leaf, from a tree that is given every setting."""
    budget = round(settings.keep * len(vectors))
    counts = settings.clusters or ()
    if settings.rule == "oceansar2":
        counts = counts[1:]
    again = settings.resamples if settings.rule == "balanced" else 0
    how = {"sample": settings.sample, "resamples": again, "iterations": settings.iterations}
    tree = hierarchy(Points(vectors, unit=True), counts, seed, **how)  # type: ignore[arg-type]
    labels = tree.leaves.labels
    members = [np.flatnonzero(labels == leaf) for leaf in range(counts[0])]
    if settings.rule == "oceansar2":
        u = torch.rand(len(vectors), generator=rng.generator(rng.keys(seed, [0], "draw")), dtype=torch.float64).numpy()
        size = np.array([len(members[leaf]) for leaf in labels])
        # Algorithm A of Efraimidis and Spirakis: the largest u^(1/weight); here its logarithm.
        return sorted(np.argsort(np.log(u) * size**settings.power)[::-1][:budget].tolist())
    chosen: list[int] = []
    drawn = rng.permutation(seed, len(vectors), "leaf").numpy()
    for rows, share in zip(members, quotas(tree, budget, seed).tolist(), strict=True):
        score = drawn[rows] if settings.rule == "balanced" else tree.leaves.distances[rows]
        ordered = rows[np.argsort(score, kind="stable")].tolist()
        far = int(settings.diversity * share + 0.5) if settings.rule == "oceansar1" else 0
        chosen += ordered[: share - far] + ordered[len(ordered) - far :]
    return sorted(chosen)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "settings",
    [
        {"rule": "oceansar1", "keep": 0.3, "clusters": (20, 3), "diversity": 0.3},
        {"rule": "oceansar1", "keep": 0.3, "clusters": (20,), "iterations": 1},
        {"rule": "oceansar2", "keep": 0.1, "clusters": (200, 20), "power": 0.7, "sample": 300, "resamples": 2},
        {"rule": "balanced", "keep": 0.3, "clusters": (20, 3), "resamples": 2},
        {"rule": "balanced", "keep": 0.3, "clusters": (12,), "resamples": 0, "sample": 100},
    ],
    ids=str,
)
def test_every_number_reaches_the_rule(vectors: NDArray[np.float32], settings: dict[str, Any], seed: int) -> None:
    some = vectors[::7]
    assert 0.3 * len(some) % 1 > 0.5  # the budget is rounded, not cut
    given = RuleSettings.model_validate(settings)
    assert choose(some, given, seed).rows.tolist() == by_hand(some, given, seed)


def test_a_fraction_of_less_than_an_image_keeps_one(vectors: NDArray[np.float32]) -> None:
    for rule in RULES:
        assert len(choose(vectors[:100], RuleSettings(rule=rule, keep=1e-6, clusters=(3,)), 0).rows) == 1


def test_the_length_of_a_vector_says_nothing(vectors: NDArray[np.float32]) -> None:
    some = vectors[::7]
    longer = some * np.float32(2.0) ** np.random.default_rng(3).integers(-3, 4, (len(some), 1))  # exact in binary
    for rule in RULES:
        settings = RuleSettings(rule=rule, keep=0.2, clusters=(20, 3), resamples=1)
        np.testing.assert_array_equal(choose(some, settings, 0).rows, choose(longer, settings, 0).rows)


def test_the_caller_is_asked_between_blocks_and_can_stop_the_choice(vectors: NDArray[np.float32]) -> None:
    calls: list[int] = []

    def heed() -> None:
        calls.append(1)
        if len(calls) == 7:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        choose(vectors, RuleSettings(rule="balanced", clusters=(20, 3)), 0, heed=heed)
    assert len(calls) == 7


def test_every_rule_raises_the_rare_class(vectors: NDArray[np.float32]) -> None:
    """Twenty of 9120 rows are 0.2 %; a draw of a fifth without a rule would hold four of them, 3 s.d. more is ten."""
    for rule in RULES:
        choice = choose(vectors, RuleSettings(rule=rule, keep=0.2, clusters=(60, 6), resamples=1), 0)
        assert (CLASSES[choice.rows] == 4).sum() > 10, rule


def test_no_rule_keeps_all_and_keeping_all_is_no_rule(vectors: NDArray[np.float32]) -> None:
    some = vectors[::10]
    for settings in (RuleSettings(), *(RuleSettings(rule=rule, keep=1.0, resamples=0) for rule in RULES)):
        np.testing.assert_array_equal(choose(some, settings, 0).rows, np.arange(len(some)))


def test_evenness_is_entropy_over_its_largest_value() -> None:
    assert evenness(np.array([7, 7, 7, 7])) == pytest.approx(1.0)
    assert evenness(np.array([9, 0, 0])) == pytest.approx(0.0)
    assert evenness(np.array([2, 1, 1])) == pytest.approx(1.5 * np.log(2) / np.log(3))


def test_default_levels_fall_tenfold_and_hold_fifty_vectors_a_leaf() -> None:
    assert default_counts(10**6) == (10_000, 1000, 100)
    assert default_counts(20_000) == (400, 40, 4)
    assert default_counts(1000) == (20, 2)
    assert default_counts(36) == (1,)


def test_clusters_are_counted_by_the_vectors_that_they_are_found_on() -> None:
    assert levels_of(10**6, RuleSettings(rule="balanced", sample=1000)) == default_counts(1000)
    assert levels_of(10**6, RuleSettings(rule="oceansar2", sample=1000)) == default_counts(1000)[1:2]
    with pytest.raises(UsageError, match="20 vectors cannot be divided into 30"):
        levels_of(10**6, RuleSettings(rule="balanced", clusters=(30,), sample=20))


def test_more_clusters_than_vectors_are_refused(vectors: NDArray[np.float32]) -> None:
    with pytest.raises(UsageError, match="20 vectors cannot be divided into 30"):
        choose(vectors[:20], RuleSettings(rule="balanced", clusters=(30,)), 0)
