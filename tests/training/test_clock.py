"""The clock of a run: what counts as a step, and what does not."""

import pytest

from groundswell.signals import StopRequest
from groundswell.training import clock as clocks
from groundswell.training.clock import Clock
from groundswell.training.recipe import CheckpointSettings


def test_draws_looks_and_saves_are_no_part_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run in minutes would take the next step for as long as a draw, and end early."""
    now = [1000.0]
    monkeypatch.setattr(clocks.time, "monotonic", lambda: now[0])
    clock = Clock(CheckpointSettings(), 1000.0, StopRequest())
    clock.agree()
    now[0] += 35.0  # a draw
    clock.agree()
    now[0] += 0.5
    assert clock.tick(64) == pytest.approx(0.5)
    now[0] += 20.0  # a look and a save
    clock.agree()
    now[0] += 0.4
    assert clock.tick(64) == pytest.approx(0.4)
    assert clock.elapsed == pytest.approx(55.9)
    assert clock.read()["images_per_s"] == pytest.approx(128 / 55.9)
