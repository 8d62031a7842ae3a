"""Runs of DINO, DINOv2 and MAE: killed anywhere they end in the same bits, and every piece of their state counts."""

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import crash
from groundswell.archive.reader import Archive
from groundswell.encoder.directory import load
from groundswell.methods.base import Method
from groundswell.training.checkpoint import Checkpoints, read_checkpoint
from groundswell.training.loop import pretrain
from groundswell.training.recipe import Recipe
from groundswell.training.run_directory import read_metrics
from training.test_pretrain import pretrain_until
from training.test_training_kills import in_fork, result
from training.tiny import METHODS, tiny_recipe

pytestmark = pytest.mark.usefixtures("shallow")

STEPS = 5


def recipe_of(name: str, **changes: Any) -> Recipe:
    health = {"grace": 1.0}  # so small a network has hardly a feature
    return tiny_recipe(length={"steps": STEPS}, checkpoint={"steps": 2}, health=health, **(METHODS[name] | changes))


@pytest.fixture(scope="module")
def undisturbed(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """The finished run of a method, with how often it calls replace, fsync and write."""
    folder, done = tmp_path_factory.mktemp("undisturbed"), {}

    def run(name: str) -> tuple[Path, Any]:
        if name not in done:
            with crash.trapped() as trap:
                pretrain([archive], recipe_of(name), folder / name)
            done[name] = (folder / name, trap.counts)
        return done[name]

    return run


@pytest.mark.parametrize("name", METHODS)
def test_killed_at_seeded_points_and_resumed(
    archive: Archive, undisturbed: Callable[[str], tuple[Path, Any]], tmp_path: Path, name: str
) -> None:
    whole, counts = undisturbed(name)
    chosen = random.Random(name)
    kinds = [("replace", "before"), ("fsync", "after"), ("write", "middle"), ("fsync", "enospc")]
    for i, (kind, what) in enumerate(kinds):
        point = f"{kind}:{what}:{chosen.randint(1, counts[kind])}"
        run = tmp_path / f"run{i}"

        def job(run: Path = run, point: str = point) -> None:
            with crash.trapped(point):
                pretrain([archive], recipe_of(name), run)

        assert in_fork(job) == (3 if what == "enospc" else -signal.SIGKILL), point
        if (run / "model").exists():
            load(run / "model")
        pretrain([archive], recipe_of(name), run, resume=True)
        assert result(run) == result(whole), point


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        *((name, "index") for name in METHODS),
        ("dinov2", "optimiser"),
        ("mae", "optimiser"),
        ("dino", "teacher_backbone."),
        ("dino", "teacher_head."),
        ("dino", "centre.value"),
        ("dino-resnet", "teacher_backbone.bn1.running_mean"),
        ("dinov2", "teacher_backbone."),
        ("dinov2", "patch_centre.value"),
        ("mae", "decoder."),
    ],
)
def test_negative_control_a_resume_that_forgets_something_ends_elsewhere(
    archive: Archive, undisturbed: Callable[[str], tuple[Path, Any]], output: Path, name: str, dropped: str
) -> None:
    whole, _ = undisturbed(name)
    pretrain_until(2, archive, recipe_of(name), output, "signal")
    store = Checkpoints(output / "checkpoints")
    found = store.newest()
    assert found is not None
    state = found[1]
    if dropped == "optimiser":
        state["optimiser"]["state"] = {}
    elif dropped == "index":
        state["at"]["index"] = 1 - state["at"]["index"]
    else:
        forgotten = [key for key in state["method"] if key.startswith(dropped)]
        assert forgotten
        for key in forgotten:
            state["method"][key] = state["method"][key] + 0.01
    store.save(state["at"]["step"], state)
    pretrain([archive], recipe_of(name), output, resume=True)
    assert result(output)[0] != result(whole)[0]


@pytest.mark.parametrize("name", ["dino-resnet", "dinov2"])
def test_accumulating_runs_end_in_the_same_bits_after_a_kill(archive: Archive, tmp_path: Path, name: str) -> None:
    recipe = recipe_of(name, accumulate=3, batch_size=8)
    pretrain([archive], recipe, tmp_path / "whole")
    pretrain_until(3, archive, recipe, tmp_path / "killed", "kill")
    assert pretrain([archive], recipe, tmp_path / "killed", resume=True).resumed_at == 2
    assert result(tmp_path / "killed") == result(tmp_path / "whole")


@pytest.mark.parametrize("name", METHODS)
def test_the_model_is_the_plain_encoder_of_the_checkpoint(
    undisturbed: Callable[[str], tuple[Path, Any]], name: str
) -> None:
    whole, _ = undisturbed(name)
    state = read_checkpoint(whole / "checkpoints" / f"step-{STEPS:08d}.pt")["method"]
    encoder = load(whole / "model")
    prefix = "backbone." if name == "mae" else "teacher_backbone."
    for key, tensor in encoder.backbone.state_dict().items():
        scale = state.get(
            prefix + key.replace("attn.proj.weight", "layer_scale1").replace("mlp.fc2.weight", "layer_scale2")
        )
        if scale is not None and scale.shape != tensor.shape:
            torch.testing.assert_close(tensor, scale[:, None] * state[prefix + key])
        elif not key.endswith(("attn.proj.bias", "mlp.fc2.bias")) or name != "dinov2":
            assert torch.equal(tensor, state[prefix + key]), key
    if name == "dino-resnet":  # the teacher kept statistics of its own
        key = "bn1.running_mean"
        assert not torch.equal(state[f"teacher_backbone.{key}"], state[f"backbone.{key}"])


@pytest.mark.parametrize("name", METHODS)
def test_a_step_with_a_number_that_is_not_finite_leaves_teacher_and_centre_as_they_were(
    archive: Archive, output: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from groundswell.training import loop

    states: list[dict[str, torch.Tensor]] = []
    plain = loop.step

    def poisoned(session: Any, rate: float, clock: Any) -> Any:
        method: Method = session.method
        states.append({key: value.clone() for key, value in method.state_dict().items()})
        if session.at.step == 2:
            feed = session.feed.batch
            monkeypatch.setattr(
                session.feed, "batch", lambda *at: (torch.full_like(feed(*at)[0], torch.nan), feed(*at)[1])
            )
            outcome = plain(session, rate, clock)
            monkeypatch.setattr(session.feed, "batch", feed)
            return outcome
        return plain(session, rate, clock)

    monkeypatch.setattr(loop, "step", poisoned)
    pretrain([archive], recipe_of(name), output)
    assert [row["skipped_steps"] for row in read_metrics(output / "metrics.jsonl")] == [0, 0, 1, 1, 1]
    assert all(torch.equal(states[2][key], states[3][key]) for key in states[2])
    assert not all(torch.equal(states[3][key], states[4][key]) for key in states[3])


@pytest.mark.parametrize("name", ["dino", "dinov2", "mae"])
def test_a_run_starts_from_the_model_of_another(
    archive: Archive, undisturbed: Callable[[str], tuple[Path, Any]], output: Path, name: str
) -> None:
    whole, _ = undisturbed(name)
    optimiser = METHODS[name].get("optimiser", {"name": "adamw"}) | {"lr": 1e-12}
    recipe = recipe_of(name, optimiser=optimiser)
    pretrain([archive], recipe, output, init=whole / "model")
    before, after = load(whole / "model").backbone.state_dict(), load(output / "model").backbone.state_dict()
    for key, tensor in before.items():
        torch.testing.assert_close(after[key], tensor, rtol=1e-5, atol=1e-6)
