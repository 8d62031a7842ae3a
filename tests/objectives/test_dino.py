"""DINO's loss against a loop over pairs, its centre, and Sinkhorn-Knopp against the plain matrix form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from groundswell.objectives.dino import Centre, centred, dino_loss, sinkhorn_knopp


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop_over_pairs(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """As facebookresearch/dino 7c446df, main_dino.py:393-402, number by number."""
    terms = []
    for u in range(len(teacher)):
        for v in range(len(student)):
            if u == v:
                continue
            for b in range(student.shape[1]):
                z = [float(x) / temperature for x in student[v, b]]
                norm = math.log(sum(math.exp(x) for x in z))
                terms.append(-sum(float(p) * (x - norm) for p, x in zip(teacher[u, b], z, strict=True)))
    return math.fsum(terms) / len(terms)


def plain_sinkhorn(logits: Tensor, temperature: float, rounds: int) -> Tensor:
    """As facebookresearch/dinov2 b8931f7, dino_clstoken_loss.py: the whole matrix, rescaled in place."""
    q = torch.exp(logits / temperature).T
    prototypes, samples = q.shape
    q = q / q.sum()
    for _ in range(rounds):
        q = q / q.sum(1, keepdim=True) / prototypes
        q = q / q.sum(0, keepdim=True) / samples
    return (q * samples).T


@pytest.mark.parametrize(("teachers", "views"), [(2, 2), (2, 5), (1, 3), (3, 4)])
def test_equals_the_loop_over_pairs(teachers: int, views: int) -> None:
    student = draw(views, 4, 6)
    teacher = torch.softmax(draw(teachers, 4, 6, seed=1) / 0.3, dim=2)
    expected = loop_over_pairs(student, teacher, 0.2)
    assert dino_loss(student, teacher, 0.2).item() == pytest.approx(expected, rel=1e-12)


def test_eighteen_pairs_at_eight_local_crops() -> None:
    # A student that is right in one pair alone, (0, 9), and has no idea elsewhere, shows the weight of a pair: 1 / 18.
    student = torch.zeros(10, 1, 2, dtype=torch.float64)
    teacher = torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]], dtype=torch.float64)
    student[9, 0, 0] = 0.1 * 40  # softmax of 40 : 0
    # Pair (0, 9) costs 0 instead of ln 2, pair (1, 9) costs 20 instead of ln 2.
    expected = (16 * math.log(2) + 0 + 20) / 18
    assert dino_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_gradient_by_finite_differences() -> None:
    teacher = torch.softmax(draw(2, 3, 4, seed=1), dim=2)
    assert torch.autograd.gradcheck(
        lambda s: dino_loss(s, teacher, 0.3), (draw(4, 3, 4).requires_grad_(),), eps=1e-6, atol=1e-6
    )


def test_invariances() -> None:
    student, logits, centre = draw(5, 4, 6), draw(8, 6, seed=1), draw(6, seed=2)

    def teacher(t: Tensor, c: Tensor) -> Tensor:
        return centred(t, c, 0.04).view(2, 4, 6)

    loss = dino_loss(student, teacher(logits, centre))
    swapped = [1, 0, 2, 3, 4]
    for value in (
        dino_loss(student + draw(5, 4, 1, seed=3), teacher(logits + draw(8, 1, seed=4), centre)),  # per-row constants
        dino_loss(student, teacher(logits + 0.7, centre + 0.7)),  # teacher and centre together
        dino_loss(student[swapped], teacher(logits, centre)[[1, 0]]),  # the global views change places
        dino_loss(student[:, [3, 1, 0, 2]], teacher(logits, centre)[:, [3, 1, 0, 2]]),
    ):
        torch.testing.assert_close(value, loss, rtol=1e-10, atol=0)
    assert abs(float(dino_loss(student[:, [1, 0, 2, 3]], teacher(logits, centre)) - loss)) > 0.1  # images matter


@pytest.mark.parametrize("prototypes", [4, 4096])
def test_a_student_that_does_not_choose_costs_ln_k(prototypes: int) -> None:
    teacher = torch.softmax(draw(2, 3, prototypes, scale=30.0), dim=2)
    assert dino_loss(torch.zeros(4, 3, prototypes), teacher.float()).item() == pytest.approx(math.log(prototypes))


def test_the_gradient_is_the_mean_difference_of_choices() -> None:
    # d/dz of a softmax cross entropy is (softmax(z) - p) / temperature; two views leave one pair to each.
    student = draw(2, 3, 5).requires_grad_()
    teacher = torch.softmax(draw(2, 3, 5, seed=1), dim=2)
    dino_loss(student, teacher, 0.1).backward()
    expected = (torch.softmax(student.detach() / 0.1, 2) - teacher.flip(0)) / 0.1 / (2 * 3)
    torch.testing.assert_close(student.grad, expected, rtol=1e-10, atol=1e-12)


def test_half_precision_logits_cost_what_their_rounded_values_cost() -> None:
    student, teacher = draw(4, 8, 64).bfloat16(), torch.softmax(draw(2, 8, 64, seed=1), dim=2).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dino_loss(student, teacher)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(dino_loss(student.double(), teacher.double()).item(), rel=1e-6)


def test_the_centre_follows_the_published_rule() -> None:
    # c <- 0.9 c + 0.1 mean of the raw logits, from zero.
    centre, expected = Centre(5), torch.zeros(5, dtype=torch.float64)
    for seed in range(4):
        logits = draw(6, 5, seed=seed)
        centre.update(logits)
        expected = 0.9 * expected + 0.1 * logits.mean(0)
    torch.testing.assert_close(centre.value.double(), expected, rtol=0, atol=1e-6)  # a float32 buffer
    assert set(centre.state_dict()) == {"value"}  # a checkpoint keeps it
    before = centre.value.clone()
    centre.update(torch.zeros(0, 5))
    assert torch.equal(centre.value, before)


def test_centred_is_softmax_of_the_difference() -> None:
    logits, centre = draw(4, 6), draw(6, seed=1)
    expected = torch.exp((logits - centre) / 0.04)
    torch.testing.assert_close(centred(logits, centre, 0.04), expected / expected.sum(1, keepdim=True))


@pytest.mark.parametrize("rounds", [1, 3, 10])
@pytest.mark.parametrize("shape", [(16, 12), (3, 40), (1, 4)])
def test_sinkhorn_equals_the_plain_matrix_form(shape: tuple[int, int], rounds: int) -> None:
    logits = draw(*shape, scale=0.3)
    q = sinkhorn_knopp(logits, 0.05, rounds)
    torch.testing.assert_close(q, plain_sinkhorn(logits, 0.05, rounds), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(q.sum(1), torch.ones(shape[0], dtype=torch.float64))


def test_sinkhorn_uses_prototypes_evenly_in_the_limit() -> None:
    q = sinkhorn_knopp(draw(64, 8, scale=0.1), 0.05, rounds=200)
    torch.testing.assert_close(q.sum(0), torch.full((8,), 64 / 8, dtype=torch.float64), rtol=1e-6, atol=0)
    after_three = sinkhorn_knopp(draw(64, 8, scale=0.1), 0.05).sum(0)
    assert 0.5 < float(after_three.min()) / 8 < float(after_three.max()) / 8 < 2


def test_sinkhorn_invariances() -> None:
    logits, order = draw(9, 6, scale=0.2), torch.tensor([4, 0, 8, 2, 6, 1, 3, 5, 7])
    q = sinkhorn_knopp(logits, 0.05)
    torch.testing.assert_close(sinkhorn_knopp(logits + draw(6, seed=1), 0.05), q)  # any centre is undone
    torch.testing.assert_close(sinkhorn_knopp(logits + 3.0, 0.05), q)
    torch.testing.assert_close(sinkhorn_knopp(logits[order], 0.05), q[order])
    torch.testing.assert_close(sinkhorn_knopp(logits[:, [5, 0, 3, 1, 2, 4]], 0.05), q[:, [5, 0, 3, 1, 2, 4]])
    assert (sinkhorn_knopp(logits + draw(9, 1, seed=1), 0.05) - q).abs().max() > 1e-3  # an offset of a sample is not


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 100),
    lift=st.floats(0, 50),
    dead=st.floats(0, 50),
    row=st.floats(-20, 20),
    samples=st.integers(1, 20),
)
def test_sinkhorn_is_finite_for_any_logits(seed: int, lift: float, dead: float, row: float, samples: int) -> None:
    # The plain form overflows float32 above 88 temperatures (3.5 here) and divides by zero for a dead prototype.
    logits = draw(samples, 7, seed=seed).float()
    logits[:, 0] += lift
    logits[:, 1] -= dead
    logits[0] += row
    q = sinkhorn_knopp(logits, 0.04)
    assert torch.isfinite(q).all()
    torch.testing.assert_close(q.sum(1), torch.ones(samples), rtol=1e-4, atol=1e-4)


def test_sinkhorn_in_single_precision_equals_double_where_the_plain_form_fails() -> None:
    logits = draw(32, 16)
    logits[:, 3] += 6.0
    logits[:, 7] -= 6.0
    assert not torch.isfinite(plain_sinkhorn(logits.float(), 0.04, 3)).all()
    expected = plain_sinkhorn(logits, 0.04, 3)
    torch.testing.assert_close(sinkhorn_knopp(logits.float(), 0.04).double(), expected, rtol=1e-4, atol=1e-6)


def test_sinkhorn_has_no_gradient_and_leaves_its_input_alone() -> None:
    logits = draw(4, 3).requires_grad_()
    before = logits.detach().clone()
    assert not sinkhorn_knopp(logits, 0.05).requires_grad
    assert torch.equal(logits.detach(), before)
