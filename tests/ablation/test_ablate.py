"""The study, through the command line: two cells and two seeds of a few steps, killed, resumed, failing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import crash
from groundswell import backbones
from groundswell.ablation import runs, study
from groundswell.archive.ingest import ingest
from groundswell.archive.reader import Archive
from groundswell.cli import verbs  # noqa: F401 - importing the verbs registers them
from groundswell.cli.app import application
from groundswell.errors import DataError, DivergedError
from groundswell.locks import LOCK_FILE, held
from groundswell.training import loop
from groundswell.training.pruning import Pruner
from groundswell.training.run_directory import read_metrics
from training.tiny import METHODS, Waves, make_archive, tiny_recipe


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return make_archive(tmp_path_factory.mktemp("ablation") / "archive")


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    recipe = tiny_recipe(length={"steps": 3}, checkpoint={"steps": 1})
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    values = {
        "base": "tiny.yaml",
        "seeds": [0, 1],
        "changes": {"no blur": {"views.blur.p": 0}},
        "probe": {"targets": ["pattern"], "protocols": ["knn"], "k": [3], "draws": 100, "cv": "group", "folds": 2},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    return folder / "study.yaml"


def ablate(archive: Archive, grid: Path, output: Path, *extra: str) -> Any:
    return CliRunner().invoke(application, ["ablate", str(archive.path), "-g", str(grid), "-o", str(output), *extra])


@pytest.fixture(scope="module")
def undisturbed(archive: Archive, grid: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A study, and how often it renames a file or folder into its place."""
    output = tmp_path_factory.mktemp("whole") / "study"
    with crash.trapped() as trap:
        result = ablate(archive, grid, output, "--json")
    assert result.exit_code == 0, result.output
    return output, trap.counts["replace"]


@pytest.fixture(scope="module")
def whole(undisturbed: tuple[Path, int]) -> Path:
    return undisturbed[0]


def test_a_study_compares_each_cell_with_the_base_and_the_controls(whole: Path) -> None:
    table = pd.read_csv(whole / "table.csv")
    shown = table[table["headline"]].set_index("cell")
    assert list(shown.index) == ["base", "no blur", "random weights", "statistics"]
    assert list(shown["seeds"]) == [2, 2, 2, 1]
    record = json.loads((whole / "results.json").read_text())
    assert [(r["cell"], r["seed"], r["status"]) for r in record["runs"]] == [
        (cell, seed, "done") for seed in (0, 1) for cell in ("base", "no blur")
    ]
    by_run = {(r["cell"], r["seed"]): r for r in record["runs"]}
    for seed in (0, 1):
        models = [whole / "runs" / by_run[cell, seed]["folder"] / "run" / "model" for cell in ("base", "no blur")]
        weights = [(model / "model.safetensors").read_bytes() for model in models]
        assert weights[0] != weights[1]
    values = {key: next(s["value"] for s in r["scores"] if s["headline"]) for key, r in by_run.items()}
    assert shown.loc["base", "mean"] == pytest.approx((values["base", 0] + values["base", 1]) / 2)
    differences = [values["no blur", seed] - values["base", seed] for seed in (0, 1)]
    assert shown.loc["no blur", "difference"] == pytest.approx(sum(differences) / 2)
    assert (whole / "plot.png").stat().st_size > 5000


def test_called_again_everything_is_reused(archive: Archive, grid: Path, whole: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (whole / "runs").rglob("*") if p.is_file()}
    table = (whole / "table.csv").read_bytes()
    result = ablate(archive, grid, whole)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("reused") == 4 + 3
    assert {p: p.stat().st_mtime_ns for p in (whole / "runs").rglob("*") if p.is_file()} == before
    assert (whole / "table.csv").read_bytes() == table


