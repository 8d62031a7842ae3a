"""Optimisers against plain NumPy, and who decays."""

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from groundswell.backbones import BackboneSettings, build_backbone
from groundswell.training.optimisers import (
    LARS,
    AdamWSettings,
    LARSSettings,
    OptimiserSettings,
    SGDSettings,
    build_optimiser,
    clip_gradients,
    parameter_groups,
    rate_scale,
    set_rates,
)


def test_lars_equals_its_rule_written_in_numpy() -> None:
    random = np.random.default_rng(0)
    layer = nn.Linear(3, 4).double()
    settings = LARSSettings(name="lars", lr=0.3, momentum=0.9, weight_decay=0.01, trust=0.001)
    optimiser = build_optimiser(settings, layer)
    weight, bias = layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()
    v_weight, v_bias = np.zeros_like(weight), np.zeros_like(bias)
    for step in range(6):
        lr = 0.3 / (1 + step)  # the rate changes between steps: it must sit inside the buffer
        for group in optimiser.param_groups:
            group["lr"] = lr
        g_weight, g_bias = random.normal(size=(4, 3)), random.normal(size=4)
        layer.weight.grad, layer.bias.grad = torch.tensor(g_weight), torch.tensor(g_bias)
        optimiser.step()
        g = g_weight + 0.01 * weight
        trust = 0.001 * np.sqrt((weight**2).sum()) / np.sqrt((g**2).sum())
        v_weight = 0.9 * v_weight + lr * trust * g
        weight = weight - v_weight
        v_bias = 0.9 * v_bias + lr * g_bias  # no decay, trust 1
        bias = bias - v_bias
    np.testing.assert_allclose(layer.weight.detach().numpy(), weight, rtol=1e-12)
    np.testing.assert_allclose(layer.bias.detach().numpy(), bias, rtol=1e-12)


def test_lars_takes_a_trust_of_one_where_a_norm_is_zero() -> None:
    layer = nn.Linear(2, 2, bias=False).double()
    nn.init.zeros_(layer.weight)
    optimiser = build_optimiser(LARSSettings(name="lars", lr=0.5, weight_decay=0.0), layer)
    layer.weight.grad = torch.ones(2, 2, dtype=torch.float64)
    optimiser.step()
    assert torch.equal(layer.weight.detach(), torch.full((2, 2), -0.5, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_a_lars_step_of_a_weight_does_not_depend_on_the_scale_of_its_gradient(scale: float) -> None:
    # |dw| = lr * trust * |w| for any gradient, which is why the loss may carry any constant factor.
    layer = nn.Linear(8, 8, bias=False).double()
    before = layer.weight.detach().clone()
    optimiser = build_optimiser(LARSSettings(name="lars", lr=2.0, weight_decay=0.0), layer)
    layer.weight.grad = scale * torch.randn(8, 8, dtype=torch.float64)
    optimiser.step()
    moved = (layer.weight.detach() - before).norm() / before.norm()
    assert float(moved) == pytest.approx(2.0 * 0.001, rel=1e-12)


def test_neighbours_learn_at_the_rate_of_the_block_behind_them() -> None:
    of = [
        rate_scale(f"backbone.{name}", 12, 0.9, 0.2)
        for name in ("blocks.0.mlp", "neighbours.conv.weight", "blocks.1.mlp")
    ]
    assert of == pytest.approx([0.9**12, 0.9**11, 0.9**11])


def test_biases_and_norms_do_not_decay_and_nothing_is_left_out() -> None:
    backbone = build_backbone(BackboneSettings(name="resnet18", width=4), 1, seed=0)
    decayed, plain = parameter_groups(backbone, 0.1)
    names = {id(p): name for name, p in backbone.named_parameters()}
    assert {names[id(p)].rsplit(".", 1)[-1] for p in decayed["params"]} == {"weight"}
    assert all(p.ndim == 4 for p in decayed["params"])
    assert len(decayed["params"]) == 20  # ResNet18: 1 + 16 convolutions and 3 shortcuts
    assert len(plain["params"]) == 40  # a scale and a shift for each of them
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        (
            AdamWSettings(name="adamw", lr=0.01, betas=(0.8, 0.95), weight_decay=0.1),
            lambda groups: torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.95), fused=False),
        ),
        (
            SGDSettings(name="sgd", lr=0.01, momentum=0.7, weight_decay=0.1),
            lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.7),
        ),
    ],
)
def test_adamw_and_sgd_are_those_of_torch_with_our_groups(settings: OptimiserSettings, reference: object) -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2).double(), nn.Linear(3, 2).double()
    theirs.load_state_dict(ours.state_dict())
    groups = [
        {"params": [theirs.weight], "weight_decay": 0.1},
        {"params": [theirs.bias], "weight_decay": 0.0},
    ]
    first, second = build_optimiser(settings, ours), reference(groups)  # type: ignore[operator]
    for _ in range(4):
        gradient = torch.randn(2, 3, dtype=torch.float64)
        for layer in (ours, theirs):
            layer.weight.grad, layer.bias.grad = gradient.clone(), gradient[:, 0].clone()
        first.step()
        second.step()
    # The fused kernel orders its operations differently: equal to rounding in float64.
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-12, atol=1e-14)


