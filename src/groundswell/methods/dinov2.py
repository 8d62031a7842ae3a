"""DINOv2: DINO on whole images, iBOT on masked patches, and KoLeo to keep images apart.

Oquab et al. 2023, "DINOv2: Learning robust visual features without supervision" (arXiv 2304.07193); iBOT: Zhou et al.
2022 (arXiv 2111.07832). The official code (facebookresearch/dinov2, commit b8931f7) is cited as D2.

    2 global views, whole ------------> teacher -> pooled -> head -> p            \\
                                           |    -> masked patches -> head -> p'    \\  DINO(p, q) + iBOT(p', q')
                                           | running mean                          /  + 0.1 KoLeo(pooled)
    2 global views, half of them masked -> student -> pooled -> head -> q         /
                                                  -> masked patches -> head -> q'
    L local views ---------------------> student -> pooled -> head -> q

Pooled is the class token, as published, unless the backbone pools otherwise. A vision transformer only: a patch must
be masked before the network and found again behind it. After training the teacher's backbone is the encoder, its layer
scales folded into the maps before them.

Three things differ from D2, on purpose. Fresh weights are those of `VisionTransformer.initialise`: class token and
registers with a spread of 0.02, where D2 has 1e-6, and the patch map as in MAE. The frozen prototypes have no gradient
in the first part of the run, where D2 gives them a learning rate of zero while their moments build up. The centre of
the patches is the mean over the masked patches of all processes; D2 takes the mean of the processes' means, which
depends on how the images are split.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from groundswell.backbones import Backbone, VisionTransformer
from groundswell.config import Settings
from groundswell.methods.base import Method, Observed
from groundswell.methods.distillation import WATCHED, drop_path_draws, follow, observe_choices, per_view
from groundswell.methods.heads import PrototypeHead
from groundswell.methods.schedules import cosine, ramp
from groundswell.objectives.dino import Centre, centred, dino_loss, sinkhorn_knopp
from groundswell.objectives.ibot import ibot_loss
from groundswell.objectives.koleo import koleo
from groundswell.views.crops import MultiCrop
from groundswell.views.masking import block_masks


class DINOv2Settings(Settings):
    """What DINOv2 leaves to choose, with the defaults of D2's configuration; parts of the run are fractions of it."""

    name: Literal["dinov2"] = "dinov2"
    dino_weight: float = Field(default=1.0, ge=0)
    ibot_weight: float = Field(default=1.0, ge=0)
    koleo_weight: float = Field(default=0.1, ge=0)
    mask_probability: float = Field(default=0.5, ge=0, le=1)  # of a global view
    mask_ratio: tuple[float, float] = (0.1, 0.5)  # of the patches of a masked view
    student_temperature: float = Field(default=0.1, gt=0)
    teacher_temperature: float = Field(default=0.04, gt=0)  # at the start
    final_teacher_temperature: float = Field(default=0.07, gt=0)
    temperature_warmup: float = Field(default=0.3, ge=0, le=1)  # 30 of 100 epochs
    centring: Literal["centre", "sinkhorn"] = "centre"  # D2: sinkhorn for its ViT-L and ViT-g
    centre_momentum: float = Field(default=0.9, ge=0, le=1)
    momentum: float = Field(default=0.992, ge=0, le=1)
    final_momentum: float = Field(default=1.0, ge=0, le=1)
    prototypes: int = Field(default=65536, ge=2)
    head_hidden: int = Field(default=2048, ge=1)
    head_bottleneck: int = Field(default=256, ge=1)
    head_norm: bool = False  # D2 layers/dino_head.py, use_bn; a patch head goes without (ours): few patches
    separate_heads: bool = False  # D2: for ViT-L and ViT-g, patches have a head of their own
    train_prototype_scale: bool = True  # D2 layers/dino_head.py:28
    freeze_prototypes: float = Field(default=0.01, ge=0, le=1)  # in the first epoch
    drop_path: float = Field(default=0.3, ge=0, lt=1)  # the same in every block
    layer_scale: float | None = Field(default=1e-5, gt=0)  # at the start; None goes without

    @model_validator(mode="after")
    def _ordered(self) -> DINOv2Settings:
        if not 0 <= self.mask_ratio[0] <= self.mask_ratio[1] <= 1:
            raise ValueError("mask_ratio must be [low, high] with 0 <= low <= high <= 1")
        masked = self.mask_probability > 0 and self.mask_ratio[1] > 0
        if self.dino_weight == self.koleo_weight == 0 and not (self.ibot_weight and masked):
            raise ValueError(
                "dino_weight and koleo_weight are 0, and so is ibot_weight, or no patch is masked: nothing to learn"
            )
        return self


