"""From a recipe to what a run works with: views, method, and the session around them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from groundswell import distributed
from groundswell.archive.reader import Archive
from groundswell.backbones import Backbone, VisionTransformer, build_backbone
from groundswell.device import choose_device, keep_freed_memory
from groundswell.encoder.directory import load
from groundswell.encoder.provenance import describe
from groundswell.errors import ModelError, UsageError
from groundswell.methods.base import Method
from groundswell.methods.dino import DINO, DINOSettings
from groundswell.methods.dinov2 import DINOv2
from groundswell.methods.mae import MAE, MAESettings
from groundswell.methods.simclr import SimCLR, SimCLRSettings
from groundswell.physics.imagette import Quantity
from groundswell.training.checkpoint import Checkpoints
from groundswell.training.data import Feed
from groundswell.training.health import Health
from groundswell.training.optimisers import build_optimiser
from groundswell.training.parallel import spread
from groundswell.training.precision import choose
from groundswell.training.pruning import Pruner
from groundswell.training.recipe import Recipe, horizon
from groundswell.training.run_directory import RunDirectory
from groundswell.training.session import Session
from groundswell.views.crops import MultiCrop
from groundswell.views.policies import ViewPolicy

log = logging.getLogger(__name__)


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
