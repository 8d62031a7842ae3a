"""DINO: a student learns from small views what its own running mean, the teacher, sees in large ones.

Caron, Touvron, Misra, Jegou, Mairal, Bojanowski and Joulin 2021, "Emerging properties in self-supervised vision
transformers" (arXiv 2104.14294). The official code (facebookresearch/dino, commit 7c446df) is cited as D1.

    2 global views ------------> teacher -> head -> centre, sharpen -> p \\
                                    ^                                     cross entropy over all pairs of other views
                                    | running mean                       /
    2 global and L local views -> student -> head -> log softmax --------

No gradient flows to the teacher. Centring alone would let all prototypes be chosen alike, sharpening (a low
temperature) alone a single one; together they hold each other. After training the heads are thrown away and the
teacher's backbone is the encoder. Works with any backbone; drop path only in a vision transformer.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from groundswell.backbones import Backbone, Features, VisionTransformer
from groundswell.config import Settings
from groundswell.methods.base import Method, Observed
from groundswell.methods.distillation import (
    WATCHED,
    drop_path_draws,
    follow,
    observe_choices,
)
from groundswell.methods.heads import PrototypeHead
from groundswell.methods.schedules import cosine, ramp
from groundswell.objectives.dino import Centre, centred, dino_loss, sinkhorn_knopp
from groundswell.views.crops import MultiCrop


class DINOSettings(Settings):
    """What DINO leaves to choose; parts of the run are fractions of its length (D1: of 100 epochs)."""

    name: Literal["dino"] = "dino"
    student_temperature: float = Field(default=0.1, gt=0)  # paper section 3.2
    teacher_temperature: float = Field(default=0.04, gt=0)  # D1 main_dino.py; at the start
    final_teacher_temperature: float = Field(default=0.07, gt=0)  # D1 README: better where it trains stably
    temperature_warmup: float = Field(default=0.3, ge=0, le=1)  # D1: over 30 epochs
    centring: Literal["centre", "sinkhorn"] = "centre"
    centre_momentum: float = Field(default=0.9, ge=0, le=1)  # paper section 5.3
    momentum: float = Field(default=0.996, ge=0, le=1)  # paper section 3.2; D1's help: 0.9995 for a batch of 256
    final_momentum: float = Field(default=1.0, ge=0, le=1)
    prototypes: int = Field(default=65536, ge=2)
    head_hidden: int = Field(default=2048, ge=1)
    head_bottleneck: int = Field(default=256, ge=1)
    head_norm: bool = False  # D1 --use_bn_in_head: batch normalisation
    train_prototype_scale: bool = False  # D1 --norm_last_layer true
    freeze_prototypes: float = Field(default=0.01, ge=0, le=1)  # D1: in the first epoch
    drop_path: float = Field(default=0.1, ge=0, lt=1)  # D1; grows linearly with the depth


class DINO(Method):
    """The method: student, teacher, and the loss of a batch.

    Parameters
    ----------
    settings : DINOSettings
    backbone : Backbone
        Becomes the student; the teacher starts as its copy.
    crops : MultiCrop
        Of two or more global views.
    seed : int
        Of the initial weights of the head.
    """

    watched = WATCHED
    teacher_backbone: Backbone

    def __init__(self, settings: DINOSettings, backbone: Backbone, crops: MultiCrop, seed: int) -> None:
        super().__init__(backbone)
        self.settings = settings
        self.crops = crops
        s = settings
        if isinstance(backbone, VisionTransformer):
            deepest = max(len(backbone.blocks) - 1, 1)
            backbone.prepare(drop_rates=[s.drop_path * i / deepest for i in range(len(backbone.blocks))])
        self.head = PrototypeHead(
            *(backbone.dim, s.head_hidden, s.head_bottleneck, s.prototypes),
            train_scale=s.train_prototype_scale,
            norm=s.head_norm,
            seed=seed,
            name="prototype head",
        )
        self.centre = Centre(s.prototypes, s.centre_momentum)
        self.teacher_backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)

    def loss(self, images: Tensor, keys: Tensor) -> tuple[Tensor, Observed]:
        """The mean cross entropy over all pairs of a global view of the teacher and another view of the student."""
        s, batch = self.settings, len(images)
        full_precision = torch.autocast(images.device.type, enabled=False)
        with full_precision:
            views = self.crops(images, keys)
            whole = views.globals.contiguous(memory_format=torch.channels_last)
            parts = views.locals.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():  # in training mode: the batch statistics of a ResNet are those of the batch (D1)
            seen = _pooled(self.teacher_backbone, whole)
            offered = self.teacher_head(seen)
        # One forward for each size of view, one of the head for all (D1 utils.py:594).
        pooled = [self._student(whole, keys, "global")]
        if len(parts):
            pooled.append(self._student(parts, keys, "local"))
        logits = self.head(torch.cat(pooled))
        with full_precision:
            temperature = ramp(
                self.progress, s.teacher_temperature, s.final_teacher_temperature, until=s.temperature_warmup
            )
            if s.centring == "centre":
                chosen = raw = centred(offered, self.centre.value, temperature)
                self.centre.update(offered)  # after its use (D1 main_dino.py:403)
            else:
                chosen, raw = sinkhorn_knopp(offered, temperature), torch.softmax(offered / temperature, dim=1)
            loss = dino_loss(
                logits.view(-1, batch, s.prototypes), chosen.view(-1, batch, s.prototypes), s.student_temperature
            )
            return loss, Observed(observe_choices(loss.detach(), chosen, raw), seen.float())

    def _student(self, views: Tensor, keys: Tensor, name: str) -> Tensor:
        draws = None
        if isinstance(self.backbone, VisionTransformer):
            draws = drop_path_draws(self.backbone, views, keys, name)
        return _pooled(self.backbone, views, draws)

    def before_update(self) -> None:
        """Early in the run the prototypes stay as they are: no gradient, so no moments and no decay (D1 utils.py)."""
        if self.progress < self.settings.freeze_prototypes:
            self.head.last.zero_grad(set_to_none=True)

    def after_update(self) -> None:
        """The teacher follows; ever more slowly (cosine)."""
        momentum = cosine(self.progress, self.settings.momentum, self.settings.final_momentum)
        follow((self.teacher_backbone, self.teacher_head), (self.backbone, self.head), momentum)

    def encoder_backbone(self) -> Backbone:
        """The teacher's."""
        return self.teacher_backbone.plain().eval()

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Start student and teacher from the weights of an encoder's backbone."""
        for backbone in (self.backbone, self.teacher_backbone):
            backbone.load_state_dict(dict(weights))


def _pooled(backbone: Backbone, views: Tensor, draws: Tensor | None = None) -> Tensor:
    """What the head is given of views ``[N, C, h, w]``: what the backbone pools, ``[N, dim]``."""
    if isinstance(backbone, VisionTransformer):
        return backbone.pooled_and_patches(views, draws=draws)[0]
    features: Features = backbone(views)
    return features.pooled
