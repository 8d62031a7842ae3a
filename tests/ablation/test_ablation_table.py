"""The table of an ablation, from records written by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from groundswell.ablation.grid import Grid, read_grid
from groundswell.ablation.table import markdown, over_seeds, summarise, write_table

BASE = (0.50, 0.60, 0.70)
CHANGED = (0.56, 0.65, 0.77)


def record(cell: str, seed: int | None, accuracy: float | None, rmse: float | None = None) -> dict[str, Any]:
    one = {"target": "label_a", "protocol": "knn", "part": "test", "metric": "accuracy", "headline": True}
    two = {**one, "target": "label_b", "metric": "rmse"}
    scores = [{**one, "value": accuracy}] if accuracy is not None else []
    scores += [{**two, "value": rmse}] if rmse is not None else []
    return {"cell": cell, "seed": seed, "status": "done" if scores else "failed", "scores": scores}


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    file = tmp_path / "g.yaml"
    values = {
        "base": "demo",
        "probe": {"targets": ["a"]},
        "changes": {"new": {"batch_size": 64}, "bad": {"batch_size": 32}},
    }
    file.write_text(yaml.safe_dump(values))
    return read_grid(file)


@pytest.fixture
def table(grid: Grid) -> pd.DataFrame:
    runs = [record("base", s, BASE[s], 2.0 - s / 10) for s in range(3)]
    runs += [record("new", s, CHANGED[s], 1.5 - s / 10 + s * s / 100) for s in range(3)]
    runs += [record("bad", 0, None), record("bad", 1, 0.9), record("bad", 2, None)]
    return summarise(
        grid, runs, [record("statistics", None, 0.65), *(record("random weights", s, 0.3) for s in range(3))]
    )


def row(table: pd.DataFrame, cell: str, metric: str = "accuracy") -> dict[str, Any]:
    found = table[(table["cell"] == cell) & (table["metric"] == metric)].to_dict("records")
    assert len(found) == 1
    return {str(k): v for k, v in found[0].items()}


def test_differences_are_paired_by_seed_with_students_interval(table: pd.DataFrame) -> None:
    new = row(table, "new")
    test = stats.ttest_rel(CHANGED, BASE)
    interval = test.confidence_interval(0.95)
    assert new["difference"] == pytest.approx(np.mean(CHANGED) - np.mean(BASE), abs=1e-12)
    assert (new["difference_low"], new["difference_high"]) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert new["favours"] == "cell"
    # unpaired, three seeds could not tell: the scores of seeds differ more than the cells
    assert stats.ttest_ind(CHANGED, BASE).pvalue > 0.3
    alone = stats.ttest_1samp(CHANGED, 0).confidence_interval(0.95)
    assert (new["low"], new["high"]) == pytest.approx((alone.low, alone.high), abs=1e-12)
    assert new["changes"] == "batch_size=64"


def test_a_lower_rmse_favours_the_cell(table: pd.DataFrame) -> None:
    assert row(table, "new", "rmse")["difference_high"] < 0
    assert row(table, "new", "rmse")["favours"] == "cell"


def test_failed_runs_are_counted_and_one_seed_has_no_interval(table: pd.DataFrame) -> None:
    bad = row(table, "bad")
    assert (bad["seeds"], bad["failed"], bad["pairs"]) == (1, 2, 1)
    assert bad["mean"] == 0.9
    assert bad["difference"] == pytest.approx(0.9 - BASE[1])
    assert math.isnan(bad["low"])
    assert math.isnan(bad["difference_low"])
    assert pd.isna(bad["favours"])


def test_failures_are_those_of_the_cell_itself(table: pd.DataFrame) -> None:
    assert {name: row(table, name)["failed"] for name in ("base", "new", "bad", "statistics")} == {
        "base": 0,
        "new": 0,
        "bad": 2,
        "statistics": 0,
    }


def test_a_bias_favours_nobody_and_markdown_shows_the_metric_of_each_target_alone(grid: Grid) -> None:
    def biased(cell: str, seed: int, value: float) -> dict[str, Any]:
        both = record(cell, seed, 0.5 + value / 10)
        (shown,) = both["scores"]
        return both | {"scores": [shown, {**shown, "metric": "bias", "headline": False, "value": value}]}

    runs = [biased("base", s, 0.1 + s / 100) for s in range(3)] + [biased("new", s, 0.9 + s / 100) for s in range(3)]
    table = summarise(grid, runs, [record("statistics", None, 0.4)])
    assert row(table, "new", "bias")["difference_low"] > 0
    assert pd.isna(row(table, "new", "bias")["favours"])
    assert row(table, "new")["favours"] == "cell"
    text = markdown(table)
    assert text.count("###") == 1
    assert "bias" not in text
    assert [line.split(" | ")[0] for line in text.splitlines()[4:]] == ["| base", "| bad", "| new", "| *statistics*"]


def test_controls_stand_beside_the_base_seed_by_seed(table: pd.DataFrame) -> None:
    statistics, fresh = row(table, "statistics"), row(table, "random weights")
    assert statistics["kind"] == fresh["kind"] == "control"
    assert statistics["difference"] == pytest.approx(0.65 - np.mean(BASE))
    assert statistics["pairs"] == 3
    assert fresh["difference"] == pytest.approx(0.3 - np.mean(BASE))
    assert row(table, "base")["pairs"] == 0
    assert math.isnan(row(table, "base")["difference"])


def test_files_hold_the_same_table(table: pd.DataFrame, tmp_path: Path) -> None:
    csv, parquet, text = write_table(table, tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(parquet), table, check_dtype=False)
    assert pd.read_csv(csv)["mean"].to_numpy() == pytest.approx(table["mean"].to_numpy(), nan_ok=True)
    lines = text.read_text().splitlines()
    assert markdown(table).splitlines() == lines
    assert any(line.startswith("| new | 66.0 [") and "| +6.0 [" in line for line in lines)
    assert any(line.startswith("| bad | 90.0 | ") and "1 (2 failed)" in line for line in lines)


def test_an_interval_over_seeds_needs_two() -> None:
    assert over_seeds([2.0])[0] == 2.0
    assert math.isnan(over_seeds([2.0])[1])
    assert math.isnan(over_seeds([])[0])
    mean, low, high = over_seeds([1.0, 3.0])
    # closed form: t(0.975, 1 degree) = tan(0.475 pi) = 12.706, standard error 1
    assert (mean, low, high) == pytest.approx((2.0, 2.0 - math.tan(0.475 * math.pi), 2.0 + math.tan(0.475 * math.pi)))
