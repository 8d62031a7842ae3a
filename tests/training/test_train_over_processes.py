"""The training loop in several processes: the weights of one, one writer, one clock, and the same end after any stop.

What differs by definition is left out of the comparison with one process: KoLeo, which views DINOv2 masks, drop path
above 0.1 and the partners of mixup are matters of the images that a process has at hand.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from groundswell import backbones, distributed, files
from groundswell.archive.reader import Archive
from groundswell.backbones import build_backbone
from groundswell.encoder.directory import load
from groundswell.errors import LostProcess, StoppedBySignal, UsageError
from groundswell.methods import dinov2
from groundswell.signals import StopRequest
from groundswell.training import loop
from groundswell.training.building import build_method
from groundswell.training.checkpoint import Checkpoints, State
from groundswell.training.clock import Clock
from groundswell.training.loop import pretrain
from groundswell.training.parallel import whole
from groundswell.training.recipe import CheckpointSettings, Recipe
from groundswell.training.run_directory import read_metrics
from groundswell.training.session import Monitor, Session
from methods.test_methods_over_processes import NO_KOLEO, masks_by_key
from processes import in_processes
from training.test_training_kills import result
from training.tiny import METHODS, tiny_recipe

STEPS = 3

COMPARED: dict[str, dict[str, Any]] = {
    "simclr, accumulated": {"batch_size": 8, "accumulate": 2},
    "simclr, sharded": {"parallel": "fsdp"},
    "dino": METHODS["dino"],
    "dinov2": {**METHODS["dinov2"], "method": NO_KOLEO},
    "mae": METHODS["mae"],
    "mae, accumulated and sharded": {**METHODS["mae"], "parallel": "fsdp", "batch_size": 8, "accumulate": 2},
    "dinov2, sharded": {**METHODS["dinov2"], "method": NO_KOLEO, "parallel": "fsdp"},
}


def recipe_of(changes: dict[str, Any]) -> Recipe:
    """Of plain gradients (Adam divides one that is but rounding by itself), and small steps where those are large."""
    rate = 1e-3 if "method" in changes else 1e-4
    optimiser = {"name": "sgd", "lr": rate, "momentum": 0.9, "weight_decay": 0.0}
    common = {"length": {"steps": STEPS}, "health": {"grace": 1.0}, "schedule": {"warmup": 0.0}}
    return tiny_recipe(**{**changes, **common, "optimiser": optimiser})


def state_of(run: Path) -> State:
    found = Checkpoints(run / "checkpoints").newest()
    assert found is not None
    return found[1]


@contextmanager
def watching(step: int, act: Callable[[Session], None]) -> Iterator[None]:
    """Have ``act`` called when so many steps are done, before the next."""
    plain = loop.step

    def watched(session: Session, rate: float, clock: Clock) -> Any:
        if session.at.step == step:
            act(session)
        return plain(session, rate, clock)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "step", watched)
        yield


def terminate(session: Session) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.VIT_SIZES, "ti", (24, 2, 3))
        patch.setattr(dinov2, "block_masks", masks_by_key)
        yield


def start_of(recipe: Recipe) -> dict[str, Tensor]:
    return build_method(recipe, build_backbone(recipe.backbone, 1, recipe.seed), ()).state_dict()


@pytest.fixture(scope="module")
def runs(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of ``COMPARED`` in one process and in two."""
    folder = tmp_path_factory.mktemp("runs")
    for name, changes in COMPARED.items():
        pretrain([archive], recipe_of(changes), folder / name / "one")

    def job(rank: int) -> None:
        held: dict[str, dict[str, Tensor]] = {}
        for name, changes in COMPARED.items():
            sessions: list[Session] = []
            with watching(0, sessions.append):
                pretrain(
                    [archive],
                    recipe_of(changes),
                    folder / name / "two",
                    monitor=Monitor("rank", lambda encoder: 0.5 - rank),
                )
            held[name] = whole(sessions[0].method.state_dict())
        torch.save(held, folder / f"held{rank}.pt")
        with pytest.MonkeyPatch.context() as patch:  # the control: both take the first half
            patch.setattr(distributed, "own", lambda rows: rows[: len(rows) // 2])
            pretrain([archive], recipe_of(COMPARED["mae"]), folder / "control" / "two")

    in_processes(job, 2, folder)
    return folder


@pytest.mark.parametrize("name", COMPARED)
def test_two_processes_come_to_the_weights_of_one(runs: Path, name: str) -> None:
    start = start_of(recipe_of(COMPARED[name]))
    one, two = (state_of(runs / name / which)["method"] for which in ("one", "two"))
    scale = max(float((one[key] - value).abs().max()) for key, value in start.items())
    for key, value in start.items():
        # Float32 sums of another order, through all layers and three steps, each tensor by its own largest movement.
        own = 1e-3 * float((one[key] - value).abs().max()) + 1e-6 * scale
        torch.testing.assert_close(two[key] - value, one[key] - value, rtol=5e-3, atol=own, msg=key)


def test_control_with_the_wrong_half_the_weights_differ(runs: Path) -> None:
    start = start_of(recipe_of(COMPARED["mae"]))
    one, two = state_of(runs / "mae" / "one")["method"], state_of(runs / "control" / "two")["method"]
    scale = max(float((one[key] - value).abs().max()) for key, value in start.items())
    assert max(float((one[key] - two[key]).abs().max()) for key in start) > 0.05 * scale


def test_all_processes_hold_the_same_bits_teacher_and_centre_among_them(runs: Path) -> None:
    first, second = (torch.load(runs / f"held{rank}.pt") for rank in (0, 1))
    for name in COMPARED:
        saved = state_of(runs / name / "two")["method"]
        for key, value in saved.items():
            assert torch.equal(first[name][key], value), (name, key)
            assert torch.equal(second[name][key], value), (name, key)
    assert any(key.startswith("teacher_backbone.") for key in first["dinov2"])


@pytest.mark.parametrize("name", COMPARED)
def test_the_first_process_writes_for_all(runs: Path, name: str) -> None:
    one, two = (read_metrics(runs / name / which / "metrics.jsonl") for which in ("one", "two"))
    for mine, theirs in zip(two, one, strict=True):
        for key in ("step", "epoch", "images", "progress", "learning_rate"):
            assert mine[key] == theirs[key]
        for key in ("loss", "gradient_norm", "feature_spread", "effective_rank"):  # of all images
            assert mine[key] == pytest.approx(theirs[key], rel=2e-3), key
    assert two[-1]["monitor"] == 0.5  # that of the first
    run = runs / name / "two"
    assert len(list(run.glob("events.*"))) == 1
    assert (run / "run.log").read_text().count("saved step-00000003.pt") == 1
    assert files.read_json(run / "environment.json")[0]["processes"] == 2
    load(run / "model")


LONG = {"length": {"steps": 6}, "checkpoint": {"steps": 2}, "health": {"grace": 1.0}, "batch_size": 12}
STOPPED = {
    "dinov2": tiny_recipe(**{**METHODS["dinov2"], **LONG}),
    "simclr, accumulated": tiny_recipe(**{**LONG, "accumulate": 2, "batch_size": 6}),
    "mae, sharded": tiny_recipe(**{**METHODS["mae"], **LONG, "parallel": "fsdp"}),
}


def test_stopped_at_one_process_killed_at_another_and_resumed_to_the_same_bits(
    archive: Archive, tmp_path: Path
) -> None:
    # Three processes: a sum of two numbers has only one order.
    def until(step: int, victim: int, act: Callable[[Session], None]) -> Callable[[int], list[int]]:
        def job(rank: int) -> list[int]:
            stopped = []
            for name, recipe in STOPPED.items():
                with watching(step, act if rank == victim else lambda session: None):
                    try:
                        pretrain([archive], recipe, tmp_path / name / "run")
                    except StoppedBySignal as error:
                        stopped.append(int(str(error.where).split()[-1]))
            return stopped

        return job

    def finish(which: str) -> Callable[[int], list[int | None]]:
        def job(rank: int) -> list[int | None]:
            return [
                pretrain([archive], recipe, tmp_path / name / which, resume=True).resumed_at
                for name, recipe in STOPPED.items()
            ]

        return job

    folders = [tmp_path / f"spawn{i}" for i in range(3)]
    for folder in folders:
        folder.mkdir()
    in_processes(finish("whole"), 3, folders[0])
    assert in_processes(until(2, 1, terminate), 3, folders[1]) == [[3, 3, 3]] * 3
    assert in_processes(finish("run"), 3, folders[2]) == [[3, 3, 3]] * 3
    for name in STOPPED:
        assert result(tmp_path / name / "run") == result(tmp_path / name / "whole"), name


def test_a_process_that_dies_ends_the_others_by_name_and_costs_the_steps_since_the_checkpoint(
    archive: Archive, tmp_path: Path
) -> None:
    recipe = STOPPED["mae, sharded"]

    def die(session: Session) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def job(rank: int) -> str:
        with watching(3, die if rank == 1 else lambda session: None), pytest.raises(LostProcess) as caught:
            pretrain([archive], recipe, tmp_path / "run")
        (tmp_path / f"said{rank}").write_text(str(caught.value))
        os._exit(7)  # the barrier of `in_processes` would wait for the dead

    with pytest.raises(AssertionError, match=r"\[7, -9, 7\]"):
        in_processes(job, 3, tmp_path)
    assert "process 2 of 3" in (tmp_path / "said2").read_text()
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [2]
    again = tmp_path / "again"
    again.mkdir()
    # Another number of processes, and with all weights in each: the same run but for rounding.
    other = recipe.model_copy(update={"parallel": "ddp"})
    reports = in_processes(lambda rank: pretrain([archive], other, tmp_path / "run", resume=True).resumed_at, 2, again)
    assert reports == [2, 2]
    log = (tmp_path / "run" / "run.log").read_text()
    assert "processes = 2 where the checkpoint had 3" in log
    assert "parallel = ddp where the checkpoint had fsdp" in log
    one = pretrain([archive], recipe, tmp_path / "one").metrics
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["loss"] == pytest.approx(one["loss"], rel=1e-4)


def test_what_is_decided_together(archive: Archive, tmp_path: Path) -> None:
    def job(rank: int) -> list[Any]:
        # A time and a signal: that of the first process, and that of any.
        clock = Clock(CheckpointSettings(minutes=1.0), time.monotonic() - 100 * rank, StopRequest(15 * rank))
        said = [clock.elapsed, clock.elapsed < 50, clock.signal == "SIGTERM"]

        def spoil(session: Session) -> None:
            feed = session.feed.batch
            plain = iter([feed])

            def batch(*at: int) -> Any:
                images, rows = feed(*at)
                return (torch.full_like(images, math.nan), rows) if next(plain, None) else (images, rows)

            session.feed.batch = batch  # type: ignore[method-assign]

        with watching(1, spoil if rank == 1 else lambda session: None):
            report = pretrain([archive], recipe_of(COMPARED["dino"]), tmp_path / "nan")
        said.append(report.metrics["skipped_steps"])
        try:
            pretrain([archive], recipe_of({"batch_size": 15}), tmp_path / "odd")
        except UsageError as error:
            said.append("batch_size=16" in str(error.fix))
        return said

    first, second = in_processes(job, 2, tmp_path)
    assert first == second
    assert first[1:] == [True, True, 1, True]
    weights = state_of(tmp_path / "nan")["method"]
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())


def test_sharded_methods_start_from_a_model(runs: Path, archive: Archive, tmp_path: Path) -> None:
    still = {"name": "sgd", "lr": 1e-30, "momentum": 0.0, "weight_decay": 0.0}
    names = ("dino", "dinov2", "mae")

    def job(rank: int) -> None:
        for name in names:
            changes = {**METHODS[name], "parallel": "fsdp", "optimiser": still, "length": {"steps": 1}}
            pretrain([archive], tiny_recipe(**changes), tmp_path / name, init=runs / name / "one" / "model")

    in_processes(job, 2, tmp_path)
    for name in names:
        before, after = (load(f / "model").backbone for f in (runs / name / "one", tmp_path / name))
        for a, b in zip(before.parameters(), after.parameters(), strict=True):
            torch.testing.assert_close(a, b, msg=name)  # a teacher's mean of two equal numbers is rounded
