"""What every backbone is to the rest of the house: images in, pooled and spatial features out."""

from __future__ import annotations

import copy
from typing import NamedTuple, Self

from torch import Tensor, nn

from groundswell.errors import ModelError


class Features(NamedTuple):
    """What a backbone returns.

    Attributes
    ----------
    pooled : float [N, D]
        One vector an image: the mean of the spatial features (ResNet), the class token (ViT), or what tells of
        several stages as well (``pooling="stages"`` of either).
    spatial : float [N, d, h, w]
        One vector a place, of the last stage or block: rows follow the rows of the image.
    """

    pooled: Tensor
    spatial: Tensor


class Backbone(nn.Module):
    """A network from images ``[N, C, H, W]`` to `Features`.

    Attributes
    ----------
    dim : int
        Width of the pooled features.
    in_channels : int
        Channels of the images.
    """

    dim: int
    in_channels: int

    def __init__(self, dim: int, in_channels: int) -> None:
        super().__init__()
        self.dim = dim
        self.in_channels = in_channels

    def forward(self, images: Tensor) -> Features:
        """Features of normalised images, float ``[N, C, H, W]``."""
        raise NotImplementedError

    def plain(self) -> Self:
        """A copy without what only training needs, computing the same features."""
        return copy.deepcopy(self)

    def check(self, images: Tensor) -> None:
        """Raise `ModelError` where the images do not have the four axes and the channels of this backbone."""
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ModelError(
                f"the backbone takes images [N, {self.in_channels}, H, W]",
                where=f"images of shape {list(images.shape)}",
                why="the number of channels is fixed when a backbone is built",
                fix="give the channels it was trained on, or build one with other in_channels",
            )
