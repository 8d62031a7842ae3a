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
from groundswell.errors import ModelError

Visit = Callable[[int, Tensor], None]
TokenPooling = Literal["class", "stages"]


class Attention(nn.Module):
    """Multi-head self-attention, ``[N, T, D]`` to ``[N, T, D]``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.proj(self.gather(x))
        return projected

    def gather(self, x: Tensor) -> Tensor:
        """What each token takes from all, before the projection: ``[N, T, D]`` to ``[N, T, D]``."""
        q, k, v = self.split(x)
        if q.device.type == "cpu" and q.dtype == torch.bfloat16:
            # Written out: the fused kernel's backward pass is three to five times slower there (docs/speed.md).
            y = _weights(q, k).to(v.dtype) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).flatten(2)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens ``[N, T, D]``: float ``[N, heads, T, D / heads]`` each."""
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return q, k, v

    def weights(self, x: Tensor, first: int | None = None) -> Tensor:
        """What the fused kernel never shows: float ``[N, heads, first or T, T]``, each row summing to one.

        How much of each token (last axis) the ``first`` tokens (default all) take.
        """
        q, k, _ = self.split(x)
        return _weights(q[:, :, :first], k)


def _weights(q: Tensor, k: Tensor) -> Tensor:
    """Softmax of the scaled products (Vaswani et al. 2017, arXiv 1706.03762, equation 1)."""
    return torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]), dim=-1)


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
    """Pre-norm transformer block, ``[N, T, D]`` to ``[N, T, D]``.

    Attributes
    ----------
    layer_scale1, layer_scale2 : float [D] or None
        A factor on each channel of either branch (CaiT, Touvron et al. 2021, arXiv 2103.17239).
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.layer_scale1: nn.Parameter | None = None
        self.layer_scale2: nn.Parameter | None = None
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim)

    def forward(self, x: Tensor, rate: float = 0.0, draws: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """The block, with its branches dropped at ``rate`` by ``draws [N, 2]`` (see `add_branch`).

        With ``rows [M]`` (int64, places in ``N * T``), for these tokens alone, ``[M, D]``: the others are looked at but
        go without the projection and the MLP, three quarters of the work.
        """
        first, second = (None, None) if draws is None else draws.unbind(1)
        if rows is None:
            return add_branch(add_branch(x, self._attend, rate, first), self._mix, rate, second)
        owner = rows // x.shape[1]
        seen = self.attn.gather(self.norm1(x)).flatten(0, 1).index_select(0, rows)
        x = add_branch(x.flatten(0, 1).index_select(0, rows), self._project, rate, first, owner, seen)
        return add_branch(x, self._mix, rate, second, owner)

    def _attend(self, x: Tensor) -> Tensor:
        return self._project(self.attn.gather(self.norm1(x)))

    def _project(self, seen: Tensor) -> Tensor:
        y: Tensor = self.attn.proj(seen)
        return y if self.layer_scale1 is None else y * self.layer_scale1

    def _mix(self, x: Tensor) -> Tensor:
        y: Tensor = self.mlp(self.norm2(x))
        return y if self.layer_scale2 is None else y * self.layer_scale2

    def fold(self) -> None:
        """Take the layer scales into the linear maps before them: the block computes the same without."""
        with torch.no_grad():
            for scale, linear in ((self.layer_scale1, self.attn.proj), (self.layer_scale2, self.mlp.fc2)):
                if scale is not None:
                    linear.weight.mul_(scale[:, None])
                    linear.bias.mul_(scale)
        self.layer_scale1 = self.layer_scale2 = None


def add_branch(
    x: Tensor,
    branch: Callable[[Tensor], Tensor],
    rate: float,
    draw: Tensor | None,
    owner: Tensor | None = None,
    source: Tensor | None = None,
) -> Tensor:
    """``x + branch(source)`` with drop path (stochastic depth, Huang et al. 2016, arXiv 1603.09382).

    What is kept is scaled up, so that the expectation stays. Up to a rate of 0.1 each sample is dropped by itself, as
    in DINO; above, the branch runs on a fixed part of the batch alone, which saves the work, as in DINOv2
    (facebookresearch/dinov2 b8931f7, layers/block.py:96): the samples with the smallest draws, at least one.

    Parameters
    ----------
    x : float [N, T, D], or [M, D]
    branch : callable
    rate : float
        Part of the samples that go without the branch.
    draw : float [N], uniform in [0, 1), or None
        None drops nothing.
    owner : int64 [M], optional
        The sample of each row of ``x``; without it, a row is a sample.
    source : as x, optional
        What the branch is given, where it is not ``x``.
    """
    source = x if source is None else source
    if draw is None or rate == 0:
        return x + branch(source)
    if rate > 0.1:
        count = max(1, int(len(draw) * (1 - rate)))
        kept = draw.argsort()[:count]
        if owner is not None:
            kept = torch.isin(owner, kept).nonzero()[:, 0]
        return x.index_add(0, kept, branch(source[kept]).to(x.dtype), alpha=len(draw) / count)
    factor = ((draw >= rate) / (1 - rate)).to(x.dtype)
    if owner is not None:
        factor = factor[owner]
    return x + branch(source) * factor.view(-1, *(1 for _ in x.shape[1:]))


def quarters(depth: int) -> list[int]:
    """After how many of ``depth`` blocks the second, third and last quarter of them end."""
    return [math.ceil(depth * quarter / 4) for quarter in (2, 3, 4)]


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
    pooling : "class" or "stages"
        "class": ``pooled`` is the class token, as in the papers.
        "stages" (ours): the class token, the means over the patches after the second, third and last quarter of the
        blocks (before the final norm), and then their maxima, as of the stages of a `ResNet`. DINOv2's linear
        evaluation has the class tokens of the last blocks and one mean (facebookresearch/dinov2 b8931f7,
        eval/linear.py). Methods train on the class token all the same (docs/recipes.md).

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
    ) -> None:
        super().__init__(width if pooling == "class" else 7 * width, in_channels)
        if image_size % patch:
            raise ModelError(
                f"image_size {image_size} is not a multiple of the patch of {patch} px",
                where="backbone.image_size",
                fix=f"use {max(image_size // patch, 1) * patch}",
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
        self, x: Tensor, draws: Tensor | None = None, rows: Tensor | None = None, visit: Visit | None = None
    ) -> Tensor:
        """All blocks and the final norm, ``[N, T, D]`` to ``[N, T, D]``; ``draws [N, 2 depth]`` are for drop path.

        With ``rows [M]``, the tokens at these places in ``N * T`` alone: ``[M, D]``, the last block spared the others.
        ``visit(n, tokens)`` is shown the tokens after n blocks, from none to all.
        """
        last = len(self.blocks) - 1
        for i, (block, rate) in enumerate(zip(self.blocks, self.drop_rates, strict=True)):
            if visit is not None:
                visit(i, x)
            drawn = None if draws is None else draws[:, 2 * i : 2 * i + 2]
            x = block(x, rate, drawn, rows if i == last else None)
        if visit is not None:
            visit(len(self.blocks), x)
        y: Tensor = self.norm(x)
        return y

    def tokens(
        self,
        images: Tensor,
        mask: Tensor | None = None,
        draws: Tensor | None = None,
        patches: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The class tokens ``[N, D]`` and the features of some patches ``[M, D]``: as `forward`, with less work.

        Parameters
        ----------
        images, mask, draws
            As in `forward`.
        patches : bool [N, h w], optional
            Those that are asked for, M in all; none without it.
        """
        x = self.embed(images, mask)
        n, t = x.shape[:2]
        rows = torch.arange(0, n * t, t, device=x.device)
        if patches is not None:
            image, patch = patches.nonzero(as_tuple=True)
            rows = torch.cat([rows, image * t + self.prefix + patch])
        y = self.transform(x, draws, rows)
        return y[:n], y[n:]

    def forward(self, images: Tensor, mask: Tensor | None = None, draws: Tensor | None = None) -> Features:
        """Features of normalised images.

        Parameters
        ----------
        images : float [N, C, H, W]
            H and W are multiples of the patch.
        mask : bool [N, h w], optional
            Patches that the network does not see.
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
                means[count] = tokens[:, self.prefix :].mean(1)
                maxima[count] = tokens[:, self.prefix :].amax(1)
            if visit is not None:
                visit(count, tokens)

        x = self.transform(self.embed(images, mask), draws, visit=look)
        h, w = images.shape[2] // self.patch, images.shape[3] // self.patch
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
            raise ModelError(f"there is no block {block}", why=f"the network has blocks 0 to {depth - 1}")
        chosen = self.blocks[block]
        assert isinstance(chosen, Block)
        weights: list[Tensor] = []

        def look(count: int, tokens: Tensor) -> None:
            if count == block % depth:
                weights.append(chosen.attn.weights(chosen.norm1(tokens), first=1)[:, :, 0, self.prefix :])

        features = self._features(images, visit=look)
        return features, weights[0].reshape(len(images), -1, *features.spatial.shape[2:])