def test_killed_in_the_middle_it_comes_to_the_same_table(
    archive: Archive, grid: Path, undisturbed: tuple[Path, int], tmp_path: Path
) -> None:
    whole, count = undisturbed
    output = tmp_path / "study"
    command = ["ablate", str(archive.path), "-g", str(grid), "-o", str(output), "--json"]

    def job() -> None:
        with crash.trapped(f"replace:before:{count // 2}"):
            CliRunner().invoke(application, command)

    assert in_fork(job) == -signal.SIGKILL
    states = {path.name: (path / "record.json").exists() for path in (output / "runs").iterdir()}
    assert set(states.values()) == {True, False}, states  # some finished, one in the middle
    result = CliRunner().invoke(application, command)
    assert result.exit_code == 0, result.output
    assert (output / "table.csv").read_bytes() == (whole / "table.csv").read_bytes()
    assert (output / "table.parquet").read_bytes() == (whole / "table.parquet").read_bytes()


def in_fork(job: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            job()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_cell_that_collapses_is_recorded_and_the_rest_goes_on(
    archive: Archive, grid: Path, whole: Path, tmp_path: Path
) -> None:
    values = yaml.safe_load(grid.read_text())
    values["base"] = str(grid.parent / "tiny.yaml")
    values["seeds"] = [0]
    values["changes"] = {"strict": {"health.min_rank": 1000.0, "health.patience": 1, "health.grace": 0.0}}
    values["changes"]["strict"]["optimiser.lr"] = 0.002
    (tmp_path / "failing.yaml").write_text(yaml.safe_dump(values))
    result = ablate(archive, tmp_path / "failing.yaml", tmp_path / "study", "--json")
    assert result.exit_code == 4, result.output
    data = json.loads(result.stdout)
    assert [(f["cell"], f["error"]["kind"]) for f in data["failed"]] == [("strict", "CollapsedError")]
    assert "effective rank" in data["failed"][0]["error"]["why"]
    table = pd.read_csv(tmp_path / "study" / "table.csv").query("headline").set_index("cell")
    assert (table.loc["strict", "failed"], table.loc["strict", "seeds"]) == (1, 0)
    assert table.loc["base", "seeds"] == 1

    again = ablate(archive, tmp_path / "failing.yaml", tmp_path / "study")
    assert again.exit_code == 4
    assert "failed before" in again.stderr
    planned = ablate(archive, tmp_path / "failing.yaml", tmp_path / "study", "--dry-run", "--retry-failed", "--json")
    assert (json.loads(planned.stdout)["to_do"], json.loads(planned.stdout)["total_minutes"] > 0) == (1, True)
    retried = ablate(archive, tmp_path / "failing.yaml", tmp_path / "study", "--retry-failed")
    assert retried.exit_code == 4
    assert "strict, seed 0: starts again" in retried.stderr
    assert resumptions(tmp_path / "study", "strict") == [None]  # no checkpoint leads out of a collapse


def resumptions(study: Path, cell: str) -> list[int | None]:
    """The steps at which the run of a cell with seed 0 was taken up."""
    (run,) = study.glob(f"runs/{cell}-s0-*/run")
    return [life["resumed_at"] for life in json.loads((run / "environment.json").read_text())]


def test_a_cell_may_change_a_term_of_the_loss(
    archive: Archive, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(backbones.VIT_SIZES, "ti", (48, 2, 3))
    recipe = tiny_recipe(length={"steps": 2}, health={"grace": 1.0}, **METHODS["dinov2"])
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    cells = {"no iBOT": {"method.ibot_weight": 0}, "more KoLeo": {"method.koleo_weight": 1}}
    values = yaml.safe_load(grid.read_text()) | {"base": "base.yaml", "seeds": [0], "controls": ["statistics"]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values | {"changes": cells}))
    result = ablate(archive, tmp_path / "study.yaml", tmp_path / "study")
    assert result.exit_code == 0, result.output
    found = {}
    for cell in ("base", "no-iBOT", "more-KoLeo"):
        (run,) = tmp_path.glob(f"study/runs/{cell}-s0-*/run")
        method = yaml.safe_load((run / "resolved.yaml").read_text())["method"]
        found[cell] = (method, read_metrics(run / "metrics.jsonl")[0])
    method, first = found["base"]
    assert found["no-iBOT"][0] == method | {"ibot_weight": 0.0}
    assert found["more-KoLeo"][0] == method | {"koleo_weight": 1.0}
    # The first batch is the same in all, and so are the weights it meets. Rounding: of float32, 1e-7 of the loss.
    assert first["loss"] - found["no-iBOT"][1]["loss"] == pytest.approx(1.0 * first["ibot_loss"], abs=1e-5)
    assert found["more-KoLeo"][1]["loss"] - first["loss"] == pytest.approx(0.9 * first["koleo_loss"], abs=1e-5)


@pytest.fixture
def single(grid: Path, tmp_path: Path) -> Path:
    """The grid with one seed and one control."""
    values = yaml.safe_load(grid.read_text()) | {"base": str(grid.parent / "tiny.yaml"), "seeds": [0]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values | {"controls": ["statistics"]}))
    return tmp_path / "study.yaml"


