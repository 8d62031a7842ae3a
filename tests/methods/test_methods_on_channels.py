"""Each method on images of twelve channels, as a seasonal composite has: all of them reach the loss and the weights."""

import pytest
import torch
from torch import Tensor

from groundswell import backbones, rng
from groundswell.backbones import BackboneSettings, build_backbone
from groundswell.methods.base import Method
from groundswell.training.building import build_method
from training.tiny import METHODS, tiny_recipe

CHANNELS = 12
IMAGES = torch.randn(4, CHANNELS, 48, 48, generator=torch.Generator().manual_seed(0))
VIT = BackboneSettings(name="vit-ti/8", image_size=32)
RECIPES: dict[str, dict[str, object]] = {"simclr": {}, "simclr on a transformer": {"backbone": VIT}, **METHODS}


def loss_of(name: str, images: Tensor) -> tuple[Method, Tensor]:
    """A fresh method, and its loss of the images."""
    recipe = tiny_recipe(**RECIPES[name])
    method = build_method(recipe, build_backbone(recipe.backbone, CHANNELS, seed=0), ()).train()
    return method, method.loss(images, rng.keys(0, range(len(images))))[0]


@pytest.mark.parametrize("name", RECIPES)
def test_twelve_channels_are_learnt_from(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backbones.VIT_SIZES, "ti", (24, 2, 3))
    method, loss = loss_of(name, IMAGES)
    loss.backward()
    assert torch.isfinite(loss)
    for key, p in method.named_parameters():
        assert (p.grad is not None) is p.requires_grad, key
        if p.grad is not None:
            assert torch.isfinite(p.grad).all(), key
            assert float(p.grad.abs().sum()) > 0, key
    first = next(p for p in method.backbone.parameters() if p.ndim == 4)  # [out, in, height, width]
    assert first.grad is not None
    assert first.grad.shape[1] == CHANNELS
    assert bool((first.grad.abs().sum((0, 2, 3)) > 0).all())


@pytest.mark.parametrize("name", RECIPES)
@torch.no_grad()
def test_the_loss_hears_of_every_channel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backbones.VIT_SIZES, "ti", (24, 2, 3))
    images = IMAGES[:2]
    loss = loss_of(name, images)[1].item()
    assert loss_of(name, images)[1].item() == loss  # so that nothing but a channel can make it another
    for channel in range(CHANNELS):
        changed = images.clone()
        changed[:, channel] *= -1
        assert loss_of(name, changed)[1].item() != loss, channel
