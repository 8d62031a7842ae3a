"""Operations that put something into a view that was not there: speckle, noise, a gap, another imagette."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from groundswell import rng
from groundswell.physics.imagette import Quantity
from groundswell.views.operation import Operation, PixelScale, log_draw, to_pixels
from groundswell.views.ranges import Fractions, NotNegative, Pair, Positive, within

POOL = 1 << 22


class Speckle(Operation):
    """Fresh multiplicative speckle: the intensity times a gamma variable of mean 1 and ``looks`` looks (log-uniform).

    The gamma variable is the cube of a normal one (Wilson and Hilferty 1931, PNAS 17:684), in dB, mean and standard
    deviation are right to 1.2 % of the standard deviation at 3 looks, to 0.1 % from 10 looks on.
    """

    unphysical_for: ClassVar[tuple[str, ...]] = ("texture",)
    refuses: ClassVar[Mapping[Quantity, str]] = {
        Quantity.RATIO: "the ratio of two speckled channels is not gamma distributed, and follows the speckle of both"
    }
    reads_scale: ClassVar[bool] = True
    looks: Annotated[Pair, within(3)] = (10.0, 100.0)

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        spread = 1 / (9 * log_draw(self, keys, "looks", self.looks))
        root = to_pixels(1 - spread, images) + to_pixels(spread.sqrt(), images) * normal_field(keys, "Speckle", images)
        return scale.amplify(images, 30 * torch.log10(root.clamp_(min=1e-3)))


class Noise(Operation):
    """White Gaussian noise with a standard deviation in units of the normalised pixels."""

    unphysical_for: ClassVar[tuple[str, ...]] = ("texture", "noise level")
    std: NotNegative = (0.0, 0.2)

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        return images + to_pixels(self.draw(keys, "std", *self.std), images) * normal_field(keys, "Noise", images)


class Erasing(Operation):
    """A rectangle filled with the mean of the imagette (after Zhong et al. 2020, arXiv 1708.04896)."""

    unphysical_for: ClassVar[tuple[str, ...]] = ("small targets",)
    area: Fractions = (0.02, 0.2)
    ratio: Positive = (0.3, 3.3)

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
    weight: Fractions = (0.0, 0.3)

    def __call__(self, images: Tensor, keys: Tensor, scale: PixelScale, *, in_place: bool = False) -> Tensor:
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
