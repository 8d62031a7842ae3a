"""Seeded kills and disk failures at named points of a small run: resumed, it comes to the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import crash
from groundswell import files
from groundswell.archive.reader import Archive
from groundswell.config import to_yaml
from groundswell.encoder.directory import load
from groundswell.encoder.encoder import Encoder
from groundswell.errors import GroundswellError
from groundswell.training.checkpoint import Checkpoints, Score
from groundswell.training.loop import RunReport, pretrain
from groundswell.training.run_directory import read_metrics
from groundswell.training.session import Monitor
from training.tiny import tiny_recipe

RECIPE = tiny_recipe(length={"steps": 5}, checkpoint={"steps": 2, "keep": 1}, monitor_every=0.2)


def result(run: Path) -> tuple[str, list[dict[str, Any]]]:
    """The model's bytes and the metrics without timings."""
    rows = [{k: v for k, v in row.items() if k != "timing"} for row in read_metrics(run / "metrics.jsonl")]
    return files.sha256_file(run / "model" / "model.safetensors"), rows


def best(run: Path) -> tuple[str, list[int], tuple[int, Score] | None]:
    """The bytes of the best model, which steps have a checkpoint, and which of them is the best."""
    store = Checkpoints(run / "checkpoints")
    return files.sha256_file(run / "model-best" / "model.safetensors"), store.steps(), store.best()


def first_weights(encoder: Encoder) -> float:
    return float(next(encoder.backbone.parameters()).detach().double().sum())


def in_fork(job: Callable[[], None]) -> int:
    """Run ``job`` in a forked child with a process group of its own; how it ended (-9 for SIGKILL)."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            job()
            code = 0
        except GroundswellError:
            code = 3
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def train(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunReport]:
    """The run, watched by a monitor to which the encoder at step 3, which is no step to be saved at, is the best."""
    seen: list[float] = []

    def note(encoder: Encoder) -> float:
        seen.append(first_weights(encoder))
        return 0.0

    def score(encoder: Encoder) -> float:
        return -abs(first_weights(encoder) - seen[at])

    run = tmp_path_factory.mktemp("seen") / "run"
    pretrain([archive], RECIPE, run, monitor=Monitor("note", note))
    at = [row["step"] for row in read_metrics(run / "metrics.jsonl") if "monitor" in row].index(3)
    return partial(pretrain, [archive], RECIPE, monitor=Monitor("nearest", score))


@pytest.fixture(scope="module")
def undisturbed(
    train: Callable[..., RunReport], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, dict[str, int]]:
    """What the run comes to, and how often it calls replace, fsync and write."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    with crash.trapped() as trap:
        train(run)
    assert best(run)[1:] == ([3, 4, 5], (3, ("nearest", 0.0)))
    return (result(run), best(run)), trap.counts


def points(counts: dict[str, int]) -> list[str]:
    """A dozen kills and six failures, spread over the run by a seed; the first and the last call of each kind too."""
    chosen = random.Random(20)
    kills = [
        (kind, what) for kind, whats in crash.KINDS.items() for what in whats if what not in ("eio", "enospc", "short")
    ]
    drawn = [(*kills[i % len(kills)], chosen.randint(1, 10**6)) for i in range(12)]
    drawn += [("replace", "before", 0), ("replace", "after", -1), ("fsync", "before", 0), ("fsync", "after", -1)]
    drawn += [("fsync", "enospc", chosen.randint(1, 10**6)), ("fsync", "eio", chosen.randint(1, 10**6))]
    drawn += [("replace", "eio", chosen.randint(1, 10**6)), ("write", "short", chosen.randint(1, 10**6))]
    drawn += [("write", "enospc", chosen.randint(1, 10**6)), ("write", "eio", chosen.randint(1, 10**6))]
    return [f"{kind}:{what}:{number % counts[kind] + 1}" for kind, what, number in drawn]


def test_killed_at_named_points_and_resumed(
    train: Callable[..., RunReport], undisturbed: tuple[Any, dict[str, int]], tmp_path: Path
) -> None:
    expected, counts = undisturbed
    assert counts["replace"] > 10  # three checkpoints and models, settings, environment, metrics
    ends = []
    for i, point in enumerate(points(counts)):
        run = tmp_path / f"run{i}"

        def job(run: Path = run, point: str = point) -> None:
            with crash.trapped(point):
                train(run)

        code = in_fork(job)
        ends.append(code)
        what = point.split(":")[1]
        assert code in {"short": {0}, "eio": {3}, "enospc": {3}}.get(what, {-signal.SIGKILL}), point
        if (run / "model").exists():
            load(run / "model")  # old or new, never a mix
        train(run, resume=True)
        assert (result(run), best(run)) == expected, point
    assert ends.count(-signal.SIGKILL) == 16


@pytest.mark.parametrize("names_too", [True, False])
def test_what_counts_as_saved_survives_a_power_cut(
    train: Callable[..., RunReport], undisturbed: tuple[Any, dict[str, int]], tmp_path: Path, names_too: bool
) -> None:
    """A kill leaves the page cache behind; here all is lost that was not synced, with or without the renames."""
    expected, counts = undisturbed
    chosen = random.Random(21)
    for number in chosen.sample(range(1, counts["replace"] + 1), 5):
        run = tmp_path / f"run{number}"
        with crash.trapped(f"replace:power:{number}") as trap, pytest.raises(crash.PowerLost):
            train(run)
        trap.lose(names_too)
        train(run, resume=True)
        assert (result(run), best(run)) == expected, number


def test_sigterm_ends_the_program_with_75_and_resume_ends_it_with_0(archive: Archive, tmp_path: Path) -> None:
    file, run = tmp_path / "tiny.yaml", tmp_path / "run"
    recipe = tiny_recipe(length={"steps": 60}, checkpoint={"steps": 2}, log_steps=20)  # long enough to be stopped
    file.write_text(to_yaml(recipe.model_dump(mode="json", exclude_none=True)))
    pretrain([archive], recipe, tmp_path / "whole")
    command = [sys.executable, "-m", "groundswell", "pretrain", str(archive.path), "-r", str(file), "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    child = subprocess.Popen(
        [*command, "-o", str(run)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(run.glob("checkpoints/step-*.json")) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 75, errors
    assert "--resume" in errors

    again = subprocess.run(
        [*command, "-o", str(run), "--resume"], env=environment, capture_output=True, text=True, check=True
    )
    assert 0 < json.loads(again.stdout)["resumed_at"] < 60
    assert result(run) == result(tmp_path / "whole")
