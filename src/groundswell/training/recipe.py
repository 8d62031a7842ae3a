"""The recipe: every setting of a run, in one strict schema."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from groundswell import files
from groundswell.backbones import BackboneSettings, carried_over
from groundswell.config import Origins, Settings, flatten, parse_override, resolve
from groundswell.curation.pruning import RuleSettings
from groundswell.encoder.preprocessing import PreprocessingSettings
from groundswell.errors import ConfigError
from groundswell.methods.dino import DINOSettings
from groundswell.methods.dinov2 import DINOv2Settings
from groundswell.methods.mae import MAESettings
from groundswell.methods.schedules import step_progress
from groundswell.methods.simclr import SimCLRSettings
from groundswell.training.health import HealthSettings
from groundswell.training.optimisers import ClipScope, OptimiserSettings
from groundswell.training.parallel import ParallelName
from groundswell.training.precision import PrecisionName
from groundswell.views.masking import kept_patches
from groundswell.views.named import POLICIES
from groundswell.views.policies import ViewSettings

MethodSettings = Annotated[SimCLRSettings | DINOSettings | DINOv2Settings | MAESettings, Field(discriminator="name")]


class ScheduleSettings(Settings):
    """The learning rate over the run: linear warm-up, then cosine."""

    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of the run."""
    final: float = Field(default=0.0, ge=0, le=1)
    """Where the cosine ends, as a fraction of the peak."""


class LengthSettings(Settings):
    """How long a run is: exactly one of these.

    ``minutes`` drives the schedules by the clock and ends on time; such a run cannot be reproduced to the bit,
    because the clock cannot. The other three can. An epoch is as many images as there are to train on, with pruning,
    too, which then passes more often over what it keeps.
    """

    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    images: int | None = Field(default=None, ge=1)
    minutes: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of steps, epochs, images, minutes (given: {', '.join(given) or 'none'}); "
                "one given on the command line replaces the recipe's"
            )
        return self


class CheckpointSettings(Settings):
    """When the run is saved (besides at its end and when a signal stops it), and how many saves are kept."""

    minutes: float = Field(default=5.0, gt=0)
    """Time between two; not counted where ``steps`` is given."""
    steps: int | None = Field(default=None, ge=1)
    keep: int = Field(default=2, ge=1)
    """How many of the newest; the best and the last good one are kept besides."""


