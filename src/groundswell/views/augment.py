"""Augmentations of batches: every sample has its own parameters, drawn from its key.

Parameters are drawn on the CPU (so they are the same on every device, and choosing rows never waits for one);
pixels stay where they are. An operation touches only the rows it was drawn for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from groundswell import rng
from groundswell.config import Settings
from groundswell.views.geometry import Range

POOL = 1 << 22


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
    """

    kind: Literal["db", "amplitude"] = "db"
    unit_db: float = 7.5
    zero: float = 0.0
    gamma: float = 1.0

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
    """

    p: float = Field(default=0.0, ge=0, le=1)
    unphysical_for: ClassVar[tuple[str, ...]] = ()

    def __call__(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        """Images float ``[B, C, H, W]`` with the chosen rows changed; keys int64 ``[B]`` on the CPU."""
        if self.p == 0:
            return images
        rows = self.chosen(keys)
        if len(rows) == len(images):
            return self.apply(images, keys, scale)
        if len(rows) == 0:
            return images
        at = rows.to(images.device)
        return images.index_copy(0, at, self.apply(images[at], keys[rows], scale))

    def chosen(self, keys: Tensor) -> Tensor:
        """int64 ``[n]``: the rows that the operation was drawn for."""
        return (rng.uniform(keys, f"{type(self).__name__}/apply")[:, 0] < self.p).nonzero()[:, 0]

    def draw(self, keys: Tensor, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        """float64 ``[B]`` on the CPU, uniform in ``[low, high)``: one parameter of this operation for every sample."""
        return low + (high - low) * rng.uniform(keys, f"{type(self).__name__}/{name}")[:, 0].double()

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        """Change every one of the images ``[n, C, H, W]``."""
        raise NotImplementedError


def to_pixels(parameter: Tensor, images: Tensor) -> Tensor:
    """A parameter ``[B]`` in the type and on the device of the images, as ``[B, 1, 1, 1]``."""
    return parameter.to(images.device, images.dtype)[:, None, None, None]


def log_draw(operation: Operation, keys: Tensor, name: str, limits: Range) -> Tensor:
    """float64 ``[B]``: log-uniform between positive limits."""
    return torch.exp(operation.draw(keys, name, math.log(limits[0]), math.log(limits[1])))


class Gain(Operation):
    """One gain for the whole imagette, in dB: a calibration error, or another wind."""

    unphysical_for: ClassVar[tuple[str, ...]] = ("wind speed from the absolute level",)
    db: Range = (-1.5, 1.5)

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        return scale.amplify(images, to_pixels(self.draw(keys, "db", *self.db), images))


class Contrast(Operation):
    """Deviations from the mean of the imagette (each channel its own) times a factor."""

    unphysical_for: ClassVar[tuple[str, ...]] = ("wave height from the modulation depth",)
    factor: Range = (0.7, 1.4)

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        mean = images.mean((2, 3), keepdim=True)
        return torch.lerp(mean, images, to_pixels(self.draw(keys, "factor", *self.factor), images))


class Inversion(Operation):
    """Dark for bright, about a pixel value (WV-Net)."""

    unphysical_for: ClassVar[tuple[str, ...]] = ("slicks against bright ice", "wind speed", "the sign of sigma0")
    about: float = 0.0

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        return 2 * self.about - images


class Speckle(Operation):
    """Fresh multiplicative speckle: the intensity times a gamma variable of mean 1 and ``looks`` looks (log-uniform).

    The gamma variable is the cube of a normal one (Wilson and Hilferty 1931, PNAS 17:684), in dB, mean and standard
    deviation are right to 1.2 % of the standard deviation at 3 looks, to 0.1 % from 10 looks on.
    """

    looks: Range = (10.0, 100.0)

    @model_validator(mode="after")
    def _enough_looks(self) -> Self:
        if not 3 <= self.looks[0] <= self.looks[1]:
            raise ValueError("looks must be (low, high) with 3 <= low <= high")
        return self

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        spread = 1 / (9 * log_draw(self, keys, "looks", self.looks))
        root = to_pixels(1 - spread, images) + to_pixels(spread.sqrt(), images) * normal_field(keys, "Speckle", images)
        return scale.amplify(images, 30 * torch.log10(root.clamp_(min=1e-3)))


class Noise(Operation):
    """White Gaussian noise with a standard deviation in units of the normalised pixels."""

    std: Range = (0.0, 0.2)

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        return images + to_pixels(self.draw(keys, "std", *self.std), images) * normal_field(keys, "Noise", images)


class Erasing(Operation):
    """A rectangle filled with the mean of the imagette (after Zhong et al. 2020, arXiv 1708.04896)."""

    area: Range = (0.02, 0.2)
    ratio: Range = (0.3, 3.3)

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        height, width = images.shape[2:]
        area = self.draw(keys, "area", *self.area) * (height * width)
        ratio = log_draw(self, keys, "ratio", self.ratio)
        inside = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=images.device)
        for name, length, side in (("y", height, torch.sqrt(area / ratio)), ("x", width, torch.sqrt(area * ratio))):
            side = side.round().clamp(1, length)
            first = torch.floor(self.draw(keys, name) * (length - side + 1))
            place = torch.arange(length)
            within = (place >= first[:, None]) & (place < (first + side)[:, None])
            shape = (-1, 1, length, 1) if name == "y" else (-1, 1, 1, length)
            inside = inside & within.view(shape).to(images.device)
        return torch.where(inside, images.mean((2, 3), keepdim=True), images)


class Mixup(Operation):
    """A little of another imagette of the batch: ``(1 - weight) own + weight other``; positives stay as they are.

    The other one is the next in the order of the keys: it depends on which imagettes are in the batch, not on their
    order. (WV-Net names mixup and leaves its form open; this follows i-Mix, arXiv 2010.08887, for the input only.)
    """

    unphysical_for: ClassVar[tuple[str, ...]] = ("regression targets",)
    weight: Range = (0.0, 0.3)

    def __call__(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        if self.p == 0:
            return images
        order = torch.argsort(keys)
        other = torch.empty_like(order)
        other[order] = order.roll(-1)
        rows = self.chosen(keys)
        weight = to_pixels(self.draw(keys[rows], "weight", *self.weight), images)
        own, foreign = rows.to(images.device), other[rows].to(images.device)
        return images.index_copy(0, own, torch.lerp(images[own], images[foreign], weight))


@lru_cache(maxsize=4)
def _pool(device: torch.device, size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(20_000_529)).to(device)


def normal_field(keys: Tensor, name: str, images: Tensor) -> Tensor:
    """Standard normal noise in the shape of the images ``[B, C, H, W]``, from keys int64 ``[B]`` on the CPU.

    A stretch of one fixed pool of at least 2**22 normal numbers, beginning where the key says: some ten times faster
    than drawing by counter, and the same for a key on any device.
    """
    count = images[0].numel()
    pool = _pool(images.device, max(POOL, 1 << (4 * count - 1).bit_length()))
    start = (rng.uniform(keys, f"{name}/field")[:, 0].double() * (len(pool) - count)).long()
    field = pool.unfold(0, count, 1).index_select(0, start.to(pool.device))
    return field.view(images.shape).to(images.dtype)
