"""The same training steps as others write them: lightly for SimCLR, DINO and DINOv2, transformers for MAE.

Each follows the peer's own code line by line (the file is named at the class), with the backbone, sizes, head and
optimiser of a recipe of ours. What was chosen, in the peer's favour where its codes differ:

- Views are those of lightly's transforms on PIL images of one channel, as its data sets give them, in this process: a
  worker of a data loader would take a core that the step has not. Colour is off (saturation, hue, grey-scale) and both
  flips are on, so that about the same work is done as by ours.
- Backbone: vision transformers are timm's in lightly's wrapper, as in its examples; ResNets ours, whose graph is
  torchvision's (which has no narrow ones). The weights are ours, and each side's features are compared before a run;
  of MAE, whose weights are its own, their number.
- DINO: one forward for each size of view, as in lightly's benchmark of ImageNet; its example runs each view by itself.
- No clipping, no schedules, no monitors, which ours has. AdamW as the examples build it.
"""

from __future__ import annotations

import copy
import importlib
import sys
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from groundswell.backbones import Backbone, VisionTransformer
from groundswell.methods.dino import DINOSettings
from groundswell.methods.dinov2 import DINOv2Settings
from groundswell.methods.mae import MAESettings, sine_positions
from groundswell.methods.simclr import SimCLRSettings
from groundswell.training.optimisers import AdamWSettings
from groundswell.training.recipe import Recipe


class Peer(Protocol):
    """A peer's step in parts."""

    parts: list[tuple[object, str, str]]
    """Object, name of its method, and the part of the step that this belongs to."""
    optimiser: torch.optim.Optimizer

    def views(self, images: list[Any]) -> list[Tensor]:
        """The views of PIL images, as the data loader would hand them over."""

    def loss(self, views: list[Tensor]) -> Tensor:
        """The loss of a batch of views."""

    def follow(self) -> None:
        """Move the teacher."""


def lightly(module: str) -> ModuleType:
    """A module of lightly, over a torchvision that may have been built for another torch.

    Such a torchvision fails at ``import`` for want of compiled operators; with two of them declared, transforms work.

    Raises
    ------
    SystemExit
        With what is missing.
    """
    try:
        if "torchvision" not in sys.modules:
            try:
                importlib.import_module("torchvision")
            except RuntimeError:
                for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                    del sys.modules[name]
                declared = torch.library.Library("torchvision", "FRAGMENT")
                for name in ("nms", "qnms"):
                    declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                importlib.import_module("torchvision")
        return importlib.import_module(f"lightly.{module}")
    except ImportError as error:
        raise SystemExit(
            f"the peer cannot be imported ({error}). Into an environment of its own, beside the packages of this one:\n"
            "pip install --no-deps lightly lightly-utils lightning-utilities timm torchvision"
        ) from error


