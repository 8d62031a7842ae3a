"""What a run works with, built from its recipe; how it is saved, and how it comes back."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from groundswell import distributed
from groundswell.archive.reader import Archive
from groundswell.backbones import Backbone, VisionTransformer, build_backbone
from groundswell.config import flatten, validate
from groundswell.device import choose_device, keep_freed_memory
from groundswell.encoder.directory import load, save_model
from groundswell.encoder.encoder import Encoder
from groundswell.encoder.preprocessing import Preprocessing
from groundswell.encoder.provenance import DataUsed, describe
from groundswell.errors import ConfigError, ModelError, UsageError
from groundswell.methods.base import Method
from groundswell.methods.dino import DINO, DINOSettings
from groundswell.methods.dinov2 import DINOv2
from groundswell.methods.mae import MAE, MAESettings
from groundswell.methods.simclr import SimCLR, SimCLRSettings
from groundswell.physics.imagette import Quantity
from groundswell.training.checkpoint import Checkpoints, State
from groundswell.training.data import Feed
from groundswell.training.health import Health
from groundswell.training.optimisers import build_optimiser
from groundswell.training.parallel import restore, spread, whole
from groundswell.training.precision import Precision, choose
from groundswell.training.pruning import Pruner
from groundswell.training.recipe import Horizon, Recipe, horizon
from groundswell.training.run_directory import Row, RunDirectory, environment
from groundswell.views.crops import MultiCrop
from groundswell.views.policies import ViewPolicy

log = logging.getLogger(__name__)

Monitor = Callable[[Encoder], float]


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
    """The loss of the method as a module, spread over the processes."""
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
    at: Position = field(default_factory=Position)
    last_row: Row = field(default_factory=dict)
    last_checkpoint: str = "none yet"

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

    def score(self, monitor: Monitor) -> tuple[float, bool]:
        """What the monitor says of the encoder as it is now, and whether it is the best so far."""
        encoder, best, score = self.encoder(), False, math.nan
        if distributed.is_first():
            score = monitor(encoder)
            best = self.checkpoints.claim_best(self.at.step, score)
        return distributed.first(score), bool(distributed.first(best))

    def prune(self, progress: float) -> None:
        """Draw the images to train on anew, and begin an epoch of them."""
        encoder = self.encoder().on(self.device, precision=self.precision.name, channels_last=True)
        self.pruner.draw(encoder, progress, self.at.epoch, self.at.index)
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

    def save(self) -> None:
        """Write a checkpoint, then the model directory."""
        state: State = {
            "identity": json.dumps(self.identity()),
            "surroundings": self.surroundings(),
            "at": asdict(self.at),
            "elapsed": self.elapsed,
            "last_row": self.last_row,
            "health": {
                "ill": self.health.ill,
                "skipped": self.health.skipped,
                "total_skipped": self.health.total_skipped,
            },
            "pruning": self.pruner.state(),
            "method": whole(self.method.state_dict()),
            "optimiser": whole(self.optimiser.state_dict()),
            "torch_rng": distributed.gather(torch.get_rng_state()[None]),
        }
        if distributed.is_first():
            path = self.checkpoints.save(self.at.step, state)
            progress = self.horizon.progress(self.at.step, self.elapsed)
            log.info("saved %s at step %d, %.1f %% of the run", path.name, self.at.step, 100 * progress)
        self.last_checkpoint = self.checkpoints.path(self.at.step).name
        self.save_model()

    def save_model(self) -> None:
        """Write the model directory of the weights as they are."""
        encoder = self.encoder()
        if distributed.is_first():
            self._write_model(encoder)
        # Whoever ends before it is written would have its launcher end the others.
        distributed.barrier()

    def _write_model(self, encoder: Encoder) -> None:
        encoder.backbone.cpu()
        figures = {k: v for k, v in self.last_row.items() if k != "timing"} or None
        save_model(
            encoder, self.run.model, data=self.data, training=self.recipe.model_dump(mode="json"), metrics=figures
        )

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
        self.at = Position(**state["at"])
        if "pruning" in state:  # a checkpoint from before there was pruning has none
            self.pruner.restore(state["pruning"])
        self.health.ill = state["health"]["ill"]
        self.health.skipped = state["health"]["skipped"]
        self.health.total_skipped = state["health"]["total_skipped"]
        self.started -= state["elapsed"]
        self.last_row = state["last_row"]
        self.last_checkpoint = path.name
        self.save_model()  # a kill may have come between checkpoint and model
        log.info("resumed from %s: step %d, epoch %d, batch %d", path, self.at.step, self.at.epoch, self.at.index)


def build_session(
    archives: Sequence[Archive], recipe: Recipe, run: RunDirectory, checkpoints: Checkpoints, started: float
) -> Session:
    """Everything a run needs, at its first step.

    Raises
    ------
    UsageError, DataError
        When recipe and archives do not fit.
    """
    if not archives:
        raise UsageError("no archive to train on", fix="name one or more archives")
    device = choose_device(recipe.device)
    if device.type == "cpu":
        keep_freed_memory()
    check_processes(recipe, device)
    precision = choose(recipe.precision, device)
    log.info("device %s, precision %s: %s", device, precision.name, precision.reason)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
    chosen = [a if recipe.where is None else a.where(recipe.where) for a in archives]
    first = chosen[0]
    preprocessing = recipe.preprocessing.resolve(first.channels, first.height, first.width, first.schema.spacing_m)
    feed = Feed(chosen, preprocessing, recipe.batch_size, recipe.seed, device)
    backbone = build_backbone(recipe.backbone, len(preprocessing.channels), recipe.seed)
    quantities = [channel.quantity for channel in preprocessing.channels]
    method = build_method(recipe, backbone, quantities)
    method = method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    sharded = recipe.parallel == "fsdp" and distributed.world_size() > 1
    spare = copy.deepcopy(method).cpu() if sharded else None
    loss = spread(method, recipe.parallel)
    return Session(
        recipe=recipe,
        run=run,
        data=tuple(describe(a) for a in chosen),
        preprocessing=preprocessing,
        feed=feed,
        pruner=Pruner(recipe.pruning, feed, recipe.seed, run.path / "pruning"),
        method=method,
        loss=loss,
        spare=spare,
        optimiser=build_optimiser(recipe.optimiser, method),
        horizon=horizon(recipe, feed.batches_per_epoch),
        health=Health(recipe.health, method.watched),
        checkpoints=checkpoints,
        precision=precision,
        device=device,
        started=started,
    )


def check_processes(recipe: Recipe, device: torch.device) -> None:
    """Raise `UsageError` where the batch cannot be cut into equal parts, or all processes would share one GPU."""
    count = distributed.world_size()
    if recipe.batch_size % count or recipe.batch_size < 2 * count:
        raise UsageError(
            f"a batch of {recipe.batch_size} cannot be cut into {count} equal parts of at least two",
            where="batch_size, the images of all processes together",
            fix=f"set batch_size={max(round(recipe.batch_size / count), 2) * count}, or start another number of them",
        )
    if count > 1 and device.index is not None and device.type == "cuda":
        raise UsageError(
            f"{count} processes on one GPU", where=f"device={recipe.device}", fix="set device=cuda: each takes its own"
        )


def build_views(recipe: Recipe, quantities: Sequence[Quantity]) -> ViewPolicy | MultiCrop:
    """What makes the views of a recipe, of channels of these quantities: several crops for DINO and DINOv2."""
    views = ViewPolicy(recipe.views, recipe.view_size, quantities)
    if isinstance(recipe.method, (SimCLRSettings, MAESettings)):
        return views
    second = views if recipe.second_views is None else ViewPolicy(recipe.second_views, recipe.view_size, quantities)
    small = None
    if recipe.local_views is not None:
        small = ViewPolicy(recipe.local_views, recipe.local_view_size, quantities)
    return MultiCrop((views, second), small, n_local=recipe.local_view_count)


def build_method(recipe: Recipe, backbone: Backbone, quantities: Sequence[Quantity]) -> Method:
    """The method of a recipe around a backbone, with its views of channels of these quantities."""
    settings, seed, views = recipe.method, recipe.seed, build_views(recipe, quantities)
    if isinstance(settings, SimCLRSettings):
        assert isinstance(views, ViewPolicy)
        return SimCLR(settings, backbone, views, seed)
    if isinstance(settings, MAESettings):
        assert isinstance(views, ViewPolicy)
        assert isinstance(backbone, VisionTransformer)  # the recipe has checked
        return MAE(settings, backbone, views, seed)
    assert isinstance(views, MultiCrop)
    if isinstance(settings, DINOSettings):
        return DINO(settings, backbone, views, seed)
    assert isinstance(backbone, VisionTransformer)
    return DINOv2(settings, backbone, views, seed)


def start_from(session: Session, model: str | Path) -> None:
    """Take the backbone's weights from a model directory.

    Raises
    ------
    ModelError
        When its architecture or its channels are others.
    """
    encoder = load(model)
    if (
        encoder.settings != session.recipe.backbone
        or encoder.backbone.in_channels != session.method.backbone.in_channels
    ):
        raise ModelError(
            "the model to start from has another backbone than the recipe",
            where=model,
            why=f"{encoder.settings!r} with {encoder.backbone.in_channels} channels against "
            f"{session.recipe.backbone!r} with {session.method.backbone.in_channels}",
            fix="set backbone.* as the model has them",
        )
    if encoder.preprocessing.hash != session.preprocessing.hash:
        log.warning("the preprocessing is not that of %s: its features will have to adapt", model)
    session.method.start_from(encoder.backbone.state_dict())
    log.info("started from the backbone of %s", model)


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
