"""Batch normalisation: torch's to the bit in one process, that of the whole batch in two."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from groundswell import distributed
from groundswell.backbones.batch_norm import BatchNorm1d, BatchNorm2d
from processes import in_processes


def draw(*shape: int) -> Tensor:
    return 3 + 2 * torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("ours", "theirs", "shape"),
    [(BatchNorm1d, nn.BatchNorm1d, (6, 4)), (BatchNorm2d, nn.BatchNorm2d, (6, 4, 3, 5))],
)
def test_one_process_is_torch_and_two_are_the_whole_batch(
    ours: type[nn.Module], theirs: type[nn.Module], shape: tuple[int, ...], tmp_path: Path
) -> None:
    x, weights = draw(*shape), draw(*shape).flip(0)

    def run(kind: type[nn.Module], part: slice) -> dict[str, Tensor]:
        norm = kind(4).double().train()
        given = x[part].clone().requires_grad_()
        y = norm(given)
        (y * weights[part]).sum().backward()
        seen = {"y": y.detach(), "x": given.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
        return seen | {name: buffer.double() for name, buffer in norm.named_buffers()}

    whole = run(theirs, slice(0, 6))
    alone = run(ours, slice(0, 6))
    assert all(torch.equal(alone[name], whole[name]) for name in whole)

    def job(rank: int) -> dict[str, Tensor]:
        part = run(ours, slice(2 * rank, 2 + 4 * rank))  # 2 images on the first process, 4 on the second
        part["weight"], part["bias"] = distributed.total(part["weight"]), distributed.total(part["bias"])
        return part

    first, second = in_processes(job, 2, tmp_path)
    for name in ("y", "x"):
        torch.testing.assert_close(torch.cat([first[name], second[name]]), whole[name], rtol=1e-10, atol=1e-12)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        for part in (first, second):
            torch.testing.assert_close(part[name], whole[name], rtol=1e-10, atol=1e-12)


def test_evaluation_uses_what_was_remembered() -> None:
    norm = BatchNorm2d(4).eval()
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(norm(x), x / (1 + 1e-5) ** 0.5)
