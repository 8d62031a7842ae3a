"""DINO as a whole: the loss computed again by hand, who learns, how the teacher follows, what a step remembers."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from groundswell import rng
from groundswell.backbones import BackboneSettings, build_backbone
from groundswell.methods.dino import DINO, DINOSettings
from groundswell.views.crops import MultiCrop
from groundswell.views.policies import ViewPolicy, ViewSettings

VIT = BackboneSettings(name="vit-ti/8", image_size=32)
RESNET = BackboneSettings(name="resnet18", width=4)
SMALL = {"prototypes": 16, "head_hidden": 32, "head_bottleneck": 8}


def crops(n_local: int = 3) -> MultiCrop:
    views = ViewSettings.model_validate({"policy": "ocean"})
    return MultiCrop(ViewPolicy(views, 32), ViewPolicy(views, 16), n_local=n_local)


def tiny(backbone: BackboneSettings = RESNET, **changes: Any) -> DINO:
    made = DINO(DINOSettings(**(SMALL | changes)), build_backbone(backbone, 1, seed=0), crops(), seed=0)
    return made.train()


def batch(count: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 1, 48, 48, generator=torch.Generator().manual_seed(0)), rng.keys(0, range(count))


@pytest.mark.parametrize("centring", ["centre", "sinkhorn"])
def test_loss_equals_the_published_loop(centring: str) -> None:
    method = tiny(centring=centring, drop_path=0.0)
    images, keys = batch()
    with torch.no_grad():  # a teacher and a centre of their own, as later in a run
        for p in method.teacher_backbone.parameters():
            p += 0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
        method.centre.value += torch.linspace(-0.1, 0.1, 16)
    before = copy.deepcopy(method)
    method.progress = 0.15  # half-way through the warm-up of the temperature: 0.055
    loss, observed = method.loss(images, keys)

    views = before.crops(images, keys)
    with torch.no_grad():
        teacher = before.teacher_head(before.teacher_backbone(views.globals).pooled).double().view(2, 4, 16)
        pooled = [before.backbone(v).pooled for v in (views.globals, views.locals)]
        student = before.head(torch.cat(pooled)).double().view(5, 4, 16)
    if centring == "centre":
        p = torch.softmax((teacher - before.centre.value.double()) / 0.055, dim=2)
    else:
        q = torch.exp(teacher.flatten(0, 1) / 0.055)
        for _ in range(3):
            q = q / q.sum(0)
            q = q / q.sum(1, keepdim=True)
        p = q.view(2, 4, 16)
    terms = [
        -(p[u] * torch.log_softmax(student[v] / 0.1, dim=1)).sum(1).mean() for u in range(2) for v in range(5) if u != v
    ]
    assert len(terms) == 8  # 2 (2 + 3) - 2
    # float32 network and temperatures against a float64 loop
    assert loss.item() == pytest.approx(float(torch.stack(terms).mean()), rel=1e-5)
    entropy = torch.special.entr(p).sum(2).mean()
    assert float(observed.scalars["teacher_entropy"]) == pytest.approx(float(entropy), rel=1e-4)
    assert float(observed.scalars["kl"]) == pytest.approx(loss.item() - float(entropy), rel=1e-3)
    # The centre has moved after its use, by a tenth of the way to the mean of the raw logits; Sinkhorn-Knopp has none.
    step = 0.1 if centring == "centre" else 0.0
    expected = (1 - step) * before.centre.value + step * teacher.mean((0, 1)).float()
    torch.testing.assert_close(method.centre.value, expected, rtol=1e-4, atol=1e-6)


def test_a_fresh_run_starts_within_the_published_bounds() -> None:
    # First loss between ln K - 0.78 (identical embeddings) and ln K + 0.20 (independent ones); 256-wide bottleneck.
    method = tiny(VIT, prototypes=1024, head_bottleneck=256)
    loss, _ = method.loss(*batch(8))
    assert math.log(1024) - 0.78 < loss.item() < math.log(1024) + 0.20


@pytest.mark.parametrize("backbone", [VIT, RESNET])
def test_the_student_learns_and_the_teacher_does_not(backbone: BackboneSettings) -> None:
    method = tiny(backbone)
    method.loss(*batch())[0].backward()
    student = [*method.backbone.parameters(), *method.head.mlp.parameters(), method.head.last.direction]
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in student)
    assert all(p.grad is None and not p.requires_grad for p in method.teacher_backbone.parameters())
    assert all(p.grad is None and not p.requires_grad for p in method.teacher_head.parameters())


def test_teacher_and_student_start_alike() -> None:
    method = tiny()
    pairs = [(method.teacher_backbone, method.backbone), (method.teacher_head, method.head)]
    for teacher, student in pairs:
        assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), student.parameters(), strict=True))
        assert not {id(p) for p in teacher.parameters()} & {id(p) for p in student.parameters()}


@pytest.mark.parametrize(("momentum", "steps"), [(0.9, 5), (1.0, 3), (0.0, 1)])
def test_the_teacher_follows_in_closed_form(momentum: float, steps: int) -> None:
    # k steps towards a fixed s from w0: s + (w0 - s) m^k.
    method = tiny(momentum=momentum, final_momentum=momentum)
    start = [p.clone() for p in method.teacher_backbone.parameters()]
    with torch.no_grad():
        for p in method.backbone.parameters():
            p += 1.0
    addresses = [p.data_ptr() for p in method.teacher_backbone.parameters()]
    for _ in range(steps):
        method.after_update()
    for before, now, student in zip(
        start, method.teacher_backbone.parameters(), method.backbone.parameters(), strict=True
    ):
        torch.testing.assert_close(now, student + (before - student) * momentum**steps, rtol=1e-5, atol=1e-6)
    assert addresses == [p.data_ptr() for p in method.teacher_backbone.parameters()]  # in place


def test_the_momentum_rises_to_one_along_a_cosine() -> None:
    method = tiny(momentum=0.9)
    seen = []
    for progress in (0.0, 0.5, 1.0):
        method.progress = progress
        with torch.no_grad():
            method.backbone.conv1.weight.fill_(1.0)
            method.teacher_backbone.conv1.weight.zero_()
        method.after_update()
        seen.append(1 - float(method.teacher_backbone.conv1.weight.mean()))
    assert seen == pytest.approx([0.9, 0.95, 1.0], abs=1e-6)


def test_prototypes_are_frozen_in_the_first_part_of_the_run() -> None:
    method = tiny(freeze_prototypes=0.2)
    for progress, frozen in ((0.1, True), (0.2, False)):
        method.progress = progress
        method.zero_grad()
        method.loss(*batch())[0].backward()
        method.before_update()
        assert (method.head.last.direction.grad is None) is frozen
        assert method.head.mlp[0].weight.grad is not None


def test_the_encoder_is_the_teacher_s_and_a_run_starts_from_one() -> None:
    method, other = tiny(VIT), build_backbone(VIT, 1, seed=9)
    method.start_from(other.state_dict())
    images = batch()[0][:, :, :32, :32]
    expected = other.eval()(images).pooled
    torch.testing.assert_close(method.encoder_backbone()(images).pooled, expected)
    with torch.no_grad():
        for p in method.backbone.parameters():
            p += 1.0  # the student goes its way
    torch.testing.assert_close(method.encoder_backbone()(images).pooled, expected)
    assert set(method.encoder_backbone().state_dict()) == set(other.state_dict())


def test_drop_path_grows_with_depth_and_touches_the_student_alone() -> None:
    method = tiny(VIT, drop_path=0.11)
    assert list(method.backbone.drop_rates) == pytest.approx([0.01 * i for i in range(12)])
    whole = copy.deepcopy(method)
    whole.backbone.prepare(drop_rates=[0.0] * 12)
    loss, observed = method.loss(*batch())
    without, seen = whole.loss(*batch())
    assert torch.equal(observed.features, seen.features)
    assert loss.item() != without.item()
    again = tiny(VIT, drop_path=0.11).loss(*batch())[0]
    assert torch.equal(loss, again)  # dropped by the keys


def test_the_loss_does_not_depend_on_the_order_of_the_batch() -> None:
    images, keys = batch(6)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    loss = tiny(VIT).loss(images, keys)[0]
    assert tiny(VIT).loss(images[order], keys[order])[0].item() == pytest.approx(loss.item(), rel=1e-5)


def test_the_figures_tell_both_collapses() -> None:
    method = tiny(VIT)
    with torch.no_grad():  # the teacher has lost sight of its input
        for p in (*method.teacher_head.mlp.parameters(), *method.head.mlp.parameters()):
            p.zero_()
    seen = method.loss(*batch())[1].scalars
    assert float(seen["teacher_uniformity"]) == pytest.approx(1.0, abs=1e-6)
    assert float(seen["kl"]) == pytest.approx(0.0, abs=1e-5)
    assert float(seen["prototypes_used"]) == pytest.approx(16.0, rel=1e-5)
    with torch.no_grad():  # one prototype wins everywhere
        method.centre.value[3] = -50.0
    seen = method.loss(*batch())[1].scalars
    assert float(seen["teacher_entropy"]) == pytest.approx(0.0, abs=1e-6)
    assert float(seen["prototypes_used"]) == pytest.approx(1.0, abs=1e-5)
