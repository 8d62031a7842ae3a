"""Exact search against brute force in float64, whatever the blocks, with exclusions and ties."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from groundswell.errors import DataError
from groundswell.search.index import exclusion_codes, top_k


def brute_force(
    queries: np.ndarray, vectors: np.ndarray, k: int, excluded: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines one pair at a time in float64, rounded to float32, sorted by score and then by row."""
    scores = np.full((len(queries), k), np.nan, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    for q, query in enumerate(queries.astype(np.float64)):
        pairs = []
        for n, vector in enumerate(vectors.astype(np.float64)):
            length = np.sqrt((query * query).sum() * (vector * vector).sum())
            if excluded is None or not excluded[q, n]:
                pairs.append((-np.float32((query * vector).sum() / length if length else 0.0), n))
        for place, (score, n) in enumerate(sorted(pairs)[:k]):
            scores[q, place], rows[q, place] = -score, n
    return scores, rows


# Small whole numbers make ties and zero vectors common; the scale makes squares that underflow in float32.
def arrays(rows: st.SearchStrategy[int], scale: float) -> st.SearchStrategy[np.ndarray]:
    return rows.flatmap(
        lambda n: hnp.arrays(np.float32, (n, 3), elements=st.integers(-2, 2).map(lambda v: np.float32(v * scale)))
    )


@given(
    st.sampled_from([1.0, 1e-25, 1e15]).flatmap(
        lambda scale: st.tuples(arrays(st.integers(1, 3), scale), arrays(st.integers(0, 12), scale))
    ),
    st.integers(1, 6),
    st.integers(1, 13),
)
def test_ties_zeros_and_scales_agree_with_brute_force(both: tuple[np.ndarray, np.ndarray], k: int, block: int) -> None:
    queries, vectors = both
    scores, rows = top_k(queries, vectors, k, block=block)
    expected_scores, expected_rows = brute_force(queries, vectors, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("dimension", [8, 384, 2048])
def test_random_vectors_agree_with_brute_force(dimension: int) -> None:
    generator = np.random.default_rng(dimension)
    vectors = generator.normal(size=(700, dimension)).astype(np.float32)
    vectors[300:320] = vectors[100]  # duplicates
    vectors[400] = vectors[100] * np.float32(3.0)
    queries = np.concatenate([vectors[100:103], generator.normal(size=(5, dimension)).astype(np.float32)])
    scores, rows = top_k(queries, vectors, 25)
    expected_scores, expected_rows = brute_force(queries, vectors, 25)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-7)
    assert list(rows[0, :22]) == [100, *range(300, 320), 400]


def test_blocks_of_any_size_give_the_same_bits() -> None:
    generator = np.random.default_rng(1)
    vectors = (generator.normal(size=(1000, 64)) + 3.0).astype(np.float32)  # crowded, as collapsed embeddings are
    reference = top_k(vectors[:40], vectors, 10)
    for block in (1, 7, 64, 333, 5000):
        scores, rows = top_k(vectors[:40], vectors, 10, block=block)
        assert scores.tobytes() == reference[0].tobytes()
        assert rows.tobytes() == reference[1].tobytes()


def test_memory_mapped_and_streamed(tmp_path: Path) -> None:
    vectors = np.random.default_rng(2).normal(size=(500, 32)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    reference = top_k(vectors[:9], vectors, 6)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)

    def stream() -> Iterator[np.ndarray]:
        yield from np.array_split(vectors, 7)

    for other in (top_k(mapped[:9], mapped, 6, block=100), top_k(vectors[:9], stream(), 6)):
        assert np.array_equal(other[0], reference[0])
        assert np.array_equal(other[1], reference[1])


@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=2, max_size=9), st.integers(1, 5))
def test_exclusion_leaves_out_the_group_and_always_the_query(groups: list[str | None], k: int) -> None:
    vectors = np.random.default_rng(3).normal(size=(len(groups), 4)).astype(np.float32)
    frame = pd.DataFrame({"id": [f"i{n}" for n in range(len(groups))], "group": pd.Series(groups, dtype=object)})
    for column in ("id", "group"):
        codes = exclusion_codes(frame, column)
        same = np.array([[i == j or (column == "group" and a is not None and a == b) for j, b in enumerate(groups)]
                         for i, a in enumerate(groups)])  # fmt: skip
        scores, rows = top_k(vectors, vectors, k, exclude=(codes, codes), block=3)
        expected_scores, expected_rows = brute_force(vectors, vectors, k, same)
        np.testing.assert_array_equal(rows, expected_rows)
        np.testing.assert_array_equal(scores, expected_scores)


def test_nan_and_widths_are_refused() -> None:
    vectors = np.ones((5, 3), np.float32)
    vectors[3, 1] = np.nan
    with pytest.raises(DataError, match=r"vectors from row 2 hold[\s\S]*row 1"):
        top_k(np.ones((1, 3), np.float32), vectors, 2, block=2)
    with pytest.raises(DataError, match="the queries hold"):
        top_k(vectors[3:4], np.ones((5, 3), np.float32), 2)
    with pytest.raises(DataError, match="differ in width"):
        top_k(np.ones((1, 4), np.float32), np.ones((5, 3), np.float32), 2)
