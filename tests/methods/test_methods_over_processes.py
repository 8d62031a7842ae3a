"""Each method on one batch split over two processes: the mean of their gradients is that of one process.

All in float64: a centre that is not shared changes some gradients by no more than 1e-4 of their largest number, and
float32 leaves half as much between the two.

Not so by definition, and left out here: KoLeo, whose neighbours are those of one process; which views DINOv2 masks and
how much (a share of the batch at hand); drop path above 0.1 (a number of the batch at hand).
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from groundswell import backbones, distributed, rng
from groundswell.backbones import BackboneSettings, build_backbone
from groundswell.methods import dinov2
from groundswell.methods.base import Method
from groundswell.training.building import build_method
from groundswell.training.recipe import Recipe
from processes import in_processes
from training.tiny import METHODS, tiny_recipe

N = 8
IMAGES = torch.randn(N, 1, 48, 48, generator=torch.Generator().manual_seed(0)).double()
KEYS = rng.keys(0, range(N))
VIT = BackboneSettings(name="vit-ti/8", image_size=32)
NO_KOLEO = {**METHODS["dinov2"]["method"], "koleo_weight": 0.0, "drop_path": 0.1}
TOLERANCE = 1e-10  # of the largest number of a tensor: float64 sums of another order, through all layers; seen: 1e-13

RECIPES: dict[str, dict[str, object]] = {
    "simclr": {},
    "simclr on a transformer": {"backbone": VIT},
    "dino": METHODS["dino"],
    "dino on a resnet, by Sinkhorn": METHODS["dino-resnet"],
    "dinov2": {**METHODS["dinov2"], "method": NO_KOLEO},
    "dinov2, by Sinkhorn": {
        **METHODS["dinov2"],
        "method": {**NO_KOLEO, "centring": "sinkhorn", "head_norm": True},
    },
    "mae": METHODS["mae"],
}


@pytest.fixture(autouse=True)
def _small_and_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers of two narrow blocks; whatever a method asks for in full precision, it gets in twice that."""
    monkeypatch.setitem(backbones.VIT_SIZES, "ti", (24, 2, 3))
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    monkeypatch.setattr(dinov2, "block_masks", masks_by_key)


def masks_by_key(keys: Tensor, grid: tuple[int, int], ratio: tuple[float, float], probability: float) -> Tensor:
    """A mask that is a function of its key alone; ragged."""
    return rng.uniform(keys, "mask", grid[0] * grid[1]) < rng.uniform(keys, "share", high=0.5)


def method_of(recipe: Recipe) -> Method:
    return build_method(recipe, build_backbone(recipe.backbone, 1, seed=0), ()).train().double()


def step(method: Method, part: slice) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Loss, gradients and buffers after two batches of the part: the second meets the centre that the first left."""
    method.loss(IMAGES[part].flip(0), KEYS[part].flip(0))
    method.zero_grad()
    loss, _ = method.loss(IMAGES[part], KEYS[part])
    loss.backward()
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, {n: b.double() for n, b in method.named_buffers()}


@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_give_the_gradients_of_one(name: str, tmp_path: Path) -> None:
    recipe = tiny_recipe(**RECIPES[name])
    value, whole, buffers = step(method_of(recipe), slice(0, N))

    def job(rank: int) -> list[object]:
        own, gradients, remembered = step(method_of(recipe), slice(rank * N // 2, (rank + 1) * N // 2))
        mean = {name: distributed.total(g) / 2 for name, g in gradients.items()}
        return [distributed.total(own) / 2, mean, remembered]

    scale = max(float(g.abs().max()) for g in whole.values())
    for mean, gradients, remembered in in_processes(job, 2, tmp_path):
        assert value.dtype == torch.float64
        torch.testing.assert_close(mean, value, rtol=1e-12, atol=0)
        assert gradients.keys() == whole.keys()
        for key, gradient in whole.items():
            # The floor is for what has no gradient but rounding, such as the bias of keys: seen, 1e-14.
            own = TOLERANCE * float(gradient.abs().max()) + 1e-12 * scale
            torch.testing.assert_close(gradients[key], gradient, rtol=0, atol=own, msg=key)
        for key, buffer in buffers.items():
            torch.testing.assert_close(remembered[key], buffer, rtol=1e-12, atol=1e-12, msg=key)


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "mae"])  # of MAE each image is judged alone
def test_without_the_collectives_the_gradients_would_differ(name: str) -> None:
    """The control: the mean over halves that do not know of each other, in the first layer of the backbone."""
    recipe = tiny_recipe(**RECIPES[name])
    whole = step(method_of(recipe), slice(0, N))[1]
    first = next(key for key in whole if key in ("backbone.conv1.weight", "backbone.patch_embed.proj.weight"))
    halves = [step(method_of(recipe), part)[1][first] for part in (slice(0, N // 2), slice(N // 2, N))]
    apart = float((torch.stack(halves).mean(0) - whole[first]).norm() / whole[first].norm())
    # DINO and DINOv2 without Sinkhorn-Knopp share a centre alone: 0.2 and 1.4 %. The others are off by 25 % and more.
    assert apart > (1e7 if name in ("dino", "dinov2") else 1e9) * TOLERANCE