def adamw(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW as the examples build it: of all parameters, with torch's own choice of implementation."""
    assert isinstance(recipe.optimiser, AdamWSettings)
    settings = recipe.optimiser
    return torch.optim.AdamW(
        module.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
    )


def stacked(views: list[list[Tensor]]) -> list[Tensor]:
    """What a data loader makes of the views of each image: a batch of each view."""
    return [torch.utils.data.default_collate([image[i] for image in views]) for i in range(len(views[0]))]


def import_peer(method: str) -> None:
    """Import what the peer of a method needs, so that it is not counted as the step's."""
    for name in ("transforms", "loss", "models.modules.heads", "models.modules.masked_vision_transformer_timm"):
        lightly(name)
    if method == "mae":
        importlib.import_module("transformers").ViTMAEForPreTraining  # noqa: B018


class TimmViT(nn.Module):
    """timm's vision transformer in lightly's wrapper, with the weights of ours."""

    def __init__(self, backbone: VisionTransformer) -> None:
        super().__init__()
        wrapper = lightly("models.modules.masked_vision_transformer_timm").MaskedVisionTransformerTIMM
        timm = importlib.import_module("timm.models.vision_transformer").VisionTransformer
        weights = {name: value.clone() for name, value in backbone.state_dict().items()}
        vit = timm(
            img_size=backbone.grid * backbone.patch,
            patch_size=backbone.patch,
            in_chans=backbone.in_channels,
            num_classes=0,
            embed_dim=backbone.width,
            depth=len(backbone.blocks),
            num_heads=backbone.blocks[0].attn.heads,  # type: ignore[arg-type, union-attr]
            init_values=1.0 if "blocks.0.layer_scale1" in weights else None,
            dynamic_img_size=True,
        )
        self.masked = wrapper(vit=vit, antialias=False, pos_embed_initialization="skip")
        if (token := weights.pop("mask_token", None)) is not None:
            self.masked.mask_token.data.copy_(token)
        names = ((".layer_scale1", ".ls1.gamma"), (".layer_scale2", ".ls2.gamma"))
        for ours, theirs in names:
            weights = {name.replace(ours, theirs): value for name, value in weights.items()}
        vit.load_state_dict(weights)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.masked(images)
        return features

    def encode(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens: Tensor = self.masked.encode(images, mask=mask)
        return tokens


class PooledResNet(nn.Module):
    """Our ResNet, giving its embedding."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone(images).pooled
        return features


def peers_backbone(backbone: Backbone) -> nn.Module:
    """The peer's network with the weights of ours."""
    return TimmViT(backbone) if isinstance(backbone, VisionTransformer) else PooledResNet(backbone)


GREY = {"mean": [0.5], "std": [0.5]}
NO_COLOUR = {"cj_sat": 0.0, "cj_hue": 0.0, "random_gray_scale": 0.0, "vf_prob": 0.5, "normalize": GREY}


class LightlySimCLR(nn.Module):
    """lightly 1.6, examples/pytorch/simclr.py."""

    def __init__(self, recipe: Recipe, backbone: Backbone) -> None:
        super().__init__()
        settings = recipe.method
        assert isinstance(settings, SimCLRSettings)
        heads, losses, transforms = (lightly(name) for name in ("models.modules.heads", "loss", "transforms"))
        self.backbone = peers_backbone(backbone)
        self.projection_head = heads.SimCLRProjectionHead(
            backbone.dim, settings.projection_hidden or backbone.dim, settings.projection_output
        )
        self.criterion = losses.NTXentLoss(temperature=settings.temperature)
        self.transform = transforms.SimCLRTransform(
            input_size=recipe.view_size, min_scale=recipe.views.geometry.scale[0], **NO_COLOUR
        )
        self.optimiser = adamw(self, recipe)
        self.parts = [(self.backbone, "forward", "forward"), (self.projection_head, "forward", "heads")]

    def views(self, images: list[Any]) -> list[Tensor]:
        return stacked([self.transform(image) for image in images])

    def loss(self, views: list[Tensor]) -> Tensor:
        z0, z1 = (self.projection_head(self.backbone(x.contiguous(memory_format=torch.channels_last))) for x in views)
        loss: Tensor = self.criterion(z0, z1)
        return loss

    def follow(self) -> None:
        pass


class LightlyDINO(nn.Module):
    """lightly 1.6, benchmarks/imagenet/vitb16/dino.py."""

    def __init__(self, recipe: Recipe, backbone: Backbone) -> None:
        super().__init__()
        self.settings = settings = recipe.method
        assert isinstance(settings, DINOSettings | DINOv2Settings)
        heads, losses, transforms = (lightly(name) for name in ("models.modules.heads", "loss", "transforms"))
        sizes = (backbone.dim, settings.head_hidden, settings.head_bottleneck, settings.prototypes)
        head = heads.DINOv2ProjectionHead if isinstance(settings, DINOv2Settings) else heads.DINOProjectionHead
        norm = settings.head_norm
        self.student_backbone, self.student_head = peers_backbone(backbone), head(*sizes, batch_norm=norm)
        self.teacher_backbone, self.teacher_head = peers_backbone(backbone), head(*sizes, batch_norm=norm)
        for module in (self.teacher_backbone, self.teacher_head):
            module.requires_grad_(False)
        assert recipe.local_views is not None
        self.transform = transforms.DINOTransform(
            global_crop_size=recipe.view_size,
            global_crop_scale=recipe.views.geometry.scale,
            local_crop_size=recipe.local_view_size,
            local_crop_scale=recipe.local_views.geometry.scale,
            n_local_views=recipe.local_view_count,
            **NO_COLOUR,
        )
        self.criterion = losses.DINOLoss(output_dim=settings.prototypes)
        self.update_momentum = lightly("models.utils").update_momentum
        self.optimiser = adamw(self, recipe)
        self.parts = [
            *((module, "forward", "forward") for module in (self.student_backbone, self.teacher_backbone)),
            *((m, "encode", "forward") for m in (self.student_backbone, self.teacher_backbone) if hasattr(m, "encode")),
            *((module, "forward", "heads") for module in (self.student_head, self.teacher_head)),
        ]

    def views(self, images: list[Any]) -> list[Tensor]:
        views = stacked([self.transform(image) for image in images])
        return [torch.cat(views[:2]), torch.cat(views[2:])]

    def loss(self, views: list[Tensor]) -> Tensor:
        views = [view.contiguous(memory_format=torch.channels_last) for view in views]
        with torch.no_grad():
            teacher = self.teacher_head(self.teacher_backbone(views[0]))
        student = torch.cat([self.student_head(self.student_backbone(view)) for view in views])
        loss: Tensor = self.criterion(
            teacher.float().chunk(2), student.float().chunk(2 * len(student) // len(teacher)), teacher_temp=0.04
        )
        return loss

    def follow(self) -> None:
        self.update_momentum(self.student_backbone, self.teacher_backbone, m=0.99)
        self.update_momentum(self.student_head, self.teacher_head, m=0.99)


class LightlyDINOv2(LightlyDINO):
    """lightly 1.6, examples/pytorch/dinov2.py, with one head for both losses."""

    def __init__(self, recipe: Recipe, backbone: Backbone) -> None:
        super().__init__(recipe, backbone)
        losses = lightly("loss")
        assert isinstance(self.settings, DINOv2Settings)
        self.ibot_criterion = losses.IBOTPatchLoss(output_dim=self.settings.prototypes)
        self.koleo_criterion = losses.KoLeoLoss()
        self.masking = lightly("models.utils")
        self.parts.append((self.masking, "random_block_mask", "views"))

    def loss(self, views: list[Tensor]) -> Tensor:
        shown, local = views
        assert isinstance(self.student_backbone, TimmViT)
        side = self.student_backbone.masked.vit.patch_embed.grid_size[0]
        least = 4 if side >= 8 else 1  # its default; a block of four is more than it may mask of 4 x 4 patches
        block_mask = self.masking.random_block_mask(
            size=(len(shown), side, side), min_num_masks_per_block=least, device=shown.device
        )
        mask = shown.new_zeros((len(shown), 1 + side**2), dtype=torch.bool)
        mask[:, 1:] = block_mask.flatten(start_dim=1)
        with torch.no_grad():
            seen = self.teacher_backbone.encode(shown)  # type: ignore[operator]
            teacher_cls = self.teacher_head(seen[:, 0]).float()
            teacher_masked = self.teacher_head(seen[mask]).float()
        whole = self.student_backbone.encode(shown, mask)
        pooled = whole[:, 0]
        student_masked = self.student_head(whole[mask]).float()
        student = torch.cat([self.student_head(pooled), self.student_head(self.student_backbone.encode(local)[:, 0])])
        student = student.float()
        dino: Tensor = self.criterion(
            teacher_cls.chunk(2), student.chunk(2 * len(student) // len(teacher_cls)), teacher_temp=0.04
        )
        ibot = self.ibot_criterion(teacher_masked, student_masked, block_mask, teacher_temp=0.04)
        koleo = sum(self.koleo_criterion(view.float()) for view in pooled.chunk(2))
        return dino + ibot + 0.1 * koleo


class TransformersMAE(nn.Module):
    """transformers, examples/pytorch/image-pretraining/run_mae.py; its transforms are those of lightly's MAETransform.

    The weights are its own: the sizes are the same, and with them the work.
    """

    def __init__(self, recipe: Recipe, backbone: Backbone) -> None:
        super().__init__()
        transforms = lightly("transforms")  # before transformers, which imports torchvision, too
        from transformers import ViTMAEConfig, ViTMAEForPreTraining

        settings = recipe.method
        assert isinstance(settings, MAESettings)
        assert isinstance(backbone, VisionTransformer)
        attention = backbone.blocks[0].attn
        config = ViTMAEConfig(
            hidden_size=backbone.width,
            num_hidden_layers=len(backbone.blocks),
            num_attention_heads=attention.heads,  # type: ignore[arg-type, union-attr]
            intermediate_size=4 * backbone.width,
            layer_norm_eps=1e-6,
            image_size=recipe.view_size,
            patch_size=backbone.patch,
            num_channels=backbone.in_channels,
            decoder_hidden_size=settings.decoder_dim,
            decoder_num_hidden_layers=settings.decoder_depth,
            decoder_num_attention_heads=settings.decoder_heads,
            decoder_intermediate_size=4 * settings.decoder_dim,
            mask_ratio=settings.mask_ratio,
            norm_pix_loss=settings.normalise,
        )
        self.model = ViTMAEForPreTraining(config)
        with torch.no_grad():
            self.model.vit.embeddings.position_embeddings.copy_(sine_positions(backbone.width, backbone.grid))
            self.model.decoder.decoder_pos_embed.copy_(sine_positions(settings.decoder_dim, backbone.grid))
        self.transform = transforms.MAETransform(
            input_size=recipe.view_size, min_scale=recipe.views.geometry.scale[0], normalize=GREY
        )
        self.optimiser = adamw(self, recipe)
        self.parts = [
            (self.model.vit, "forward", "forward"),
            (self.model.decoder, "forward", "heads"),
        ]

    def views(self, images: list[Any]) -> list[Tensor]:
        return stacked([self.transform(image) for image in images])

    def loss(self, views: list[Tensor]) -> Tensor:
        loss: Tensor = self.model(pixel_values=views[0]).loss
        return loss

    def follow(self) -> None:
        pass


PEERS: dict[str, type[nn.Module]] = {
    "simclr": LightlySimCLR,
    "dino": LightlyDINO,
    "dinov2": LightlyDINOv2,
    "mae": TransformersMAE,
}
