"""NT-Xent against a double loop, by finite differences, and by its invariances."""

import math

import numpy as np
import pytest
import torch

from groundswell.objectives.nt_xent import nt_xent


def projections(n: int = 7, d: int = 5, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    first, second = torch.randn(2, n, d, generator=generator, dtype=torch.float64).to(dtype)
    return first, second


def double_loop(first: np.ndarray, second: np.ndarray, temperature: float) -> float:
    rows = [row / math.sqrt(sum(row**2)) for row in np.concatenate([first, second])]
    total = 0.0
    for i, own in enumerate(rows):
        positive = rows[(i + len(first)) % len(rows)]
        others = sum(math.exp(own @ other / temperature) for j, other in enumerate(rows) if j != i)
        total += -(own @ positive) / temperature + math.log(others)
    return total / len(rows)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_equals_the_double_loop(temperature, n):
    first, second = projections(n)
    expected = double_loop(first.numpy(), second.numpy(), temperature)
    assert nt_xent(first, second, temperature).item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_gradient_by_finite_differences():
    first, second = (x.requires_grad_() for x in projections(4, 3))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.3), (first, second), eps=1e-6, atol=1e-6)


def test_equal_rows_give_the_log_of_the_number_of_others():
    rows = torch.ones(16, 8, dtype=torch.float64)
    assert nt_xent(rows, rows, 0.1).item() == pytest.approx(math.log(31), rel=1e-12)


def test_perfect_positives_with_orthogonal_negatives():
    rows = torch.eye(6, dtype=torch.float64)
    # One positive with similarity 1, 2N - 2 = 10 negatives with similarity 0.
    assert nt_xent(rows, rows, 0.2).item() == pytest.approx(-5 + math.log(math.exp(5) + 10), rel=1e-12)


def test_invariances():
    first, second = projections()
    loss = nt_xent(first, second, 0.1)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    scales = torch.linspace(0.01, 100, 7, dtype=torch.float64)[:, None]
    order = torch.tensor([3, 0, 6, 1, 2, 5, 4])
    for a, b in (
        (first * scales, second * scales.flip(0)),
        (first @ rotation, second @ rotation),
        (second, first),
        (first[order], second[order]),
    ):
        torch.testing.assert_close(nt_xent(a, b, 0.1), loss, rtol=1e-12, atol=1e-12)
    assert (nt_xent(first[order], second, 0.1) - loss).abs() > 0.1  # pairs matter


def test_the_gradient_is_orthogonal_to_its_row():
    first, second = (x.requires_grad_() for x in projections())
    nt_xent(first, second, 0.1).backward()
    for rows in (first, second):
        assert rows.grad is not None
        assert rows.grad.norm(dim=1).min() > 1e-3
        assert (rows.grad * rows).sum(1).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rows_are_compared_in_single_precision(dtype):
    first, second = projections(64, 32, dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(first, second, 0.05)  # logits up to 20: exp overflows in half precision
    expected = nt_xent(first.double(), second.double(), 0.05)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)  # float32 sums; the rows are already rounded


def test_a_zero_row_keeps_loss_and_gradient_finite():
    first, second = projections(4, 3, torch.float32)
    first[1] = 0
    first.requires_grad_()
    loss = nt_xent(first, second, 0.1)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(first.grad).all()
