"""What a run works with, built from its recipe; how it is saved, and how it comes back."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import Optimizer

from groundswell.archive.reader import Archive
from groundswell.backbones import Backbone, VisionTransformer, build_backbone
from groundswell.config import flatten, validate
from groundswell.device import choose_device
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
from groundswell.training.precision import Precision, choose
from groundswell.training.recipe import Horizon, Recipe, horizon
from groundswell.training.run_directory import Row, RunDirectory, environment
from groundswell.views.crops import MultiCrop
from groundswell.views.policies import ViewPolicy

log = logging.getLogger(__name__)


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
    """A run in memory: the loop drives it, `save` and `restore` carry it across processes."""

    recipe: Recipe
    run: RunDirectory
    data: tuple[DataUsed, ...]
    preprocessing: Preprocessing
    feed: Feed
    method: Method
    optimiser: Optimizer
    horizon: Horizon
    health: Health
    checkpoints: Checkpoints
    precision: Precision
    device: torch.device
    started: float
    """`time.monotonic` when this process took up the run, less what earlier ones spent on it."""
    at: Position = field(default_factory=Position)
    last_row: Row = field(default_factory=dict)
    last_checkpoint: str = "none yet"

    @property
    def elapsed(self) -> float:
        """Seconds spent on the run, over all processes that worked on it."""
        return time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """Progress of the run, in [0, 1]."""
        return self.horizon.progress(self.at.step, self.elapsed)

    def encoder(self) -> Encoder:
        """The network that becomes the encoder, as it is now, copied, with its preprocessing."""
        backbone = self.method.encoder_backbone()
        backbone.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return Encoder(backbone, self.preprocessing, self.recipe.name, self.recipe.backbone)

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
            "method": self.method.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }
        path = self.checkpoints.save(self.at.step, state)
        self.last_checkpoint = path.name
        self.save_model()
        log.info("saved %s at step %d, %.1f %% of the run", path.name, self.at.step, 100 * self.progress)

    def save_model(self) -> None:
        """Write the model directory of the weights as they are."""
        encoder = self.encoder()
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
        self.method.load_state_dict(state["method"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["torch_rng"])
        self.at = Position(**state["at"])
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
    return Session(
        recipe=recipe,
        run=run,
        data=tuple(describe(a) for a in chosen),
        preprocessing=preprocessing,
        feed=feed,
        method=method,
        optimiser=build_optimiser(recipe.optimiser, method),
        horizon=horizon(recipe, feed.batches_per_epoch),
        health=Health(recipe.health, method.watched),
        checkpoints=checkpoints,
        precision=precision,
        device=device,
        started=started,
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
