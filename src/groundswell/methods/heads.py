"""The head of DINO and DINOv2: from features to how much each prototype is chosen."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundswell import rng
from groundswell.backbones.batch_norm import BatchNorm1d


class Prototypes(nn.Module):
    """Similarity of unit vectors ``[N, D]`` to K directions: ``g_k <x, v_k> / |v_k|``, ``[N, K]`` (weight norm).

    Salimans and Kingma 2016 (arXiv 1602.07868, eq. 2). Written out: the hooks of torch's own cannot be copied, which a
    teacher must be.

    Attributes
    ----------
    direction : float [K, D]
        v; drawn as torch draws a linear layer.
    scale : float [K, 1]
        g; starts at one. Frozen there in DINO, trained in DINOv2.
    """

    def __init__(self, dim: int, count: int, train_scale: bool) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.empty(count, dim))
        self.scale = nn.Parameter(torch.ones(count, 1), requires_grad=train_scale)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.scale * F.normalize(self.direction, dim=1))


class PrototypeHead(nn.Module):
    """An MLP to a narrow unit vector, and its similarity to the prototypes (arXiv 2104.14294, appendix C).

    As facebookresearch/dino 7c446df, vision_transformer.py:257, with three layers: linear, GELU, linear, GELU, linear,
    unit length, `Prototypes`; with ``norm`` a batch normalisation before each GELU.

    Parameters
    ----------
    dim, hidden, bottleneck, prototypes : int
        Widths: of the features, of the MLP, of the unit vector, and K. Published: 2048, 256, 65536.
    train_scale, norm : bool
    seed : int
        Of the weights: normal of 0.02 for the MLP, with biases 0.
    name : str
        What tells the weights of one head from those of another of the same seed.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        bottleneck: int,
        prototypes: int,
        *,
        train_scale: bool,
        norm: bool = False,
        seed: int,
        name: str,
    ) -> None:
        super().__init__()
        source = rng.generator(rng.keys(seed, [0]), name)
        modules: list[nn.Module] = []
        for before, after in ((dim, hidden), (hidden, hidden)):
            # A bias before a normalisation would be without effect.
            modules += [nn.Linear(before, after, bias=not norm), *([BatchNorm1d(after)] if norm else []), nn.GELU()]
        self.mlp = nn.Sequential(*modules, nn.Linear(hidden, bottleneck))
        for linear in self.mlp:
            if isinstance(linear, nn.Linear):
                nn.init.trunc_normal_(linear.weight, std=0.02, generator=source)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)
        self.last = Prototypes(bottleneck, prototypes, train_scale)
        bound = 1 / math.sqrt(bottleneck)
        nn.init.uniform_(self.last.direction, -bound, bound, generator=source)

    def forward(self, features: Tensor) -> Tensor:
        """Logits, float32 ``[..., K]``, of features ``[..., D]``."""
        x = self.mlp(features)
        # Logits are divided by 0.04: a half would be off by a twentieth of a nat, and of a zero row would make NaN.
        # On a GPU the product is TF32's, as all of a run: the prototypes are most of the work of a head.
        with torch.autocast(x.device.type, enabled=False):
            logits: Tensor = self.last(F.normalize(x.float(), dim=-1))
            return logits
