"""SimCLR: two random views of an image must find each other among all other views of the batch.

Chen, Kornblith, Norouzi and Hinton 2020, "A simple framework for contrastive learning of visual representations"
(arXiv 2002.05709). The official code (google-research/simclr, commit 383d414) is cited as SC where it settles what
the paper leaves open.

    image -> view 1 -> backbone -> h1 -> projection head -> z1 \\
                                                                 NT-Xent(z1, z2)
    image -> view 2 -> backbone -> h2 -> projection head -> z2 /

After training the head is thrown away; h is the embedding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from groundswell import distributed, rng
from groundswell.backbones import Backbone
from groundswell.backbones.batch_norm import BatchNorm1d
from groundswell.config import Settings
from groundswell.methods.base import Method, Observed
from groundswell.objectives.nt_xent import nt_xent

Policy = Callable[[Tensor, Tensor], Tensor]


class SimCLRSettings(Settings):
    """What SimCLR leaves to choose."""

    name: Literal["simclr"] = "simclr"
    temperature: float = Field(default=0.1, gt=0)  # SC run.py:191
    projection_layers: int = Field(default=2, ge=1)  # paper section 3; SC's own default is 3
    projection_hidden: int | None = Field(default=None, ge=1)  # None: the width of the embedding (SC model_util.py)
    projection_output: int = Field(default=128, ge=2)  # paper section 2.2


class SimCLR(Method):
    """The method: a backbone, a projection head, and the loss of a batch.

    Parameters
    ----------
    settings : SimCLRSettings
    backbone : Backbone
        Gives ``pooled [N, D]`` for images ``[N, C, H, W]``.
    policy : callable
        ``policy(images [B, C, H, W], keys int64 [B]) -> [B, C, h, w]``: one random view of each image.
    seed : int
        Of the initial weights of the head.
    """

    watched = frozenset({"feature_spread", "effective_rank", "chance_ratio"})

    def __init__(self, settings: SimCLRSettings, backbone: Backbone, policy: Policy, seed: int) -> None:
        super().__init__(backbone)
        self.settings = settings
        self.policy = policy
        self.head = projection_head(
            backbone.dim,
            settings.projection_hidden or backbone.dim,
            settings.projection_output,
            settings.projection_layers,
            seed,
        )

    def loss(self, images: Tensor, keys: Tensor) -> tuple[Tensor, Observed]:
        """The NT-Xent loss of a batch."""
        full_precision = torch.autocast(images.device.type, enabled=False)
        with full_precision:
            views = [self.policy(images, rng.keys(0, keys, name)) for name in ("first view", "second view")]
        # One forward for both: batch normalisation must not tell the views apart (SC model.py:58).
        features = self.backbone(torch.cat(views).contiguous(memory_format=torch.channels_last)).pooled
        with full_precision:
            first, second = self.head(features.float()).chunk(2)
            loss = nt_xent(first, second, self.settings.temperature)
            observed = observe(first.detach(), second.detach(), features.detach().float())
            observed.scalars["chance_ratio"] = loss.detach() / math.log(2 * len(images) * distributed.world_size() - 1)
            return loss, observed


def projection_head(width: int, hidden: int, output: int, layers: int, seed: int) -> nn.Sequential:
    """An MLP: bias-free linears from N(0, 0.01^2), each followed by batch normalisation; ReLU between them.

    The last normalisation scales but does not shift, so that z keeps no mean to hide in (SC model_util.py,
    ``linear_layer`` and ``projection_head``).
    """
    modules: list[nn.Module] = []
    sizes = [width, *[hidden] * (layers - 1), output]
    for i, (before, after) in enumerate(itertools.pairwise(sizes)):
        linear = nn.Linear(before, after, bias=False)
        source = rng.generator(rng.keys(seed, [i]), "projection head")
        with torch.no_grad():
            linear.weight.normal_(0.0, 0.01, generator=source)
        norm = BatchNorm1d(after)
        modules += [linear, norm]
        if i < layers - 1:
            modules.append(nn.ReLU())
        else:
            norm.bias.requires_grad_(False)
    return nn.Sequential(*modules)


@torch.no_grad()
def observe(first: Tensor, second: Tensor, features: Tensor) -> Observed:
    """How well the views ``[B, d]`` find each other: top-1 among all 2B - 1 others, and the mean cosines."""
    z = F.normalize(torch.cat([first, second]), dim=1)
    cosine = z @ z.T
    n = len(first)
    partner = torch.arange(2 * n, device=z.device).roll(n)
    positive = cosine.gather(1, partner[:, None]).mean()
    negatives = (cosine.sum() - cosine.diagonal().sum() - 2 * n * positive) / (2 * n * (2 * n - 2))
    found = cosine.fill_diagonal_(-torch.inf).argmax(dim=1) == partner
    scalars = {"top1": found.float().mean(), "positive_cosine": positive, "negative_cosine": negatives}
    return Observed(scalars, features)