@pytest.fixture
def diverged(archive: Archive, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study beside its grid, study.yaml: the base left a checkpoint, and diverged."""
    pretrain = runs.pretrain

    def diverging(*arguments: Any, **settings: Any) -> Any:
        report = pretrain(*arguments, **settings)
        if "base" in str(report.path):
            raise DivergedError("the run has diverged")
        return report

    with monkeypatch.context() as patch:
        patch.setattr(runs, "pretrain", diverging)
        result = ablate(archive, single, tmp_path / "study")
    assert result.exit_code == 4, result.output
    return tmp_path / "study"


def signalling(function: Callable[..., Any], number: int, step: int | None = None) -> Callable[..., Any]:
    """The function, with a signal to this process just before (where one is given, at that step of a run alone)."""

    def call(*arguments: Any, **settings: Any) -> Any:
        if step is None or arguments[0].at.step == step:
            signal.raise_signal(number)
        return function(*arguments, **settings)

    return call


@pytest.mark.parametrize("extra", [[], ["--retry-failed"]])
def test_a_fresh_try_that_was_stopped_goes_on(
    archive: Archive, diverged: Path, monkeypatch: pytest.MonkeyPatch, extra: list[str]
) -> None:
    grid = diverged.parent / "study.yaml"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", signalling(loop.step, signal.SIGTERM, step=1))
        stopped = ablate(archive, grid, diverged, "--retry-failed")
    assert stopped.exit_code == 75, stopped.output
    assert resumptions(diverged, "base") == [None]
    result = ablate(archive, grid, diverged, *extra)
    assert result.exit_code == 0, result.output
    assert resumptions(diverged, "base") == [None, 2]


@pytest.mark.parametrize("point", ["fsync:before:1", "fsync:before:2", "fsync:after:2"])
def test_a_fresh_try_that_was_killed_never_goes_on_from_the_run_that_failed(
    archive: Archive, diverged: Path, point: str
) -> None:
    command = ["ablate", str(archive.path), "-g", str(diverged.parent / "study.yaml"), "-o", str(diverged)]

    def job() -> None:
        with crash.trapped(point):
            CliRunner().invoke(application, [*command, "--retry-failed"])

    assert in_fork(job) == -signal.SIGKILL
    result = CliRunner().invoke(application, [*command, "--retry-failed"])
    assert result.exit_code == 0, result.output
    assert resumptions(diverged, "base") == [None]


@pytest.fixture
def unprobed(archive: Archive, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study beside its grid, study.yaml: the base was trained, and its probe failed."""
    probed = runs.run_probe
    calls: list[int] = []

    def failing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise DataError("no labels today")
        return probed(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "run_probe", failing)
        result = ablate(archive, single, tmp_path / "study")
    assert result.exit_code == 4, result.output
    assert "base, seed 0: no labels today" in result.output
    return tmp_path / "study"


def test_a_training_whose_probe_failed_is_kept_when_it_is_tried_again(archive: Archive, unprobed: Path) -> None:
    grid = unprobed.parent / "study.yaml"
    plans = [
        json.loads(ablate(archive, grid, unprobed, "--dry-run", "--json", *e).stdout) for e in ([], ["--retry-failed"])
    ]
    assert [(plan["to_do"], plan["total_minutes"]) for plan in plans] == [(0, 0), (1, 0)]
    result = ablate(archive, grid, unprobed, "--retry-failed")
    assert result.exit_code == 0, result.output
    assert resumptions(unprobed, "base") == [None, 3]


def test_another_probe_takes_up_a_training_whose_probe_failed(archive: Archive, unprobed: Path) -> None:
    grid = unprobed.parent / "study.yaml"
    values = yaml.safe_load(grid.read_text())
    values["probe"]["k"] = [4]
    grid.write_text(yaml.safe_dump(values))
    planned = json.loads(ablate(archive, grid, unprobed, "--dry-run", "--json").stdout)
    assert (planned["to_do"], planned["total_minutes"]) == (2, 0)  # both cells are to be probed, neither is trained
    result = ablate(archive, grid, unprobed)
    assert result.exit_code == 0, result.output
    assert [resumptions(unprobed, cell) for cell in ("base", "no-blur")] == [[None, 3]] * 2


def test_a_record_from_before_it_told_of_the_training_is_no_reason_to_train_again(
    archive: Archive, unprobed: Path
) -> None:
    (path,) = unprobed.glob("runs/base-s0-*/record.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps({key: record[key] for key in ("status", "error", "scores", "key", "probe", "folder")}))
    result = ablate(archive, unprobed.parent / "study.yaml", unprobed, "--retry-failed")
    assert result.exit_code == 0, result.output
    assert resumptions(unprobed, "base") == [None, 3]


def test_a_dry_run_counts_and_writes_nothing(archive: Archive, grid: Path, whole: Path, tmp_path: Path) -> None:
    result = ablate(archive, grid, tmp_path / "study", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert (data["to_do"], len(data["runs"])) == (4, 4)
    assert data["minutes"].keys() == {"base", "no blur"}
    assert data["total_minutes"] > 0
    assert not (tmp_path / "study").exists()
    done = json.loads(ablate(archive, grid, whole, "--dry-run", "--json").stdout)
    assert (done["to_do"], done["total_minutes"]) == (0, 0)


def test_a_dry_run_of_cells_that_are_alike_tries_them_once(archive: Archive, grid: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(grid.read_text())
    widths = {"narrow": {"backbone.width": 4}, "wide": {"backbone.width": 8}}  # the base is narrow, too
    mine = grid.with_name("widths.yaml")
    mine.write_text(yaml.safe_dump({**values, "product": {"width": widths}}))
    result = ablate(archive, mine, tmp_path / "study", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    minutes = json.loads(result.stdout)["minutes"]
    assert minutes.keys() == {"base", "no blur", "narrow", "wide"}
    assert minutes["base"] == minutes["narrow"]


def test_a_dry_run_draws_no_images(
    archive: Archive, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pruner, "draw", lambda *_: pytest.fail("a draw from the whole archive"))
    pruning = ["pruning.rule=balanced", "pruning.keep=0.5", "pruning.warmup=0"]
    result = ablate(archive, grid, tmp_path / "study", *pruning, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["total_minutes"] > 0


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["views.blurr.p=0"], "did you mean 'blur'"),
        (["views.solarise.p=0.5"], "cell base"),
        (["preprocessing.quantity=sigma0"], "cell base"),
        (["where=split == 'none'"], "cell base"),
        (["batch_size=37"], "cell base"),  # of 36 in training
        (["pruning.rule=balanced", "pruning.keep=0.1"], "cell base"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(
    archive: Archive, grid: Path, tmp_path: Path, extra: list[str], message: str
) -> None:
    result = ablate(archive, grid, tmp_path / "study", *extra)
    assert result.exit_code in (2, 3)
    assert message in result.stderr
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("source", "extra", "message"),
    [(Waves(12, size=16), [], "different sizes"), (Waves(12), ["where=group > 'g5'"], "holds for none of 12")],
)
def test_every_archive_is_looked_at_before_anything_runs(
    archive: Archive, grid: Path, tmp_path: Path, source: Waves, extra: list[str], message: str
) -> None:
    ingest(source, tmp_path / "second")
    result = ablate(archive, grid, tmp_path / "study", str(tmp_path / "second"), *extra)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "cell base" in result.stderr
    assert not (tmp_path / "study").exists()


def test_a_leaking_split_or_an_unknown_target_is_refused_before_anything_runs(
    archive: Archive, grid: Path, tmp_path: Path
) -> None:
    """The split of the archive straddles its groups."""
    values = yaml.safe_load(grid.read_text()) | {"base": str(grid.parent / "tiny.yaml")}
    for probe, message in (
        ({"targets": ["pattern"]}, "groups are in both"),
        ({"targets": ["patern"]}, "label_pattern"),
    ):
        (tmp_path / "leaking.yaml").write_text(yaml.safe_dump(values | {"probe": probe}))
        result = ablate(archive, tmp_path / "leaking.yaml", tmp_path / "study")
        assert result.exit_code in (2, 3)
        assert message in result.stderr
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("extra", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ({"metric": "foo"}, "no metric 'foo' for classification"),
        ({"metric": "rmse"}, "no metric 'rmse' for classification"),
        ({"k": [0]}, "setting 'probe.k.0'"),
        ({"k": []}, "setting 'probe.k'"),
        ({"protocols": []}, "setting 'probe.protocols'"),
        ({"seed": -1}, "setting 'probe.seed'"),
        ({"cv": None}, "setting 'probe.folds'"),
        ({"split": "split"}, "exclude each other"),
        ({"both": True}, "each model alone"),
    ],
)
def test_a_probe_that_cannot_be_is_refused_before_anything_runs(
    archive: Archive, grid: Path, tmp_path: Path, probe: dict[str, Any], message: str, extra: list[str]
) -> None:
    values = yaml.safe_load(grid.read_text()) | {"base": str(grid.parent / "tiny.yaml")}
    values["probe"] |= probe
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(values))
    result = ablate(archive, tmp_path / "grid.yaml", tmp_path / "study", *extra)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "study").exists()


def test_folds_that_leave_one_class_to_learn_are_refused_before_anything_runs(
    archive: Archive, grid: Path, tmp_path: Path
) -> None:
    values = yaml.safe_load(grid.read_text()) | {"base": str(grid.parent / "tiny.yaml")}
    first = str(archive.catalogue["label_pattern"].iloc[0])
    values["probe"] |= {"group": "pattern", "where": f"label_pattern != {first!r}"}  # two classes are left
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(values))
    result = ablate(archive, tmp_path / "grid.yaml", tmp_path / "study")
    assert result.exit_code == 3, result.output
    assert "the training rows of a fold have one class only" in result.stderr
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("extra", [[], ["--dry-run"]])
@pytest.mark.parametrize("place", ["file", "file/study", "file/deep/study"])
def test_a_file_in_the_way_of_the_study_is_named(
    archive: Archive, grid: Path, tmp_path: Path, place: str, extra: list[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    result = ablate(archive, grid, tmp_path / place, *extra)
    assert result.exit_code == 2, result.output
    assert "a file is where the folder of the study is to be" in result.stderr
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("function", "fix"), [("pretrain", "try the base alone"), ("run_probe", "the trainings are kept: change the probe")]
)
def test_where_every_run_fails_the_first_reason_is_told_and_what_is_to_be_mended(
    archive: Archive, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, fix: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise DataError("it failed", why="of this", fix="mend that")

    monkeypatch.setattr(runs, function, fail)
    result = ablate(archive, single, tmp_path / "study")
    assert result.exit_code == 1, result.output
    told = result.stderr[result.stderr.index("error: all 2 runs of the study failed") :].splitlines()
    assert told[2:4] == ["    why: it failed (of this)", "    fix: mend that"]
    assert fix in told[4]


def test_another_folder_is_not_written_into(archive: Archive, grid: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for extra in ([], ["--dry-run"]):
        result = ablate(archive, grid, tmp_path, *extra)
        assert result.exit_code == 2
        assert "something else" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_without_an_archive_there_is_nothing_to_do(grid: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(application, ["ablate", "length.steps=2", "-g", str(grid), "-o", str(tmp_path / "s")])
    assert result.exit_code == 2
    assert "no archive" in result.stderr


def test_two_processes_do_not_work_on_one_study(archive: Archive, grid: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    with held(study / LOCK_FILE, "busy"):
        result = ablate(archive, grid, study)
    assert result.exit_code == 2
    assert "another process works on this study" in result.stderr
    assert [path.name for path in study.iterdir()] == [LOCK_FILE]  # nothing that stands in the way of the next


def test_a_run_that_another_process_works_on_has_not_failed(
    archive: Archive, grid: Path, whole: Path, tmp_path: Path
) -> None:
    study = shutil.copytree(whole, tmp_path / "study")
    folder = sorted((study / "runs").iterdir())[0]
    (folder / "record.json").unlink()
    with held(folder / "run" / LOCK_FILE, "busy"):
        result = ablate(archive, grid, study)
    assert result.exit_code == 2
    assert "another process works on this run" in result.stderr
    assert not (folder / "record.json").exists()
    assert ablate(archive, grid, study).exit_code == 0
    assert (study / "table.csv").read_bytes() == (whole / "table.csv").read_bytes()


def test_a_stopped_study_ends_with_75_and_goes_on(archive: Archive, grid: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "groundswell", "ablate", str(archive.path), "length.steps=400", "-g", str(grid)]
    child = subprocess.Popen(
        [*command, "-o", str(tmp_path / "s")], stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    while not list(tmp_path.glob("s/runs/*/run/checkpoints/step-*.json")) and child.poll() is None:
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 75, errors
    assert b"same command again" in errors


@pytest.mark.parametrize(
    ("module", "function", "step", "number"),
    [
        (loop, "step", 2, signal.SIGTERM),  # the last, after which the run asks no more
        (loop, "step", 2, signal.SIGINT),
        (runs, "embed", None, signal.SIGTERM),
        (runs, "run_probe", None, signal.SIGTERM),
        (runs, "StatisticsEmbedder", None, signal.SIGTERM),
        (study, "draw_ablation", None, signal.SIGTERM),
    ],
)
def test_a_study_can_be_stopped_anywhere(
    archive: Archive, single: Path, tmp_path: Path, module: Any, function: str, step: int | None, number: int
) -> None:
    output = tmp_path / "study"

    def job() -> None:
        setattr(module, function, signalling(getattr(module, function), number, step))
        result = ablate(archive, single, output)
        (tmp_path / "errors").write_text(result.stderr)
        os._exit(result.exit_code)

    assert in_fork(job) == 75
    errors = (tmp_path / "errors").read_text()
    assert f"stopped by {signal.Signals(number).name}" in errors
    assert "run the same command again to go on" in errors
    finished = len(list(output.glob("runs/*/record.json")))
    assert finished == (0 if function in ("step", "embed", "run_probe") else 2)
    result = ablate(archive, single, output)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("nothing has changed, reused") >= finished
    assert resumptions(output, "base") == ([None] if finished else [None, 3])
