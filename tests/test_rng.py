"""Random numbers are a pure function of their key, and they are what they claim to be."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from groundswell import rng

SEEDS = st.integers(-(2**63), 2**63 - 1)
N = 100_000


def splitmix64(state: int, count: int) -> list[int]:
    """The published generator in plain integers (Steele, Lea and Flood 2014; Vigna's splitmix64.c)."""
    words, mask = [], 2**64 - 1
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        words.append(z ^ (z >> 31))
    return words


def test_the_reference_generator_gives_its_published_values() -> None:
    # The first words from the seed 1234567 (Rosetta Code, "Pseudo-random numbers/Splitmix64").
    assert splitmix64(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(SEEDS)
def test_mix_is_the_finaliser_of_splitmix64(state: int) -> None:
    start = torch.tensor([state])
    word = rng.mix(start + rng._GOLDEN)
    assert int(word) % 2**64 == splitmix64(state % 2**64, 1)[0]


@given(SEEDS, st.lists(st.integers(0, 2**40), min_size=1, max_size=8), st.integers(0, 7))
def test_numbers_do_not_depend_on_the_batch(seed: int, indices: list[int], cut: int) -> None:
    whole = rng.keys(seed, indices, "view", 3)
    parts = torch.cat([rng.keys(seed, indices[:cut], "view", 3), rng.keys(seed, indices[cut:], "view", 3)])
    assert torch.equal(whole, parts)
    for draw in (rng.uniform, rng.normal):
        assert torch.equal(draw(whole, "crop", 5), torch.cat([draw(key[None], "crop", 5) for key in whole]))
    # Asking for more numbers does not change the first ones, so that an added parameter moves no other.
    assert torch.equal(rng.uniform(whole, "crop", 9)[:, :4], rng.uniform(whole, "crop", 4))


@given(SEEDS)
def test_seed_parts_index_and_stream_all_matter(seed: int) -> None:
    key = rng.keys(seed, [5], "view", 1)
    others = [
        rng.keys(seed ^ 1, [5], "view", 1),
        rng.keys(seed, [6], "view", 1),
        rng.keys(seed, [5], "view", 2),
        rng.keys(seed, [5], 1, "view"),
        rng.keys(seed, [5], "view"),
        rng.keys(seed, [5], "other", 1),
    ]
    assert len({int(k) for k in [key, *others]}) == 7
    assert not torch.equal(rng.uniform(key, "gain", 4), rng.uniform(key, "blur", 4))


def test_keys_of_a_large_archive_do_not_collide() -> None:
    # 64-bit keys of 2e6 rows collide with probability 2e12 / 2 / 2^64 = 1e-7.
    assert rng.keys(0, torch.arange(2_000_000)).unique().numel() == 2_000_000


def test_uniform_is_uniform_in_and_across_keys() -> None:
    across = rng.uniform(rng.keys(1, torch.arange(N)), "a")[:, 0].double().numpy()
    within = rng.uniform(rng.keys(1, [0]), "a", N)[0].double().numpy()
    for sample in (across, within):
        assert sample.min() >= 0.0
        assert sample.max() < 1.0
        assert stats.kstest(sample, "uniform").pvalue > 1e-4  # a fixed seed: fails for good or never
        # Neighbours are independent: the correlation of 1e5 pairs has deviation 1 / sqrt(1e5).
        assert abs(np.corrcoef(sample[:-1], sample[1:])[0, 1]) < 5 / math.sqrt(N)
    scaled = rng.uniform(rng.keys(1, torch.arange(1000)), "a", low=-3.0, high=5.0)
    assert scaled.min() >= -3.0
    assert scaled.max() < 5.0
    assert scaled.mean().item() == pytest.approx(1.0, abs=5 * 8 / math.sqrt(12 * 1000))


def test_streams_of_one_key_are_independent() -> None:
    key = rng.keys(7, torch.arange(N))
    a, b = (rng.uniform(key, name)[:, 0].double().numpy() for name in ("rotation", "gain"))
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(N)


def test_normal_is_normal() -> None:
    sample = rng.normal(rng.keys(2, torch.arange(N // 5)), "n", 5).double().numpy().ravel()
    assert stats.kstest(sample, "norm").pvalue > 1e-4
    assert sample.mean() == pytest.approx(0.0, abs=5 / math.sqrt(N))
    assert sample.std() == pytest.approx(1.0, abs=5 / math.sqrt(2 * N))
    # The two numbers of a Box-Muller pair (columns 0 and 3 of five) are uncorrelated, as are their squares.
    x = sample.reshape(-1, 5)
    for first, second in ((x[:, 0], x[:, 3]), (x[:, 0] ** 2, x[:, 3] ** 2)):
        assert abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(N / 5)


def test_integers_are_evenly_spread() -> None:
    sample = rng.integers(rng.keys(3, torch.arange(N)), "i", 7)[:, 0].numpy()
    assert sample.dtype == np.int64
    assert stats.chisquare(np.bincount(sample, minlength=7)).pvalue > 1e-4
    assert rng.integers(rng.keys(3, torch.arange(1000)), "i", 1).max() == 0


@given(SEEDS, st.integers(0, 200))
def test_permutation_is_one_and_repeats(seed: int, count: int) -> None:
    order = rng.permutation(seed, count, "rows", 4)
    assert sorted(order.tolist()) == list(range(count))
    assert torch.equal(order, rng.permutation(seed, count, "rows", 4))


def test_the_same_bits_in_a_fresh_process() -> None:
    code = (
        "from groundswell import rng; k = rng.keys(42, range(3), 'view', 1);"
        "print(k.tolist(), rng.uniform(k, 'crop', 2).tolist(), rng.permutation(9, 5, 'x').tolist(),"
        "rng.generator(int(k[0]), 'speckle').initial_seed())"
    )
    # Names enter by a checksum, never by Python's own hash, which each process salts anew.
    texts = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": salt}
        ).stdout
        for salt in ("1", "2")
    }
    assert len(texts) == 1
    assert str(rng.keys(42, range(3), "view", 1).tolist()) in texts.pop()
