"""Time and memory of choosing rows of an archive: the laws, measured on memory-mapped float16 vectors.

    python benchmarks/curation.py [--vectors 1000000] [--dimension 384] [--clusters 1000,100,10] [--sample 100000]
                                  [--rules oceansar1,oceansar2,balanced] [--resamples 2] [--clock cpu] [--folder DIR]

A pass over N rows with K centroids takes N (a + b K) seconds: a to read, convert and measure a row, b for the product
(2 D operations) and the search for its smallest entry. Both are measured, and with them the time of a rule at 10
million rows is reckoned: k-means makes at most ``iterations + 1`` passes over the sample for the leaves, then there is
one pass over all rows. Peak memory is that of the process, without the mapped file and what was there before. Vectors
are synthetic: directions of very different frequency plus noise. On a shared machine ``--clock cpu`` counts only this
process (run it with one thread).
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from groundswell.curation.kmeans import Points, assign
from groundswell.curation.pruning import RuleSettings, choose, default_counts

MOST = 10_000_000


def write_vectors(path: Path, count: int, dimension: int) -> NDArray[np.float16]:
    """float16 ``[count, dimension]`` around 500 directions whose frequency falls as 1/rank, memory-mapped."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(500, dimension)).astype(np.float32)
    frequency = 1.0 / np.arange(1, 501)
    with path.open("wb") as handle:
        header = {"descr": "<f2", "fortran_order": False, "shape": (count, dimension)}
        np.lib.format.write_array_header_1_0(handle, header)
        for start in range(0, count, 50_000):
            rows = min(50_000, count - start)
            which = random.choice(500, rows, p=frequency / frequency.sum())
            noise = random.standard_normal((rows, dimension), dtype=np.float32)
            handle.write((centres[which] + 0.7 * noise).astype(np.float16).tobytes())
    mapped: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return mapped


def anonymous_bytes() -> int:
    """Memory of this process that no file stands behind (Linux)."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(fields["RssAnon"].split()[0])


BASE = anonymous_bytes()


@contextmanager
def peak() -> Iterator[list[int]]:
    """Watch memory while the block runs: the list holds the highest value above that at the start of the program."""
    found, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            found[0] = max(found[0], anonymous_bytes() - BASE)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield found
    stop.set()
    thread.join()


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """How long ``work`` takes."""
    start = clock()
    work()
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--clusters", default="1000,100,10")
    parser.add_argument("--sample", type=int, default=100_000)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--resamples", type=int, default=2)
    parser.add_argument("--rules", default="oceansar1,oceansar2,balanced")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--folder", help="where the vectors are written (2 bytes a number); a temporary one by default")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    n, d, counts = arguments.vectors, arguments.dimension, tuple(map(int, arguments.clusters.split(",")))
    print(f"{n:,} x {d} float16, {arguments.threads} threads, {arguments.device}, {arguments.clock} clock", flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        vectors = write_vectors(Path(folder) / "vectors.npy", n, d)
        points = Points(vectors, unit=True)

        # 1. The law of a pass, from two numbers of centroids.
        times = []
        for k in (counts[0] // 10, counts[0]):
            centroids = points.take(np.arange(k))
            with peak() as memory:
                times.append(seconds(lambda c=centroids: assign(points, c, arguments.device), clock))
            rate = 2 * n * k * d / times[-1] / 1e9
            print(
                f"pass over {n:,} rows, K = {k:6,}: {times[-1]:7.1f} s, {rate:6.1f} Gflop/s, {memory[0] / 1e6:.0f} MB",
                flush=True,
            )
        b = max(times[1] - times[0], 0.0) / (n * (counts[0] - counts[0] // 10))
        a = times[1] / n - b * counts[0]
        print(f"a pass takes N (a + b K): a = {1e6 * a:.2f} us, b = {1e9 * b:.2f} ns ({2 * d / b / 1e9:.1f} Gflop/s)")

        # 2. The rules.
        for rule in arguments.rules.split(","):
            settings = RuleSettings(
                rule=rule,
                clusters=counts,
                sample=arguments.sample,
                iterations=arguments.iterations,
                resamples=arguments.resamples,
            )
            with peak() as memory:
                took = seconds(lambda s=settings: choose(vectors, s, 0, arguments.device), clock)
            print(
                f"{rule}: {took:.1f} s, peak {memory[0] / 1e6:.0f} MB without the mapped {2 * n * d / 1e6:.0f} MB "
                f"({memory[0] / n:.0f} bytes a row); clusters {counts}, sample {settings.sample:,}, at most "
                f"{settings.iterations} iterations"
                + (f", {settings.resamples} resamples" if rule == "balanced" else ""),
                flush=True,
            )

    # 3. Ten million rows by the same law.
    settings = RuleSettings()
    leaves = default_counts(settings.sample)
    fitted = (settings.iterations + 1) * settings.sample * (a + b * leaves[0])
    all_rows = MOST * (a + b * leaves[0])
    # A resample clusters half of the sample and assigns all of it.
    again = settings.resamples * ((settings.iterations + 1) / 2 + 1) * settings.sample * (a + b * leaves[0])
    cheap = ((settings.iterations + 1) * settings.sample + MOST) * (a + b * leaves[1])
    print(
        f"by this law at {MOST:,} x {d}, {leaves[0]:,} leaves found on {settings.sample:,} rows: leaves at most "
        f"{fitted / 60:.0f} min, all rows {all_rows / 60:.0f} min; oceansar1 {(fitted + all_rows) / 60:.0f} min, "
        f"oceansar2 ({leaves[1]:,} clusters) {cheap / 60:.0f} min, balanced ({settings.resamples} resamples) "
        f"{(fitted + again + all_rows) / 60:.0f} min; centroids and sums {leaves[0] * d * 12 / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
