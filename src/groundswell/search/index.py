"""Exact nearest neighbours by cosine: one blocked product over all vectors, memory-mapped or streamed.

The product in float32 finds the candidates; those are scored again in float64, pair by pair, so that the answer does
not depend on how the vectors were cut into blocks, and equal scores come in the order of their rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from groundswell.errors import DataError

BLOCK_BYTES = 64 * 2**20
_SLACK = 1e-5
"""Who comes this close to the k-th best in float32 is scored again (the product of unit vectors errs by 5e-7)."""
_PAIR_NUMBERS = 2**24
"""Numbers gathered at once to score pairs again: bounds the memory where thousands of vectors are alike."""

Vectors = NDArray[np.float32]


def top_k(
    queries: Vectors,
    vectors: Vectors | Iterable[Vectors],
    k: int,
    *,
    exclude: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    block: int | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k vectors of highest cosine with each query.

    Parameters
    ----------
    queries : float [Q, D]
    vectors : float [N, D], or an iterable of float [n_i, D]
        In memory, a ``numpy.memmap``, or blocks of a table (`geoparquet.vector_blocks`): read once, block by block.
    k : int
    exclude : (int64 [Q], int64 [N]), optional
        A code for each query and each vector: pairs of equal code are left out. `exclusion_codes` makes them.
    block : int, optional
        Rows a block, for an array.

    Returns
    -------
    scores : float32 [Q, k]
        Cosines, highest first; ties in the order of the rows. A vector of zeros has the cosine 0 with everything.
    rows : int64 [Q, k]
        Where fewer than k vectors are left, -1 with a score of NaN.

    Raises
    ------
    DataError
        When widths differ or a number is not finite.
    """
    given = np.asarray(queries, dtype=np.float32)
    unit = torch.from_numpy(_unit(given, "the queries"))
    best = _Best(given, k)
    start = 0
    for part in _blocks(vectors, unit.shape[1], max(len(unit), 1), block):
        if part.ndim != 2 or part.shape[1] != unit.shape[1]:
            raise DataError(
                "queries and vectors differ in width",
                why=f"{unit.shape[1]} and {part.shape[-1]}: other encoders made them",
            )
        cosines = unit @ torch.from_numpy(_unit(part, f"the vectors from row {start}")).T
        if exclude is not None:
            codes = torch.from_numpy(exclude[1][start : start + len(part)])
            cosines.masked_fill_(torch.from_numpy(exclude[0])[:, None] == codes[None], -torch.inf)
        best.add(cosines, part, start)
        start += len(part)
    return best.result()


def exclusion_codes(frame: pd.DataFrame, by: str = "id") -> NDArray[np.int64]:
    """A code for each row, int64 ``[N]``: equal where the column is, unique where it is null."""
    codes, _ = pd.factorize(frame[by])
    unknown = codes < 0
    codes = codes.astype(np.int64)
    codes[unknown] = len(frame) + np.arange(int(unknown.sum()))
    return codes


class _Best:
    """The best k of each query so far: pairs (query, row, score), sorted."""

    def __init__(self, queries: Vectors, k: int) -> None:
        self.queries, self.k = queries.astype(np.float64), k
        self.limit = torch.full((len(queries), k), -torch.inf)  # the k highest cosines of the float32 product
        self.query = np.empty(0, np.int64)
        self.row = np.empty(0, np.int64)
        self.score = np.empty(0, np.float32)

    def add(self, cosines: torch.Tensor, part: Vectors, start: int) -> None:
        """Take in the float32 cosines ``[Q, n]`` with the vectors ``[n, D]`` from row ``start``."""
        top = cosines.topk(min(self.k, cosines.shape[1]), dim=1).values
        self.limit = torch.cat([self.limit, top], dim=1).topk(self.k, dim=1).values
        # The lowest finite number, where fewer than k are known yet: what is excluded (-inf) must not come in.
        limit = (self.limit[:, -1:] - _SLACK).clamp(min=torch.finfo(torch.float32).min)
        close = cosines >= limit
        query, column = (a.numpy() for a in torch.nonzero(close, as_tuple=True))
        step = max(1, _PAIR_NUMBERS // part.shape[1])
        for first in range(0, len(query), step):
            some = slice(first, first + step)
            self._merge(query[some], column[some] + start, self._score(query[some], part[column[some]]))

    def _score(self, query: NDArray[np.int64], vectors: Vectors) -> NDArray[np.float32]:
        """Cosines of pairs in float64, each summed by itself: no trace of the block it was found in."""
        a, b = self.queries[query], vectors.astype(np.float64)
        length = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
        cosine = (a * b).sum(axis=1) / np.where(length > 0, length, 1.0)
        return np.asarray(cosine, dtype=np.float32)

    def _merge(self, query: NDArray[np.int64], row: NDArray[np.int64], score: NDArray[np.float32]) -> None:
        query, row = np.concatenate([self.query, query]), np.concatenate([self.row, row])
        score = np.concatenate([self.score, score])
        order = np.lexsort((row, -score, query))
        sorted_query = query[order]
        kept = order[_rank(sorted_query) < self.k]
        self.query, self.row, self.score = query[kept], row[kept], score[kept]

    def result(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and rows, ``[Q, k]`` each."""
        scores = np.full((len(self.queries), self.k), np.nan, np.float32)
        rows = np.full((len(self.queries), self.k), -1, np.int64)
        place = (self.query, _rank(self.query))
        scores[place], rows[place] = self.score, self.row
        return scores, rows


def _rank(query: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of each pair among those of its query; sorted queries."""
    return np.asarray(np.arange(len(query)) - np.searchsorted(query, query))


def _unit(vectors: Vectors, what: str) -> Vectors:
    """Rows of length 1 (zeros stay zeros)."""
    if vectors.ndim != 2:
        raise DataError(f"{what} must be [N, D]", why=f"their shape is {vectors.shape}")
    vectors = np.asarray(vectors, dtype=np.float32)
    square = np.einsum("nd,nd->n", vectors, vectors)
    if not ((square > 1e-30) & (square < 1e30)).all():  # squares of float32 overflow, or lose their digits
        square = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    length = np.sqrt(square)[:, None]
    if not np.isfinite(length).all():
        raise DataError(
            f"{what} hold numbers that are not finite",
            where=f"row {int(np.flatnonzero(~np.isfinite(length[:, 0]))[0])}",
            fix="embed again",
        )
    return np.asarray(vectors / np.where(length > 0, length, length.dtype.type(1)), dtype=np.float32)


def _blocks(vectors: Vectors | Iterable[Vectors], width: int, queries: int, rows: int | None) -> Iterator[Vectors]:
    if not isinstance(vectors, np.ndarray):
        yield from vectors
        return
    rows = rows or max(1024, BLOCK_BYTES // (4 * (width + queries)))
    for start in range(0, len(vectors), rows):
        yield vectors[start : start + rows]
