"""Objectives of one batch split over two processes: the mean of the parts' gradients is that of the whole.

Tolerances: float64, sums of another order. KoLeo is not here: its neighbours are those of one process by definition.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from groundswell import distributed
from groundswell.objectives.dino import Centre, centred, dino_loss, sinkhorn_knopp
from groundswell.objectives.ibot import ibot_loss
from groundswell.objectives.mae import mae_loss
from groundswell.objectives.nt_xent import nt_xent
from processes import in_processes

N, D, K, P = 6, 5, 7, 4
Loss = Callable[[Tensor, slice], Tensor]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, WEIGHT = draw(2, N, D, seed=0), draw(D, D, seed=1)
TEACHER, HEAD = draw(2, N, K, seed=2), draw(D, K, seed=3)
MASK = draw(N, P, seed=4) > torch.tensor([[0.3]] * 3 + [[-0.5]] * 3)  # ragged: fewer in the first half
PATCHES, SEEN = draw(N, P, D, seed=5), (torch.arange(P) % 2 == 0).expand(N, P)


def of_nt_xent(weight: Tensor, part: slice) -> Tensor:
    return nt_xent(X[0, part] @ weight, X[1, part] @ weight, 0.3)


def of_dino(weight: Tensor, part: slice) -> Tensor:
    """Centre updated with the first teacher batch, used for the second, as in a run."""
    centre = Centre(K).double()
    centre.update(TEACHER[0, part])
    chosen = centred(TEACHER[:, part].flatten(0, 1), centre.value, 0.2)
    return dino_loss(X[:, part] @ weight @ HEAD, chosen.view(2, -1, K), 0.3)


def of_sinkhorn(weight: Tensor, part: slice) -> Tensor:
    chosen = sinkhorn_knopp(TEACHER[:, part].flatten(0, 1), 0.2)
    return dino_loss(X[:, part] @ weight @ HEAD, chosen.view(2, -1, K), 0.3)


def of_ibot(weight: Tensor, part: slice) -> Tensor:
    mask = MASK[part]
    teacher = sinkhorn_knopp((PATCHES[part] @ HEAD)[mask].flip(1), 0.2)
    return ibot_loss((PATCHES[part] @ weight @ HEAD)[mask], teacher, mask, 0.3)


def of_mae(weight: Tensor, part: slice) -> Tensor:
    return mae_loss(PATCHES[part] @ weight, PATCHES[part].roll(1, 1), SEEN[part])


def gradient(loss: Loss, part: slice) -> tuple[Tensor, Tensor]:
    weight = WEIGHT.clone().requires_grad_()
    value = loss(weight, part)
    value.backward()
    assert weight.grad is not None
    return value.detach(), weight.grad


@pytest.mark.parametrize("loss", [of_nt_xent, of_dino, of_sinkhorn, of_ibot, of_mae])
def test_two_processes_give_the_gradient_of_one(loss: Loss, tmp_path: Path) -> None:
    value, whole = gradient(loss, slice(0, N))

    def job(rank: int) -> list[Tensor]:
        own, part = gradient(loss, slice(rank * N // 2, (rank + 1) * N // 2))
        return [distributed.total(own) / 2, distributed.total(part) / 2]

    for mean, averaged in in_processes(job, 2, tmp_path):
        torch.testing.assert_close(mean, value, rtol=1e-12, atol=0)
        torch.testing.assert_close(averaged, whole, rtol=1e-10, atol=1e-12)


def test_the_choices_need_the_other_process() -> None:
    """The control: without the collectives, halves of the batch would choose otherwise."""
    whole = sinkhorn_knopp(TEACHER[0], 0.2)
    assert (whole[: N // 2] - sinkhorn_knopp(TEACHER[0, : N // 2], 0.2)).abs().max() > 0.01
    alone = torch.stack([gradient(of_nt_xent, slice(i, i + N // 2))[1] for i in (0, N // 2)]).mean(0)
    assert (alone - gradient(of_nt_xent, slice(0, N))[1]).abs().max() > 0.01


def test_a_process_without_rows_takes_part(tmp_path: Path) -> None:
    """No patch is masked on one process: the collectives must run there all the same."""
    logits = draw(6, K, seed=7)

    def job(rank: int) -> list[Tensor]:
        own = logits[: 6 * rank]  # none on process 0
        centre = Centre(K)
        centre.update(own)
        return [sinkhorn_knopp(own, 0.2), centre.value]

    (none, first), (every, second) = in_processes(job, 2, tmp_path)
    assert none.shape == (0, K)
    torch.testing.assert_close(every, sinkhorn_knopp(logits, 0.2), rtol=1e-12, atol=0)
    assert torch.equal(first, second)
    torch.testing.assert_close(first.double(), 0.1 * logits.mean(0), rtol=0, atol=1e-6)
