"""What a run works with; how it is saved, and how it comes back."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from groundswell import distributed
from groundswell.config import flatten, validate
from groundswell.encoder.directory import save_model
from groundswell.encoder.encoder import Encoder
from groundswell.encoder.preprocessing import Preprocessing
from groundswell.encoder.provenance import DataUsed
from groundswell.errors import ConfigError, UsageError
from groundswell.methods.base import Method
from groundswell.training.checkpoint import Checkpoints, Score, State
from groundswell.training.data import Feed
from groundswell.training.health import Health
from groundswell.training.parallel import restore, whole
from groundswell.training.precision import Precision
from groundswell.training.pruning import Pruner
from groundswell.training.recipe import Horizon, Recipe
from groundswell.training.run_directory import Row, RunDirectory, environment

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Monitor:
    """What judges the encoder while it trains.

    Attributes
    ----------
    name : str
        Scores of one name can be compared, in one life of a run or another.
    judge : callable
        ``judge(encoder) -> score``, higher is better.
    """

    name: str
    judge: Callable[[Encoder], float]


@dataclass
class Position:
    """Where a run stands, between two optimiser steps.

    Attributes
    ----------
    step : int
        Optimiser steps done.
    epoch, index : int
        The next batch.
    """

    step: int = 0
    epoch: int = 0
    index: int = 0


@dataclass(frozen=True)
class Parent:
    """The model whose backbone a run started from.

    Attributes
    ----------
    id : str
        Of its encoder.
    data : tuple of DataUsed
        What it was trained on.
    """

    id: str
    data: tuple[DataUsed, ...]


@dataclass
class Session:
    """A run in memory: the loop drives it, `save` and `restore` carry it from one life of the run to the next.

    Several processes hold one such each, and call all that is here together; only the first writes.
    """

    recipe: Recipe
    run: RunDirectory
    data: tuple[DataUsed, ...]
    preprocessing: Preprocessing
    feed: Feed
    pruner: Pruner
    method: Method
    loss: nn.Module
    """The loss of the method as a module, shared by the processes."""
    spare: Method | None
    """A copy of the method for the encoder, where no process has all weights of the method itself."""
    optimiser: Optimizer
    horizon: Horizon
    health: Health
    checkpoints: Checkpoints
    precision: Precision
    device: torch.device
    started: float
    """`time.monotonic` when this process took up the run, less what earlier lives of the run spent on it."""
    parent: Parent | None = None
    at: Position = field(default_factory=Position)
    step_seconds: float = 0.0
    """Of the last step alone, without draws, looks and saves: a run in minutes ends when no other fits."""
    last_row: Row = field(default_factory=dict)
    saved: int | None = None
    """The step of the newest checkpoint."""
    good: int | None = None
    """That of the newest from which the run was seen to go on well."""

    @property
    def elapsed(self) -> float:
        """Seconds spent on the run, over all its lives."""
        return time.monotonic() - self.started

    def encoder(self) -> Encoder:
        """The network that becomes the encoder, as it is now, copied, with its preprocessing."""
        method = self.method
        if self.spare is not None:
            method = self.spare
            method.load_state_dict(whole(self.method.state_dict()))
        backbone = method.encoder_backbone()
        backbone.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return Encoder(backbone, self.preprocessing, self.recipe.name, self.recipe.backbone)

    def score(self, monitor: Monitor) -> tuple[Score, bool]:
        """What the monitor says of the encoder as it is now, and whether it is the best so far."""
        encoder = self.encoder()
        found = distributed.by_first(lambda _: monitor.judge(encoder))
        score = Score(monitor.name, distributed.first(found or 0.0))
        return score, score.beats(self.health.best)

    def vouch(self) -> None:
        """The steps since the last checkpoint went well, and so it was good."""
        if self.saved is not None and self.saved != self.good:
            self.good = self.saved
            if distributed.is_first():
                self.checkpoints.vouch(self.good)

    @property
    def last_good(self) -> str:
        """The file of the last good checkpoint, for those who read why a run was stopped."""
        return "none yet" if self.good is None else self.checkpoints.path(self.good).name

    def prune(self, progress: float, heed: distributed.Heed) -> None:
        """Draw the images to train on anew, and begin an epoch of them; ``heed`` is called all the while."""
        encoder = self.encoder().on(self.device, precision=self.precision.name, channels_last=True)
        self.pruner.draw(encoder, progress, self.at.epoch, self.at.index, heed)
        if self.at.index > 0:
            self.at.epoch, self.at.index = self.at.epoch + 1, 0

    def identity(self) -> dict[str, Any]:
        """What must be the same for a resumed run to be the same run."""
        return {"recipe": self.recipe.identity(), "archives": [d.hash for d in self.data]}

    def surroundings(self) -> dict[str, Any]:
        """What must be the same for a resumed run to end in the same bits."""
        here = environment()
        return {
            "torch": here["packages"]["torch"],
            "groundswell": here["packages"]["groundswell"],
            "threads": here["threads"],
            "cpu_capability": here["cpu_capability"],
            "device": self.device.type,
            "precision": self.precision.name,
            "processes": distributed.world_size(),
            "parallel": self.recipe.parallel if distributed.world_size() > 1 else None,
        }

    def save(self, best: Score | None = None) -> None:
        """Write a checkpoint, then the model directory; ``best`` is its score where that is the best so far.

        A step that has its checkpoint, which a signal just after resuming would save again, stays as it is: to write
        it anew would put the only copy at risk.
        """
        if self.saved == self.at.step:
            return
        state: State = {
            "identity": json.dumps(self.identity()),
            "surroundings": self.surroundings(),
            "parent": self.parent and {"id": self.parent.id, "data": [d.to_json() for d in self.parent.data]},
            "at": asdict(self.at),
            "elapsed": self.elapsed,
            "step_seconds": self.step_seconds,
            "last_row": self.last_row,
            "health": {
                "ill": self.health.ill,
                "skipped": self.health.skipped,
                "total_skipped": self.health.total_skipped,
                "first_loss": self.health.first_loss,
                "fallen": self.health.fallen,
            },
            "pruning": self.pruner.state(),
            "method": whole(self.method.state_dict()),
            "optimiser": whole(self.optimiser.state_dict()),
            "torch_rng": distributed.gather(torch.get_rng_state()[None]),
        }
        if distributed.is_first():
            path = self.checkpoints.save(self.at.step, state, best)
            progress = self.horizon.progress(self.at.step, self.elapsed)
            log.info("saved %s at step %d, %.1f %% of the run", path.name, self.at.step, 100 * progress)
        self.saved = self.at.step
        self.save_model()

    def save_model(self) -> None:
        """Write the model directory of the weights as they are, and another where they are the best so far.

        Before the first step there is none to write: fresh weights would pass for trained ones.
        """
        if self.at.step == 0:
            return
        encoder = self.encoder()
        if distributed.is_first():
            encoder.backbone.cpu()
            figures = {k: v for k, v in self.last_row.items() if k != "timing"} or None
            inherited = self.parent.data if self.parent else ()
            data = tuple({d.hash: d for d in (*inherited, *self.data)}.values())
            best = self.checkpoints.best()
            training = self.recipe.model_dump(mode="json")
            save_model(encoder, self.run.model, data=data, training=training, metrics=figures)
            if best is not None and best[0] == self.at.step:
                figures = {**(figures or {}), "monitored": best[1].monitor}
                save_model(encoder, self.run.best_model, data=data, training=training, metrics=figures)
        # Whoever ends before it is written would have its launcher end the others.
        distributed.barrier()

    def restore(self, path: Path, state: State) -> None:
        """Go on from a checkpoint.

        Raises
        ------
        UsageError
            When it belongs to another run: another recipe or other data.
        """
        check_same_run(path, json.loads(state["identity"]), self.identity())
        for name, value in self.surroundings().items():
            before = state["surroundings"].get(name)
            if before != value:
                log.warning(
                    "resuming with %s = %s where the checkpoint had %s: the result is as good, but not the same bits",
                    *(name, value, before),
                )
        restore(self.method, self.optimiser, state["method"], state["optimiser"])
        states = state["torch_rng"].view(-1, len(torch.get_rng_state()))  # one of each process
        if distributed.rank() < len(states):
            torch.set_rng_state(states[distributed.rank()].clone())  # of a view, torch 2.13 crashes
        parent = state["parent"]
        self.parent = parent and Parent(parent["id"], tuple(DataUsed.from_json(d) for d in parent["data"]))
        self.at = Position(**state["at"])
        self.pruner.restore(state["pruning"])
        self.health.ill = state["health"]["ill"]
        self.health.skipped = state["health"]["skipped"]
        self.health.total_skipped = state["health"]["total_skipped"]
        self.health.first_loss = state["health"]["first_loss"]
        self.health.fallen = state["health"]["fallen"]
        _, self.health.best = self.checkpoints.best() or (None, None)
        left = self.run.best_score()  # whose checkpoint may be damaged, or moved away
        if left is not None and left.beats(self.health.best):
            self.health.best = left
        self.started -= state["elapsed"]
        self.step_seconds = state["step_seconds"]
        self.last_row = state["last_row"]
        self.saved, self.good = self.at.step, self.checkpoints.good()
        self.save_model()  # a kill may have come between checkpoint and model
        log.info("resumed from %s: step %d, epoch %d, batch %d", path, self.at.step, self.at.epoch, self.at.index)


def check_same_run(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise `UsageError` where a checkpoint's recipe or data are not those of this run."""
    with suppress(ConfigError):  # settings that came after the checkpoint had their defaults then
        before = {**before, "recipe": validate(Recipe, before["recipe"]).identity()}
    old, new = dict(flatten(before["recipe"])), dict(flatten(now["recipe"]))
    changed = [
        f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)
    ]
    if before["archives"] != now["archives"]:
        changed.append("the archives hold other images")
    if changed:
        raise UsageError(
            "the run to resume was another one",
            where=path,
            why="; ".join(changed),
            fix="resume with the settings and archives it was started with, choose another --output to train on "
            "from its model (--init), or start again with --overwrite",
        )
