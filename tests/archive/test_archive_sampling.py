"""The block shuffle covers every row once, in an order that is a function of seed, epoch and index alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundswell.archive.sampling import BlockShuffle, window_for
from groundswell.errors import UsageError

SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=8)
SEEDS = st.integers(0, 2**63 - 1)


@given(SIZES, st.integers(1, 17), SEEDS, st.integers(0, 5), st.one_of(st.none(), st.integers(1, 9)))
def test_each_row_once_an_epoch(sizes: list[int], batch: int, seed: int, epoch: int, window: int | None) -> None:
    shuffle = BlockShuffle(sizes, batch, seed, window)
    batches = [shuffle.batch(epoch, index) for index in range(shuffle.batches_per_epoch)]
    assert sorted(np.concatenate(batches).tolist()) == list(range(sum(sizes)))
    assert {len(rows) for rows in batches[:-1]} <= {batch}


@settings(max_examples=25)
@given(SIZES, SEEDS, st.integers(1, 4))
def test_a_batch_depends_on_its_position_alone(sizes: list[int], seed: int, window: int) -> None:
    shuffle = BlockShuffle(sizes, 4, seed, window)
    whole = [[shuffle.batch(e, i).tolist() for i in range(shuffle.batches_per_epoch)] for e in range(3)]
    # Asked anew, backwards, and by another sampler: the same rows, so that two integers restore the position.
    other = BlockShuffle(sizes, 4, seed, window)
    for epoch in (2, 0, 1):
        for index in reversed(range(shuffle.batches_per_epoch)):
            assert other.batch(epoch, index).tolist() == whole[epoch][index]
    last = shuffle.batches_per_epoch - 1
    assert BlockShuffle(sizes, 4, seed, window).batch(1, last).tolist() == whole[1][last]


def test_rows_of_a_window_come_from_its_shards() -> None:
    sizes = [10] * 12
    order = BlockShuffle(sizes, 5, seed=3, window=3).order(0)
    for block in order.reshape(4, 30):
        assert len(set((block // 10).tolist())) == 3


def test_epochs_and_seeds_differ_and_mix() -> None:
    sizes = [50] * 10
    orders = [BlockShuffle(sizes, 5, seed, 2).order(epoch) for seed in (0, 1) for epoch in (0, 1)]
    for i, first in enumerate(orders):
        for second in orders[:i]:
            # Two random permutations of 500 share one place on average (Poisson): 12 has probability 1e-10.
            assert (first == second).sum() < 12
    # The whole archive mixed: the rank correlation of 500 independent places has deviation 1 / sqrt(499).
    order = BlockShuffle(sizes, 5, 0).order(0)
    assert abs(np.corrcoef(order, np.arange(500))[0, 1]) < 5 / np.sqrt(499)


def test_last_short_batch_can_be_left_out() -> None:
    assert BlockShuffle([7, 4], 4, 0).batches_per_epoch == 3
    shuffle = BlockShuffle([7, 4], 4, 0, drop_last=True)
    assert shuffle.batches_per_epoch == 2
    with pytest.raises(IndexError, match="batch 2"):
        shuffle.batch(0, 2)
    with pytest.raises(UsageError, match="not even one batch"):
        BlockShuffle([3], 4, 0, drop_last=True)


def test_window_holds_what_memory_allows() -> None:
    assert window_for([100] * 10, row_bytes=10, memory_bytes=10_000) is None
    assert window_for([100] * 10, row_bytes=10, memory_bytes=9_999) == 9
    assert window_for([100] * 10, row_bytes=10, memory_bytes=5) == 1
