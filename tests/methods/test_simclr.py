"""SimCLR: the head that the paper describes, and the loss computed again by hand."""

import math

import pytest
import torch
from torch import Tensor

from groundswell import rng
from groundswell.backbones import BackboneSettings, build_backbone
from groundswell.methods.simclr import SimCLR, SimCLRSettings, observe, projection_head


def noisy(images: Tensor, keys: Tensor) -> Tensor:
    """A view that adds to each image a number of its own."""
    return images + 0.3 * rng.normal(keys, "offset")[:, :, None, None]


def tiny(**changes: object) -> SimCLR:
    backbone = build_backbone(BackboneSettings(name="resnet18", width=4), 1, seed=0)
    return SimCLR(SimCLRSettings(**changes), backbone, noisy, seed=0)  # type: ignore[arg-type]


def test_parameter_count_of_the_published_head() -> None:
    # Reference note C: SimCLR 2048-2048-128, bias-free with BN, no shift in the last: 4,460,672.
    trained = [p for p in projection_head(2048, 2048, 128, 2, seed=0).parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == 4_460_672
    # SC's own three layers: 8,659,072.
    trained = [p for p in projection_head(2048, 2048, 128, 3, seed=0).parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == 8_659_072


def test_the_head_is_a_function_of_its_seed_and_has_the_published_spread() -> None:
    first, again, other = (projection_head(256, 256, 128, 2, seed=s)[0].weight for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # N(0, 0.01^2) over 65,536 weights: the standard error of the deviation is 0.01 / sqrt(2n) = 2.8e-5.
    assert float(first.detach().std()) == pytest.approx(0.01, abs=5 * 2.8e-5)


def test_loss_equals_the_paper_s_double_loop() -> None:
    method = tiny(temperature=0.5)
    images = torch.randn(5, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    keys = rng.keys(0, range(5))
    loss, observed = method.loss(images, keys)

    both = torch.cat([noisy(images, rng.keys(0, keys, name)) for name in ("first view", "second view")])
    z = torch.nn.functional.normalize(method.head(method.backbone(both).pooled), dim=1).detach().double()
    terms = []
    for i in range(10):
        partner = (i + 5) % 10
        others = [j for j in range(10) if j != i]
        exponents = [float(z[i] @ z[j]) / 0.5 for j in others]
        terms.append(-float(z[i] @ z[partner]) / 0.5 + math.log(sum(math.exp(e) for e in exponents)))
    # float32 network against float64 loop
    assert loss.item() == pytest.approx(sum(terms) / 10, rel=1e-5)
    assert float(observed.scalars["chance_ratio"]) == pytest.approx(loss.item() / math.log(9), rel=1e-6)


def test_the_loss_does_not_depend_on_the_order_of_the_batch_and_views_differ() -> None:
    method = tiny()
    images = torch.randn(6, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    keys = rng.keys(3, range(6))
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    loss, _ = method.loss(images, keys)
    permuted, _ = method.loss(images[order], keys[order])
    assert permuted.item() == pytest.approx(loss.item(), rel=1e-5)
    one, two = (rng.keys(0, keys, name) for name in ("first view", "second view"))
    assert not torch.equal(one, two)


def test_observed_figures_of_a_batch_known_by_hand() -> None:
    e = torch.eye(4)
    # Views agree perfectly and images are orthogonal.
    seen = observe(e[:2], e[:2], e).scalars
    assert {k: float(v) for k, v in seen.items()} == {"top1": 1.0, "positive_cosine": 1.0, "negative_cosine": 0.0}
    # The second views are swapped: each view's best match is the wrong image.
    seen = observe(e[:2], e[:2].flip(0), e).scalars
    assert float(seen["top1"]) == 0.0
    assert float(seen["positive_cosine"]) == 0.0
    # Of the 12 - 4 ordered pairs of different images, the 4 swapped ones have cosine 1.
    assert float(seen["negative_cosine"]) == pytest.approx(0.5)


def test_the_shift_of_the_last_norm_is_not_trained() -> None:
    method = tiny()
    method.loss(torch.randn(4, 1, 32, 32), rng.keys(0, range(4)))[0].backward()
    assert method.head[-1].bias.grad is None
    assert torch.equal(method.head[-1].bias.detach(), torch.zeros(128))
    trained = [p for p in method.parameters() if p.requires_grad]
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in trained)
