"""A run from end to end: what it leaves, and that nothing which happens to it changes what it comes to."""

import json
import math
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from groundswell import files
from groundswell.archive.ingest import ingest
from groundswell.archive.reader import Archive, open_archive
from groundswell.backbones import ResNet, build_backbone
from groundswell.config import parse_yaml, validate
from groundswell.encoder.directory import load, read_data
from groundswell.encoder.encoder import Encoder
from groundswell.errors import (
    CollapsedError,
    DataError,
    DivergedError,
    GroundswellError,
    ModelError,
    QuantityError,
    StoppedBySignal,
    UsageError,
)
from groundswell.methods.simclr import SimCLR
from groundswell.physics.imagette import Channel, Imagette, Quantity
from groundswell.training import loop
from groundswell.training.checkpoint import Checkpoints, read_checkpoint
from groundswell.training.clock import Clock
from groundswell.training.data import Feed
from groundswell.training.loop import RunReport, passes, pretrain
from groundswell.training.recipe import Recipe
from groundswell.training.run_directory import RunDirectory, read_metrics
from groundswell.training.session import Monitor, Session, check_same_run
from groundswell.views.policies import ViewPolicy
from training.tiny import Waves, make_archive, tiny_recipe


def weights(run: Path, model: str = "model") -> str:
    """The SHA-256 of the model's bytes."""
    return files.sha256_file(run / model / "model.safetensors")


def rows(run: Path) -> list[dict[str, Any]]:
    """The metrics without their timings."""
    return [{k: v for k, v in row.items() if k != "timing"} for row in read_metrics(run / "metrics.jsonl")]


class Killed(BaseException):
    """Stands for SIGKILL inside one process: nothing in the product may catch it."""


def pretrain_until(step: int, archive: Archive, recipe: Recipe, output: Path, how: str) -> None:
    """Start a run that ends when so many optimiser steps are done: by a kill (no save) or by a signal."""
    plain = loop.step

    def watched(session: Session, rate: float, clock: Any) -> Any:
        if session.at.step == step:
            if how == "kill":
                raise Killed
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(session, rate, clock)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "step", watched)
        with pytest.raises(Killed if how == "kill" else StoppedBySignal):
            pretrain([archive], recipe, output)


ACCUMULATE = {"accumulate": 3, "batch_size": 8, "length": {"steps": 5}, "checkpoint": {"steps": 2}}


