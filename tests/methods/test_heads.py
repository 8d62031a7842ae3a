"""The head of DINO: published sizes, the start that theory predicts, and the scale of its prototypes."""

import copy
import math

import pytest
import torch

from groundswell.methods.heads import PrototypeHead, Prototypes


def head(**changes: object) -> PrototypeHead:
    values = {"dim": 384, "hidden": 2048, "bottleneck": 256, "prototypes": 4096, "train_scale": True, "seed": 0}
    return PrototypeHead(**(values | changes), name="head")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dim", "prototypes", "count"),
    # Reference note C: 2048 D + 4,722,944 + 257 K, the scales of the prototypes counted.
    [
        (384, 4096, 6_562_048),
        (384, 16384, 9_720_064),
        (384, 65536, 22_352_128),
        (768, 65536, 23_138_560),
        (2048, 65536, 25_760_000),
    ],
)
def test_parameter_counts_are_the_published_ones(dim: int, prototypes: int, count: int) -> None:
    made = head(dim=dim, prototypes=prototypes)
    assert sum(p.numel() for p in made.parameters()) == count == 2048 * dim + 4_722_944 + 257 * prototypes


def test_a_frozen_scale_is_not_trained_and_stays_one() -> None:
    made = head(train_scale=False, prototypes=8)
    made(torch.randn(3, 384)).square().sum().backward()
    assert made.last.scale.grad is None
    assert made.last.direction.grad is not None
    assert torch.equal(made.last.scale.detach(), torch.ones(8, 1))


def test_a_fresh_head_starts_where_theory_says() -> None:
    # Unit vectors of 256 dimensions and K random directions: logits have a deviation of 1 / sqrt(256), so at a
    # temperature t the entropy of the choice is about ln K - 1 / (512 t^2): 7.11 nats for K = 4096 and t = 0.04.
    logits = head()(torch.randn(64, 384, generator=torch.Generator().manual_seed(0)))
    # 64 x 4096 logits, which share 64 bottlenecks: the deviation is known to about 1 %.
    assert float(logits.detach().std()) == pytest.approx(1 / 16, rel=0.03)
    entropy = torch.special.entr(torch.softmax(logits / 0.04, 1)).sum(1).mean()
    assert float(entropy.detach()) == pytest.approx(math.log(4096) - 1 / (512 * 0.04**2), abs=0.1)


def test_logits_are_cosines_times_the_scale() -> None:
    layer = Prototypes(6, 4, train_scale=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.direction.normal_(generator=generator)
        layer.scale.copy_(torch.tensor([[1.0], [2.0], [0.5], [3.0]]))
    x = torch.nn.functional.normalize(torch.randn(5, 6, generator=generator), dim=1)
    cosine = torch.nn.functional.cosine_similarity(x[:, None], layer.direction[None], dim=2)
    torch.testing.assert_close(layer(x), cosine * layer.scale[:, 0])
    with torch.no_grad():
        layer.direction.mul_(7)  # weight decay on a direction changes nothing but its effective learning rate
    torch.testing.assert_close(layer(x), cosine * layer.scale[:, 0])


def test_a_head_is_a_function_of_seed_and_name_and_can_be_copied() -> None:
    first, again, other = head(prototypes=8), head(prototypes=8), head(prototypes=8, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.last.direction, other.last.direction)
    x = torch.randn(2, 384)
    assert torch.equal(copy.deepcopy(first)(x), first(x))


def test_a_zero_row_in_half_precision_gives_no_nan() -> None:
    made = head(prototypes=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = made(torch.zeros(2, 384))
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


def test_with_batch_normalisation_what_all_features_share_changes_nothing() -> None:
    # The common part of what a ResNet pools is what a plain head ends up telling of every image.
    generator = torch.Generator().manual_seed(0)
    features, common = torch.randn(64, 384, generator=generator), 30 * torch.randn(384, generator=generator)
    plain, normed = head(prototypes=64), head(prototypes=64, norm=True)
    torch.testing.assert_close(normed(features + common), normed(features), rtol=0, atol=1e-4)  # of a deviation of 1/16
    spread = [float(made(features + common).std(0).mean().detach()) for made in (plain, normed)]
    assert spread[0] < 0.2 * spread[1]
