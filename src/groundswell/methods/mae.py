"""MAE: a masked autoencoder guesses the three quarters of an image that it was not shown.

He, Chen, Xie, Li, Dollar and Girshick 2022, "Masked autoencoders are scalable vision learners" (arXiv 2111.06377). The
official code (facebookresearch/mae, commit efb2a80) is cited as MC.

    image -> view -> patches -> a quarter of them -> encoder -> with mask tokens, in place -> decoder -> pixels
                         |                                                                                 |
                         +------------ those not seen, each normalised by itself ----> mean squared error <+

After training the decoder is thrown away. The encoder is a vision transformer, and sees all patches then. There is no
second view and no way to collapse to one vector with a low loss; what can happen is that the decoder stays with the
mean of each patch, and that is told (`groundswell.training.health`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from groundswell import rng
from groundswell.backbones import VisionTransformer
from groundswell.backbones.blocks import Block, Neighbours
from groundswell.backbones.linear import Linear
from groundswell.config import Settings
from groundswell.methods.base import Method, Observed
from groundswell.objectives.mae import mae_loss, patchify
from groundswell.views.masking import random_masks


class MAESettings(Settings):
    """What MAE leaves to choose."""

    name: Literal["mae"] = "mae"
    mask_ratio: float = Field(default=0.75, gt=0, lt=1)  # paper section 4.1
    normalise: bool = True  # paper table 1d: targets normalised patch by patch
    positions: Literal["fixed", "learned"] = "fixed"  # of the encoder; MC: fixed sines and cosines
    decoder_dim: int = Field(default=512, ge=8)  # paper table 1b
    decoder_depth: int = Field(default=8, ge=1)  # paper table 1a
    decoder_heads: int = Field(default=16, ge=1)  # MC models_mae.py
    decoder_neighbours: bool = False
    """Ours: before the decoder's blocks each patch takes what those around it hold (`blocks.Neighbours`)."""

    @model_validator(mode="after")
    def _divisible(self) -> MAESettings:
        if self.decoder_dim % self.decoder_heads or self.decoder_dim % 4:
            raise ValueError("decoder_dim must be a multiple of decoder_heads and of 4")
        return self


class Decoder(nn.Module):
    """From the tokens of the patches that were seen to the pixels of all of them.

    Parameters
    ----------
    dim, grid, values : int
        Width of the encoder; patches along a side; pixels times channels of a patch.
    settings : MAESettings
    """

    positions: Tensor

    def __init__(self, dim: int, grid: int, values: int, settings: MAESettings) -> None:
        super().__init__()
        width = settings.decoder_dim
        self.embed = Linear(dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("positions", sine_positions(width, grid), persistent=False)
        self.neighbours = Neighbours(width) if settings.decoder_neighbours else None
        self.blocks = nn.ModuleList(Block(width, settings.decoder_heads) for _ in range(settings.decoder_depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.predict = Linear(width, values)

    def forward(self, tokens: Tensor, restore: Tensor) -> Tensor:
        """Predictions ``[B, P, values]``.

        Parameters
        ----------
        tokens : float [B, 1 + kept, D]
            Class token and patches as the encoder saw them.
        restore : int64 [B, P]
            As `groundswell.views.masking.random_masks`.
        """
        x = self.embed(tokens)
        unseen = self.mask_token.to(x.dtype).expand(len(x), restore.shape[1] + 1 - x.shape[1], -1)
        patches = torch.cat([x[:, 1:], unseen], dim=1)
        patches = patches.gather(1, restore[:, :, None].expand_as(patches))
        if self.neighbours is not None:
            side = math.isqrt(restore.shape[1])
            patches = self.neighbours(patches, (side, side))
        x = torch.cat([x[:, :1], patches], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        prediction: Tensor = self.predict(self.norm(x))
        return prediction[:, 1:]


class MAE(Method):
    """The method: encoder, decoder, and the loss of a batch.

    Parameters
    ----------
    settings : MAESettings
    backbone : VisionTransformer
        Drawn again as MC does; its table of positions is replaced where they are fixed.
    policy : callable
        ``policy(images [B, C, H, W], keys int64 [B]) -> [B, C, h, w]``: one view, of the size of the backbone's table.
    seed : int
        Of the initial weights.
    """

    watched = frozenset({"explained"})
    backbone: VisionTransformer

    def __init__(
        self,
        settings: MAESettings,
        backbone: VisionTransformer,
        policy: Callable[[Tensor, Tensor], Tensor],
        seed: int,
    ) -> None:
        super().__init__(backbone)
        self.settings = settings
        self.policy = policy
        self.decoder = Decoder(backbone.width, backbone.grid, backbone.patch**2 * backbone.in_channels, settings)
        source = rng.generator(rng.keys(seed, [0]), "mae")
        draw_weights(backbone, source)
        draw_weights(self.decoder, source)
        with torch.no_grad():
            for token in (backbone.cls_token, self.decoder.mask_token):
                token.normal_(0.0, 0.02, generator=source)
            if settings.positions == "fixed":
                backbone.pos_embed.copy_(sine_positions(backbone.width, backbone.grid))
        backbone.pos_embed.requires_grad_(settings.positions == "learned")

    def loss(self, images: Tensor, keys: Tensor) -> tuple[Tensor, Observed]:
        """The mean squared error over the pixels of the patches that were not seen."""
        s, backbone = self.settings, self.backbone
        full_precision = torch.autocast(images.device.type, enabled=False)
        with full_precision:
            view = self.policy(images, rng.keys(0, keys, "view"))
            patches = patchify(view, backbone.patch)
            drawn = random_masks(rng.keys(0, keys, "mask"), patches.shape[1], s.mask_ratio)
            keep, mask, restore = (x.to(images.device) for x in drawn)
        tokens = backbone.embed(view)
        first, rest = tokens[:, : backbone.prefix], tokens[:, backbone.prefix :]
        seen = rest.gather(1, keep[:, :, None].expand(-1, -1, backbone.width))
        latent = backbone.transform(torch.cat([first, seen], dim=1))
        given = torch.cat([latent[:, :1], latent[:, backbone.prefix :]], dim=1)  # registers stay behind
        prediction = self.decoder(given, restore)
        with full_precision:
            loss = mae_loss(prediction, patches, mask, s.normalise)
            # What each patch's own mean would cost: 1 - 1 / (pixels of a patch) where targets are normalised.
            mean = torch.zeros_like(patches) if s.normalise else patches.mean(-1, keepdim=True).expand_as(patches)
            explained = 1 - loss.detach() / mae_loss(mean, patches, mask, s.normalise)
            return loss, Observed({"explained": explained}, latent[:, 0].detach().float())


def draw_weights(module: nn.Module, source: Generator) -> None:
    """Xavier uniform for every linear map, queries, keys and values as one, and biases zero (MC models_mae.py:78)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight, generator=source)
            nn.init.zeros_(part.bias)


def sine_positions(dim: int, grid: int) -> Tensor:
    """The fixed table of positions, ``[1, 1 + grid * grid, dim]``: zero for the class token (MC util/pos_embed.py).

    Of a patch at (row, column), the first half encodes the column and the second the row, each as dim / 4 sines and
    then as many cosines, of frequencies 10000^(-4 i / dim).
    """
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)  # [grid, dim / 2]
    columns, rows = line.repeat(grid, 1), line.repeat_interleave(grid, dim=0)
    table = torch.cat([columns, rows], dim=1)
    return torch.cat([torch.zeros(1, dim, dtype=torch.float64), table])[None].float()