@pytest.fixture(scope="module")
def undisturbed(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs of the tiny recipe and of its accumulating variant."""
    folder = tmp_path_factory.mktemp("undisturbed")
    pretrain([archive], tiny_recipe(), folder / "plain")
    pretrain([archive], tiny_recipe(**ACCUMULATE), folder / "accumulate")
    return {"plain": folder / "plain", "accumulate": folder / "accumulate"}


def test_what_a_run_leaves(archive: Archive, undisturbed: dict[str, Path]) -> None:
    run = undisturbed["plain"]
    assert [row["step"] for row in rows(run)] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["epoch"] for row in rows(run)] == [0, 1, 1, 2, 2, 3, 3]  # of the next batch; 36 rows give two of 16
    assert [row["images"] for row in rows(run)] == [16 * n for n in range(1, 8)]
    assert Checkpoints(run / "checkpoints").steps() == [6, 7]
    resolved = parse_yaml((run / "resolved.yaml").read_text(), "resolved")
    assert validate(Recipe, resolved) == tiny_recipe()
    encoder = load(run / "model")
    where = archive.where("split == 'test'")
    vectors = encoder.embed_batch(where.read(slice(None)), where.channels, where.catalogue)
    assert vectors.shape == (12, 32)
    assert np.isfinite(vectors).all()
    assert list(run.glob("events.*"))
    assert "preloading 36 images" in (run / "run.log").read_text()
    assert files.read_json(run / "environment.json")[0]["threads"] == torch.get_num_threads()


def test_the_model_holds_the_weights_of_the_last_checkpoint(undisturbed: dict[str, Path]) -> None:
    run = undisturbed["plain"]
    state = read_checkpoint(run / "checkpoints" / "step-00000007.pt")
    for name, tensor in load(run / "model").backbone.state_dict().items():
        assert torch.equal(tensor, state["method"][f"backbone.{name}"]), name


@pytest.mark.parametrize(
    ("variant", "step"),
    # Two batches an epoch: after 3 steps a run stands in the middle of an epoch, after 4 at its end. Accumulating 3
    # of 4 batches an epoch, a step begins in one epoch and ends in the next.
    [("plain", 3), ("plain", 4), ("plain", 5), ("plain", 1), ("accumulate", 2), ("accumulate", 3)],
)
@pytest.mark.parametrize("how", ["kill", "signal"])
def test_a_resumed_run_ends_in_the_same_bits(
    archive: Archive,
    undisturbed: dict[str, Path],
    output: Path,
    variant: str,
    step: int,
    how: str,
) -> None:
    recipe = tiny_recipe() if variant == "plain" else tiny_recipe(**ACCUMULATE)
    pretrain_until(step, archive, recipe, output, how)
    report = pretrain([archive], recipe, output, resume=True)
    # A kill goes back to the last checkpoint; a signal is answered after the step in which it came.
    every = recipe.checkpoint.steps or 1
    assert report.resumed_at == ((step // every * every or None) if how == "kill" else step + 1)
    assert weights(output) == weights(undisturbed[variant])
    assert rows(output) == rows(undisturbed[variant])


@pytest.mark.parametrize("dropped", ["optimiser", "epoch", "index", "method"])
def test_negative_control_a_resume_that_forgets_something_ends_elsewhere(
    archive: Archive, undisturbed: dict[str, Path], output: Path, dropped: str
) -> None:
    pretrain_until(3, archive, tiny_recipe(), output, "signal")
    store = Checkpoints(output / "checkpoints")
    found = store.newest()
    assert found is not None
    state = found[1]
    if dropped == "optimiser":
        state["optimiser"]["state"] = {}
    elif dropped == "epoch":
        state["at"]["epoch"] = 0
    elif dropped == "index":
        state["at"]["index"] = 1 - state["at"]["index"]
    else:
        state["method"]["backbone.bn1.running_mean"] += 0.1  # statistics, which no gradient would show
    store.save(4, state)
    pretrain([archive], tiny_recipe(), output, resume=True)
    assert weights(output) != weights(undisturbed["plain"])


def test_what_a_loss_draws_from_torch_s_own_state_goes_on_after_a_resume(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = SimCLR.loss

    def noisy(self: SimCLR, images: Tensor, keys: Tensor) -> Any:
        return plain(self, images + torch.randn_like(images), keys)

    monkeypatch.setattr(SimCLR, "loss", noisy)
    pretrain([archive], tiny_recipe(), tmp_path / "whole")
    pretrain_until(3, archive, tiny_recipe(), tmp_path / "stopped", "signal")
    shutil.copytree(tmp_path / "stopped", tmp_path / "forgetful")
    store = Checkpoints(tmp_path / "forgetful" / "checkpoints")
    found = store.newest()
    assert found is not None
    state = found[1]
    state["torch_rng"] = torch.Generator().manual_seed(tiny_recipe().seed).get_state()[None]  # as a run begins
    store.save(4, state)
    for name in ("stopped", "forgetful"):
        assert pretrain([archive], tiny_recipe(), tmp_path / name, resume=True).resumed_at == 4
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")
    assert weights(tmp_path / "forgetful") != weights(tmp_path / "whole")


@pytest.mark.parametrize("accumulate", [1, 2])  # by two, a step lies in both epochs
def test_no_image_is_seen_twice_in_the_same_views(
    archive: Archive, output: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    plain, seen = SimCLR.loss, []

    def recording(self: SimCLR, images: Tensor, keys: Tensor) -> Any:
        seen.extend(keys.tolist())
        return plain(self, images, keys)

    monkeypatch.setattr(SimCLR, "loss", recording)
    pretrain([archive], tiny_recipe(batch_size=12, accumulate=accumulate, length={"epochs": 2}), output)
    assert len(seen) == len(set(seen)) == 72  # two epochs of three batches, which hold every image


def test_a_damaged_newest_checkpoint_costs_only_the_steps_since_the_one_before(
    archive: Archive, undisturbed: dict[str, Path], output: Path
) -> None:
    pretrain_until(6, archive, tiny_recipe(), output, "kill")
    newest = output / "checkpoints" / "step-00000006.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    report = pretrain([archive], tiny_recipe(), output, resume=True)
    assert report.resumed_at == 3
    assert "damaged" in (output / "run.log").read_text()
    assert weights(output) == weights(undisturbed["plain"])
    assert rows(output) == rows(undisturbed["plain"])


def test_metrics_after_the_checkpoint_and_a_torn_line_are_dropped_on_resume(
    archive: Archive, undisturbed: dict[str, Path], output: Path
) -> None:
    pretrain_until(5, archive, tiny_recipe(), output, "kill")
    assert [row["step"] for row in rows(output)] == [1, 2, 3, 4, 5]  # written through, though nothing was closed
    with (output / "metrics.jsonl").open("ab") as handle:
        handle.write(b'{"step": 6, "lo')
    pretrain([archive], tiny_recipe(), output, resume=True)
    assert rows(output) == rows(undisturbed["plain"])


def test_resuming_a_finished_run_changes_nothing(archive: Archive, output: Path) -> None:
    recipe = tiny_recipe(length={"steps": 2})
    pretrain([archive], recipe, output)
    before = weights(output), rows(output)
    report = pretrain([archive], recipe, output, resume=True)
    assert (report.steps, report.resumed_at) == (2, 2)
    assert (weights(output), rows(output)) == before


def test_a_full_disk_during_a_checkpoint_keeps_the_one_before(
    archive: Archive, undisturbed: dict[str, Path], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = files.os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith("step-00000006.pt"):
            raise OSError(28, "No space left on device")
        plain(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full)
        with pytest.raises(GroundswellError, match="could not write") as caught:
            pretrain([archive], tiny_recipe(), output)
    assert "No space left" in (caught.value.why or "")
    assert Checkpoints(output / "checkpoints").steps() == [3]
    load(output / "model")  # that of step 3: still whole
    pretrain([archive], tiny_recipe(), output, resume=True)
    assert weights(output) == weights(undisturbed["plain"])


def test_runs_are_a_function_of_the_seed(archive: Archive, undisturbed: dict[str, Path], tmp_path: Path) -> None:
    pretrain([archive], tiny_recipe(), tmp_path / "again")
    pretrain([archive], tiny_recipe(seed=1), tmp_path / "other")
    assert weights(tmp_path / "again") == weights(undisturbed["plain"])
    assert weights(tmp_path / "other") != weights(undisturbed["plain"])


def test_reading_from_disk_and_preloading_give_the_same_bits(
    archive: Archive, undisturbed: dict[str, Path], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("groundswell.training.data.free_memory", lambda device: 0)
    pretrain([archive], tiny_recipe(), output)
    assert "reading batches from disk" in (output / "run.log").read_text()
    assert weights(output) == weights(undisturbed["plain"])


def test_two_archives_are_one_set_of_rows(archive: Archive, output: Path, tmp_path: Path) -> None:
    other = make_archive(tmp_path / "other", count=12)
    report = pretrain([archive, other], tiny_recipe(length={"epochs": 1}), output)
    assert report.images == 32  # 36 and 9 training images: two batches of 16 fit in an epoch
    assert {d["archive"] for d in files.read_json(output / "environment.json")[0]["data"]} == {"archive", "other"}


@pytest.mark.parametrize(
    ("length", "steps"),
    [({"steps": 3}, 3), ({"epochs": 1.5}, 3), ({"images": 33}, 3)],  # two batches of 16 an epoch; 33 images need 3
)
def test_lengths_in_steps_epochs_and_images(
    archive: Archive, output: Path, length: dict[str, float], steps: int
) -> None:
    assert pretrain([archive], tiny_recipe(length=length), output).steps == steps


def test_a_run_takes_a_step_though_setting_up_used_its_minutes(archive: Archive, output: Path) -> None:
    recipe = tiny_recipe(length={"minutes": 1e-6})
    report = pretrain([archive], recipe, output)
    assert report.steps == 1
    assert [row["step"] for row in rows(output)] == [1]
    assert load(report.model).dim == 32  # 8 times the width
    resumed = pretrain([archive], recipe, output, resume=True)
    assert (resumed.steps, resumed.resumed_at) == (1, 1)  # and takes no more than it must


def test_a_run_in_minutes_ends_on_time_with_its_schedule_done(archive: Archive, output: Path) -> None:
    minutes = 0.05
    report = pretrain([archive], tiny_recipe(length={"minutes": minutes}, batch_size=32), output)
    last = rows(output)[-1]
    assert report.steps > 1
    assert last["progress"] > 0.7  # the rest is less than a step, on a loaded machine too
    assert report.seconds < 60 * minutes + 5.0  # and what the last save takes
    assert last["learning_rate"] < 0.25e-3  # well down the cosine from its peak of 1e-3


def test_a_finished_run_in_minutes_stays_as_it_is(
    archive: Archive, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick = Clock.tick
    monkeypatch.setattr(Clock, "tick", lambda self, images: max(tick(self, images), 700.0))  # another would not fit
    recipe = tiny_recipe(length={"minutes": 10})
    assert pretrain([archive], recipe, output).steps == 1
    before = weights(output)
    resumed = pretrain([archive], recipe, output, resume=True)
    assert (resumed.steps, resumed.seconds < 600) == (1, True)
    assert weights(output) == before


def test_no_score_is_missed_for_what_the_score_before_it_took(
    archive: Archive, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def agree(self: Clock) -> None:
        now[0] += 1.0
        self.elapsed, self.signal = now[0], None

    def judge(encoder: Encoder) -> float:
        now[0] += 9.0  # past the next tenth but for a second
        return 0.0

    monkeypatch.setattr(Clock, "agree", agree)
    recipe = tiny_recipe(length={"minutes": 100 / 60}, monitor_every=0.1, checkpoint={"steps": 1000})
    pretrain([archive], recipe, output, monitor=Monitor("slow", judge))
    scored = [
        int(10 * row["timing"]["elapsed_s"] / 100) for row in read_metrics(output / "metrics.jsonl") if "monitor" in row
    ]
    assert set(range(1, 10)) <= set(scored)


def test_accumulation_equals_the_large_batch_where_the_loss_is_a_mean_over_images(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It does not for NT-Xent (negatives) and batch normalisation (statistics), so both are taken out here.
    plain = SimCLR.loss

    def mean_over_images(self: SimCLR, images: Tensor, keys: Tensor) -> Any:
        self.eval()
        _, observed = plain(self, images, keys)
        features = self.backbone(self.policy(images, keys)).pooled
        return features.square().mean(), observed

    monkeypatch.setattr(SimCLR, "loss", mean_over_images)
    optimiser = {"name": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    settings = {"length": {"steps": 1}, "optimiser": optimiser, "schedule": {"warmup": 0.0, "final": 1.0}}
    for name, batch, accumulate in (("large", 24, 1), ("small", 8, 3)):  # the same 24 rows in the same order
        pretrain([archive], tiny_recipe(batch_size=batch, accumulate=accumulate, **settings), tmp_path / name)
    large, small = (load(tmp_path / name / "model").backbone for name in ("large", "small"))
    start = build_backbone(tiny_recipe().backbone, 1, seed=0)
    for first, second, before in zip(large.parameters(), small.parameters(), start.parameters(), strict=True):
        # Equal but for the rounding of float32 sums taken in another order, far below the step itself.
        moved = float((first - before).detach().abs().max())
        torch.testing.assert_close(first, second, rtol=0, atol=max(1e-4 * moved, 1e-8))


def test_a_step_takes_the_mean_gradient_of_its_batches(
    archive: Archive, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With plain SGD from zero momentum, the first step moves the weights by the rate times that mean.
    seen: list[tuple[Tensor, Tensor]] = []
    plain = SimCLR.loss

    def recording(self: SimCLR, images: Tensor, keys: Tensor) -> Any:
        seen.append((images, keys))
        return plain(self, images, keys)

    monkeypatch.setattr(SimCLR, "loss", recording)
    optimiser = {"name": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    recipe = tiny_recipe(
        **{**ACCUMULATE, "length": {"steps": 1}, "optimiser": optimiser, "schedule": {"warmup": 0.0, "final": 1.0}}
    )
    pretrain([archive], recipe, output)
    assert len(seen) == 3

    backbone = build_backbone(recipe.backbone, 1, recipe.seed)
    method = SimCLR(recipe.method, backbone, ViewPolicy(recipe.views, recipe.view_size), recipe.seed)
    method.to(memory_format=torch.channels_last)
    start = backbone.conv1.weight.detach().clone()
    gradients = []
    for images, keys in seen:
        method.zero_grad()
        plain(method, images, keys)[0].backward()
        gradients.append(backbone.conv1.weight.grad.clone())
    expected = start - 0.1 * torch.stack(gradients).mean(dim=0)
    # float32 rounding of a few sums
    torch.testing.assert_close(load(output / "model").backbone.conv1.weight.detach(), expected, rtol=1e-4, atol=1e-6)


def test_nan_images_are_skipped_then_stop_the_run_and_spoil_nothing(
    archive: Archive, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = SimCLR.loss
    calls = iter(range(1000))

    def poisoned(self: SimCLR, images: Tensor, keys: Tensor) -> Any:
        return plain(self, torch.full_like(images, math.nan) if next(calls) >= 4 else images, keys)

    monkeypatch.setattr(SimCLR, "loss", poisoned)
    with pytest.raises(DivergedError) as caught:
        pretrain([archive], tiny_recipe(length={"steps": 40}, health={"max_skipped": 3}), output)
    assert "step 8" in (caught.value.where or "")  # 4 good steps, 3 skipped, the next one stops
    assert "step-00000003.pt" in (caught.value.where or "")
    last = rows(output)[-1]
    assert (last["step"], last["loss"], last["skipped_steps"]) == (7, None, 3)
    state = read_checkpoint(output / "checkpoints" / "step-00000003.pt")
    assert all(bool(torch.isfinite(t).all()) for t in state["method"].values())
    assert Checkpoints(output / "checkpoints").steps() == [3]  # none was saved while the run was ill


def test_one_bad_batch_is_skipped_and_the_statistics_of_the_norms_recover(
    archive: Archive, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = SimCLR.loss
    calls = iter(range(1000))

    def poisoned(self: SimCLR, images: Tensor, keys: Tensor) -> Any:
        return plain(self, torch.full_like(images, math.nan) if next(calls) == 2 else images, keys)

    monkeypatch.setattr(SimCLR, "loss", poisoned)
    report = pretrain([archive], tiny_recipe(), output)
    assert report.metrics["skipped_steps"] == 1
    assert all(bool(torch.isfinite(t).all()) for t in load(output / "model").backbone.state_dict().values())


def explode(monkeypatch: pytest.MonkeyPatch, when: Callable[[int], bool]) -> None:
    """Have the loss of the steps for which ``when`` holds be a million times too large, but finite."""
    plain, calls = SimCLR.loss, iter(range(1, 1000))

    def exploding(self: SimCLR, images: Tensor, keys: Tensor) -> Any:
        loss, observed = plain(self, images, keys)
        return loss * (1e6 if when(next(calls)) else 1.0), observed

    monkeypatch.setattr(SimCLR, "loss", exploding)


def test_one_loss_that_explodes_is_skipped_and_changes_nothing(
    archive: Archive, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[dict[str, Tensor]] = []
    plain = loop.step

    def recording(session: Session, rate: float, clock: Clock) -> Any:
        held = session.optimiser.state_dict()["state"]
        moments = {f"{i}.{name}": value for i, of in held.items() for name, value in of.items()}
        states.append({name: value.clone() for name, value in (session.method.state_dict() | moments).items()})
        return plain(session, rate, clock)

    monkeypatch.setattr(loop, "step", recording)
    explode(monkeypatch, lambda step: step == 3)
    report = pretrain([archive], tiny_recipe(), output)
    assert [row["skipped_steps"] for row in rows(output)] == [0, 0, 1, 1, 1, 1, 1]
    assert rows(output)[2]["loss"] > 1e5
    assert (report.steps, len(states)) == (7, 7)
    changed = [
        {name for name in after if not torch.equal(before[name], after[name])} for before, after in pairwise(states[1:])
    ]
    assert changed[1] == set()
    for names in (changed[0], *changed[2:]):
        assert {"backbone.conv1.weight", "backbone.bn1.running_mean", "0.exp_avg"} <= names
    assert "step 3 is skipped" in (output / "run.log").read_text()


def test_a_loss_that_stays_exploded_stops_the_run_which_goes_on_once_it_is_mended(
    archive: Archive, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(health={"max_skipped": 3}, length={"steps": 10})
    with monkeypatch.context() as patch:
        explode(patch, lambda step: step > 4)
        with pytest.raises(DivergedError, match="4 steps in a row had a loss that has exploded") as caught:
            pretrain([archive], recipe, output)
    assert caught.value.where == "step 8; last good checkpoint: step-00000003.pt"
    figures = re.fullmatch(r"loss ([\d.]+), at the first step ([\d.]+); gradient norm [\d.]+", caught.value.why or "")
    assert figures is not None
    assert float(figures[1]) > 1e5
    assert float(figures[2]) == pytest.approx(rows(output)[0]["loss"], abs=1e-7)  # metrics have eight decimals
    assert "--resume" in (caught.value.fix or "")
    last = rows(output)[-1]
    assert (last["step"], last["loss"] > 1e5, last["skipped_steps"]) == (7, True, 3)
    assert Checkpoints(output / "checkpoints").steps() == [3]  # none was saved while the run was ill
    report = pretrain([archive], recipe, output, resume=True)
    assert (report.resumed_at, report.steps, report.metrics["skipped_steps"]) == (3, 10, 0)


def test_a_backbone_that_returns_constants_is_stopped_as_collapsed(
    archive: Archive, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ResNet.forward

    def constant(self: ResNet, images: Tensor) -> Any:
        features = plain(self, images)
        return features._replace(pooled=features.pooled * 0.0 + 1.0)

    monkeypatch.setattr(ResNet, "forward", constant)
    with pytest.raises(CollapsedError) as caught:
        pretrain([archive], tiny_recipe(length={"steps": 40}), output)
    assert "spread" in (caught.value.why or "")
    assert "CollapsedError" in (output / "run.log").read_text()


def test_the_last_good_checkpoint_is_one_that_the_run_went_on_from(
    archive: Archive, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step whose loss is fine may leave weights that are not, and is saved: the one before it is the good one."""
    monkeypatch.setattr(loop, "warmup_cosine", lambda progress, **_: 1e-3 if progress < 0.4 else 1e30)
    still = {"name": "sgd", "lr": 1e-3, "momentum": 0.0, "weight_decay": 0.0}
    recipe = tiny_recipe(
        optimiser=still, checkpoint={"steps": 1, "keep": 1}, health={"max_skipped": 2, "grace": 1.0, "max_growth": 1e30}
    )
    for resume in (False, True):
        with pytest.raises(DivergedError) as caught:
            pretrain([archive], recipe, output, resume=resume)
        assert "last good checkpoint: step-00000003.pt" in (caught.value.where or "")
        assert Checkpoints(output / "checkpoints").steps() == [3, 4]
    state = read_checkpoint(output / "checkpoints" / "step-00000003.pt")
    assert max(float(t.abs().max()) for name, t in state["method"].items() if name.endswith("weight")) < 1e3


def test_a_signal_while_the_run_is_ill_does_not_cost_the_last_good_checkpoint(
    archive: Archive, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = ResNet.forward, iter(range(1000))

    def dying(self: ResNet, images: Tensor) -> Any:
        features, call = plain(self, images), next(calls)
        if call == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return features._replace(pooled=features.pooled * 0.0 + 1.0) if call >= 5 else features

    monkeypatch.setattr(ResNet, "forward", dying)
    recipe = tiny_recipe(length={"steps": 40}, checkpoint={"steps": 1, "keep": 1}, health={"patience": 6, "grace": 0.0})
    with pytest.raises(StoppedBySignal):
        pretrain([archive], recipe, output)
    with pytest.raises(CollapsedError) as caught:
        pretrain([archive], recipe, output, resume=True)
    # Steps 1 to 5 are well; the look at step 5 vouches for 4, and 5 was saved after it.
    assert "last good checkpoint: step-00000004.pt" in (caught.value.where or "")


def test_a_rate_far_too_high_is_stopped(archive: Archive, output: Path) -> None:
    recipe = tiny_recipe(
        optimiser={"name": "sgd", "lr": 1e12, "weight_decay": 0.0}, length={"steps": 60}, schedule={"warmup": 0.0}
    )
    with pytest.raises((CollapsedError, DivergedError)):
        pretrain([archive], recipe, output)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"pruning": {"rule": "balanced", "keep": 0.1}}, "would keep"),
        ({"pruning": {"rule": "oceansar1", "keep": 0.5, "clusters": [5, 10]}}, "cannot be divided"),
        ({"batch_size": 100}, "a batch of 100 needs"),
        ({"preprocessing": {"quantity": "amplitude"}}, r"views\.zero"),
    ],
)
def test_what_does_not_fit_is_refused_before_images_are_read(
    archive: Archive, output: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], why: str
) -> None:
    def read(self: Feed) -> None:
        raise AssertionError("images were read")

    monkeypatch.setattr(Feed, "_preload", read)
    with pytest.raises((UsageError, DataError), match=why):
        pretrain([archive], tiny_recipe(**changes), output)
    assert not (output / "resolved.yaml").exists()


