"""The runs of a grid: pretrain, embed and probe each cell with each seed, once; what is finished is reused.

    DIR/runs/NAME-sSEED-KEY/   run/ (see training), table.parquet, results/ (see evaluation), record.json
    DIR/controls/              tables and results of the controls

A run is known by the digest of its recipe (seed included), its data and the program's version, whatever the cell is
called; its record is written last. What was stopped goes on from its newest checkpoint. A training that came to its
end is kept, whatever came of its probe: its record holds ``training``.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from groundswell import files
from groundswell.ablation.grid import RANDOM, STATISTICS, Cell, Grid
from groundswell.archive.reader import Archive
from groundswell.backbones import build_backbone
from groundswell.encoder.directory import load
from groundswell.encoder.embedding import Embedder, embed
from groundswell.encoder.encoder import Encoder
from groundswell.encoder.table import EmbeddingTable
from groundswell.errors import (
    BusyError,
    CollapsedError,
    DataError,
    DivergedError,
    GroundswellError,
    ModelError,
    TrainingError,
    UsageError,
)
from groundswell.evaluation.cases import ProbeSettings, make_case
from groundswell.evaluation.controls import StatisticsEmbedder
from groundswell.evaluation.probe import check, run_probe
from groundswell.evaluation.results import for_json
from groundswell.evaluation.targets import read_target
from groundswell.training.building import check_fits, preprocessing_of
from groundswell.training.health import HealthSettings
from groundswell.training.loop import pretrain
from groundswell.training.recipe import LengthSettings, PruningSettings, Recipe, horizon
from groundswell.training.run_directory import RunDirectory, read_metrics

Record = dict[str, Any]
Say = Callable[[str], None]

RECORD = "record.json"
DONE, FAILED = "done", "failed"
_LOST = {kind.__name__ for kind in (CollapsedError, DivergedError, ModelError)}
"""Errors of a training that no checkpoint leads out of: it is tried again from its start."""
_TRIAL_IMAGES = 32
_NOT_THE_MODEL = {"checkpoint", "description"}
"""Settings of a recipe that decide neither the weights nor whether a run is given up."""


@dataclass(frozen=True)
class Planned:
    """One run of the plan.

    Attributes
    ----------
    cell : Cell
    seed : int
    recipe : Recipe
    key : str
        Names the run whatever its cell is called.
    folder : Path
    status : str
        ``done`` or ``failed`` with this probe, ``begun`` or ``new``.
    trained : bool
        Only embedding and probing may be left.
    """

    cell: Cell
    seed: int
    recipe: Recipe
    key: str
    folder: Path
    status: str
    trained: bool


def plan(grid: Grid, archives: Sequence[Archive], output: Path) -> list[Planned]:
    """The runs of a grid, seed by seed, so that what is there after a while covers every cell.

    Raises
    ------
    UsageError, DataError
        When the probe or a cell's settings do not fit the archives: before anything is trained.
    """
    _check_probe(archives, grid.settings.probe)
    for cell in grid.cells:
        _check(cell, archives)
    data = [archive.hash for archive in archives]
    planned: list[Planned] = []
    folders: dict[str, Path] = {}
    for seed in grid.settings.seeds:
        for cell in grid.cells:
            recipe = cell.with_seed(seed)
            settings = recipe.model_dump(mode="json", exclude=_NOT_THE_MODEL) | {"backbone": recipe.backbone.identity()}
            key = files.digest([settings, data, metadata.version("groundswell")])[:12]
            if key not in folders:
                there = sorted((output / "runs").glob(f"*-{key}"))
                slug = re.sub(r"[^A-Za-z0-9.+]+", "-", cell.name).strip("-") or "cell"
                folders[key] = there[0] if there else output / "runs" / f"{slug}-s{seed}-{key}"
            status, record = _found(folders[key], grid.settings.probe)
            planned.append(Planned(cell, seed, recipe, key, folders[key], status, "training" in record))
    return planned


def _found(folder: Path, probe: ProbeSettings) -> tuple[str, Record]:
    """The status of a run, and its record where it has one; a whole training is only begun until this probe."""
    if not (folder / RECORD).is_file():
        return ("begun" if folder.exists() else "new"), {}
    record: Record = files.read_json(folder / RECORD)
    other = "training" in record and record["probe"] != _key(probe)
    return ("begun" if other else str(record["status"])), record


def _key(probe: ProbeSettings) -> str:
    return files.digest(probe.model_dump(mode="json"))


def _check_probe(archives: Sequence[Archive], probe: ProbeSettings) -> None:
    """Refuse targets and metrics that are not there and splits that leak before, not after, hours of training."""
    if probe.both:
        raise UsageError(
            "an ablation probes each model alone",
            where="probe: both",
            fix="leave it out: the statistics stand beside, as a control",
        )
    frame = pd.concat([archive.where(probe.where).catalogue for archive in archives], ignore_index=True)
    for name in probe.targets:
        try:
            target = read_target(frame, name, probe.task)
        except UsageError as error:
            fix = " ".join(filter(None, [error.fix and f"{error.fix};", "probe.targets=[label_...] probes others"]))
            raise UsageError(error.what, where="probe.targets", why=error.why, fix=fix) from error
        check(make_case(frame, target, probe), probe)


def _check(cell: Cell, archives: Sequence[Archive]) -> None:
    try:
        check_fits(cell.recipe, archives)
    except GroundswellError as error:
        where = f"cell {cell.name}" + (f": {error.where}" if error.where else "")
        raise type(error)(error.what, where=where, why=error.why, fix=error.fix) from error


def estimate(planned: Sequence[Planned], archives: Sequence[Archive]) -> dict[str, float]:
    """Minutes of pretraining of one run of each cell, by cell name: its own length, or from a trial of three steps.

    A guess for this machine as it is now; draws of pruning, embedding and probing come on top.
    """
    first: dict[str, Planned] = {}
    for one in planned:
        first.setdefault(one.cell.name, one)
    minutes: dict[str, float] = {}  # by key: cells may have the same recipe
    with tempfile.TemporaryDirectory() as scratch:
        for one in first.values():
            recipe, folder = one.recipe, RunDirectory(Path(scratch) / one.key)
            if recipe.length.minutes is not None:
                minutes[one.key] = recipe.length.minutes
            if one.key in minutes:
                continue
            trial: Record = {"batch_size": min(recipe.batch_size, _TRIAL_IMAGES), "accumulate": 1, "log_steps": 1}
            trial |= {"length": LengthSettings(steps=3), "health": HealthSettings(patience=4)}  # not judged
            trial |= {"pruning": PruningSettings()}  # one draw would outlast the three steps
            pretrain(archives, recipe.model_copy(update=trial), folder.path)
            timing = read_metrics(folder.metrics)[-1]["timing"]
            minutes[one.key] = _images(recipe, archives) / timing["images_per_s"] / 60
    return {name: minutes[one.key] for name, one in first.items()}


def _images(recipe: Recipe, archives: Sequence[Archive]) -> float:
    """How many images a run with this recipe sees."""
    rows = sum(len(archive.where(recipe.where)) for archive in archives)
    steps = horizon(recipe, max(rows // recipe.batch_size, 1)).steps
    assert steps is not None
    return steps * recipe.images_per_step


def run_all(
    planned: Sequence[Planned],
    archives: Sequence[Archive],
    probe: ProbeSettings,
    say: Say,
    *,
    retry_failed: bool = False,
) -> list[Record]:
    """Carry out a plan; the record of every run, in its order.

    A run that collapses, diverges or cannot be probed is recorded with its reason, and the others go on.

    Raises
    ------
    StoppedBySignal
        After SIGTERM or Ctrl-C in a training, with a checkpoint; the same call goes on.
    BusyError
        When another process works on a run.
    """
    records: list[Record] = []
    for number, one in enumerate(planned, start=1):
        head = f"[{number}/{len(planned)}] {one.cell.name}, seed {one.seed}"
        status, record = _found(one.folder, probe)
        if status == FAILED and not retry_failed:
            say(f"{head}: failed before ({record['error']['what']}); --retry-failed tries again")
        elif status == DONE:
            say(f"{head}: nothing has changed, reused")
        else:
            lost = status == FAILED and "training" not in record and record["error"]["kind"] in _LOST
            say(f"{head}: {'starts again' if lost else 'goes on' if one.folder.exists() else 'starts'}")
            if lost:
                _clear(one.folder)
            record = _carry_out(one, archives, probe, say)
            record |= {"key": one.key, "probe": _key(probe), "folder": one.folder.name}
            files.write_json(one.folder / RECORD, record)
        records.append({**record, "cell": one.cell.name, "seed": one.seed})
    return records


def _clear(folder: Path) -> None:
    """Take a lost run away for good, and only then its record: without that what is there would be gone on with."""
    run = RunDirectory(folder / "run")
    with run.claimed():
        run.clear()
        files.sync_folder(run.path)
    files.remove(folder / RECORD)


def _carry_out(one: Planned, archives: Sequence[Archive], probe: ProbeSettings, say: Say) -> Record:
    started = time.monotonic()
    facts: Record = {}
    try:
        report = pretrain(archives, one.recipe, one.folder / "run", resume=True)
        facts = {"steps": report.steps, "images": report.images, "training": report.metrics}
        encoder = load(report.model).on(one.recipe.device, channels_last=True)
        scores = _judge(encoder, archives, probe, one.folder)
    except BusyError:
        raise
    except (TrainingError, DataError, ModelError, UsageError) as error:
        say(f"    failed: {error.what}" + (f" ({error.why})" if error.why else ""))
        return {"status": FAILED, "error": _explain(error), "scores": [], **facts}
    return {"status": DONE, "scores": scores, **facts, "seconds": round(time.monotonic() - started, 1)}


def _explain(error: GroundswellError) -> Record:
    return {"kind": type(error).__name__, "what": error.what, "where": error.where, "why": error.why, "fix": error.fix}


def _judge(embedder: Embedder, archives: Sequence[Archive], probe: ProbeSettings, folder: Path) -> list[Record]:
    """Embed and probe; the scores, one record each metric, protocol, part and target."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "table.parquet"
    embed(embedder, archives, table, where=probe.where)
    results = run_probe({"model": EmbeddingTable.read(table)}, probe)
    results.save(folder / "results", overwrite=True)
    shown = {target["name"]: target["metric"] for target in results.record["targets"]}
    scores: list[Record] = for_json(list(results.record["scores"]))
    return [{**row, "headline": row["metric"] == shown[row["target"]]} for row in scores]


