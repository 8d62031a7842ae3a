"""ResNet-18, -50 and -152 (He et al. 2016, arXiv 1512.03385), with any base width and number of channels.

The stride of a bottleneck sits on its 3x3 convolution, as in torchvision and transformers, and parameters carry the
names of torchvision (``conv1``, ``layer1.0.bn2``, ``layer2.0.downsample.0``), so that published weights fit.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from groundswell.backbones.base import Backbone, Features
from groundswell.backbones.batch_norm import BatchNorm2d

Stem = Literal["imagenet", "small"]
Pooling = Literal["mean", "stages"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: ``[N, C, H, W]`` to ``[N, width, H / stride, W / stride]``."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = BatchNorm2d(width)
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut: ``[N, C, H, W]`` to ``[N, 4 width, H / stride, W / stride]``."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * self.expansion
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = BatchNorm2d(out)
        self.downsample = _shortcut(channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.downsample(x), inplace=True)


class StridedPointwise(nn.Conv2d):
    """A 1x1 convolution with a stride: of the pixels that it sees, and no others.

    Written so because the backward pass of torch's own, 4 to 8 channels with a stride of 2, channels last, writes
    beyond its memory on CPUs with AVX2 alone (torch 2.13, oneDNN 3.12): the process dies in a later allocation.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(x[:, :, ::rows, ::columns], self.weight)


def _shortcut(channels: int, out: int, stride: int) -> nn.Module:
    if channels == out and stride == 1:
        return nn.Identity()
    return nn.Sequential(StridedPointwise(channels, out, 1, stride, bias=False), BatchNorm2d(out))


class ResNet(Backbone):
    """A residual network; ``pooled`` is the mean of ``spatial``, or tells of several stages.

    Parameters
    ----------
    block : BasicBlock or Bottleneck
    depths : tuple of int
        Blocks in each of the four stages.
    in_channels : int
    width : int
        Channels of the first stage's 3x3 convolutions (64 in the paper); the features have 8 (basic) or 32
        (bottleneck) times as many.
    stem : "imagenet" or "small"
        "imagenet": 7x7 convolution of stride 2, then 3x3 max pooling of stride 2: features at 1/32 of the image.
        "small" (ours, for chips of 32 to 128 px): 3x3 convolution of stride 1, no pooling: features at 1/8.
    pooling : "mean" or "stages"
        "mean": ``pooled`` is the mean of the last stage over the image, as in the paper.
        "stages" (ours): the means of stages 2, 3 and 4, then their maxima. The mean of the last stage alone loses
        single bright targets, and the texture that earlier stages hold (docs/recipes.md has what that costs).
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        in_channels: int,
        width: int = 64,
        stem: Stem = "imagenet",
        pooling: Pooling = "mean",
    ) -> None:
        last = 8 * width * block.expansion
        super().__init__(last if pooling == "mean" else 2 * (last // 4 + last // 2 + last), in_channels)
        self.stem = stem
        self.pooling = pooling
        size, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.conv1 = nn.Conv2d(in_channels, width, size, stride, size // 2, bias=False)
        self.bn1 = BatchNorm2d(width)
        channels, stages = width, []
        for index, depth in enumerate(depths):
            planes = width * 2**index
            blocks: list[nn.Module] = []
            for position in range(depth):
                blocks.append(block(channels, planes, stride=2 if index and position == 0 else 1))
                channels = planes * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def initialise(self, generator: Generator) -> None:
        """Draw fresh weights: He normal on the fan out (He et al. 2015, arXiv 1502.01852), norms to the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)

    def forward(self, images: Tensor) -> Features:
        """Features of normalised images, float ``[N, C, H, W]``.

        Raises
        ------
        ModelError
            For another number of channels.
        """
        self.check(images)
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        if self.stem == "imagenet":
            x = F.max_pool2d(x, 3, 2, 1)
        second = self.layer2(self.layer1(x))
        third = self.layer3(second)
        fourth = self.layer4(third)
        if self.pooling == "mean":
            return Features(fourth.mean((2, 3)), fourth)
        stages = (second, third, fourth)
        return Features(torch.cat([s.mean((2, 3)) for s in stages] + [s.amax((2, 3)) for s in stages], dim=1), fourth)
