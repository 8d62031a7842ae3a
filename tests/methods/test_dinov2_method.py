"""DINOv2 as a whole: the three terms computed again by hand, what is masked and for whom, and what is left of it."""

import copy
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from groundswell import rng
from groundswell.backbones import BackboneSettings, VisionTransformer, build_backbone
from groundswell.methods.dinov2 import DINOv2, DINOv2Settings
from groundswell.views.crops import MultiCrop
from groundswell.views.masking import block_masks
from groundswell.views.policies import ViewPolicy, ViewSettings

VIT = BackboneSettings(name="vit-ti/8", image_size=32)
SMALL = {"prototypes": 16, "head_hidden": 32, "head_bottleneck": 8}


def tiny(n_local: int = 2, pooling: Literal["class", "stages"] = "class", **changes: Any) -> DINOv2:
    views = ViewSettings.model_validate({"policy": "ocean"})
    crops = MultiCrop(ViewPolicy(views, 32), ViewPolicy(views, 16), n_local=n_local)
    backbone = build_backbone(VIT.model_copy(update={"pooling": pooling}), 1, seed=0)
    assert isinstance(backbone, VisionTransformer)
    method = DINOv2(DINOv2Settings(**(SMALL | changes)), backbone, crops, seed=0)
    return method.train()


def batch(count: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 1, 48, 48, generator=torch.Generator().manual_seed(0)), rng.keys(0, range(count))


