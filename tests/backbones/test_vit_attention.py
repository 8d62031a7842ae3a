"""Attention as it is read from a block, against what the block computes and against transformers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from groundswell.backbones import BackboneSettings, VisionTransformer, build_backbone, transformers_keys
from groundswell.backbones.blocks import Attention, Block, scaled
from groundswell.backbones.transformers_keys import to_transformers, transformers_config
from groundswell.errors import ModelError


def images(channels: int = 1, height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1))


def lively(backbone: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights large enough for attention to prefer something: fresh ones look at everything alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return backbone.eval()


def test_weights_times_values_are_what_the_fused_kernel_gives_and_rows_sum_to_one() -> None:
    attention = lively(Attention(48, 3))
    assert isinstance(attention, Attention)
    x = torch.randn(4, 21, 48, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        weights, values = attention.weights(x), attention.split(x)[2]
        by_hand = (weights @ values).transpose(1, 2).reshape(4, 21, 48)
        torch.testing.assert_close(by_hand, attention.attend(x), rtol=0, atol=1e-5)  # float32, sums of 21 terms
        torch.testing.assert_close(weights.sum(-1), torch.ones(4, 3, 21), rtol=0, atol=1e-6)
        torch.testing.assert_close(attention.weights(x, first=2), weights[:, :, :2], rtol=0, atol=1e-6)
    assert weights.std() > 0.01


@pytest.mark.parametrize("others", [[], [5, 9, 10, 61]])
def test_what_some_tokens_take_is_theirs_of_all_and_so_are_gradients(others: list[int]) -> None:
    """Without keys and values for the first tokens, with a bias of the keys that must not count, in float64."""
    attention = lively(Attention(48, 3)).double()
    assert isinstance(attention, Attention)
    x = torch.randn(4, 21, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    direction = torch.randn(4 + len(others), 48, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    of_all = attention.attend(x).flatten(0, 1)[[0, 21, 42, 63, *others]]
    found = attention.attend_some(x, torch.tensor(others, dtype=torch.int64))
    torch.testing.assert_close(found, of_all, rtol=0, atol=1e-13)
    weights = [x, attention.qkv.weight, attention.qkv.bias]
    gradients = [torch.autograd.grad((y * direction).sum(), weights) for y in (of_all, found)]
    for expected, mine in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)
    assert gradients[0][0].abs().mean() > 1e-3


def test_a_scale_in_the_map_is_one_on_what_comes_out() -> None:
    linear, x = lively(nn.Linear(5, 4)).double(), torch.randn(7, 5, dtype=torch.float64)
    assert isinstance(linear, nn.Linear)
    scale = torch.linspace(-0.4, 0.5, 4, dtype=torch.float64).requires_grad_()
    weights = [linear.weight, linear.bias, scale]
    outs = linear(x) * scale, scaled(linear, x, scale)
    torch.testing.assert_close(*outs, rtol=0, atol=1e-14)
    for pair in zip(*(torch.autograd.grad(y.square().sum(), weights) for y in outs), strict=True):
        torch.testing.assert_close(*pair, rtol=0, atol=1e-13)
    assert torch.equal(scaled(linear, x, None), linear(x))


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("block", [0, 1, -1])
def test_the_class_token_looks_at_patches_in_their_places_and_features_stay(registers: int, block: int) -> None:
    backbone = lively(VisionTransformer(48, 3, 3, 8, 1, image_size=32, registers=registers))
    assert isinstance(backbone, VisionTransformer)
    module = backbone.blocks[block]
    assert isinstance(module, Block)
    entered: list[torch.Tensor] = []
    module.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    x = images()
    with torch.no_grad():
        expected = backbone(x)
        features, weights = backbone.attention(x, block)
        whole = module.attn.weights(module.norm1(entered[0]))
    assert torch.equal(features.pooled, expected.pooled)
    assert torch.equal(features.spatial, expected.spatial)
    assert weights.shape == (2, 3, 4, 6)
    patches = whole[:, :, 0, 1 + registers :]
    torch.testing.assert_close(weights.flatten(2), patches, rtol=0, atol=1e-6)
    own = whole[:, :, 0, : 1 + registers].sum(-1)
    torch.testing.assert_close(weights.sum((2, 3)) + own, torch.ones(2, 3), rtol=0, atol=1e-6)
    assert weights[0, 0, 1, 4] == pytest.approx(whole[0, 0, 0, 1 + registers + 1 * 6 + 4].item(), abs=1e-6)


def test_a_block_that_is_not_there_is_an_error() -> None:
    backbone = VisionTransformer(48, 3, 3, 8, 1, image_size=32)
    for block in (3, -4):
        with pytest.raises(ModelError, match="blocks 0 to 2"):
            backbone.attention(images(), block)


@pytest.mark.parametrize("registers", [0, 4])
def test_every_block_attends_as_transformers_says(registers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.setitem(transformers_keys.VIT_SIZES, "ti", (192, 3, 3))
    monkeypatch.setattr("groundswell.backbones.VIT_SIZES", {"ti": (192, 3, 3)})
    settings = BackboneSettings(name="vit-ti/8", image_size=32, registers=registers)
    ours = lively(build_backbone(settings, 2, seed=0))
    assert isinstance(ours, VisionTransformer)
    config = transformers_config(settings, 2)
    assert config is not None
    theirs = transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model(**config), attn_implementation="eager"
    ).eval()
    theirs.load_state_dict(to_transformers(ours.state_dict(), config["model_type"]), strict=False)
    x = images(2, 32, 32)
    with torch.no_grad():
        attentions = theirs(x, output_attentions=True).attentions
        assert len(attentions) == 3
        for block, expected in enumerate(attentions):
            _, weights = ours.attention(x, block)
            patches = expected[:, :, 0, 1 + registers :]
            assert patches.std() > 1e-4
            torch.testing.assert_close(weights.flatten(2), patches, rtol=0, atol=1e-5)