class PruningSettings(RuleSettings):
    """Training on a part of the archive, drawn anew at its moments by a rule of `groundswell.curation.pruning`."""

    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Progress until the first draw (T_w of OceanSAR-1; ours); all images until then."""
    every: float = Field(default=0.1, gt=0, le=1)
    """Progress between two draws (T_s of OceanSAR-1; ours)."""

    @model_validator(mode="after")
    def _nothing_without_a_rule(self) -> Self:
        if self.model_fields_set and "rule" not in self.model_fields_set:
            given = " and ".join(sorted(self.model_fields_set))
            raise ValueError(f"{given} without a rule: set pruning.rule, or none to say that there is no pruning")
        return self


class Recipe(Settings):
    """Every setting of a pretraining run."""

    name: str = Field(min_length=1)
    description: str = ""
    where: str | None = None
    """Rows to train on, as a query over the catalogue: ``split == 'train'``."""
    preprocessing: PreprocessingSettings = PreprocessingSettings()
    backbone: BackboneSettings = BackboneSettings()
    method: MethodSettings = SimCLRSettings()
    views: ViewSettings = ViewSettings()
    """Of SimCLR and MAE; the global views of DINO and DINOv2."""
    view_size: int = Field(default=64, ge=8)
    """Side of a view, px."""
    second_views: ViewSettings | None = None
    """DINO and DINOv2: of the second global view, where it differs."""
    local_views: ViewSettings | None = None
    """DINO and DINOv2: of the local views; None goes without."""
    local_view_size: int = Field(default=96, ge=8)
    local_view_count: int = Field(default=8, ge=1)
    pruning: PruningSettings = PruningSettings()
    batch_size: int = Field(default=256, ge=2)
    """Images in one forward pass, of all processes together; the negatives of a contrastive loss come from these."""
    accumulate: int = Field(default=1, ge=1)
    """Forward passes to one optimiser step; adds images to the gradient, not negatives to the loss."""
    optimiser: OptimiserSettings
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; None leaves it alone."""
    clip_scope: ClipScope = "whole"
    """Whose norm: the whole gradient's, that of each part (backbone, each head; DINOv2) or of each tensor (DINO)."""
    schedule: ScheduleSettings = ScheduleSettings()
    length: LengthSettings
    precision: PrecisionName = "auto"
    device: str = "auto"
    parallel: ParallelName = "ddp"
    """Several processes: each has all weights (``ddp``) or keeps a share of them (``fsdp``)."""
    seed: int = Field(default=0, ge=0, lt=2**62)
    log_steps: int = Field(default=10, ge=1)
    """Steps between two rows of metrics.jsonl, each with a look at the health of the run."""
    monitor_every: float = Field(default=0.2, gt=0, le=1)
    """Progress between two scores of the monitor, where one was passed."""
    checkpoint: CheckpointSettings = CheckpointSettings()
    health: HealthSettings = HealthSettings()

    @model_validator(mode="after")
    def _views_fit(self) -> Self:
        if (name := self.method.name) in ("simclr", "mae"):
            for field in ("second_views", "local_views"):
                if getattr(self, field) is not None:
                    raise ConfigError(f"{field} means nothing for {name}", fix=f"remove it ({field}=null)")
        given = self.local_views.model_dump(exclude_unset=True) if self.local_views is not None else {}
        if given and "policy" not in given:
            raise ConfigError(
                "these settings of local views would make local views that nobody asked for",
                where=", ".join(sorted(path for path, _ in flatten(given, "local_views."))),
                why="the recipe has no local views",
                fix="leave them out, or choose the views, too: local_views.policy=oceansar1-local local_view_size=32",
            )
        if self.local_views is not None and self.local_view_size > self.view_size:
            raise ConfigError(
                f"local views of {self.local_view_size} px are larger than the global ones of {self.view_size}",
                fix=f"set local_view_size={self.view_size // 2} or less; local_view_count is {self.local_view_count}",
            )
        return self

    @model_validator(mode="after")
    def _backbone_fits(self) -> Self:
        if (name := self.backbone.name).startswith("vit"):
            return self
        if self.method.name in ("dinov2", "mae"):
            raise ConfigError(
                f"{self.method.name} masks patches, which {name} does not have",
                fix="set backbone.name to a vision transformer (vit-s/16), or method.name to simclr or dino",
            )
        if self.optimiser.layer_decay != 1 or self.optimiser.patch_rate != 1:
            raise ConfigError(
                f"layer_decay and patch_rate mean nothing for {name}",
                fix="remove them, or set backbone.name to a vision transformer (vit-s/16)",
            )
        return self

    @model_validator(mode="after")
    def _patches_fit(self) -> Self:
        backbone = self.backbone
        if not backbone.name.startswith("vit"):
            return self
        patch = backbone.patch
        sizes = {"view_size": self.view_size}
        if self.preprocessing.size is not None:
            sizes["preprocessing.size"] = self.preprocessing.size
        if self.local_views is not None:
            sizes["local_view_size"] = self.local_view_size
        for field, size in sizes.items():
            if size % patch:
                raise ConfigError(
                    f"{field} {size} is no multiple of the patch of {patch} px of {backbone.name}",
                    fix=f"set {field}={max(size // patch, 1) * patch}, or take a backbone with another patch",
                )
        if isinstance(self.method, DINOv2Settings) and backbone.pooling != "class" and not self.method.separate_heads:
            raise ConfigError(
                "images and patches cannot share a head where more than the class token is pooled",
                where=f"backbone.pooling={backbone.pooling}",
                fix="set method.separate_heads=true, or backbone.pooling=class",
            )
        if isinstance(self.method, MAESettings):
            if backbone.neighbours:
                raise ConfigError(
                    "mae shows the encoder a part of the patches, which have no neighbours then",
                    fix="set backbone.neighbours=false; method.decoder_neighbours=true is for its decoder",
                )
            kept_patches((self.view_size // patch) ** 2, self.method.mask_ratio)
            if backbone.image_size != self.view_size:
                raise ConfigError(
                    f"mae needs positions made for its views of {self.view_size} px, not of {backbone.image_size}",
                    fix=f"set backbone.image_size={self.view_size}",
                )
        return self

    @property
    def images_per_step(self) -> int:
        """Images that go into one optimiser step."""
        return self.batch_size * self.accumulate

    def identity(self) -> dict[str, Any]:
        """The settings that decide the weights and the metrics; when to save and when to give up are not among them."""
        return self.model_dump(mode="json", exclude={"checkpoint", "health", "description", "parallel"})

    @property
    def hash(self) -> str:
        """Hex SHA-256 of `identity`."""
        return files.digest(self.identity())


@dataclass(frozen=True)
class Horizon:
    """How far a run goes: a number of optimiser steps, or seconds on the clock.

    Attributes
    ----------
    steps : int or None
    seconds : float or None
        Exactly one of the two.
    """

    steps: int | None
    seconds: float | None

    def progress(self, step: int, elapsed: float) -> float:
        """Progress in [0, 1] at step ``step`` (from 0), ``elapsed`` seconds into the run."""
        if self.steps is not None:
            return min(step_progress(step, self.steps), 1.0)
        assert self.seconds is not None
        return min(elapsed / self.seconds, 1.0)

    def finished(self, step: int, elapsed: float, step_seconds: float) -> bool:
        """Whether to stop before step ``step``: all steps are done, or one more would not end in time."""
        if self.steps is not None:
            return step >= self.steps
        assert self.seconds is not None
        return elapsed + step_seconds > self.seconds

    def remaining(self, step: int, elapsed: float) -> tuple[float, str]:
        """How much is left to do, and its unit."""
        if self.steps is not None:
            return self.steps - step, "steps"
        assert self.seconds is not None
        return max(round(self.seconds - elapsed), 0), "s"


def horizon(recipe: Recipe, batches_per_epoch: int) -> Horizon:
    """The length of a run over an archive of ``batches_per_epoch`` batches; a started step is finished."""
    length = recipe.length
    if length.minutes is not None:
        return Horizon(steps=None, seconds=60.0 * length.minutes)
    if length.steps is not None:
        return Horizon(steps=length.steps, seconds=None)
    if length.images is not None:
        return Horizon(steps=math.ceil(length.images / recipe.images_per_step), seconds=None)
    assert length.epochs is not None
    return Horizon(steps=math.ceil(length.epochs * batches_per_epoch / recipe.accumulate), seconds=None)


def resolve_recipe(
    layers: Iterable[tuple[str, Mapping[str, Any]]], overrides: Iterable[str] = ()
) -> tuple[Recipe, Origins]:
    """A recipe from layers and ``a.b=c`` overrides (see `config.resolve`), with the origin of every value.

    A length replaces that of the layers below as a whole, since only one of its keys may be given; so does a method or
    an optimiser of another name, whose settings are others, and a backbone of another family but for what both know.

    Raises
    ------
    ConfigError
        For settings that do not fit, and for those of local views where there are none.
    """
    layers, overrides = list(layers), list(overrides)
    for key in ("method", "optimiser", "backbone"):
        layers = _without_other_names(layers, overrides, key)
    giving = [i for i, (_, layer) in enumerate(layers) if "length" in layer]
    if any(parse_override(text)[0][0] == "length" for text in overrides):
        giving.append(len(layers))
    without = [
        (origin, {k: v for k, v in layer.items() if k != "length" or i == giving[-1]})
        for i, (origin, layer) in enumerate(layers)
    ]
    recipe, origins = resolve(Recipe, without, overrides)
    if recipe.local_views is None:
        having = {origin for origin, layer in layers if "local_views" in layer}  # or it says that there are none
        fields = [name for name in ("local_view_size", "local_view_count") if origins[name] not in {"default", *having}]
        idle = [name for name in fields if getattr(recipe, name) != Recipe.model_fields[name].default]
        if idle:
            raise ConfigError(
                f"there are no local views for {' and '.join(idle)}",
                fix="leave it out, or choose the views, too: local_views.policy=oceansar1-local local_view_size=32",
            )
    for field in ("views", "second_views", "local_views"):
        views: ViewSettings | None = getattr(recipe, field)
        for name, _ in flatten(POLICIES[views.policy], f"{field}.") if views else ():
            if origins.get(name) == "default":
                origins[name] = f"policy {views.policy if views else ''}"
    return recipe, origins


def _without_other_names(
    layers: list[tuple[str, Mapping[str, Any]]], overrides: list[str], key: str
) -> list[tuple[str, Mapping[str, Any]]]:
    """The layers, without the settings of ``key`` that a later ``key.name`` leaves without meaning.

    A layer that gives settings and no name speaks of the name given below it.
    """
    given = [own.get("name") if isinstance(own := layer.get(key), Mapping) else None for _, layer in layers]
    final = next((name for name in reversed(given) if name is not None), None)
    for text in overrides:
        path, value = parse_override(text)
        if path == [key, "name"]:
            final = value
        elif path == [key] and isinstance(value, Mapping):
            final = value.get("name", final)
    kept = []
    current = BackboneSettings().name if key == "backbone" else None
    for (origin, layer), name in zip(layers, given, strict=True):
        own, current = layer.get(key), name or current
        if isinstance(own, Mapping) and None not in (current, final) and current != final:
            left = carried_over({**own, "name": current}, str(final)) if key == "backbone" else {}
            layer = {k: v for k, v in layer.items() if k != key} | ({key: left} if left else {})
        kept.append((origin, layer))
    return kept
