"""Networks from images to features: ResNet and Vision Transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

import torch
from pydantic import Field, model_validator

from groundswell.backbones.base import Backbone, Features
from groundswell.backbones.resnet import BasicBlock, Bottleneck, ResNet, Stem
from groundswell.backbones.resnet import Pooling as StagePooling
from groundswell.backbones.vit import TokenPooling, VisionTransformer
from groundswell.config import Settings

__all__ = [
    "Backbone",
    "BackboneSettings",
    "Features",
    "ResNet",
    "VisionTransformer",
    "backbone_names",
    "build_backbone",
    "carried_over",
]

Name = Literal[
    "resnet18",
    "resnet50",
    "resnet152",
    "vit-ti/8",
    "vit-ti/16",
    "vit-s/8",
    "vit-s/16",
    "vit-b/8",
    "vit-b/16",
    "vit-l/16",
]

# width, depth, heads: DeiT (arXiv 2012.12877) for ti and s, ViT (arXiv 2010.11929) for b and l
VIT_SIZES = {"ti": (192, 12, 3), "s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}
RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}


def backbone_names() -> list[str]:
    """The architectures that can be built."""
    return list(get_args(Name))


class BackboneSettings(Settings):
    """Which network.

    Attributes
    ----------
    name : str
        ``resnet18``, ``resnet50``, ``resnet152``, ``vit-{ti,s,b}/{8,16}`` (size / patch in px) or ``vit-l/16``.
    width : int
        ResNet: channels of the first stage (64 is the paper's).
    stem : "imagenet" or "small"
        ResNet: 7x7 convolution of stride 2 and max pooling, or 3x3 of stride 1 without pooling, for small chips.
    pooling : "mean", "class" or "stages"
        Of what the embedding is made. ResNet: the mean of the last stage ("mean", its default), or means and maxima
        of the last three. ViT: the class token ("class", its default), or that and means and maxima of the patches
        after the last three quarters of the blocks.
    depth : int or None
        ViT: number of blocks, that of its size if not given (12; 24 for ``l``).
    registers : int
        ViT: extra tokens.
    neighbours : bool
        ViT (ours): between the first two blocks each patch takes what those around it hold, by a 3x3 convolution.
    image_size : int
        ViT: px that the position table is made for; other sizes interpolate it.
    """

    name: Name = "resnet18"
    width: int = Field(default=64, ge=4, le=1024)
    stem: Stem = "imagenet"
    pooling: StagePooling | TokenPooling = "mean"
    depth: int | None = Field(default=None, ge=1, le=64)
    registers: int = Field(default=0, ge=0, le=64)
    neighbours: bool = False
    image_size: int = Field(default=256, ge=8)

    @property
    def patch(self) -> int:
        """Side of a patch, px; 1 for a ResNet, which takes images of any size."""
        return int(self.name.split("/")[1]) if "/" in self.name else 1

    def identity(self) -> dict[str, Any]:
        """What a digest of an architecture is made of: as before there were neighbours, where there are none."""
        return self.model_dump(mode="json", exclude=set() if self.neighbours else {"neighbours"})

    @model_validator(mode="before")
    @classmethod
    def _pool_as_the_paper(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and str(values.get("name")).startswith("vit"):
            return {"pooling": "class", **values}
        return values

    @model_validator(mode="after")
    def _settings_of_the_other_family(self) -> Self:
        if self.pooling not in get_args(TokenPooling if self.name.startswith("vit") else StagePooling):
            raise ValueError(f"{self.name} cannot pool by {self.pooling!r}: leave pooling out, or use stages")
        resnet, vit = {"width", "stem"}, {"depth", "registers", "neighbours", "image_size"}
        foreign = resnet if self.name.startswith("vit") else vit
        for field in sorted(foreign & self.model_fields_set):
            if getattr(self, field) != type(self).model_fields[field].default:
                raise ValueError(f"{field} means nothing for {self.name}: remove it")
        return self


def carried_over(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What settings of one network mean for another: all within a family, else only that it pools by stages."""
    if str(settings.get("name")).startswith("vit") == str(name).startswith("vit"):
        return {key: value for key, value in settings.items() if key != "name"}
    return {key: value for key, value in settings.items() if (key, value) == ("pooling", "stages")}


def build_backbone(settings: BackboneSettings, in_channels: int, seed: int) -> Backbone:
    """A freshly drawn backbone: the same weights for the same settings, channels and seed, on any machine.

    The global random state of torch is left as it was.

    Raises
    ------
    ModelError
        When the patches of a ViT do not tile ``image_size``.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # constructors of torch draw weights of their own: thrown away below
        if settings.name in RESNETS:
            block, depths = RESNETS[settings.name]
            assert settings.pooling != "class"
            network: ResNet | VisionTransformer = ResNet(
                block, depths, in_channels, settings.width, settings.stem, settings.pooling
            )
        else:
            width, depth, heads = VIT_SIZES[settings.name.removeprefix("vit-").split("/")[0]]
            depth = settings.depth or depth
            assert settings.pooling != "mean"
            network = VisionTransformer(
                *(width, depth, heads, settings.patch, in_channels),
                image_size=settings.image_size,
                registers=settings.registers,
                pooling=settings.pooling,
                neighbours=settings.neighbours,
            )
    with torch.no_grad():
        network.initialise(generator)
    return network
