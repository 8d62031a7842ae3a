"""KoLeo against a double loop and closed forms."""

import math

import pytest
import torch
from torch import Tensor

from groundswell.objectives.koleo import koleo


def draw(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop(features: Tensor) -> float:
    rows = [row / float(row.norm()) for row in features]
    total = 0.0
    for i, own in enumerate(rows):
        total -= math.log(min(float((own - other).norm()) for j, other in enumerate(rows) if j != i))
    return total / len(rows)


def test_equals_the_double_loop() -> None:
    features = draw(20, 6)
    # The epsilons of the definition, 1e-8 of distances above 0.1.
    assert koleo(features).item() == pytest.approx(loop(features), rel=1e-6)


def test_closed_forms() -> None:
    pair = torch.tensor([[3.0, 0.0, 0.0], [-0.5, 0.0, 0.0]], dtype=torch.float64)
    assert koleo(pair).item() == pytest.approx(-math.log(2), rel=1e-7)  # antipodal
    # The axes and their opposites: every neighbour is at sqrt(2).
    axes = torch.cat([torch.eye(5), -torch.eye(5)]).double()
    assert koleo(axes).item() == pytest.approx(-0.5 * math.log(2), rel=1e-7)


def test_invariances() -> None:
    features = draw(9, 4)
    rotation, _ = torch.linalg.qr(draw(4, 4, seed=1))
    for other in (features @ rotation, features * torch.linspace(0.1, 50, 9)[:, None], features.flip(0)):
        torch.testing.assert_close(koleo(other), koleo(features), rtol=1e-7, atol=0)


def test_gradient_by_finite_differences() -> None:
    features = draw(8, 4, seed=3)
    unit = torch.nn.functional.normalize(features, dim=1)
    nearest = (unit @ unit.T).fill_diagonal_(-2).topk(2, dim=1).values
    assert (nearest[:, 0] - nearest[:, 1]).min() > 1e-3  # no neighbour changes within the step
    assert torch.autograd.gradcheck(koleo, (features.requires_grad_(),), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_duplicates_are_finite_and_pushed_apart_by_no_nan(dtype: torch.dtype) -> None:
    # In half precision the epsilon would be 0 and the logarithm infinite.
    features = torch.ones(4, 8, dtype=dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = koleo(features)
    loss.backward()
    assert features.grad is not None
    assert loss.item() == pytest.approx(-math.log(math.sqrt(8) * 1e-8 + 1e-8), rel=1e-3)
    assert torch.isfinite(features.grad).all()