class DINOv2(Method):
    """The method: student, teacher, and the loss of a batch.

    Parameters
    ----------
    settings : DINOv2Settings
    backbone : VisionTransformer
        Becomes the student; the teacher starts as its copy.
    crops : MultiCrop
        Of two or more global views.
    seed : int
        Of the initial weights of the heads.
    """

    watched = WATCHED
    backbone: VisionTransformer
    teacher_backbone: VisionTransformer

    def __init__(self, settings: DINOv2Settings, backbone: VisionTransformer, crops: MultiCrop, seed: int) -> None:
        super().__init__(backbone)
        self.settings = s = settings
        self.crops = crops
        backbone.prepare(drop_rates=[s.drop_path] * len(backbone.blocks), layer_scale=s.layer_scale, mask_token=True)
        self.head = self._new_head(backbone.dim, seed, "prototype head", norm=s.head_norm)
        self.patch_head = self._new_head(backbone.width, seed, "patch head") if s.separate_heads else None
        self.centre = Centre(s.prototypes, s.centre_momentum)
        self.patch_centre = Centre(s.prototypes, s.centre_momentum)
        self.teacher_backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        self.teacher_patch_head = copy.deepcopy(self.patch_head)
        if self.teacher_patch_head is not None:
            self.teacher_patch_head.requires_grad_(False)

    def _new_head(self, width: int, seed: int, name: str, norm: bool = False) -> PrototypeHead:
        s = self.settings
        return PrototypeHead(
            *(width, s.head_hidden, s.head_bottleneck, s.prototypes),
            train_scale=s.train_prototype_scale,
            norm=norm,
            seed=seed,
            name=name,
        )

    def loss(self, images: Tensor, keys: Tensor) -> tuple[Tensor, Observed]:
        """DINO over all pairs of views, iBOT over the masked patches, KoLeo over each global view by itself."""
        s, batch = self.settings, len(images)
        full_precision = torch.autocast(images.device.type, enabled=False)
        with full_precision:
            views = self.crops(images, keys)
            count = len(views.globals) // batch
            grid = (views.globals.shape[2] // self.backbone.patch, views.globals.shape[3] // self.backbone.patch)
            mask = block_masks(per_view(keys, "mask", count), grid, s.mask_ratio, s.mask_probability)
            mask = mask.to(images.device)

        with torch.no_grad():  # the teacher sees the views whole
            seen, seen_patches = self.teacher_backbone.pooled_and_patches(views.globals, patches=mask)
            offered, offered_patches = self._logits(seen, seen_patches, self.teacher_head, self.teacher_patch_head)
        draws = drop_path_draws(self.backbone, views.globals, keys, "global")
        whole, masked = self.backbone.pooled_and_patches(views.globals, mask, draws, patches=mask)
        pooled = [whole]
        if len(views.locals):
            draws = drop_path_draws(self.backbone, views.locals, keys, "local")
            pooled.append(self.backbone.pooled_and_patches(views.locals, draws=draws)[0])
        logits, patch_logits = self._logits(torch.cat(pooled), masked, self.head, self.patch_head)
        with full_precision:
            temperature = ramp(
                self.progress, s.teacher_temperature, s.final_teacher_temperature, until=s.temperature_warmup
            )
            if s.centring == "centre":
                chosen = raw = centred(offered, self.centre.value, temperature)
                chosen_patches = centred(offered_patches, self.patch_centre.value, temperature)
                self.centre.update(offered)  # after their use, as in DINO
                self.patch_centre.update(offered_patches)
            else:
                chosen, raw = sinkhorn_knopp(offered, temperature), torch.softmax(offered / temperature, dim=1)
                chosen_patches = sinkhorn_knopp(offered_patches, temperature)
            dino = dino_loss(
                logits.view(-1, batch, s.prototypes), chosen.view(-1, batch, s.prototypes), s.student_temperature
            )
            ibot = ibot_loss(patch_logits, chosen_patches, mask, s.student_temperature)
            near = torch.stack([koleo(view) for view in whole.chunk(count)]).sum()
            loss = s.dino_weight * dino + s.ibot_weight * ibot + s.koleo_weight * near
            scalars = {"dino_loss": dino.detach(), "ibot_loss": ibot.detach(), "koleo_loss": near.detach()}
            scalars |= observe_choices(dino.detach(), chosen, raw)
            return loss, Observed(scalars, seen.float())

    def _logits(
        self, pooled: Tensor, patches: Tensor, head: PrototypeHead, patch_head: PrototypeHead | None
    ) -> tuple[Tensor, Tensor]:
        """Logits of what is pooled ``[N, D]`` and of patches ``[M, D]``: in one pass where they share a head."""
        if patch_head is not None:
            return head(pooled), patch_head(patches)
        both = head(torch.cat([pooled, patches]))
        return both[: len(pooled)], both[len(pooled) :]

    def before_update(self) -> None:
        """Early in the run the prototypes stay as they are."""
        if self.progress < self.settings.freeze_prototypes:
            for head in (self.head, self.patch_head):
                if head is not None:
                    head.last.zero_grad(set_to_none=True)

    def after_update(self) -> None:
        """The teacher follows; ever more slowly (cosine)."""
        momentum = cosine(self.progress, self.settings.momentum, self.settings.final_momentum)
        teacher: list[nn.Module] = [self.teacher_backbone, self.teacher_head]
        student: list[nn.Module] = [self.backbone, self.head]
        if self.patch_head is not None and self.teacher_patch_head is not None:
            teacher.append(self.teacher_patch_head)
            student.append(self.patch_head)
        follow(teacher, student, momentum)

    def encoder_backbone(self) -> Backbone:
        """The teacher's, without layer scale and mask token."""
        return self.teacher_backbone.plain().eval()

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Start student and teacher from the weights of an encoder's backbone, with layer scales of one."""
        for backbone in (self.backbone, self.teacher_backbone):
            own = {name: torch.ones_like(p) for name, p in backbone.state_dict().items() if "layer_scale" in name}
            assert backbone.mask_token is not None
            backbone.load_state_dict({"mask_token": backbone.mask_token, **own, **weights})
