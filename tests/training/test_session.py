"""All that a session carries from one life of a run to the next, each thing by itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from groundswell.archive.reader import Archive
from groundswell.encoder.provenance import describe
from groundswell.training.building import build_session
from groundswell.training.checkpoint import Checkpoints, Score
from groundswell.training.recipe import Recipe
from groundswell.training.run_directory import RunDirectory
from groundswell.training.session import Parent, Position, Session
from training.tiny import METHODS, tiny_recipe


def fresh(archive: Archive, recipe: Recipe, output: Path) -> Session:
    run = RunDirectory(output)
    return build_session([archive], recipe, run, Checkpoints(run.checkpoints), time.monotonic())


def resumed(archive: Archive, recipe: Recipe, output: Path) -> Session:
    """The session of a next life, from the newest checkpoint."""
    session = fresh(archive, recipe, output)
    found = session.checkpoints.newest()
    assert found is not None
    session.restore(*found)
    return session


def lived(session: Session, archive: Archive) -> None:
    """A past that no default equals."""
    images, rows = session.feed.batch(0, 0)
    loss, _ = session.loss(images, rows)
    loss.backward()
    session.optimiser.step()
    session.at = Position(step=5, epoch=2, index=1)
    session.started -= 1000.0
    session.step_seconds = 1.25
    session.last_row = {"loss": 0.5, "step": 5}
    session.parent = Parent("some-encoder", (describe(archive),))
    health = session.health
    health.ill, health.skipped, health.total_skipped, health.first_loss, health.fallen = 1, 2, 3, 4.5, True
    session.feed.keep(np.arange(0, 36, 2))
    session.pruner.drawn = 4
    session.pruner.figures = {"kept": 18}


def same(a: Any, b: Any) -> None:
    """Nested states with equal numbers; a missing key or another order of a list is a difference."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            same(left, right)
    elif isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    else:
        assert a == b


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", ["simclr", *METHODS])
def test_all_comes_back(archive: Archive, tmp_path: Path, name: str) -> None:
    recipe = tiny_recipe(**METHODS.get(name, {}), pruning={"rule": "balanced", "keep": 0.5})
    before = fresh(archive, recipe, tmp_path / "run")
    lived(before, archive)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(77)
        before.save(best=Score("kNN", 0.75))
        expected = torch.rand(3)
        torch.manual_seed(0)
        after = resumed(archive, recipe, tmp_path / "run")
        assert torch.equal(torch.rand(3), expected)
    assert after.at == Position(step=5, epoch=2, index=1)
    assert 1000.0 <= after.elapsed < 1000.0 + 600.0
    assert after.step_seconds == 1.25
    assert after.last_row == {"loss": 0.5, "step": 5}
    assert after.parent == before.parent
    health = after.health
    assert (health.ill, health.skipped, health.total_skipped) == (1, 2, 3)
    assert (health.first_loss, health.fallen, health.best) == (4.5, True, Score("kNN", 0.75))
    assert after.feed.kept is not None
    assert list(after.feed.kept) == list(range(0, 36, 2))
    assert (after.pruner.drawn, after.pruner.figures) == (4, {"kept": 18})
    assert (after.saved, after.good) == (5, None)
    same(after.method.state_dict(), before.method.state_dict())
    same(after.optimiser.state_dict(), before.optimiser.state_dict())


def test_what_was_vouched_for_is_known_again(archive: Archive, tmp_path: Path) -> None:
    before = fresh(archive, tiny_recipe(), tmp_path / "run")
    lived(before, archive)
    before.save()
    before.vouch()
    before.at.step = 6
    before.save()
    after = resumed(archive, tiny_recipe(), tmp_path / "run")
    assert (after.saved, after.good, after.last_good) == (6, 5, "step-00000005.pt")


def test_a_resumed_run_writes_the_model_that_a_kill_kept_from_being_written(archive: Archive, tmp_path: Path) -> None:
    before = fresh(archive, tiny_recipe(), tmp_path / "run")
    lived(before, archive)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "save_model", lambda self: None)  # killed between checkpoint and model
        before.save()
    assert not before.run.model.exists()
    after = resumed(archive, tiny_recipe(), tmp_path / "run")
    assert (after.run.model / "model.safetensors").exists()