def test_lars_takes_all_its_settings_and_adapts_weights_alone() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    settings = LARSSettings(name="lars", lr=0.3, momentum=0.7, weight_decay=0.1, trust=0.02)
    optimiser = build_optimiser(settings, layer)
    reference = LARS(
        [
            {"params": [weight := layer.weight.detach().clone().requires_grad_()], "weight_decay": 0.1},
            {"params": [bias := layer.bias.detach().clone().requires_grad_()], "weight_decay": 0.0, "adapt": False},
        ],
        *(0.3, 0.7),
        trust=0.02,
    )
    for _ in range(3):
        gradient = torch.randn(2, 3, dtype=torch.float64)
        layer.weight.grad, weight.grad = gradient.clone(), gradient.clone()
        layer.bias.grad, bias.grad = gradient[:, 0].clone(), gradient[:, 0].clone()
        optimiser.step()
        reference.step()
    torch.testing.assert_close(layer.weight, weight, rtol=0, atol=0)
    torch.testing.assert_close(layer.bias, bias, rtol=0, atol=0)


@pytest.mark.parametrize(("scaling", "expected"), [("none", 0.3), ("linear", 0.3 * 4096 / 256), ("sqrt", 0.3 * 64)])
def test_the_peak_follows_the_batch_by_the_published_rules(scaling: str, expected: float) -> None:
    settings = TypeAdapter(OptimiserSettings).validate_python({"name": "lars", "lr": 0.3, "scaling": scaling})
    assert settings.peak(4096) == pytest.approx(expected)


def test_both_published_scalings_agree_where_the_paper_says_they_do() -> None:
    # SimCLR B.1: 0.3 * batch / 256 and 0.075 * sqrt(batch) are the same at 4096.
    linear = LARSSettings(name="lars", lr=0.3, scaling="linear").peak(4096)
    assert linear == pytest.approx(LARSSettings(name="lars", lr=0.075, scaling="sqrt").peak(4096))


def like_a_method() -> nn.Module:
    """A module with the names of a method: a vision transformer as `backbone`, and a head."""
    method = nn.Module()
    method.backbone = build_backbone(BackboneSettings(name="vit-ti/8", image_size=32, registers=1), 1, seed=0)
    method.backbone.prepare(layer_scale=0.1, mask_token=True)
    method.head = nn.Linear(192, 4)
    return method


