"""From a recipe to what a run works with: views, method, and the session around them."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from groundswell import distributed
from groundswell.archive.reader import Archive
from groundswell.backbones import Backbone, VisionTransformer, build_backbone
from groundswell.config import flatten
from groundswell.device import choose_device, keep_freed_memory
from groundswell.encoder.directory import load, read_data
from groundswell.encoder.encoder import Encoder
from groundswell.encoder.preprocessing import ChannelInput, Preprocessing
from groundswell.encoder.provenance import describe
from groundswell.errors import GroundswellError, ModelError, UsageError
from groundswell.methods.base import Method
from groundswell.methods.dino import DINO, DINOSettings
from groundswell.methods.dinov2 import DINOv2
from groundswell.methods.mae import MAE, MAESettings
from groundswell.methods.simclr import SimCLR, SimCLRSettings
from groundswell.physics.imagette import DECIBELS, Quantity
from groundswell.training.checkpoint import Checkpoints
from groundswell.training.data import Feed, check_images, check_once, check_there, warn_of_gaps
from groundswell.training.health import Health
from groundswell.training.optimisers import build_optimiser
from groundswell.training.parallel import give, parallelise
from groundswell.training.precision import choose
from groundswell.training.pruning import Pruner, check_rule
from groundswell.training.recipe import Recipe, horizon
from groundswell.training.run_directory import RunDirectory
from groundswell.training.session import Parent, Session
from groundswell.views.crops import MultiCrop
from groundswell.views.policies import ViewPolicy, ViewSettings

log = logging.getLogger(__name__)


def build_session(
    archives: Sequence[Archive],
    recipe: Recipe,
    run: RunDirectory,
    checkpoints: Checkpoints,
    started: float,
    init: str | Path | None = None,
) -> Session:
    """Everything a run needs, at its first step; with the backbone of the model ``init`` where one is given.

    Raises
    ------
    UsageError, DataError
        When recipe, archives and the model do not fit: before images are preloaded.
    """
    if not archives:
        raise UsageError("no archive to train on", fix="name one or more archives")
    device = choose_device(recipe.device)
    if device.type == "cpu":
        keep_freed_memory()
    check_parts(recipe, distributed.world_size())
    check_own_gpu(recipe, device)
    precision = choose(recipe.precision, device)
    log.info("device %s, precision %s: %s", device, precision.name, precision.reason)
    chosen = check_fits(recipe, archives)
    parent = None if init is None else read_parent(recipe, chosen[0], init)
    warn_of_doubts(recipe, chosen)
    preprocessing = preprocessing_of(recipe, chosen[0])
    backbone = build_backbone(recipe.backbone, len(preprocessing.channels), recipe.seed)
    method = build_method(recipe, backbone, preprocessing.channels)
    feed = Feed(chosen, preprocessing, recipe.batch_size, recipe.seed, device)
    method = method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    sharded = recipe.parallel == "fsdp" and distributed.world_size() > 1
    spare = copy.deepcopy(method).cpu() if sharded else None
    loss = parallelise(method, recipe.parallel)
    session = Session(
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
    if init is not None and parent is not None:
        start_from(session, parent, init)
    return session


def check_fits(recipe: Recipe, archives: Sequence[Archive]) -> list[Archive]:
    """The archives, cut to the rows of ``where``, once it is known that the recipe can be trained on them.

    Looks at the whole catalogue, and reads one image of each archive.

    Raises
    ------
    UsageError, DataError
        When recipe and archives do not fit.
    """
    check_there(archives)
    chosen = [archive.where(recipe.where) for archive in archives]
    preprocessing = preprocessing_of(recipe, chosen[0])
    build_views(recipe, preprocessing.channels)
    check_rule(recipe.pruning, check_images(chosen, recipe.batch_size), recipe.batch_size)
    for archive in filter(len, chosen):
        preprocessing.check(archive.channels, archive.catalogue)
        archive.read([0])  # pixels that cannot be read at all are told here, too
    check_once(chosen)
    return chosen


def warn_of_doubts(recipe: Recipe, archives: Sequence[Archive]) -> None:
    """Say what can be trained on and is hardly meant: an archive that lacks a part, views far larger than images."""
    warn_of_gaps(archives)
    side = min(archives[0].height, archives[0].width)
    if recipe.view_size > 2 * side:
        log.warning(
            "views of %d px are cut from images of %d px: they show no more than view_size=%d, for %.0f times the work",
            *(recipe.view_size, side, side, (recipe.view_size / side) ** 2),
        )


def preprocessing_of(recipe: Recipe, archive: Archive) -> Preprocessing:
    """What the encoder of a recipe takes of the images of an archive, in whole patches."""
    return recipe.preprocessing.resolve(
        *(archive.channels, archive.height, archive.width, archive.schema.spacing_m), patch=recipe.backbone.patch
    )


def check_parts(recipe: Recipe, count: int) -> None:
    """Raise `UsageError` where ``count`` processes cannot have equal parts of the batch."""
    if recipe.batch_size % count or recipe.batch_size < 2 * count:
        raise UsageError(
            f"a batch of {recipe.batch_size} cannot be cut into {count} equal parts of at least two",
            where="batch_size, the images of all processes together",
            fix=f"set batch_size={max(round(recipe.batch_size / count), 2) * count}, or start another number of them",
        )


def check_own_gpu(recipe: Recipe, device: torch.device) -> None:
    """Raise `UsageError` where all processes would share one GPU."""
    count = distributed.world_size()
    if count > 1 and device.index is not None and device.type == "cuda":
        raise UsageError(
            f"{count} processes on one GPU", where=f"device={recipe.device}", fix="set device=cuda: each takes its own"
        )


def build_views(recipe: Recipe, channels: Sequence[ChannelInput]) -> ViewPolicy | MultiCrop:
    """What makes the views of a recipe, of the channels an encoder takes: several crops for DINO and DINOv2."""
    quantities = [channel.quantity for channel in channels]

    def policy(name: str, size: int) -> ViewPolicy:
        settings: ViewSettings = getattr(recipe, name)
        if settings.zero is None:  # of all views alike
            settings = settings.model_copy(update={"zero": recipe.views.zero})
        return ViewPolicy(fitted(settings, channels, name), size, quantities, name)

    views = policy("views", recipe.view_size)
    if isinstance(recipe.method, (SimCLRSettings, MAESettings)):
        return views
    second = views if recipe.second_views is None else policy("second_views", recipe.view_size)
    small = None if recipe.local_views is None else policy("local_views", recipe.local_view_size)
    return MultiCrop((views, second), small, n_local=recipe.local_view_count)


def fitted(views: ViewSettings, channels: Sequence[ChannelInput], name: str = "views") -> ViewSettings:
    """The settings of views (called ``name`` in the recipe), with what the preprocessing makes of the pixels.

    Decibels tell ``unit_db``; linear channels tell ``gamma`` and, unless each image is standardised, ``zero``. Ratios
    tell nothing: what acts on the signal spares them. Where no operation asks what the pixels mean, nothing is refused.

    Raises
    ------
    UsageError
        When the settings say otherwise, when channels differ, or when a value is asked for and not known.
    """
    asked = any(operation.reads_scale or operation.linear_only for operation in views.in_use())
    known: dict[str, Any] = {}
    for channel in channels:
        for setting, value in _meaning(channel).items():
            stated = known.get(setting, getattr(views, setting))
            if asked and stated is not None and stated != value:
                raise UsageError(
                    f"{name}.{setting} is {stated}, and the preprocessing makes it {value}",
                    where=f"channel {channel.name}, {channel.quantity.value}",
                    fix=f"leave {name}.{setting} out, and give all channels one gamma, offset and scale",
                )
            known[setting] = value
    views = views.model_copy(update=known)
    needed = {"db": "unit_db", "amplitude": "zero"}.get(views.pixels or "")
    if asked and needed is not None and getattr(views, needed) is None:
        raise UsageError(
            f"the views need {name}.{needed}",
            why="each image is standardised, which leaves the value to the images",
            fix=f"state {name}.{needed}: {_UNTOLD[needed]}",
        )
    return views


_UNTOLD = {
    "unit_db": "how many dB a standard deviation is, about 1.5 for the sea",
    "zero": "no signal, in standard deviations from the mean, about -1.4 for targets and -3 for the sea",
}


def _meaning(channel: ChannelInput) -> dict[str, Any]:
    """What a channel tells of its normalised pixels, as settings of views."""
    if channel.quantity in DECIBELS:
        return {"pixels": "db"} if channel.standardise else {"pixels": "db", "unit_db": channel.scale}
    if channel.quantity is Quantity.RATIO:
        return {}
    linear = {"pixels": "amplitude", "gamma": channel.gamma * (1.0 if channel.quantity is Quantity.AMPLITUDE else 2.0)}
    return linear if channel.standardise else linear | {"zero": -channel.offset / channel.scale}


def build_method(recipe: Recipe, backbone: Backbone, channels: Sequence[ChannelInput]) -> Method:
    """The method of a recipe around a backbone, with its views of the channels that it takes."""
    settings, seed, views = recipe.method, recipe.seed, build_views(recipe, channels)
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


def read_parent(recipe: Recipe, archive: Archive, model: str | Path) -> Encoder:
    """The encoder of a model directory, whose backbone a run on an archive is to start from.

    Raises
    ------
    ModelError
        When it cannot be read, or its architecture or its channels are others.
    """
    encoder, channels = load(model), len(preprocessing_of(recipe, archive).channels)
    theirs, ours = (dict(flatten(s.model_dump(mode="json"))) for s in (encoder.settings, recipe.backbone))
    other = {f"backbone.{key}": value for key, value in theirs.items() if ours[key] != value}
    if other:
        raise ModelError(
            "the model to start from has another backbone than the recipe",
            where=model,
            fix="set " + " ".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in other.items()),
        )
    if encoder.backbone.in_channels != channels:
        raise ModelError(
            "the backbone of the model to start from takes another number of channels",
            where=model,
            why=f"it takes {encoder.backbone.in_channels}, and the preprocessing of the recipe gives {channels}",
            fix="set preprocessing.channels to as many",
        )
    return encoder


def start_from(session: Session, encoder: Encoder, model: str | Path) -> None:
    """Take the backbone's weights from a model, and what it was trained on into the card of the run's own."""
    if encoder.preprocessing.hash != session.preprocessing.hash:
        log.warning("the preprocessing is not that of %s: its features will have to adapt", model)
    method = session.spare or session.method
    method.start_from(encoder.backbone.state_dict())
    if session.spare is not None:
        give(session.method, session.spare.state_dict())
    session.parent = Parent(encoder.id, read_data(model))
    log.info("started from the backbone of %s", model)


def check_parent(session: Session, model: str | Path) -> None:
    """Say where a resumed run started from another model, or that is not known; it goes on from its checkpoint."""
    before, now = session.parent and session.parent.id, None
    with suppress(GroundswellError):  # gone, damaged, or being written: the run does not need it
        now = load(model).id
    if before != now:
        log.warning(
            "the run goes on from its checkpoint: it started from %s, and not from %s (%s)",
            *(before or "fresh weights, or from a model that was not recorded", model, now or "which cannot be read"),
        )
