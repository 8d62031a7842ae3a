"""What every operation on views has in common, and what the pixels mean to it.

Parameters are drawn on the CPU (so they are the same on every device, and choosing rows never waits for one);
pixels stay where they are. An operation touches only the rows it was drawn for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from groundswell import rng
from groundswell.config import Settings
from groundswell.errors import UsageError
from groundswell.physics.imagette import DECIBELS, Quantity
from groundswell.views.ranges import Pair

LINEAR = frozenset({Quantity.SIGMA0, Quantity.AMPLITUDE, Quantity.RATIO})


@dataclass(frozen=True)
class PixelScale:
    """What the normalised pixels mean, for the operations that act on the radar signal.

    Attributes
    ----------
    kind : "db" or "amplitude"
        "db": pixels are proportional to a level in dB. "amplitude": to a power of amplitude (the root of intensity).
    unit_db : float
        For "db": how many dB one unit of the pixels is.
    zero : float
        For "amplitude": the pixel value of no signal.
    gamma : float
        For "amplitude": the power, 1 for amplitude itself, 2 for intensity, 0.5 for the root of amplitude.
    quantities : tuple of Quantity
        Of each channel, where they are known.
    """

    kind: Literal["db", "amplitude"] = "db"
    unit_db: float = 7.5
    zero: float = 0.0
    gamma: float = 1.0
    quantities: tuple[Quantity, ...] = ()

    def amplify(self, images: Tensor, gain_db: Tensor) -> Tensor:
        """Multiply the intensity by ``gain_db`` (dB; any shape that broadcasts with the images)."""
        if self.kind == "db":
            return images + gain_db / self.unit_db
        return self.zero + (images - self.zero) * torch.pow(10.0, gain_db * (self.gamma / 20))


class Operation(Settings):
    """Base of the operations: applied to each sample with probability ``p``.

    Attributes
    ----------
    p : float
        Probability that a sample is changed; 0 skips the operation at no cost.
    unphysical_for : tuple of str
        What the operation breaks: labels of this kind must not be asked of a model that learned to ignore it.
    refuses : mapping of Quantity to str
        Quantities that the operation makes no sense for, each with the reason.
    spares : frozenset of Quantity
        Channels of these quantities stay as they are while the others are changed.
    reads_scale : bool
        Whether it needs to know what the pixels are proportional to.
    linear_only : bool
        Whether it needs pixels with a black to count from: ``pixels: amplitude``.
    """

    p: float = Field(default=0.0, ge=0, le=1)
    unphysical_for: ClassVar[tuple[str, ...]] = ()
    refuses: ClassVar[Mapping[Quantity, str]] = {}
    spares: ClassVar[frozenset[Quantity]] = frozenset()
    reads_scale: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Its key among the settings of views."""
        return re.sub("(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    def __call__(self, images: Tensor, keys: Tensor, scale: PixelScale, *, in_place: bool = False) -> Tensor:
        """Images float ``[B, C, H, W]`` with the chosen rows changed; keys int64 ``[B]`` on the CPU.

        The images given stay as they are unless ``in_place``, which saves a copy of the rows that are not chosen.
        """
        if self.p == 0:
            return images
        rows = self.chosen(keys)
        if len(rows) == 0:
            return images
        if len(rows) == len(images):
            return self._change(images, keys, scale)
        at = rows.to(images.device)
        changed = self._change(images[at], keys[rows], scale)
        return images.index_copy_(0, at, changed) if in_place else images.index_copy(0, at, changed)

    def _change(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        changed = self.apply(images, keys, scale)
        for channel, quantity in enumerate(scale.quantities):
            if quantity in self.spares:
                changed[:, channel] = images[:, channel]
        return changed

    def chosen(self, keys: Tensor) -> Tensor:
        """int64 ``[n]``: the rows that the operation was drawn for."""
        return (rng.uniform(keys, f"{type(self).__name__}/apply")[:, 0] < self.p).nonzero()[:, 0]

    def draw(self, keys: Tensor, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        """float64 ``[B]`` on the CPU, uniform in ``[low, high)``: one parameter of this operation for every sample."""
        return low + (high - low) * rng.uniform(keys, f"{type(self).__name__}/{name}")[:, 0].double()

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        """Change every one of the images ``[n, C, H, W]``, into new memory."""
        raise NotImplementedError

    def check(self, scale: PixelScale, views: str = "views") -> None:
        """Raise `UsageError` where what the pixels are does not allow the operation, of views of this name."""
        name = self.name
        off = f"leave it out ({views}.{name}.p=0)"
        if self.linear_only and scale.kind == "db":
            raise UsageError(
                f"{name} cannot be applied to decibels",
                where=f"{views}.pixels=db",
                why="a level in dB has no black to count from",
                fix=f"{off}, or use gain and contrast, which are the same thing for a level in dB",
            )
        for channel, quantity in enumerate(scale.quantities):
            where = f"channel {channel + 1} of {len(scale.quantities)}, {quantity.value}"
            if quantity in self.refuses:
                fix = f"{off}, or choose a quantity that allows it (preprocessing.quantity)"
                raise UsageError(
                    f"{name} cannot be applied to {quantity.value}", where=where, why=self.refuses[quantity], fix=fix
                )
            if self.reads_scale and quantity not in self.spares and (quantity in DECIBELS) != (scale.kind == "db"):
                right = "db" if quantity in DECIBELS else "amplitude"
                raise UsageError(
                    f"{name} takes the pixels for proportional to {scale.kind}, and they are {quantity.value}",
                    where=where,
                    fix=f"set {views}.pixels={right} (and unit_db, or zero and gamma), or {off}",
                )
        if scale.quantities and self.spares.issuperset(scale.quantities):
            raise UsageError(
                f"{name} would change nothing",
                where=", ".join(q.value for q in scale.quantities),
                why="a factor common to both polarisations cancels in their ratio",
                fix=off,
            )


def to_pixels(parameter: Tensor, images: Tensor) -> Tensor:
    """A parameter ``[B]`` in the type and on the device of the images, as ``[B, 1, 1, 1]``."""
    return parameter.to(images.device, images.dtype)[:, None, None, None]


def log_draw(operation: Operation, keys: Tensor, name: str, limits: Pair) -> Tensor:
    """float64 ``[B]``: log-uniform between positive limits."""
    return torch.exp(operation.draw(keys, name, math.log(limits[0]), math.log(limits[1])))
