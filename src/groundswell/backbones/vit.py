"""The Vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929), with any number of channels.

Parameters carry the names of DINO and DINOv2 (``cls_token``, ``patch_embed.proj``, ``blocks.0.attn.qkv``), layer
norms use 1e-6, and registers (Darcet et al. 2024, arXiv 2309.16588) enter after the position table, with none of
their own. What only training needs (drop path, layer scale, a mask token) is added by `VisionTransformer.prepare` and
taken off again by `VisionTransformer.plain`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from groundswell.backbones.base import Backbone, Features
from groundswell.backbones.blocks import Block, Neighbours
from groundswell.errors import ModelError

Visit = Callable[[int, Tensor], None]
TokenPooling = Literal["class", "stages"]


def quarters(depth: int) -> list[int]:
    """After how many of ``depth`` blocks the second, third and last quarter of them end."""
    return [math.ceil(depth * quarter / 4) for quarter in (2, 3, 4)]


def _mean_and_maxima(patches: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and maxima ``[N, D]`` over the patches ``[N, T, D]`` that are seen; over all where none of an image is."""
    if hidden is None:
        return patches.mean(1), patches.amax(1)
    hidden = (hidden & ~hidden.all(1, keepdim=True))[:, :, None]
    mean = patches.masked_fill(hidden, 0).sum(1) / (~hidden).sum(1)
    return mean, patches.masked_fill(hidden, -torch.inf).amax(1)