def run_controls(grid: Grid, archives: Sequence[Archive], output: Path, say: Say) -> list[Record]:
    """Records of the controls, like those of runs: cell is the control's name; statistics has the seed None.

    Random weights stand beside each architecture and preprocessing of the grid, with the grid's seeds.
    """
    probe = grid.settings.probe
    wanted: list[tuple[str, int | None, str, Callable[[], Embedder]]] = []
    if "random" in grid.settings.controls:
        seen: list[str] = []
        for cell in grid.cells:
            recipe = cell.recipe
            kind = files.digest([recipe.backbone.identity(), recipe.preprocessing.model_dump(mode="json")])
            if kind in seen:
                continue
            name = f"{RANDOM} of {cell.name}" if seen else RANDOM
            seen.append(kind)
            for drawn in grid.settings.seeds:
                wanted.append((name, drawn, kind, lambda r=recipe, s=drawn: _random(r, archives[0], s)))  # type: ignore[misc]
    if "statistics" in grid.settings.controls:
        wanted.append((STATISTICS, None, "", StatisticsEmbedder))
    data = [archive.hash for archive in archives]
    records = []
    for name, seed, kind, make in wanted:
        key = files.digest([name, seed, kind, data, probe.model_dump(mode="json"), metadata.version("groundswell")])[
            :12
        ]
        folder = output / "controls" / f"{re.sub(r'[^A-Za-z0-9]+', '-', name)}-{key}"
        title = name if seed is None else f"{name}, seed {seed}"
        if (folder / RECORD).is_file():
            say(f"{title}: nothing has changed, reused")
        else:
            say(f"{title}: embedded and probed")
            files.write_json(folder / RECORD, {"status": DONE, "scores": _judge(make(), archives, probe, folder)})
        records.append({**files.read_json(folder / RECORD), "cell": name, "seed": seed})
    return records


def _random(recipe: Recipe, archive: Archive, seed: int) -> Encoder:
    """An encoder as a recipe describes it, with fresh weights."""
    preprocessing = preprocessing_of(recipe, archive)
    backbone = build_backbone(recipe.backbone, len(preprocessing.channels), seed)
    encoder = Encoder(backbone, preprocessing, f"random:{recipe.name}:{seed}", recipe.backbone)
    return encoder.on(recipe.device, channels_last=True)