def test_layer_decay_follows_the_depth() -> None:
    method = like_a_method()
    groups = parameter_groups(method, 0.04, layer_decay=0.9, patch_rate=0.2)
    found = {id(p): group for group in groups for p in group["params"]}
    names = {name: found[id(p)] for name, p in method.named_parameters()}
    assert len(found) == len(list(method.parameters()))
    # Reference note A3: 0.9^(12 - i) for block i, 0.9^13 = 0.254 for embeddings and tokens, times 0.2 = 0.0508 for
    # the patches, 1 for the final norm and the heads.
    expected = {
        "backbone.blocks.0.attn.qkv.weight": (0.9**12, 0.04),
        "backbone.blocks.11.mlp.fc2.weight": (0.9, 0.04),
        "backbone.blocks.11.mlp.fc2.bias": (0.9, 0.0),
        "backbone.blocks.3.layer_scale1": (0.9**9, 0.0),
        "backbone.blocks.3.norm1.weight": (0.9**9, 0.0),
        "backbone.cls_token": (0.9**13, 0.04),
        "backbone.mask_token": (0.9**13, 0.04),
        "backbone.register_tokens": (0.9**13, 0.04),
        "backbone.pos_embed": (0.9**13, 0.04),
        "backbone.patch_embed.proj.weight": (0.9**13 * 0.2, 0.04),
        "backbone.patch_embed.proj.bias": (0.9**13 * 0.2, 0.0),
        "backbone.norm.weight": (1.0, 0.0),
        "head.weight": (1.0, 0.04),
        "head.bias": (1.0, 0.0),
    }
    for name, (scale, decay) in expected.items():
        assert names[name]["lr_scale"] == pytest.approx(scale), name
        assert names[name]["weight_decay"] == decay, name
    assert pytest.approx(0.254, abs=5e-4) == 0.9**13
    assert len(parameter_groups(method, 0.04)) == 2


def test_rates_and_decay_of_a_step_reach_those_who_have_them() -> None:
    method = like_a_method()
    settings = AdamWSettings(name="adamw", lr=1.0, weight_decay=0.04, final_weight_decay=0.4, layer_decay=0.9)
    optimiser = build_optimiser(settings, method)
    # D1: a cosine from 0.04 to 0.4, half-way at half the run.
    assert [settings.decay(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.04, 0.22, 0.4])
    assert AdamWSettings(name="adamw", lr=1.0, weight_decay=0.04).decay(0.7) == 0.04
    set_rates(optimiser, 0.5, settings.decay(0.5))
    for group in optimiser.param_groups:
        assert group["lr"] == pytest.approx(0.5 * group["lr_scale"])
        assert group["weight_decay"] == (pytest.approx(0.22) if group["decays"] else 0.0)


@pytest.mark.parametrize(
    ("scope", "expected"),
    # Gradients of norm 3 and 4 in one part, 12 in another: 5 and 12 together make 13.
    [("whole", (3 / 13, 4 / 13, 12 / 13)), ("part", (3 / 5, 4 / 5, 1.0)), ("tensor", (1.0, 1.0, 1.0))],
)
def test_clipping_by_scope(scope: str, expected: tuple[float, ...]) -> None:
    module = nn.ModuleDict({"backbone": nn.Linear(1, 1), "head": nn.Linear(1, 1, bias=False)}).double()
    values = (3.0, 4.0, 12.0)
    for p, value in zip(module.parameters(), values, strict=True):
        p.grad = torch.full_like(p, value)
    norm = clip_gradients(module, 1.0, scope)  # type: ignore[arg-type]
    assert float(norm) == pytest.approx(13.0)
    # torch adds 1e-6 to the norm it divides by
    assert [float(p.grad) for p in module.parameters()] == pytest.approx(expected, rel=1e-5)
    for p, value in zip(module.parameters(), values, strict=True):
        p.grad = torch.full_like(p, value)
    assert float(clip_gradients(module, None, scope)) == pytest.approx(13.0)  # type: ignore[arg-type]
    assert [float(p.grad) for p in module.parameters()] == list(values)
    clip_gradients(module, 20.0, scope)  # type: ignore[arg-type]
    assert [float(p.grad) for p in module.parameters()] == list(values)  # never scaled up