def shaken(method: DINOv2) -> DINOv2:
    """Weights, token and centres as they may be later in a run."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in (*method.parameters(), method.centre.value, method.patch_centre.value):
            p += 0.02 * torch.randn(p.shape, generator=generator)
    return method


@pytest.mark.parametrize(("separate", "pooling"), [(False, "class"), (True, "class"), (True, "stages")])
@pytest.mark.parametrize("centring", ["centre", "sinkhorn"])
def test_the_three_terms_equal_their_loops(centring: str, separate: bool, pooling: Literal["class", "stages"]) -> None:
    method = shaken(tiny(pooling=pooling, centring=centring, drop_path=0.0, separate_heads=separate))
    method.progress = 0.5  # the temperature has reached 0.07
    images, keys = batch()
    before = copy.deepcopy(method)
    loss, observed = method.loss(images, keys)

    views = before.crops(images, keys)
    both = torch.cat([rng.keys(0, keys, "mask", v) for v in range(2)])
    mask = block_masks(both, (4, 4), (0.1, 0.5), 0.5)
    assert 2 <= int(mask.any(1).sum()) <= 4  # half of the eight global views, less those whose block found no place
    with torch.no_grad():
        seen = before.teacher_backbone(views.globals)
        whole = before.backbone(views.globals, mask)
        small = before.backbone(views.locals)
        patch_head = before.patch_head or before.head
        teacher_patch_head = before.teacher_patch_head or before.teacher_head
        t_class, t_patch = before.teacher_head(seen.pooled), teacher_patch_head(seen.spatial.flatten(2).mT)
        s_class, s_patch = before.head(torch.cat([whole.pooled, small.pooled])), patch_head(whole.spatial.flatten(2).mT)

    def choices(logits: Tensor, centre: Tensor) -> Tensor:
        logits = logits.double()
        if centring == "centre":
            return torch.softmax((logits - centre.double()) / 0.07, dim=-1)
        q = torch.exp(logits / 0.07)
        for _ in range(3):
            q = q / q.sum(0)
            q = q / q.sum(1, keepdim=True)
        return q

    def cost(p: Tensor, s: Tensor) -> Tensor:
        return -(p * torch.log_softmax(s.double() / 0.1, dim=-1)).sum(-1)

    p = choices(t_class, before.centre.value).view(2, 4, 16)
    s = s_class.view(4, 4, 16)
    dino = torch.stack([cost(p[u], s[v]).mean() for u in range(2) for v in range(4) if u != v]).mean()
    patches = choices(t_patch[mask], before.patch_centre.value)
    costs = torch.zeros(8, 16, dtype=torch.float64)
    costs[mask] = cost(patches, s_patch[mask])
    ibot = sum(costs[i][mask[i]].mean() for i in range(8) if mask[i].any()) / 8
    spread = torch.zeros((), dtype=torch.float64)
    for view in whole.pooled.double().chunk(2):
        x = torch.nn.functional.normalize(view, dim=1)
        distances = torch.cdist(x, x).fill_diagonal_(torch.inf)
        spread -= distances.min(1).values.log().mean()

    figures = {name: float(value) for name, value in observed.scalars.items()}
    # float32 networks and losses against float64 loops
    assert figures["dino_loss"] == pytest.approx(float(dino), rel=2e-5)
    assert figures["ibot_loss"] == pytest.approx(float(ibot), rel=2e-5)
    assert figures["koleo_loss"] == pytest.approx(float(spread), rel=1e-4)
    assert loss.item() == pytest.approx(float(dino + ibot + 0.1 * spread), rel=2e-5)
    step = 0.1 if centring == "centre" else 0.0
    moved = (1 - step) * before.patch_centre.value + step * t_patch[mask].mean(0)
    torch.testing.assert_close(method.patch_centre.value, moved, rtol=1e-4, atol=1e-6)


def test_weights_of_the_terms() -> None:
    parts = {}
    for name in ("dino", "ibot", "koleo"):
        weights = {f"{other}_weight": float(other == name) for other in ("dino", "ibot", "koleo")}
        loss, observed = tiny(drop_path=0.0, **weights).loss(*batch())
        assert loss.item() == pytest.approx(float(observed.scalars[f"{name}_loss"]), rel=1e-6)
        parts[name] = loss.item()
    whole = tiny(drop_path=0.0, dino_weight=0.5, ibot_weight=2.0, koleo_weight=0.1).loss(*batch())[0]
    assert whole.item() == pytest.approx(0.5 * parts["dino"] + 2 * parts["ibot"] + 0.1 * parts["koleo"], rel=1e-5)


@pytest.mark.parametrize(
    "changes", [{"ibot_weight": 0}, {"mask_probability": 0}, {"mask_ratio": (0.0, 0.0)}], ids=lambda c: next(iter(c))
)
def test_no_term_at_all_is_refused_with_the_settings(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="nothing to learn"):
        DINOv2Settings(dino_weight=0, koleo_weight=0, **changes)
    DINOv2Settings(dino_weight=0, koleo_weight=0.1, **changes)


def test_everything_of_the_student_learns_and_nothing_of_the_teacher() -> None:
    method = shaken(tiny(separate_heads=True, drop_path=0.0))
    method.loss(*batch())[0].backward()
    for name, p in method.named_parameters():
        if name.startswith("teacher"):
            assert not p.requires_grad, name
            assert p.grad is None, name
        else:
            assert p.grad is not None, name
            assert float(p.grad.abs().sum()) > 0, name


def test_without_a_masked_patch_the_step_is_whole() -> None:
    # int(2 * 1 / 4) = 0 views are masked; several processes wait for the gradient of every parameter all the same.
    method = tiny(mask_probability=0.2)
    loss, observed = method.loss(*batch(2))
    loss.backward()
    assert float(observed.scalars["ibot_loss"]) == 0.0
    assert torch.equal(method.patch_centre.value, torch.zeros(16))
    assert all(p.grad is not None for name, p in method.named_parameters() if not name.startswith("teacher"))
    assert torch.isfinite(loss)


@pytest.mark.parametrize("ratio", [(0.5, 0.1), (-0.1, 0.5), (0.1, 1.5)])
def test_a_mask_ratio_that_is_none_is_refused_with_the_settings(ratio: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="mask_ratio"):
        DINOv2Settings(mask_ratio=ratio)


def test_no_local_views() -> None:
    loss, _ = tiny(n_local=0).loss(*batch())
    loss.backward()
    assert torch.isfinite(loss)


def test_the_teacher_sees_what_is_masked_for_the_student() -> None:
    method = tiny(drop_path=0.0, mask_probability=1.0)
    unmasked = tiny(drop_path=0.0, mask_probability=0.0)
    seen, same = method.loss(*batch())[1], unmasked.loss(*batch())[1]
    assert torch.equal(seen.features, same.features)
    assert float(seen.scalars["dino_loss"]) != float(same.scalars["dino_loss"])


@pytest.mark.parametrize("separate", [False, True])
def test_the_teacher_follows_in_every_part(separate: bool) -> None:
    method = tiny(separate_heads=separate, momentum=0.75, final_momentum=0.75)
    before = {name: p.clone() for name, p in method.named_parameters() if name.startswith("teacher")}
    with torch.no_grad():
        for name, p in method.named_parameters():
            if not name.startswith("teacher"):
                p += 1.0
    method.after_update()
    after = dict(method.named_parameters())
    assert len(before) > 100
    for name, p in before.items():
        torch.testing.assert_close(after[name], p + 0.25, rtol=1e-5, atol=1e-5)


def test_prototypes_of_both_heads_are_frozen_at_first() -> None:
    method = tiny(separate_heads=True, freeze_prototypes=0.1)
    method.loss(*batch())[0].backward()
    method.before_update()
    assert method.patch_head is not None
    frozen = [*method.head.last.parameters(), *method.patch_head.last.parameters()]
    assert [p.grad for p in frozen] == [None] * 4
    assert method.head.mlp[0].weight.grad is not None


def test_the_encoder_is_the_plain_teacher_and_a_run_starts_from_one() -> None:
    method = shaken(tiny(layer_scale=0.3))
    images = batch()[0][:, :, :32, :32]
    encoder = method.encoder_backbone()
    assert set(encoder.state_dict()) == set(build_backbone(VIT, 1, seed=0).state_dict())
    expected = method.teacher_backbone(images)
    torch.testing.assert_close(encoder(images).spatial, expected.spatial, rtol=1e-4, atol=1e-5)
    other = tiny()
    other.start_from(encoder.state_dict())
    for backbone in (other.backbone, other.teacher_backbone):
        torch.testing.assert_close(backbone(images).spatial, expected.spatial, rtol=1e-4, atol=1e-5)


def test_the_loss_does_not_depend_on_the_order_of_the_batch() -> None:
    # At a drop path above 0.1 the samples of smallest draws are kept, whatever their place. A layer scale of 1e-5 would
    # leave all class tokens within rounding of each other at the start, and KoLeo takes the log of their distances.
    images, keys = batch(6)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    loss = tiny(layer_scale=None).loss(images, keys)[0]
    permuted = tiny(layer_scale=None).loss(images[order], keys[order])[0]
    assert permuted.item() == pytest.approx(loss.item(), rel=1e-5)
