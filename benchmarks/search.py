"""How fast exact search is, beside faiss (Flat, inner product) where it is installed, and scikit-learn's brute force.

    python benchmarks/search.py [--vectors 100000] [--dimension 384] [--queries 200] [-k 10] [--threads 2] [--clock cpu]

Queries a second, best of several repeats, and the ratio to each peer (above 1: we are faster). Vectors are synthetic:
2,000 clusters on a plane of 32 dimensions, plus noise. On a shared machine, ``--threads 1 --clock cpu`` counts only
this process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from groundswell.search.index import top_k

Answer = NDArray[np.int64]


def clustered(count: int, dimension: int, seed: int) -> NDArray[np.float32]:
    """float32 ``[count, dimension]`` around cluster centres that lie on a plane of 32 dimensions."""
    shape = np.random.default_rng(0)
    plane = shape.normal(size=(32, dimension)).astype(np.float32)
    centres = shape.normal(size=(2000, 32)).astype(np.float32)
    generator = np.random.default_rng(seed)
    latent = centres[generator.integers(0, 2000, count)] + 0.3 * generator.normal(size=(count, 32)).astype(np.float32)
    noise = generator.normal(size=(count, dimension)).astype(np.float32)
    return np.asarray(latent @ plane + 0.5 * noise, dtype=np.float32)


def best(work: Callable[[], Answer], clock: Callable[[], float], repeats: int) -> tuple[float, Answer]:
    """The shortest time of ``work`` in seconds, and its answer."""
    times = []
    for _ in range(repeats):
        start = clock()
        answer = work()
        times.append(clock() - start)
    return min(times), answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    k = arguments.k
    vectors = clustered(arguments.vectors, arguments.dimension, 1)
    queries = clustered(arguments.queries, arguments.dimension, 2)
    unit_vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    unit_queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)

    works: dict[str, Callable[[], Answer]] = {"groundswell, in memory": lambda: top_k(queries, vectors, k)[1]}
    folder = tempfile.TemporaryDirectory()
    np.save(Path(folder.name) / "vectors.npy", vectors)
    mapped = np.load(Path(folder.name) / "vectors.npy", mmap_mode="r")
    works["groundswell, memory-mapped"] = lambda: top_k(queries, mapped, k)[1]
    try:
        import faiss
    except ImportError:
        print("faiss is not installed (pip install faiss-cpu): left out")
    else:
        faiss.omp_set_num_threads(arguments.threads)
        index = faiss.IndexFlatIP(arguments.dimension)
        index.add(unit_vectors)
        works["faiss Flat, inner product"] = lambda: index.search(unit_queries, k)[1]
    neighbours = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(vectors)
    works["scikit-learn brute, cosine"] = lambda: neighbours.kneighbors(queries, return_distance=False)

    print(
        f"{arguments.vectors:,} vectors of {arguments.dimension}, {arguments.queries} queries, k = {k}, "
        f"{arguments.threads} threads, {arguments.clock} clock"
    )
    results = {name: best(work, clock, arguments.repeats) for name, work in works.items()}
    ours, answer = results["groundswell, in memory"]
    for name, (seconds, rows) in results.items():
        agreement = np.mean([len(set(a) & set(b)) / k for a, b in zip(answer, rows, strict=True)])
        print(
            f"{name:28s} {arguments.queries / seconds:8.0f} queries/s   ours is {seconds / ours:5.2f} times as fast   "
            f"same neighbours {agreement:.4f}"
        )


if __name__ == "__main__":
    main()
