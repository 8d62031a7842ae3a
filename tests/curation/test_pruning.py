"""What the rules choose: closed forms where the clusters are known, and what each number does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from groundswell.curation.pruning import RuleSettings, choose, default_counts, evenness
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


def test_more_clusters_than_vectors_are_refused(vectors: NDArray[np.float32]) -> None:
    with pytest.raises(UsageError, match="20 vectors cannot be divided into 30"):
        choose(vectors[:20], RuleSettings(rule="balanced", clusters=(30,)), 0)
