"""One hundred kills of an ingest at random moments, each resumed to the same bytes: one process, and two workers."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crash

KILLS = 100
SETTINGS: dict[str, Any] = {
    "count": 544,
    "size": [32, 32],
    "bad": {17: "unreadable", 200: "nan", 333: "twin"},
    "same": {90: 3, 500: 411},
}


def _has_parts(archive: Path, least: int) -> bool:
    return len(list(archive.glob("catalogue/*.parquet"))) >= least


@pytest.mark.soak
@pytest.mark.parametrize(
    ("workers", "rows", "victims"),
    [(0, 9, ("group",)), (2, 16, ("group", "parent", "worker"))],
    ids=["serial", "parallel"],
)
def test_one_hundred_random_kills(workers: int, rows: int, victims: tuple[str, ...], tmp_path: Path) -> None:
    """A worker that is killed leaves its run alive, which must then say so, or must not have needed it any more.

    A moment is drawn as a number of committed shards and a time after that: by the clock alone, the kills of a machine
    that grows busier than it was at first would all fall into the first seconds.
    """

    def command(path: Path, workers: int) -> list[str]:
        return [
            "fake_source:job",
            json.dumps({"output": str(path), "shard_rows": rows, "workers": workers, **SETTINGS}),
        ]

    reference = tmp_path / "reference"
    assert crash.run(command(reference, 0)).returncode == 0
    expected = crash.tree(reference)
    start = time.monotonic()
    assert crash.run(command(tmp_path / "timed", workers)).returncode == 0
    seconds = time.monotonic() - start  # imports included: some kills come too late, and are drawn again
    shards = -(-SETTINGS["count"] // rows)
    assert crash.tree(tmp_path / "timed") == expected
    generator = np.random.default_rng(20261121)
    kills, early, committed = Counter[str](), 0, []
    for attempt in range(4 * KILLS):
        if kills.total() == KILLS:
            break
        path = tmp_path / f"archive-{attempt}"
        victim = victims[kills.total() % len(victims)]
        least, then_s = generator.integers(shards + 1), generator.uniform(0.0, seconds / 10)
        reached = partial(_has_parts, path, least)
        ended = crash.run(command(path, workers), when=reached, after_s=then_s, victim=victim)
        if ended.killed or ended.returncode == 1:
            assert ended.killed or "could not be written" in ended.stderr, ended.stderr
            kills[victim] += 1
            parts = len(list(path.glob("catalogue/*.parquet")))
            committed.append(parts)
            early += parts == 0
            # Whoever was killed, and whoever goes on: with workers, or without.
            assert crash.run(command(path, workers if attempt % 2 else 0)).returncode == 0
        assert crash.tree(path) == expected, f"attempt {attempt}"
        shutil.rmtree(path)
    print(
        f"\n{kills.total()} kills ({dict(kills)}) of an ingest of {SETTINGS['count']} imagettes in {shards} shards by "
        f"{workers} workers, all resumed to the same bytes; shards committed at the kill: {min(committed)} to "
        f"{max(committed)}, none yet in {early}"
    )
    assert kills.total() == KILLS
    assert len(set(committed)) > shards / 3  # the kills really fell all over the run
