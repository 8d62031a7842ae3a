"""The transformer block: attention, MLP, and drop path around either (arXiv 2010.11929, 1603.09382, 2103.17239).

And what blocks otherwise learn late: who is beside whom.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from groundswell.backbones.linear import Linear, linear


def scaled(to: Linear, x: Tensor, scale: Tensor | None) -> Tensor:
    """``scale * to(x)``, scale float [out] or None, taken into the map: mostly fewer numbers than it gives."""
    y: Tensor = to(x) if scale is None else linear(x, to.weight * scale[:, None], to.bias * scale)
    return y


class Attention(nn.Module):
    """Multi-head self-attention in two halves: what tokens take from all (`attend`), and the projection of that."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def attend(self, x: Tensor) -> Tensor:
        """What each token takes from all, before the projection: ``[N, T, D]`` to ``[N, T, D]``."""
        return self._take(*self.split(x))

    def _take(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What queries ``[N, heads, S, d]`` take from keys and values ``[N, heads, T, d]``: ``[N, S, heads d]``."""
        if q.device.type == "cpu" and q.dtype == torch.bfloat16:
            # Written out: the fused kernel's backward pass is three to five times slower there (docs/speed.md).
            y = _weights(q, k).to(v.dtype) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).flatten(2)

    def attend_first(self, x: Tensor) -> Tensor:
        """What `attend` gives of the first token of each image, ``[N, D]``, without the keys and values of any.

        For one query they are not worth computing: q (K x) = (q K) x, and the weighted sum of V x is V of that of x.
        What the bias of the keys adds is the same for all tokens, and softmax does not see it.
        """
        to_q, to_k, to_v = self.qkv.weight.view(3, self.heads, -1, x.shape[2])
        q_bias, _, v_bias = self.qkv.bias.view(3, self.heads, -1)
        q = torch.einsum("ni,hdi->nhd", x[:, 0], to_q) + q_bias
        looks = torch.einsum("nhd,hdi->nhi", q, to_k) / math.sqrt(q.shape[2])
        with torch.autocast(x.device.type, enabled=False):  # logits as exact as the fused kernel has them
            weights = torch.softmax(looks.to(x.dtype) @ x.transpose(1, 2), dim=-1)
        y: Tensor = torch.einsum("nhi,hdi->nhd", weights @ x, to_v) + v_bias
        return y.flatten(1)

    def attend_some(self, x: Tensor, others: Tensor) -> Tensor:
        """What `attend` gives of the first token of each image, and of others: ``[N + M, D]``.

        Of the others the queries alone are worked out, of their images keys and values.

        Parameters
        ----------
        x : float [N, T, D]
        others : int64 [M], ascending
            Places in ``N * T``.
        """
        first, (_, t, d) = self.attend_first(x), x.shape
        if not len(others):
            return first
        owners, counts = torch.unique_consecutive(others // t, return_counts=True)
        asked = linear(x.flatten(0, 1).index_select(0, others), self.qkv.weight[:d], self.qkv.bias[:d])
        q = pad_sequence(list(torch.split(asked, counts.tolist())), batch_first=True)
        k, v = linear(x.index_select(0, owners), self.qkv.weight[d:], self.qkv.bias[d:]).chunk(2, dim=2)
        held = torch.arange(q.shape[1], device=x.device) < counts[:, None]
        return torch.cat([first, self._take(*map(self._by_head, (q, k, v)))[held]])

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens ``[N, T, D]``: float ``[N, heads, T, D / heads]`` each."""
        q, k, v = (self._by_head(part) for part in self.qkv(x).chunk(3, dim=2))
        return q, k, v

    def _by_head(self, x: Tensor) -> Tensor:
        """``[N, T, D]`` as ``[N, heads, T, D / heads]``."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

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
    """Two linear layers with a GELU between, ``[N, T, D]`` to ``[N, T, D]``, hidden width 4 D, `scaled` at last."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, 4 * dim)
        self.fc2 = Linear(4 * dim, dim)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        return scaled(self.fc2, F.gelu(self.fc1(x)), scale)


class Neighbours(nn.Module):
    """Patches and what is around each, ``[N, h w, D]`` to ``[N, h w, D]``: plus a 3x3 convolution, zero at first.

    After the conditional positions of Chu et al. 2021 (arXiv 2102.10882), whose convolution is depthwise. Attention
    must learn from the table of positions which patches are beside one; in a short run it does not.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        for p in self.conv.parameters():
            nn.init.zeros_(p)

    def forward(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        around: Tensor = self.conv(patches.transpose(1, 2).unflatten(2, grid))  # type: ignore[no-untyped-call]
        return patches + around.flatten(2).transpose(1, 2)


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

    def forward(
        self, x: Tensor, rate: float = 0.0, draws: Tensor | None = None, others: Tensor | None = None
    ) -> Tensor:
        """The block, with its branches dropped at ``rate`` by ``draws [N, 2]`` (see `add_branch`).

        With ``others`` (int64 [M], ascending places in ``N * T``) only for the first token of each image and for these,
        ``[N + M, D]``: the rest is looked at but goes without projection and MLP, three quarters of the work, and where
        an image has none of the others without queries, keys and values.
        """
        first, second = (None, None) if draws is None else draws.unbind(1)
        if others is None:
            return add_branch(add_branch(x, self._attend, rate, first), self._mix, rate, second)
        n, t = x.shape[:2]
        rows = torch.cat([torch.arange(0, n * t, t, device=x.device), others])
        seen = self.attn.attend_some(self.norm1(x), others)
        x = add_branch(x.flatten(0, 1).index_select(0, rows), self._project, rate, first, rows // t, seen)
        return add_branch(x, self._mix, rate, second, rows // t)

    def _attend(self, x: Tensor) -> Tensor:
        return self._project(self.attn.attend(self.norm1(x)))

    def _project(self, seen: Tensor) -> Tensor:
        return scaled(self.attn.proj, seen, self.layer_scale1)

    def _mix(self, x: Tensor) -> Tensor:
        y: Tensor = self.mlp(self.norm2(x), self.layer_scale2)
        return y

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
