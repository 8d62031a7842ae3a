"""iBOT's loss against a loop over images and patches, and what it must ignore."""

import math

import pytest
import torch
from torch import Tensor

from groundswell.objectives.ibot import ibot_loss

MASK = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)


def tokens(seed: int, prototypes: int = 5) -> Tensor:
    return torch.randn(3, 4, prototypes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> float:
    total = 0.0
    for image in range(len(mask)):
        costs = []
        for patch in range(mask.shape[1]):
            if mask[image, patch]:
                z = [float(x) / temperature for x in student[image, patch]]
                norm = math.log(sum(math.exp(x) for x in z))
                costs.append(-sum(float(p) * (x - norm) for p, x in zip(teacher[image, patch], z, strict=True)))
        total += sum(costs) / len(costs) if costs else 0.0
    return total / len(mask)


def test_equals_the_loop_and_counts_the_unmasked_image() -> None:
    student, teacher = tokens(0), torch.softmax(tokens(1), dim=2)
    expected = loop(student, teacher, MASK, 0.2)
    assert ibot_loss(student[MASK], teacher[MASK], MASK, 0.2).item() == pytest.approx(expected, rel=1e-12)
    flat = -(teacher * torch.log_softmax(student / 0.2, 2)).sum(2)[MASK].mean()
    assert abs(flat.item() - expected) > 0.05  # the mean over all masked patches is another number


def test_a_student_that_does_not_choose_costs_ln_k_for_each_masked_image() -> None:
    teacher = torch.softmax(tokens(1), dim=2)
    value = ibot_loss(torch.zeros(4, 5, dtype=torch.float64), teacher[MASK], MASK)
    assert value.item() == pytest.approx(2 / 3 * math.log(5), rel=1e-12)


def test_gradient_by_finite_differences_and_none_at_unmasked_patches() -> None:
    teacher = torch.softmax(tokens(1), dim=2)[MASK]
    student = tokens(0).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: ibot_loss(s[MASK], teacher, MASK, 0.3), (student,), eps=1e-6, atol=1e-6)
    ibot_loss(student[MASK], teacher, MASK).backward()
    assert student.grad is not None
    assert torch.equal(student.grad[~MASK], torch.zeros_like(student.grad[~MASK]))
    assert student.grad[MASK].abs().sum(1).min() > 0


def test_without_a_masked_patch_it_is_zero_with_a_gradient_to_keep_the_graph_whole() -> None:
    student = torch.zeros(0, 5, requires_grad=True)
    loss = ibot_loss(student, torch.zeros(0, 5), torch.zeros(3, 4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
