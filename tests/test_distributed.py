"""Collectives: the identity in one process; in two, sums, maxima, and a gather whose gradient comes back."""

from pathlib import Path

import torch
from torch import Tensor

from groundswell import distributed
from processes import in_processes


def test_one_process_is_the_identity() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    assert distributed.gather(x) is x
    assert distributed.total(x) is x
    assert distributed.maximum(x) is x
    with distributed.process_group():  # torchrun has started nothing
        assert distributed.world_size() == 1


def test_sums_and_maxima_over_two_processes(tmp_path: Path) -> None:
    def job(rank: int) -> list[Tensor]:
        x = torch.tensor([1.0 + rank, -3.0 * rank])
        return [distributed.total(x), distributed.maximum(x), x]

    for rank, (summed, largest, own) in enumerate(in_processes(job, 2, tmp_path)):
        assert summed.tolist() == [3.0, -3.0]
        assert largest.tolist() == [2.0, 0.0]
        assert own.tolist() == [1.0 + rank, -3.0 * rank]  # what was given is left alone


def test_gathered_rows_bring_the_gradient_of_every_process_home(tmp_path: Path) -> None:
    # Process r weighs row i of the gathered by 10^r (i + 1): the gradient of row i is the sum 11 (i + 1).
    def job(rank: int) -> list[Tensor]:
        x = torch.arange(2.0)[:, None] + 10 * rank
        x.requires_grad_()
        rows = distributed.gather(x)
        (rows[:, 0] * 10**rank * torch.arange(1.0, 5.0)).sum().backward()
        assert x.grad is not None
        return [rows.detach(), x.grad]

    results = in_processes(job, 2, tmp_path)
    for rows, _ in results:
        assert rows[:, 0].tolist() == [0.0, 1.0, 10.0, 11.0]
    assert torch.cat([gradient for _, gradient in results])[:, 0].tolist() == [11.0, 22.0, 33.0, 44.0]
