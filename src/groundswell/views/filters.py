"""Augmentations that filter: blur, sharpness, and a notch in the spectrum.

Convolutions take the batch as channels of one depthwise convolution, several times faster than one image at a time.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from groundswell.views.operation import Operation, PixelScale, log_draw, to_pixels
from groundswell.views.ranges import NotNegative, Pair, Positive, within


def depthwise(images: Tensor, kernels: Tensor, mode: str) -> Tensor:
    """Correlate each image ``[B, C, H, W]`` with its own kernel ``[B, kh, kw]`` (odd sides), padded by ``mode``."""
    n, c, h, w = images.shape
    kh, kw = kernels.shape[1:]
    flat = F.pad(images.reshape(1, n * c, h, w), (kw // 2, kw // 2, kh // 2, kh // 2), mode=mode)
    return F.conv2d(flat, kernels.repeat_interleave(c, dim=0)[:, None], groups=n * c).view(n, c, h, w)


class Blur(Operation):
    """Gaussian blur with a standard deviation in px, cut at three of the largest; edges are mirrored."""

    unphysical_for: ClassVar[tuple[str, ...]] = ("the azimuth cut-off", "texture")
    sigma: Positive = (0.1, 1.5)

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        radius = min(math.ceil(3 * self.sigma[1]), images.shape[2] - 1, images.shape[3] - 1)
        sigma = self.draw(keys, "sigma", *self.sigma)[:, None]
        place = torch.arange(-radius, radius + 1, dtype=torch.float64)
        kernel = torch.softmax(-0.5 * (place / sigma) ** 2, dim=1).to(images.device, images.dtype)
        return depthwise(depthwise(images, kernel[:, :, None], "reflect"), kernel[:, None, :], "reflect")


class Sharpness(Operation):
    """Between smoothed (factor 0), as it is (1) and sharpened (above 1); smoothed as in PIL, edges repeated."""

    unphysical_for: ClassVar[tuple[str, ...]] = ("the azimuth cut-off", "texture")
    factor: NotNegative = (0.5, 2.0)

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        kernel = images.new_ones(3, 3)
        kernel[1, 1] = 5
        smooth = depthwise(images, (kernel / 13).expand(len(images), 3, 3), "replicate")
        return torch.lerp(smooth, images, to_pixels(self.draw(keys, "factor", *self.factor), images))


class Notch(Operation):
    """Take narrow rings of wavelengths out of the spectrum (after WV-Net, which found no gain from it).

    The transfer function of each is ``1 - exp(-(log2(f / f0) / octaves)**2 / 2)``, with f in cycles a px; the mean
    stays. Number, frequencies and widths of WV-Net's notches are unknown.

    Attributes
    ----------
    count : int
        How many notches.
    wavelength : (low, high)
        Of each notch, log-uniform, in px; 1 / wavelength is its frequency.
    octaves : float
        Half width of the ring.
    """

    unphysical_for: ClassVar[tuple[str, ...]] = ("wave height", "wave period", "the azimuth cut-off", "texture")
    count: int = Field(default=1, ge=1)
    wavelength: Annotated[Pair, within(2)] = (4.0, 24.0)
    octaves: float = Field(default=0.2, gt=0)

    def apply(self, images: Tensor, keys: Tensor, scale: PixelScale) -> Tensor:
        height, width = images.shape[2:]
        rows = torch.fft.fftfreq(height, device=images.device)[:, None]
        octave = torch.log2(torch.hypot(rows, torch.fft.rfftfreq(width, device=images.device)))  # -inf at the mean
        keep = torch.ones_like(octave)
        for number in range(self.count):
            name = f"wavelength {number + 1}" if number else "wavelength"
            centre = to_pixels(torch.log2(log_draw(self, keys, name, self.wavelength)), images)
            keep = keep * (1 - torch.exp(-0.5 * ((octave + centre) / self.octaves) ** 2))
        filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(images) * keep, s=(height, width))
        return filtered
