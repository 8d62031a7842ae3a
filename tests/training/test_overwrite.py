"""Overwriting a run that was killed, and being killed while overwriting: nothing of the old run passes for the new."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import crash
from groundswell.archive.reader import Archive
from groundswell.encoder.directory import load
from groundswell.encoder.encoder import Encoder
from groundswell.errors import ModelError, UsageError
from groundswell.training.checkpoint import Checkpoints
from groundswell.training.loop import RunReport, pretrain
from groundswell.training.run_directory import RunDirectory
from groundswell.training.session import Monitor
from training.test_training_kills import in_fork, result
from training.tiny import tiny_recipe

RECIPE = tiny_recipe(length={"steps": 2}, checkpoint={"steps": 1}, monitor_every=0.5)


def even(encoder: Encoder) -> float:
    """A score by which each step is the best: a tie goes to the later one."""
    return 0.0


@pytest.fixture(scope="module")
def train(archive: Archive) -> Callable[..., RunReport]:
    return partial(pretrain, [archive], RECIPE)


@pytest.fixture(scope="module")
def undisturbed(train: Callable[..., RunReport], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The finished run, watched by a monitor, and what it renamed, in order."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    with crash.trapped() as trap:
        train(run, monitor=Monitor("even", even))
    return run, [Path(name).name for kind, name in trap.log if kind == "replace"]


def killed_at_rename(number: int, job: Callable[[], Any]) -> None:
    """Run ``job`` in a fork that is killed before a rename, counted from 0."""

    def trapped() -> None:
        with crash.trapped(f"replace:before:{number + 1}"):
            job()

    assert in_fork(trapped) == -signal.SIGKILL


def killed_at_call(owner: type, name: str, job: Callable[[], Any]) -> None:
    """Run ``job`` in a fork that is killed when it calls a method."""

    def patched() -> None:
        setattr(owner, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        job()

    assert in_fork(patched) == -signal.SIGKILL


@pytest.mark.parametrize("name", ["model", "model-best"])
def test_no_model_of_a_killed_run_outlives_its_overwriting(
    train: Callable[..., RunReport], undisturbed: tuple[Path, list[str]], tmp_path: Path, name: str
) -> None:
    whole, renamed = undisturbed
    run = tmp_path / "run"
    between = renamed.index(name) + 1  # the old one is set aside, the new one not yet in its place
    assert renamed[between] == f".{name}.new"
    killed_at_rename(between, lambda: train(run, monitor=Monitor("even", even)))
    assert not (run / name).exists()
    load(run / name)
    killed_at_call(Checkpoints, "save", lambda: train(run, overwrite=True))
    with pytest.raises(ModelError, match="no model here"):
        load(run / name)
    train(run, resume=True)
    assert result(run)[0] == result(whole)[0]
    assert {path.name for path in run.iterdir() if path.is_dir()} == {"checkpoints", "model"}


@pytest.mark.parametrize("option", ["resume", "overwrite"])
@pytest.mark.parametrize("left", ["of a kill", "of others"])
def test_a_run_killed_while_it_overwrites_can_be_given_again(
    train: Callable[..., RunReport], undisturbed: tuple[Path, list[str]], tmp_path: Path, left: str, option: str
) -> None:
    whole, renamed = undisturbed
    run = tmp_path / "run"
    if left == "of a kill":
        killed_at_rename(renamed.index(".model.new"), lambda: train(run))
        assert (run / ".model.new").exists()
    else:
        train(run)
        (run / "thesis.txt").touch()
        (run / "events.csv").touch()
    killed_at_call(RunDirectory, "write_settings", lambda: train(run, overwrite=True))
    with pytest.raises(UsageError, match="already holds a run"):
        train(run)
    assert train(run, **{option: True}).resumed_at is None
    assert result(run)[0] == result(whole)[0]
    assert all((run / name).exists() == (left == "of others") for name in ("thesis.txt", "events.csv"))


def test_a_run_half_deleted_is_a_run_and_one_without_checkpoints_has_no_model(
    undisturbed: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """Killed at each single deletion: what is left can be taken up, and beside no old model."""
    whole, _ = undisturbed
    models = ("model", "model-best")
    for number in range(100):
        run = RunDirectory(shutil.copytree(whole, tmp_path / f"run{number}"))
        (run.path / "thesis.txt").touch()
        for name in models:
            for left in ("new", "previous"):
                shutil.copytree(run.path / name, run.path / f".{name}.{left}")
        if not interrupted(run.clear, number):
            break
        run.prepare(resume=True, overwrite=False)
        run.prepare(resume=False, overwrite=True)
        if not Checkpoints(run.checkpoints).steps():
            for name in models:
                with pytest.raises(ModelError, match="no model here"):
                    load(run.path / name)
    assert number > 20
    assert {path.name for path in run.path.iterdir()} == {"resolved.yaml", "run.log", ".lock", "thesis.txt"}


def interrupted(job: Callable[[], None], number: int) -> bool:
    """Whether ``job`` came to its deletion of that number, counted from 0, before which it ends as if by a kill."""
    count = 0

    def counted(real: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        nonlocal count
        count += 1
        if count > number:
            raise crash.PowerLost
        real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("unlink", "rmdir"):
            patch.setattr(os, name, partial(counted, getattr(os, name)))
        try:
            job()
        except crash.PowerLost:
            return True
    return False
