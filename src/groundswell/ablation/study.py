"""A whole study: plan, runs, controls, one table, one plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from groundswell.ablation.grid import BASE, Grid
from groundswell.ablation.plot import draw_ablation
from groundswell.ablation.runs import FAILED, Say, plan, run_all, run_controls
from groundswell.ablation.table import long_table, summarise, write_table
from groundswell.archive.reader import Archive
from groundswell.encoder.provenance import attribution, describe, in_words
from groundswell.errors import TrainingError, UsageError
from groundswell.evaluation.results import for_json
from groundswell.files import write_json
from groundswell.locks import LOCK_FILE, held, patience
from groundswell.signals import stoppable

RESULTS, PLOT = "results.json", "plot.png"
FORMAT = 1


@dataclass(frozen=True)
class Study:
    """What a study came to.

    Attributes
    ----------
    folder : Path
    table : DataFrame
        See `summarise`.
    runs : list of dict
        Records of the runs.
    files : list of Path
    """

    folder: Path
    table: pd.DataFrame
    runs: list[dict[str, Any]]
    files: list[Path]

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Runs that came to nothing, with the reason under ``error``."""
        return [record for record in self.runs if record["status"] == FAILED]


def run_study(
    grid: Grid,
    archives: Sequence[Archive],
    output: str | Path,
    say: Say = lambda _: None,
    *,
    retry_failed: bool = False,
) -> Study:
    """Run a grid in ``output``; called again, it reuses what is finished and goes on with the rest.

    Raises
    ------
    UsageError
        When ``output`` holds something else, or a file is in its way, or another process works there.
    TrainingError
        When every run failed.
    StoppedBySignal
        After SIGTERM or Ctrl-C; the same call goes on.
    """
    folder = check_place(output)
    with stoppable(folder, fix="run the same command again to go on"):
        planned = plan(grid, archives, folder)
        with held(folder / LOCK_FILE, "another process works on this study", patience=patience()):
            runs = run_all(planned, archives, grid.settings.probe, say, retry_failed=retry_failed)
            if all(record["status"] == FAILED for record in runs):
                raise _all_failed(folder, runs)
            controls = run_controls(grid, archives, folder, say)
        return _write(grid, archives, folder, runs, controls)


def check_place(output: str | Path) -> Path:
    """The folder of a study, which need not be there yet.

    Raises
    ------
    UsageError
        When it holds something else, or a file is in its way.
    """
    folder = Path(output)
    above = folder.absolute()
    there = next((path for path in (above, *above.parents) if path.exists()), None)
    if there is not None and not there.is_dir():
        raise UsageError("a file is where the folder of the study is to be", where=there, fix="choose another --output")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names - {LOCK_FILE} and not names & {"runs", RESULTS}:
        raise UsageError(
            "there is something else at the place of the study", where=folder, fix="choose another --output"
        )
    return folder


def _all_failed(folder: Path, runs: list[dict[str, Any]]) -> TrainingError:
    """What to say of the first failure, and whether it is the training that is to be mended."""
    error = runs[0]["error"]
    why = str(error["what"]) + (f" ({error['why']})" if error["why"] else "")
    fix = "try the base alone first (groundswell pretrain), then add --retry-failed"
    if all("training" in record for record in runs):
        fix = "the trainings are kept: change the probe in the grid, or add --retry-failed, to probe them again"
    return TrainingError(
        f"all {len(runs)} runs of the study failed",
        where=folder,
        why=why,
        fix="\n".join(filter(None, [error["fix"], fix])),
    )


def _write(
    grid: Grid,
    archives: Sequence[Archive],
    folder: Path,
    runs: list[dict[str, Any]],
    controls: list[dict[str, Any]],
) -> Study:
    """Tables, record and plot of a study whose runs have ended."""
    table = summarise(grid, runs, controls)
    paths = write_table(table, folder)
    data = [describe(archive) for archive in archives]
    record = {
        "format": FORMAT,
        "groundswell": metadata.version("groundswell"),
        "grid": grid.settings.model_dump(mode="json"),
        "cells": [
            {"name": c.name, "overrides": c.overrides, "recipe": c.recipe.model_dump(mode="json")} for c in grid.cells
        ],
        "data": {"text": in_words(data), "attribution": attribution(data), "archives": [d.to_json() for d in data]},
        "runs": runs,
        "controls": controls,
        "summary": [{str(k): v for k, v in row.items()} for row in table.astype(object).to_dict("records")],
    }
    write_json(folder / RESULTS, for_json(record))
    note = (
        f"{in_words(data)}  Ticks: runs; dots and bars: mean and 95 % interval over {len(grid.settings.seeds)} seeds."
    )
    title = f"{grid.settings.name}: each cell changes {BASE} ({grid.settings.base})"
    draw_ablation(table, long_table([*runs, *controls]), title, note, folder / PLOT)
    return Study(folder, table, runs, [*paths, folder / RESULTS, folder / PLOT])
