"""The recipe: every setting of a run, in one strict schema."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import Field, model_validator

from groundswell import files
from groundswell.backbones import BackboneSettings
from groundswell.config import Origins, Settings, flatten, parse_override, resolve
from groundswell.encoder.preprocessing import PreprocessingSettings
from groundswell.methods.schedules import step_progress
from groundswell.methods.simclr import SimCLRSettings
from groundswell.training.health import HealthSettings
from groundswell.training.optimisers import OptimiserSettings
from groundswell.training.precision import PrecisionName
from groundswell.views.policies import POLICIES, ViewSettings


class ScheduleSettings(Settings):
    """The learning rate over the run: linear warm-up, then cosine."""

    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of the run."""
    final: float = Field(default=0.0, ge=0, le=1)
    """Where the cosine ends, as a fraction of the peak."""


class LengthSettings(Settings):
    """How long a run is: exactly one of these.

    ``minutes`` drives the schedules by the clock and ends on time; such a run cannot be reproduced to the bit,
    because the clock cannot. The other three can.
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
                "on the command line, drop the recipe's with length.<name>=null"
            )
        return self


class CheckpointSettings(Settings):
    """When the run is saved (besides at its end and when a signal stops it), and how many saves are kept."""

    minutes: float = Field(default=5.0, gt=0)
    """Time between two; not counted where ``steps`` is given."""
    steps: int | None = Field(default=None, ge=1)
    keep: int = Field(default=2, ge=1)


class Recipe(Settings):
    """Every setting of a pretraining run."""

    name: str = Field(min_length=1)
    description: str = ""
    where: str | None = None
    """Rows to train on, as a query over the catalogue: ``split == 'train'``."""
    preprocessing: PreprocessingSettings = PreprocessingSettings()
    backbone: BackboneSettings = BackboneSettings()
    method: SimCLRSettings = SimCLRSettings()
    views: ViewSettings = ViewSettings()
    view_size: int = Field(default=64, ge=8)
    """Side of a view, px."""
    batch_size: int = Field(default=256, ge=2)
    """Images in one forward pass; the negatives of a contrastive loss come from these."""
    accumulate: int = Field(default=1, ge=1)
    """Forward passes to one optimiser step; adds images to the gradient, not negatives to the loss."""
    optimiser: OptimiserSettings
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the whole gradient; None leaves it alone."""
    schedule: ScheduleSettings = ScheduleSettings()
    length: LengthSettings
    precision: PrecisionName = "auto"
    device: str = "auto"
    seed: int = 0
    log_steps: int = Field(default=10, ge=1)
    """Steps between two rows of metrics.jsonl, each with a look at the health of the run."""
    monitor_every: float = Field(default=0.2, gt=0, le=1)
    """Progress between two scores of the monitor, where one was passed."""
    checkpoint: CheckpointSettings = CheckpointSettings()
    health: HealthSettings = HealthSettings()

    @property
    def images_per_step(self) -> int:
        """Images that go into one optimiser step."""
        return self.batch_size * self.accumulate

    def identity(self) -> dict[str, Any]:
        """The settings that decide the weights and the metrics; when to save and when to give up are not among them."""
        return self.model_dump(mode="json", exclude={"checkpoint", "health", "description"})

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

    A length replaces that of the layers below as a whole, since only one of its keys may be given.
    """
    layers, overrides = list(layers), list(overrides)
    giving = [i for i, (_, layer) in enumerate(layers) if "length" in layer]
    if any(parse_override(text)[0][0] == "length" for text in overrides):
        giving.append(len(layers))
    without = [
        (origin, {k: v for k, v in layer.items() if k != "length" or i == giving[-1]})
        for i, (origin, layer) in enumerate(layers)
    ]
    recipe, origins = resolve(Recipe, without, overrides)
    for name, _ in flatten(POLICIES[recipe.views.policy], "views."):
        if origins.get(name) == "default":
            origins[name] = f"policy {recipe.views.policy}"
    return recipe, origins
