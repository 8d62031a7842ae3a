"""Where a view is cut: crop, flips and rotation as one affine map, sampled once.

Draws are made on the CPU in double precision from the keys alone: the same view whatever the batch or the device.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from groundswell import rng
from groundswell.config import Settings
from groundswell.views.ranges import Pair, Positive, within


class Geometry(Settings):
    """How a view is cut out of an imagette (rows azimuth, columns range).

    Attributes
    ----------
    scale : (low, high)
        Area of the crop as a part of the image, uniform. Crops of several sizes are shown at one size: what is known
        of lengths (wavelengths, sizes, the azimuth cut-off) is lost, and how many looks a pixel has. A crop of less
        than half of the image leaves a small target out more often than not.
    ratio : (low, high)
        Width over height of the crop, log-uniform; a side that would exceed the image is cut to it.
    flip_azimuth, flip_range : float
        Probability of reversing the rows, the columns. Unphysical for directions (both), and for whatever depends
        on incidence or on the radar's look, such as the sign of the Doppler (range).
    quarter_turns : bool
        Turn by 0, 90, 180 or 270 degrees. Unphysical for directions and for waves: it turns azimuth into range, so
        velocity bunching and the azimuth cut-off end up on the wrong axis.
    rotation : float
        Probability of a free rotation. Unphysical for directions and for waves, like quarter turns.
    rotation_deg : float
        Free rotation is uniform in +- this many degrees.
    """

    scale: Annotated[Pair, within(0, 1, above=True)] = (0.4, 1.0)
    ratio: Positive = (3 / 4, 4 / 3)
    flip_azimuth: float = Field(default=0.0, ge=0, le=1)
    flip_range: float = Field(default=0.0, ge=0, le=1)
    quarter_turns: bool = False
    rotation: float = Field(default=0.0, ge=0, le=1)
    rotation_deg: float = Field(default=180.0, ge=0, le=180)

    def unphysical_for(self) -> dict[str, tuple[str, ...]]:
        """Of each part of the cut in use, the labels that it breaks."""
        lengths = ("wave period from the wavelength", "sizes", "the azimuth cut-off", "texture")
        axes = ("direction", "wave height from velocity bunching", "the azimuth cut-off")
        broken = {
            "scale": (self.scale[0] < self.scale[1], lengths),
            "small_crops": (self.scale[0] < 0.5, ("small targets",)),
            "flip_azimuth": (self.flip_azimuth > 0, ("direction",)),
            "flip_range": (self.flip_range > 0, ("direction", "what depends on incidence or look, such as Doppler")),
            "quarter_turns": (self.quarter_turns, axes),
            "rotation": (self.rotation > 0 and self.rotation_deg > 0, axes),
        }
        return {name: labels for name, (used, labels) in broken.items() if used}


def affine_maps(geometry: Geometry, keys: Tensor, height: int, width: int) -> Tensor:
    """The map of every view from output to input.

    Parameters
    ----------
    geometry : Geometry
    keys : int64 [B]
    height, width : int
        Size of the images in px.

    Returns
    -------
    float64 [B, 2, 3], on the CPU
        ``(x, y) = map @ (u, v, 1)``: u, v in [-0.5, 0.5] run over the columns and rows of the view, x, y are px of
        the image measured from its first edges (the centre of the first pixel is at 0.5).
    """
    keys = keys.cpu()

    def draw(name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * rng.uniform(keys, f"geometry/{name}")[:, 0].double()

    area = draw("area", *geometry.scale) * (height * width)
    ratio = torch.exp(draw("ratio", *(math.log(r) for r in geometry.ratio)))
    crop_width = torch.sqrt(area * ratio).clamp(max=width)
    crop_height = torch.sqrt(area / ratio).clamp(max=height)
    x = draw("x") * (width - crop_width) + crop_width / 2
    y = draw("y") * (height - crop_height) + crop_height / 2
    along_u = torch.where(draw("flip range") < geometry.flip_range, -crop_width, crop_width)
    along_v = torch.where(draw("flip azimuth") < geometry.flip_azimuth, -crop_height, crop_height)
    turned = draw("turned") < geometry.rotation
    angle = torch.where(turned, draw("angle", -geometry.rotation_deg, geometry.rotation_deg), 0.0)
    if geometry.quarter_turns:
        angle = angle + 90.0 * rng.integers(keys, "geometry/quarter turns", 4)[:, 0]
    angle = torch.deg2rad(angle)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = [cos * along_u, -sin * along_v, x, sin * along_u, cos * along_v, y]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def resample(images: Tensor, maps: Tensor, size: int) -> Tensor:
    """Sample every image through its affine map, bilinearly, without aliasing.

    A view coarser than the image is a blend of the image averaged over 2^k and over 2^(k+1) px a side, the two levels
    about its own spacing in octaves (Williams 1983, "Pyramidal parametrics", trilinear): speckle is averaged as looks
    are, continuously in the size of the crop, rather than decimated. Outside the image, it is mirrored at its edges.

    Parameters
    ----------
    images : float [B, C, H, W]
    maps : float64 [B, 2, 3]
        As `affine_maps` returns.
    size : int
        Height and width of the views in px.

    Returns
    -------
    float [B, C, size, size]
    """
    determinant = maps[:, 0, 0] * maps[:, 1, 1] - maps[:, 0, 1] * maps[:, 1, 0]
    spacing = determinant.abs().sqrt() / size
    deepest = int(math.log2(min(images.shape[2:])))
    level = torch.log2(spacing).clamp(0, deepest)
    steps = (torch.arange(size, device=images.device, dtype=images.dtype) + 0.5) / size - 0.5
    views = images.new_zeros(len(images), images.shape[1], size, size)
    where = torch.arange(len(images))  # rows of the batch that are still at hand
    for depth in range(math.ceil(level.max()) + 1 if len(images) else 0):
        if depth:
            deeper = (level > depth - 1).nonzero()[:, 0]
            images = _halve(_rows(images, deeper))
            maps, level, where = maps[deeper], level[deeper], where[deeper]
        weight = 1 - (level - depth).abs()
        here = (weight > 0).nonzero()[:, 0]
        if depth == 0 and bool((weight == 1).all()):  # no view is coarser than its image
            return _sample(images, maps, 1, steps)
        if len(here):
            sampled = _sample(_rows(images, here), maps[here], 2**depth, steps)
            sampled *= weight[here, None, None, None].to(images.device, images.dtype)
            views.index_add_(0, where[here].to(views.device), sampled)
    return views


def _rows(images: Tensor, rows: Tensor) -> Tensor:
    return images if len(rows) == len(images) else images[rows.to(images.device)]


def _sample(images: Tensor, maps: Tensor, spacing: int, steps: Tensor) -> Tensor:
    """Bilinear samples ``[B, C, S, S]`` of images whose px are ``spacing`` px of the original, at steps ``[S]``."""
    extent = maps.new_tensor([images.shape[3], images.shape[2]]) * spacing
    centre, reach = maps[:, :, 2], maps[:, :, :2].abs().sum(2) / 2
    inside = (centre - reach >= -1e-6) & (centre + reach <= extent + 1e-6)
    if images.device.type == "cpu" and bool(inside.all()) and maps[:, [0, 1], [1, 0]].abs().max() < 1e-9:
        return _sample_aligned(images, maps / spacing, steps.double())
    m = 2 * maps / extent[:, None]
    m[:, :, 2] -= 1  # to the coordinates of grid_sample: -1 and 1 are the outer edges
    m = m.to(images.device, images.dtype)[:, :, :, None, None]
    grid = m[:, :, 0] * steps + (m[:, :, 1] * steps[:, None] + m[:, :, 2])
    return F.grid_sample(images, grid.permute(0, 2, 3, 1), "bilinear", "reflection", align_corners=False)


def _sample_aligned(images: Tensor, maps: Tensor, steps: Tensor) -> Tensor:
    """The same where rows stay rows: rows first, then columns, half the time of the general way on a CPU."""
    n, channels, height, width = images.shape
    size = len(steps)
    above, below, down = _neighbours(maps[:, 1, 1, None] * steps + maps[:, 1, 2, None], height)
    left, right, across = _neighbours(maps[:, 0, 0, None] * steps + maps[:, 0, 2, None], width)
    first = (torch.arange(n * channels) * height).view(n, channels, 1)
    lines = images.reshape(n * channels * height, width)
    upper, lower = (lines.index_select(0, (first + row[:, None]).flatten()) for row in (above, below))
    weight = down.to(images.dtype)[:, None, :, None].expand(n, channels, size, 1).reshape(-1, 1)
    rows = torch.lerp(upper, lower, weight).view(n, channels, size, width)
    shape = (n, channels, size, size)
    start, end = (rows.gather(3, column[:, None, None].expand(shape)) for column in (left, right))
    return torch.lerp(start, end, across.to(images.dtype)[:, None, None])


def _neighbours(place: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two px about each place (px from the first edge) and how far it lies from the first of them to the second."""
    centre = (place - 0.5).clamp(0, length - 1)  # half a px beyond the last centre, the mirror image is that px itself
    first = centre.floor()
    before = first.long()
    return before, (before + 1).clamp(max=length - 1), centre - first


def _halve(images: Tensor) -> Tensor:
    """Means of 2x2 px; an odd last row or column is repeated."""
    odd_rows, odd_columns = images.shape[2] % 2, images.shape[3] % 2
    if odd_rows or odd_columns:
        images = F.pad(images, (0, odd_columns, 0, odd_rows), mode="replicate")
    rows = images[:, :, 0::2] + images[:, :, 1::2]  # several times faster on a CPU than average pooling
    return (rows[..., 0::2] + rows[..., 1::2]).mul_(0.25)
