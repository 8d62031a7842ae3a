"""One hundred kills of an ingest at random moments, each resumed to the same bytes."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crash

KILLS = 100
SETTINGS: dict[str, Any] = {"count": 540, "size": [32, 32], "bad": {17: "unreadable", 200: "nan", 333: "twin"}}


@pytest.mark.soak
def test_one_hundred_random_kills(tmp_path: Path) -> None:
    def command(path: Path) -> list[str]:
        return ["fake_source:job", json.dumps({"output": str(path), "shard_rows": 9, **SETTINGS})]

    reference = tmp_path / "reference"
    start = time.monotonic()
    assert crash.run(command(reference)).returncode == 0
    seconds = time.monotonic() - start  # imports included: some kills come too late, and are drawn again
    expected = crash.tree(reference)
    generator = np.random.default_rng(20261121)
    kills, early, committed = 0, 0, []
    for attempt in range(3 * KILLS):
        if kills == KILLS:
            break
        path = tmp_path / f"archive-{attempt}"
        if crash.run(command(path), after_s=generator.uniform(0.0, seconds)).killed:
            kills += 1
            parts = len(list(path.glob("catalogue/*.parquet")))
            committed.append(parts)
            early += parts == 0
            assert crash.run(command(path)).returncode == 0
        assert crash.tree(path) == expected, f"attempt {attempt}"
        shutil.rmtree(path)
    print(
        f"\n{kills} kills of an ingest of {SETTINGS['count']} imagettes in 60 shards, all resumed to the same bytes; "
        f"shards committed at the kill: {min(committed)} to {max(committed)}, none yet in {early}"
    )
    assert kills == KILLS
    assert len(set(committed)) > 20  # the kills really fell all over the run
