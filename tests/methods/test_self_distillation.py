"""What DINO and DINOv2 share, asked of both: schedules, frozen prototypes, drop path, what reaches the heads."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from groundswell import rng
from groundswell.backbones import BackboneSettings, VisionTransformer, build_backbone
from groundswell.backbones.batch_norm import BatchNorm1d
from groundswell.methods import dino, dinov2
from groundswell.methods.dino import DINO, DINOSettings
from groundswell.methods.dinov2 import DINOv2, DINOv2Settings
from groundswell.views.crops import MultiCrop
from groundswell.views.policies import ViewPolicy, ViewSettings

BOTH = pytest.mark.parametrize("name", ["dino", "dinov2"])
OF = {"dino": dino, "dinov2": dinov2}
SMALL = {"prototypes": 16, "head_hidden": 32, "head_bottleneck": 8}


def tiny(name: str, **changes: Any) -> DINO | DINOv2:
    views = ViewSettings.model_validate({"policy": "ocean"})
    crops = MultiCrop(ViewPolicy(views, 32), ViewPolicy(views, 16), n_local=3)
    backbone = build_backbone(BackboneSettings(name="vit-ti/8", image_size=32), 1, seed=0)
    assert isinstance(backbone, VisionTransformer)
    if name == "dino":
        return DINO(DINOSettings(**(SMALL | changes)), backbone, crops, seed=0).train()
    return DINOv2(DINOv2Settings(**(SMALL | changes)), backbone, crops, seed=0).train()


def batch(count: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 1, 48, 48, generator=torch.Generator().manual_seed(0)), rng.keys(0, range(count))


def spied(monkeypatch: pytest.MonkeyPatch, module: Any, function: str) -> list[tuple[Any, ...]]:
    """The arguments of the calls of a function that a module uses, which does its work as before."""
    calls: list[tuple[Any, ...]] = []
    plain: Callable[..., Any] = getattr(module, function)
    monkeypatch.setattr(module, function, lambda *given: (calls.append(given), plain(*given))[1])
    return calls


@BOTH
@pytest.mark.parametrize("centring", ["centre", "sinkhorn"])
def test_the_temperature_of_the_teacher_rises_over_its_warm_up(
    name: str, centring: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"teacher_temperature": 0.04, "final_teacher_temperature": 0.08, "temperature_warmup": 0.4}
    method = tiny(name, centring=centring, **settings)
    calls = spied(monkeypatch, OF[name], {"centre": "centred", "sinkhorn": "sinkhorn_knopp"}[centring])
    for progress, expected in ((0.0, 0.04), (0.1, 0.05), (0.4, 0.08), (1.0, 0.08)):
        calls.clear()
        method.progress = progress
        method.loss(*batch())
        assert [call[-1] for call in calls] == pytest.approx([expected] * len(calls))
        assert len(calls) == {"dino": 1, "dinov2": 2}[name]


@BOTH
@pytest.mark.parametrize(("progress", "momentum"), [(0.0, 0.8), (0.5, 0.85), (1.0, 0.9)])
def test_the_momentum_goes_along_its_cosine(name: str, progress: float, momentum: float) -> None:
    method = tiny(name, momentum=0.8, final_momentum=0.9)
    with torch.no_grad():
        for p in (*method.backbone.parameters(), *method.head.parameters()):
            p += 1.0
    method.progress = progress
    method.after_update()
    for teacher, student in ((method.teacher_backbone, method.backbone), (method.teacher_head, method.head)):
        for theirs, ours in zip(teacher.parameters(), student.parameters(), strict=True):
            torch.testing.assert_close(ours - theirs, torch.full_like(ours, momentum), atol=1e-5, rtol=0)


@BOTH
def test_prototypes_are_frozen_only_before_their_part_of_the_run(name: str) -> None:
    method = tiny(name, freeze_prototypes=0.2)
    for progress, frozen in ((0.0, True), (0.19, True), (0.2, False), (1.0, False)):
        method.zero_grad()
        method.progress = progress
        method.loss(*batch())[0].backward()
        method.before_update()
        assert (method.head.last.direction.grad is None) == frozen
        assert method.head.mlp[0].weight.grad is not None


@BOTH
def test_branches_are_dropped_for_the_student_and_for_each_view_by_itself(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = tiny(name, drop_path=0.4)
    rates = {"dino": [0.4 * i / 11 for i in range(12)], "dinov2": [0.4] * 12}[name]
    assert method.backbone.drop_rates == pytest.approx(rates)
    seen: list[tuple[Any, int, Tensor | None]] = []
    plain = VisionTransformer.transform

    def transform(self: VisionTransformer, x: Tensor, draws: Tensor | None = None, *rest: Any, **named: Any) -> Tensor:
        seen.append((self, len(x), draws))
        return plain(self, x, draws, *rest, **named)

    monkeypatch.setattr(VisionTransformer, "transform", transform)
    method.loss(*batch())
    teacher, whole, small = seen
    assert (teacher[0], teacher[1], teacher[2]) == (method.teacher_backbone, 8, None)
    assert [(of, count) for of, count, _ in (whole, small)] == [(method.backbone, 8), (method.backbone, 12)]
    draws = torch.cat([part for _, _, part in (whole, small) if part is not None])
    assert draws.shape == (20, 24)
    assert len(draws.unique(dim=0)) == 20  # no two views, global or local, of one image or of two, go the same way


@BOTH
def test_settings_reach_the_heads_and_the_centres(name: str) -> None:
    plain = tiny(name)
    assert not any(isinstance(module, BatchNorm1d) for module in plain.head.modules())
    assert plain.head.last.scale.requires_grad == (name == "dinov2")
    method = tiny(name, head_norm=True, train_prototype_scale=name == "dino", centre_momentum=0.75)
    assert sum(isinstance(module, BatchNorm1d) for module in method.head.modules()) == 2
    assert method.head.last.scale.requires_grad == (name == "dino")
    centres = [method.centre] if isinstance(method, DINO) else [method.centre, method.patch_centre]
    for centre in centres:
        centre.update(torch.ones(4, 16))
        torch.testing.assert_close(centre.value, torch.full_like(centre.value, 0.25))


@BOTH
def test_figures_of_the_choices_are_those_without_sinkhorn_knopp(name: str) -> None:
    method = tiny(name, centring="sinkhorn", teacher_temperature=0.05, final_teacher_temperature=0.05)
    with torch.no_grad():  # a head that likes one prototype in every image: Sinkhorn-Knopp uses all of them even so
        method.teacher_head.last.direction[3:] = -method.teacher_head.last.direction[:1]
        method.teacher_head.last.direction[1:3] = method.teacher_head.last.direction[:1]
    images, keys = batch()
    views = copy.deepcopy(method).crops(images, keys)
    logits = method.teacher_head(method.teacher_backbone(views.globals).pooled)
    mean = torch.softmax(logits / 0.05, dim=1).mean(0)
    used = method.loss(images, keys)[1].scalars["prototypes_used"]
    torch.testing.assert_close(used, torch.exp(-(mean * mean.log()).sum()))


def test_heads_of_images_and_of_patches_begin_apart() -> None:
    method = tiny("dinov2", separate_heads=True)
    assert isinstance(method, DINOv2)
    assert method.patch_head is not None
    assert not torch.equal(method.head.last.direction, method.patch_head.last.direction)
    assert not torch.equal(method.head.mlp[2].weight, method.patch_head.mlp[2].weight)