def test_a_model_to_start_from_that_does_not_fit_is_refused_before_images_are_read(
    archive: Archive, undisturbed: dict[str, Path], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(self: Feed) -> None:
        raise AssertionError("images were read")

    monkeypatch.setattr(Feed, "_preload", read)
    wider = tiny_recipe(backbone={"name": "resnet18", "width": 8})
    for recipe, init in ((tiny_recipe(), output / "none"), (wider, undisturbed["plain"] / "model")):
        with pytest.raises(ModelError, match=r"no model here|another backbone"):
            pretrain([archive], recipe, output, init=init)
    assert not (output / "resolved.yaml").exists()


def test_an_archive_that_lacks_a_part_is_trained_on_and_the_log_says_so(archive: Archive, output: Path) -> None:
    torn = Archive(archive.path, archive.schema, archive.catalogue.iloc[:40], archive.records[:2])
    pretrain([torn], tiny_recipe(length={"steps": 1}), output)
    assert f"WARNING {archive.path} is incomplete" in (output / "run.log").read_text()


def test_a_second_archive_that_does_not_fit_is_refused_at_once(archive: Archive, tmp_path: Path, output: Path) -> None:
    class Pictures(Waves):
        channels = (Channel("VV", Quantity.QUICKLOOK),)
        eight_bit = True

        def _one(self, name: str) -> Imagette:
            one = super()._one(name)
            return replace(one, pixels=(20 * one.pixels + 128).clip(0, 255), channels=self.channels)

    ingest(Pictures(24), tmp_path / "pictures")
    with pytest.raises(QuantityError, match="quicklook cannot become roughness_db"):
        pretrain([archive, open_archive(tmp_path / "pictures")], tiny_recipe(where=None), output)
    assert not (output / "resolved.yaml").exists()


def test_a_disk_that_refuses_the_events_of_tensorboard_is_named(
    archive: Archive, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    with pytest.raises(GroundswellError, match="could not write the metrics of a run") as caught:
        pretrain([archive], tiny_recipe(), output)
    assert "No space left" in (caught.value.why or "")


def test_the_folder_is_protected(archive: Archive, output: Path) -> None:
    recipe = tiny_recipe(length={"steps": 1})
    pretrain([archive], recipe, output)
    with pytest.raises(UsageError, match="already holds a run"):
        pretrain([archive], recipe, output)
    with pytest.raises(UsageError, match="exclude"):
        pretrain([archive], recipe, output, resume=True, overwrite=True)
    assert pretrain([archive], recipe, output, overwrite=True).resumed_at is None
    (output / "thesis.txt").write_text("years of work")
    before = (output / "metrics.jsonl").read_bytes()
    with pytest.raises(UsageError, match="batch"):  # the old run stands until the new one is known to fit
        pretrain([archive], tiny_recipe(length={"steps": 1}, batch_size=100_000), output, overwrite=True)
    assert (output / "metrics.jsonl").read_bytes() == before
    assert (output / "model" / "model.safetensors").exists()
    pretrain([archive], tiny_recipe(length={"steps": 2}), output, overwrite=True)
    assert [path.name for path in (output / "checkpoints").glob("*.pt")] == ["step-00000002.pt"]
    assert (output / "thesis.txt").read_text() == "years of work"
    foreign = output.parent / "thesis"
    foreign.mkdir()
    (foreign / "chapter1.tex").write_text("years of work")
    with pytest.raises(UsageError, match="not a run"):
        pretrain([archive], recipe, foreign, overwrite=True)
    assert (foreign / "chapter1.tex").read_text() == "years of work"


def test_a_run_killed_before_its_first_file_was_whole_can_be_resumed(tmp_path: Path) -> None:
    """Found by the soak: such a run leaves an empty run.log and nothing else. So does one that was refused."""
    (tmp_path / "run.log").touch()
    RunDirectory(tmp_path).prepare(resume=True, overwrite=False)
    RunDirectory(tmp_path).prepare(resume=False, overwrite=False)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(UsageError, match="not a run directory"):
        RunDirectory(tmp_path).prepare(resume=True, overwrite=False)


def test_resuming_without_a_checkpoint_forgets_nothing_that_was_written(archive: Archive, output: Path) -> None:
    recipe = tiny_recipe(length={"steps": 1})
    pretrain([archive], recipe, output)
    for path in (output / "checkpoints").iterdir():
        path.unlink()
    assert pretrain([archive], recipe, output, resume=True).resumed_at is None
    assert len(files.read_json(output / "environment.json")) == 2


def test_resuming_with_other_settings_or_data_is_refused_by_name(
    archive: Archive, output: Path, tmp_path: Path
) -> None:
    pretrain([archive], tiny_recipe(length={"steps": 2}), output)
    with pytest.raises(UsageError) as caught:
        pretrain([archive], tiny_recipe(length={"steps": 2}, batch_size=12), output, resume=True)
    assert "batch_size: 16 -> 12" in (caught.value.why or "")
    other = make_archive(tmp_path / "other", count=52)
    with pytest.raises(UsageError) as caught:
        pretrain([other], tiny_recipe(length={"steps": 2}), output, resume=True)
    assert "other images" in (caught.value.why or "")
    # When to save and when to give up may change.
    changed = tiny_recipe(length={"steps": 2}, checkpoint={"steps": 1}, health={"patience": 9})
    assert pretrain([archive], changed, output, resume=True).resumed_at == 2


def test_a_setting_that_came_after_the_checkpoint_does_not_bar_resuming() -> None:
    now = {"recipe": tiny_recipe().identity(), "archives": []}
    before = {"recipe": tiny_recipe().identity(), "archives": []}
    del before["recipe"]["views"]["solarise"]
    check_same_run(Path("run"), before, now)
    on = {"recipe": tiny_recipe(views={"policy": "ocean", "solarise": {"p": 0.1}}).identity(), "archives": []}
    with pytest.raises(UsageError, match=r"views.solarise.p: 0.0 -> 0.1"):
        check_same_run(Path("run"), before, on)


def test_a_quantity_that_does_not_allow_the_views_is_refused(archive: Archive, output: Path) -> None:
    with pytest.raises(UsageError, match="no white to fold back from"):
        pretrain([archive], tiny_recipe(views={"policy": "ocean", "solarise": {"p": 0.1}}), output)


def test_a_change_of_threads_is_said_aloud(archive: Archive, output: Path) -> None:
    recipe = tiny_recipe(length={"steps": 1})
    pretrain([archive], recipe, output)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        pretrain([archive], recipe, output, resume=True)
    finally:
        torch.set_num_threads(threads)
    assert f"threads = {threads + 1} where the checkpoint had {threads}" in (output / "run.log").read_text()


def test_starting_from_a_model(archive: Archive, undisturbed: dict[str, Path], tmp_path: Path) -> None:
    start = undisturbed["plain"] / "model"
    frozen = {"name": "sgd", "lr": 1e-30, "momentum": 0.0, "weight_decay": 0.0}
    pretrain([archive], tiny_recipe(length={"steps": 1}, optimiser=frozen), tmp_path / "from", init=start)
    before, after = load(start).backbone, load(tmp_path / "from" / "model").backbone
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    wider = tiny_recipe(length={"steps": 1}, backbone={"name": "resnet18", "width": 8})
    with pytest.raises(ModelError, match="another backbone") as caught:
        pretrain([archive], wider, tmp_path / "wider", init=start)
    assert caught.value.fix == f"set backbone.width={tiny_recipe().backbone.width}"


def test_a_run_stopped_before_its_first_step_leaves_no_model(archive: Archive, output: Path) -> None:
    """Its weights are fresh, and would pass for trained ones."""
    preload = Feed._preload

    def stopped(self: Feed) -> None:
        preload(self)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Feed, "_preload", stopped)
        with pytest.raises(StoppedBySignal, match="step 0"):
            pretrain([archive], tiny_recipe(), output)
    assert [path.name for path in (output / "checkpoints").glob("*.pt")] == ["step-00000000.pt"]
    assert not (output / "model").exists()
    told = (output / "run.log").read_text()
    assert "INFO the run ended here: stopped by SIGTERM" in told
    assert "Traceback" not in told
    assert pretrain([archive], tiny_recipe(), output, resume=True).resumed_at == 0
    assert (output / "model" / "model.safetensors").exists()


def test_what_the_model_to_start_from_was_trained_on_stays_known(
    archive: Archive, undisturbed: dict[str, Path], output: Path
) -> None:
    start, recipe = undisturbed["plain"] / "model", tiny_recipe(where=None, length={"steps": 2})
    pretrain([archive], recipe, output, init=start)
    used = [d.hash for d in read_data(start)] + [archive.hash]
    assert [d.hash for d in read_data(output / "model")] == used
    environment = files.read_json(output / "environment.json")
    assert environment[0]["parent"] == load(start).id
    pretrain([archive], recipe, output, init=start, resume=True)
    assert "goes on from its checkpoint" not in (output / "run.log").read_text()
    damaged = shutil.copytree(start, output.parent / "damaged")
    (damaged / "model.safetensors").write_bytes(b"being written")
    for other in (output / "gone", output / "model", damaged):  # a job that is requeued must not stop for it
        pretrain([archive], recipe, output, init=other, resume=True)
        assert f"{load(start).id}, and not from {other}" in (output / "run.log").read_text()
    pretrain([archive], recipe, output, resume=True)
    assert [d.hash for d in read_data(output / "model")] == used


def test_a_run_is_not_given_up_for_a_model_that_does_not_fit(archive: Archive, output: Path) -> None:
    recipe = tiny_recipe(length={"steps": 1})
    pretrain([archive], recipe, output)
    before = weights(output)
    wider = tiny_recipe(backbone={"name": "resnet18", "width": 8})
    for changed, init in ((recipe, output / "none"), (wider, output / "model")):
        with pytest.raises(ModelError):
            pretrain([archive], changed, output, init=init, overwrite=True)
        assert weights(output) == before
        assert len(rows(output)) == 1
    pretrain([archive], recipe, output, init=output / "model", overwrite=True)  # read before it is deleted
    assert weights(output) != before


def test_two_processes_do_not_work_on_one_run(archive: Archive, output: Path) -> None:
    recipe = tiny_recipe(length={"steps": 1})
    run = RunDirectory(output)
    run.prepare(resume=False, overwrite=False)
    with run.claimed(), pytest.raises(UsageError, match="another process works on this run"):
        pretrain([archive], recipe, output)
    pretrain([archive], recipe, output)
    with run.claimed(), pytest.raises(UsageError, match="another process works on this run"):
        pretrain([archive], recipe, output, resume=True)


def test_a_job_that_slurm_started_again_waits_for_the_lock_of_the_machine_that_died(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    run = RunDirectory(output)
    dead = ExitStack()
    dead.enter_context(run.claimed())
    lease = threading.Timer(0.7, dead.close)
    lease.start()
    with run.claimed():
        assert not lease.is_alive()
    lease.join()


def test_a_file_system_without_locks_is_told_of_and_used(
    output: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    with RunDirectory(output).claimed():
        pass
    assert "cannot be locked (Function not implemented)" in caplog.text


def test_a_file_is_no_run_directory(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(UsageError, match="the output is a file"):
            pretrain([archive], tiny_recipe(), tmp_path / "run", **options)
    assert (tmp_path / "run").read_text() == "mine"


def test_the_encoder_of_a_vision_transformer_sees_whole_patches_of_any_archive(tmp_path: Path, output: Path) -> None:
    odd = make_archive(tmp_path / "odd", count=24, size=36)
    pretrain(
        [odd], tiny_recipe(backbone={"name": "vit-ti/8", "image_size": 32, "depth": 1}, length={"steps": 1}), output
    )
    encoder = load(output / "model")
    assert encoder.preprocessing.size == 32
    assert np.isfinite(encoder.encode(odd)).all()


def test_the_monitor_keeps_the_best_checkpoint_and_disturbs_nothing(
    archive: Archive, undisturbed: dict[str, Path], output: Path
) -> None:
    scores = iter([0.2, 0.9, 0.3, 0.4, 0.5])
    report: RunReport = pretrain(
        [archive],
        tiny_recipe(checkpoint={"steps": 3, "keep": 1}),
        output,
        monitor=Monitor("given", lambda encoder: next(scores)),
    )
    assert report.metrics["monitor"] == 0.5
    scored = [(row["step"], row["monitor"]) for row in rows(output) if "monitor" in row]
    # Of 7 steps, each ends at progress (step + 1/2) / 7: the fifths are passed at these.
    assert scored == [(1, 0.2), (3, 0.9), (4, 0.3), (6, 0.4), (7, 0.5)]
    assert Checkpoints(output / "checkpoints").best() == (3, ("given", 0.9))
    assert Checkpoints(output / "checkpoints").steps() == [3, 6, 7]  # the best, the last good one, the last
    assert weights(output) == weights(undisturbed["plain"])
    best = read_checkpoint(output / "checkpoints" / "step-00000003.pt")
    for name, tensor in load(output / "model-best").backbone.state_dict().items():
        assert torch.equal(tensor, best["method"][f"backbone.{name}"]), name


def test_the_best_model_outlives_its_checkpoint_and_a_score_that_is_no_number(archive: Archive, output: Path) -> None:
    scores = iter([math.nan, 0.9, 0.3, 0.4])

    def judge(encoder: Encoder) -> float:
        if (score := next(scores)) == 0.4:
            os.kill(os.getpid(), signal.SIGTERM)
        return score

    with pytest.raises(StoppedBySignal):
        pretrain([archive], tiny_recipe(), output, monitor=Monitor("given", judge))
    assert [row["monitor"] for row in rows(output) if "monitor" in row] == [None, 0.9, 0.3, 0.4]
    best = weights(output, "model-best")
    assert Checkpoints(output / "checkpoints").best() == (3, ("given", 0.9))
    for part in (output / "checkpoints").glob("step-00000003.*"):
        part.unlink()
    again = pretrain([archive], tiny_recipe(), output, resume=True, monitor=Monitor("given", lambda encoder: 0.5))
    assert again.metrics["monitor"] == 0.5
    assert weights(output, "model-best") == best
    assert weights(output) != best


def test_a_score_that_falls_to_half_of_its_best_is_warned_of_once_over_two_lives(
    archive: Archive, output: Path
) -> None:
    scores = iter([0.2, 0.9, 0.45, 0.3, 0.5])

    def judge(encoder: Encoder) -> float:
        score = next(scores)
        if score == 0.45:
            os.kill(os.getpid(), signal.SIGTERM)
        return score

    with pytest.raises(StoppedBySignal):
        pretrain([archive], tiny_recipe(), output, monitor=Monitor("given", judge))
    report = pretrain([archive], tiny_recipe(), output, resume=True, monitor=Monitor("given", judge))
    assert (report.resumed_at, report.steps) == (4, 7)
    fallen = [(row["monitor"], row["monitor_fallen"]) for row in rows(output) if "monitor" in row]
    assert fallen == [(0.2, False), (0.9, False), (0.45, True), (0.3, True), (0.5, False)]
    told = [line for line in (output / "run.log").read_text().splitlines() if "has fallen" in line]
    assert len(told) == 1
    assert "WARNING step 4: given has fallen to 0.45, half of its best (0.9)" in told[0]


def test_a_signal_just_after_resuming_does_not_put_the_checkpoint_at_risk(
    archive: Archive, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(checkpoint={"steps": 100, "keep": 1})
    pretrain_until(3, archive, recipe, output, "signal")
    (step,) = Checkpoints(output / "checkpoints").steps()

    def at_once(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        train(*arguments)

    def refused(*arguments: Any) -> None:
        raise AssertionError("a step that has its checkpoint was saved again")

    train = loop.train
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", at_once)
        patch.setattr(Checkpoints, "save", refused)
        with pytest.raises(StoppedBySignal):
            pretrain([archive], recipe, output, resume=True)
    assert Checkpoints(output / "checkpoints").steps() == [step]
    assert pretrain([archive], recipe, output, resume=True).resumed_at == step


def test_too_few_images_for_a_batch_names_the_fix(archive: Archive, output: Path) -> None:
    with pytest.raises(UsageError, match="a batch of 64") as caught:
        pretrain([archive], tiny_recipe(batch_size=64), output)
    assert "batch_size=9" in (caught.value.fix or "")


def test_the_metrics_are_plain_json(undisturbed: dict[str, Path]) -> None:
    for line in (undisturbed["plain"] / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert {"elapsed_s", "images_per_s", "data_wait"} == set(row["timing"])


def test_passing_a_multiple() -> None:
    assert [passes(0.2, a, b) for a, b in ((0.0, 0.1), (0.1, 0.2), (0.19, 0.45), (0.41, 0.59))] == [
        *(False, True, True, False)
    ]
