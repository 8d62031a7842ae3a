"""Operations on the level of each pixel: gain, brightness, contrast, gamma, inversion, solarise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from groundswell.physics.imagette import DECIBELS, Quantity
from groundswell.views.operation import LINEAR, Operation, PixelScale, log_draw, to_pixels
from groundswell.views.ranges import NotNegative, Positive, Range

_LEVEL = ("wind speed from the absolute level", "the level of sigma0", "noise level")
_MIRRORED = dict.fromkeys(LINEAR, "mirrored about a level, a linear signal becomes negative, which no radar measures")


class Gain(Operation):
    """One gain for the whole imagette, in dB: a calibration error, or another wind. Ratios of channels keep theirs."""

    unphysical_for: ClassVar[tuple[str, ...]] = _LEVEL
    spares: ClassVar[frozenset[Quantity]] = frozenset({Quantity.RATIO})
    reads_scale: ClassVar[bool] = True
    db: Range = (-1.5, 1.5)

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        return scale.amplify(images, to_pixels(self.draw(keys, "db", *self.db), images))


class Brightness(Operation):
    """Pixels times a factor, counted from black (`PixelScale.zero`): a gain as pictures have it (PIL, torchvision).

    Nothing is clipped at white.
    """

    unphysical_for: ClassVar[tuple[str, ...]] = _LEVEL
    spares: ClassVar[frozenset[Quantity]] = frozenset({Quantity.RATIO})
    reads_scale: ClassVar[bool] = True
    linear_only: ClassVar[bool] = True
    factor: NotNegative = (0.6, 1.4)

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        return torch.lerp(
            images.new_tensor(scale.zero), images, to_pixels(self.draw(keys, "factor", *self.factor), images)
        )


class Contrast(Operation):
    """Deviations from the mean of the imagette (each channel its own) times a factor."""

    unphysical_for: ClassVar[tuple[str, ...]] = ("wave height from the modulation depth", "texture")
    factor: NotNegative = (0.7, 1.4)

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        mean = images.mean((2, 3), keepdim=True)
        return torch.lerp(mean, images, to_pixels(self.draw(keys, "factor", *self.factor), images))


class GammaCurve(Operation):
    """A power of the grey level between black (`PixelScale.zero`) and white; what lies below black is black.

    Attributes
    ----------
    power : (low, high)
        Log-uniform.
    white : float
        The pixel value that stays as it is.
    """

    unphysical_for: ClassVar[tuple[str, ...]] = (
        "wave height from the modulation depth",
        "wind speed",
        "the level of sigma0",
        "texture",
    )
    refuses: ClassVar[Mapping[Quantity, str]] = {
        **dict.fromkeys(DECIBELS, "a power of the intensity is a factor on its decibels: that is contrast"),
        Quantity.SIGMA0: "sigma0 is negative where noise was taken off, and has no power there",
        Quantity.RATIO: "a ratio has no white",
    }
    reads_scale: ClassVar[bool] = True
    linear_only: ClassVar[bool] = True
    power: Positive = (0.7, 1.4)
    white: float = 1.0

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        span = self.white - scale.zero
        grey = ((images - scale.zero) / span).clamp_(min=0)
        return grey.pow_(to_pixels(log_draw(self, keys, "power", self.power), images)).mul_(span).add_(scale.zero)


class Inversion(Operation):
    """Dark for bright, about a pixel value (WV-Net)."""

    unphysical_for: ClassVar[tuple[str, ...]] = (
        "slicks against bright ice",
        "wind speed",
        "the level and sign of sigma0",
        "texture",
    )
    refuses: ClassVar[Mapping[Quantity, str]] = _MIRRORED
    about: float = 0.0

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        return 2 * self.about - images


class Solarise(Operation):
    """Pixels from a threshold on are mirrored about the middle of the grey scale (DINO, BYOL).

    Attributes
    ----------
    threshold, about : float
        In normalised pixels; 0 is the grey level 128 of a quick-look as our encoders take it.
    """

    unphysical_for: ClassVar[tuple[str, ...]] = (
        "slicks against bright ice",
        "wind speed",
        "wave height",
        "the level and sign of sigma0",
        "texture",
    )
    refuses: ClassVar[Mapping[Quantity, str]] = {
        **_MIRRORED,
        **dict.fromkeys(DECIBELS, "a level in dB has no white to fold back from"),
    }
    threshold: float = 0.0
    about: float = 0.0

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        return torch.where(images < self.threshold, images, 2 * self.about - images)
