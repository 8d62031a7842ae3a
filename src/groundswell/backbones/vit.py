"""The Vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929), with any number of channels.

Parameters carry the names of DINO and DINOv2 (``cls_token``, ``patch_embed.proj``, ``blocks.0.attn.qkv``), layer
norms use 1e-6, and registers (Darcet et al. 2024, arXiv 2309.16588) enter after the position table, with none of
their own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from groundswell.backbones.base import Backbone, Features
from groundswell.errors import ModelError


class Attention(nn.Module):
    """Multi-head self-attention, ``[N, T, D]`` to ``[N, T, D]``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.proj(y.transpose(1, 2).reshape(n, t, d))
        return projected


class MLP(nn.Module):
    """Two linear layers with a GELU between, ``[N, T, D]`` to ``[N, T, D]``, hidden width 4 D."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class Block(nn.Module):
    """Pre-norm transformer block, ``[N, T, D]`` to ``[N, T, D]``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class PatchEmbedding(nn.Module):
    """One linear map a patch, ``[N, C, H, W]`` to ``[N, D, H / patch, W / patch]``."""

    def __init__(self, in_channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.proj(x)
        return y


class VisionTransformer(Backbone):
    """A plain vision transformer; ``pooled`` is the class token after the final norm.

    Parameters
    ----------
    dim, depth, heads, patch, in_channels : int
    image_size : int
        Height and width in px of the images that the position table is made for; other sizes interpolate it.
    registers : int
        Extra tokens that take no part in the output.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        patch: int,
        in_channels: int,
        image_size: int = 256,
        registers: int = 0,
    ) -> None:
        super().__init__(dim, in_channels)
        if image_size % patch:
            raise ModelError(
                f"image_size {image_size} is not a multiple of the patch of {patch} px",
                where="backbone.image_size",
                fix=f"use {max(image_size // patch, 1) * patch}",
            )
        self.patch = patch
        self.grid = image_size // patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, dim)) if registers else None
        self.patch_embed = PatchEmbedding(in_channels, dim, patch)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def initialise(self, generator: Generator) -> None:
        """Draw fresh weights: normal of 0.02 cut at two absolute units, biases 0; the patch map as in MAE.

        Xavier uniform on the flattened patch map (MAE, arXiv 2111.06377); DINO and DINOv2 leave torch's default there.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(self.dim, -1), generator=generator)
        nn.init.zeros_(self.patch_embed.proj.bias)  # type: ignore[arg-type]
        for token in (self.cls_token, self.pos_embed, self.register_tokens):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02, generator=generator)

    def positions(self, height: int, width: int) -> Tensor:
        """The position table ``[1, 1 + height * width, D]`` for a grid of patches.

        Interpolated bicubically to the explicit size (not by a scale factor, which shifts it), with antialiasing
        only where there are registers: as transformers does for ViT and for DINOv2 with registers.
        """
        if (height, width) == (self.grid, self.grid):
            return self.pos_embed
        table = self.pos_embed[:, 1:].view(1, self.grid, self.grid, self.dim).permute(0, 3, 1, 2)
        table = F.interpolate(
            table.float(), size=(height, width), mode="bicubic", antialias=self.register_tokens is not None
        )
        rows = table.to(self.pos_embed.dtype).flatten(2).transpose(1, 2)
        return torch.cat([self.pos_embed[:, :1], rows], dim=1)

    def forward(self, images: Tensor) -> Features:
        """Features of normalised images, float ``[N, C, H, W]``; H and W are multiples of the patch.

        Raises
        ------
        ModelError
            For another number of channels, or a size that patches do not tile.
        """
        self.check(images)
        if images.shape[2] % self.patch or images.shape[3] % self.patch:
            raise ModelError(
                f"images must be a multiple of {self.patch} px high and wide",
                where=f"images of shape {list(images.shape)}",
                why="a vision transformer cuts them into whole patches",
                fix="crop them to such a size",
            )
        x = self.patch_embed(images)
        h, w = x.shape[2:]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        x = x + self.positions(h, w)
        if self.register_tokens is not None:
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return Features(x[:, 0], x[:, -h * w :].transpose(1, 2).reshape(len(x), self.dim, h, w))