class PatchEmbedding(nn.Module):
    """One linear map a patch, ``[N, C, H, W]`` to ``[N, D, H / patch, W / patch]``."""

    def __init__(self, in_channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.proj(x)
        return y


class VisionTransformer(Backbone):
    """A plain vision transformer; ``pooled`` is the class token after the final norm, or tells of the patches, too.

    Parameters
    ----------
    width, depth, heads, patch, in_channels : int
        ``width`` of the tokens.
    image_size : int
        Height and width in px of the images that the position table is made for; other sizes interpolate it.
    registers : int
        Extra tokens that take no part in the output.
    neighbours : bool
        Ours: between the first two blocks each patch takes what those around it hold (`blocks.Neighbours`).
    pooling : "class" or "stages"
        "class": ``pooled`` is the class token, as in the papers.
        "stages" (ours): the class token, the means over the patches after the second, third and last quarter of the
        blocks (before the final norm), and then their maxima, as of the stages of a `ResNet`; of a view with masked
        patches only over the others, which are no guesses. DINOv2's linear evaluation has the class tokens of the last
        blocks and one mean (facebookresearch/dinov2 b8931f7, eval/linear.py).

    Attributes
    ----------
    width : int
        Of the tokens; ``dim`` is that of ``pooled``.
    prefix : int
        Tokens before those of the patches: the class token and the registers.
    drop_rates : sequence of float
        Of each block; they count only where `forward` is given draws.
    mask_token : float [1, 1, D] or None
        Stands for the patches that `forward` is told to mask.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        in_channels: int,
        image_size: int = 256,
        registers: int = 0,
        pooling: TokenPooling = "class",
        neighbours: bool = False,
    ) -> None:
        super().__init__(width if pooling == "class" else 7 * width, in_channels)
        if image_size % patch:
            raise ModelError(
                f"image_size {image_size} is not a multiple of the patch of {patch} px",
                where="backbone.image_size",
                fix=f"use {max(image_size // patch, 1) * patch}",
            )
        if neighbours and depth < 2:
            raise ModelError(
                "patches meet their neighbours between two blocks, and there is one",
                where="backbone.depth",
                fix="set backbone.depth=2 or more, or backbone.neighbours=false",
            )
        self.width = width
        self.pooling = pooling
        self.patch = patch
        self.grid = image_size // patch
        self.prefix = 1 + registers
        self.drop_rates: Sequence[float] = [0.0] * depth
        self.mask_token: nn.Parameter | None = None
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        self.patch_embed = PatchEmbedding(in_channels, width, patch)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.neighbours = Neighbours(width) if neighbours else None
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def initialise(self, generator: Generator) -> None:
        """Draw fresh weights: normal of 0.02 cut at two absolute units, biases 0; the patch map as in MAE.

        Xavier uniform on the flattened patch map (MAE, arXiv 2111.06377); DINO and DINOv2 leave torch's default there.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(self.width, -1), generator=generator)
        nn.init.zeros_(self.patch_embed.proj.bias)  # type: ignore[arg-type]
        for token in (self.cls_token, self.pos_embed, self.register_tokens):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02, generator=generator)

    def prepare(
        self, *, drop_rates: Sequence[float] | None = None, layer_scale: float | None = None, mask_token: bool = False
    ) -> None:
        """Add what training needs.

        Parameters
        ----------
        drop_rates : sequence of float, optional
            Of the branches of each block.
        layer_scale : float, optional
            Where layer scale starts; None goes without.
        mask_token : bool
            Add one, starting at zero (facebookresearch/dinov2 b8931f7, vision_transformer.py).
        """
        if drop_rates is not None:
            self.drop_rates = list(drop_rates)
        if layer_scale is not None:
            for block in self.blocks:
                block.layer_scale1 = nn.Parameter(torch.full((self.width,), layer_scale))
                block.layer_scale2 = nn.Parameter(torch.full((self.width,), layer_scale))
        if mask_token:
            self.mask_token = nn.Parameter(torch.zeros(1, 1, self.width))

    def plain(self) -> VisionTransformer:
        """A copy that computes the same features without what `prepare` has added."""
        bare = copy.deepcopy(self)
        bare.prepare(drop_rates=[0.0] * len(self.blocks))
        bare.mask_token = None
        for block in bare.blocks:
            assert isinstance(block, Block)
            block.fold()
        return bare

    def positions(self, height: int, width: int) -> Tensor:
        """The position table ``[1, 1 + height * width, D]`` for a grid of patches.

        Interpolated bicubically to the explicit size (not by a scale factor, which shifts it), with antialiasing
        only where there are registers: as transformers does for ViT and for DINOv2 with registers.
        """
        if (height, width) == (self.grid, self.grid):
            return self.pos_embed
        table = self.pos_embed[:, 1:].view(1, self.grid, self.grid, self.width).permute(0, 3, 1, 2)
        table = F.interpolate(
            table.float(), size=(height, width), mode="bicubic", antialias=self.register_tokens is not None
        )
        rows = table.to(self.pos_embed.dtype).flatten(2).transpose(1, 2)
        return torch.cat([self.pos_embed[:, :1], rows], dim=1)

    def embed(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """The tokens that enter the first block, ``[N, prefix + h w, D]``: class token, registers, patches row by row.

        Parameters
        ----------
        images : float [N, C, H, W]
            H and W are multiples of the patch.
        mask : bool [N, h w], optional
            Patches to put the mask token for, before the positions are added.

        Raises
        ------
        ModelError
            For another number of channels, a size that patches do not tile, or a mask where there is no mask token.
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
        x = x.flatten(2).transpose(1, 2)
        if mask is not None:
            if self.mask_token is None:
                raise ModelError("the backbone has no mask token", fix="prepare(mask_token=True)")
            x = torch.where(mask[:, :, None], self.mask_token.to(x.dtype), x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self.positions(h, w)
        if self.register_tokens is not None:
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], dim=1)
        return x

    def transform(
        self,
        x: Tensor,
        draws: Tensor | None = None,
        others: Tensor | None = None,
        visit: Visit | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """All blocks and the final norm, ``[N, T, D]`` to ``[N, T, D]``; ``draws [N, 2 depth]`` are for drop path.

        ``grid`` is how many rows and columns of patches the tokens are, which `Neighbours` asks for.

        With ``others`` (int64 [M], ascending places in ``N * T``) the first token of each image and these alone,
        ``[N + M, D]``: the last block is spared the rest.
        ``visit(n, tokens)`` is shown the tokens after n blocks, from none to all.
        """
        last = len(self.blocks) - 1
        for i, (block, rate) in enumerate(zip(self.blocks, self.drop_rates, strict=True)):
            if visit is not None:
                visit(i, x)
            if i == 1 and self.neighbours is not None:
                assert grid is not None
                x = torch.cat([x[:, : self.prefix], self.neighbours(x[:, self.prefix :], grid)], dim=1)
            drawn = None if draws is None else draws[:, 2 * i : 2 * i + 2]
            x = block(x, rate, drawn, others if i == last else None)
        if visit is not None:
            visit(len(self.blocks), x)
        y: Tensor = self.norm(x)
        return y

    def _grid_of(self, images: Tensor) -> tuple[int, int]:
        return images.shape[2] // self.patch, images.shape[3] // self.patch

    def pooled_and_patches(
        self,
        images: Tensor,
        mask: Tensor | None = None,
        draws: Tensor | None = None,
        patches: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What is pooled ``[N, dim]``, and the features of some patches ``[M, D]``: as `forward`, with less work.

        Parameters
        ----------
        images, mask, draws
            As in `forward`.
        patches : bool [N, h w], optional
            Those that are asked for, M in all; none without it.
        """
        if self.pooling != "class":
            features = self._features(images, mask, draws)
            spatial = features.spatial.flatten(2).transpose(1, 2)
            return features.pooled, spatial[:0, 0] if patches is None else spatial[patches]
        x = self.embed(images, mask)
        n, t = x.shape[:2]
        others = torch.empty(0, dtype=torch.int64, device=x.device)
        if patches is not None:
            image, patch = patches.nonzero(as_tuple=True)
            others = image * t + self.prefix + patch
        y = self.transform(x, draws, others, grid=self._grid_of(images))
        return y[:n], y[n:]

    def forward(self, images: Tensor, mask: Tensor | None = None, draws: Tensor | None = None) -> Features:
        """Features of normalised images.

        Parameters
        ----------
        images : float [N, C, H, W]
            H and W are multiples of the patch.
        mask : bool [N, h w], optional
            Patches that the network does not see; they are pooled only where all of an image are masked.
        draws : float [N, 2 depth], uniform in [0, 1), optional
            Which branches are dropped; without them none is.

        Raises
        ------
        ModelError
            As `embed`.
        """
        return self._features(images, mask, draws)

    def _features(
        self, images: Tensor, mask: Tensor | None = None, draws: Tensor | None = None, visit: Visit | None = None
    ) -> Features:
        ends = quarters(len(self.blocks))
        means: dict[int, Tensor] = {}
        maxima: dict[int, Tensor] = {}

        def look(count: int, tokens: Tensor) -> None:
            if self.pooling == "stages" and count in ends:
                means[count], maxima[count] = _mean_and_maxima(tokens[:, self.prefix :], mask)
            if visit is not None:
                visit(count, tokens)

        h, w = self._grid_of(images)
        x = self.transform(self.embed(images, mask), draws, visit=look, grid=(h, w))
        spatial = x[:, self.prefix :].transpose(1, 2).reshape(len(x), self.width, h, w)
        if self.pooling == "class":
            return Features(x[:, 0], spatial)
        return Features(torch.cat([x[:, 0], *(means[n] for n in ends), *(maxima[n] for n in ends)], dim=1), spatial)

    def attention(self, images: Tensor, block: int = -1) -> tuple[Features, Tensor]:
        """Features of normalised images, and how the class token of one block looks at the patches.

        Parameters
        ----------
        images : float [N, C, H, W]
        block : int
            From 0; negative ones count from the last.

        Returns
        -------
        features : Features
        weights : float [N, heads, h, w]
            The part of each patch in what the class token takes; the rest is its own and the registers'.

        Raises
        ------
        ModelError
            As `embed`, or when there is no such block.
        """
        depth = len(self.blocks)
        if not -depth <= block < depth:
            raise ModelError(
                f"there is no block {block}",
                why=f"the network has blocks 0 to {depth - 1}",
                fix="choose one of them, or -1 for the last",
            )
        chosen = self.blocks[block]
        assert isinstance(chosen, Block)
        weights: list[Tensor] = []

        def look(count: int, tokens: Tensor) -> None:
            if count == block % depth:
                weights.append(chosen.attn.weights(chosen.norm1(tokens), first=1)[:, :, 0, self.prefix :])

        features = self._features(images, visit=look)
        return features, weights[0].reshape(len(images), -1, *features.spatial.shape[2:])
