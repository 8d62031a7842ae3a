"""Collectives: the identity in one process; in two, sums, maxima, and a gather whose gradient comes back."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed import distributed_c10d

from groundswell import distributed
from groundswell.errors import LostProcess, UsageError
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


def test_parts_means_and_the_number_of_the_first(tmp_path: Path) -> None:
    def job(rank: int) -> list[Tensor | float]:
        mean = distributed.mean(torch.tensor([2.0 * rank, 5.0]))
        return [torch.tensor(distributed.own(list(range(7)))), mean, distributed.first(0.1 + rank)]

    for rank, (part, mean, number) in enumerate(in_processes(job, 2, tmp_path)):
        assert part.tolist() == [[0, 1, 2], [3, 4, 5]][rank]  # equal parts; what cannot be shared is left
        assert mean.tolist() == [1.0, 5.0]
        assert number == 0.1


def test_work_of_the_first_alone_may_take_longer_than_any_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "BEAT_S", 0.2)

    def job(rank: int) -> list[float]:
        distributed_c10d._set_pg_timeout(timedelta(seconds=2))  # for what follows: they have met

        def work(_: distributed.Heed) -> float:
            time.sleep(5)
            return 42.0

        result = distributed.by_first(work)
        return [0.0 if result is None else result, distributed.first(rank + 7.0)]

    assert in_processes(job, 2, tmp_path) == [[42.0, 7.0], [0.0, 7.0]]


def test_all_may_give_up_what_the_first_does_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "BEAT_S", 0.1)

    def job(rank: int) -> str:
        begun = time.monotonic()

        def work(go_on: distributed.Heed) -> None:
            for _ in range(600):
                go_on()
                time.sleep(0.05)

        def heed() -> None:
            if distributed.first(time.monotonic() - begun) > 0.5:  # the same everywhere
                raise UsageError("stop")

        with pytest.raises(UsageError, match="stop"):
            distributed.by_first(work, heed)
        return "late" if time.monotonic() - begun > 15 else "in time"

    assert in_processes(job, 2, tmp_path) == ["in time", "in time"]


def test_an_error_of_the_first_alone_is_its_own() -> None:
    def work(_: distributed.Heed) -> None:
        raise UsageError("no clusters")

    with pytest.raises(UsageError, match="no clusters"):
        distributed.by_first(work)


def test_a_process_that_is_gone_has_a_name_and_another_error_keeps_its_own(tmp_path: Path) -> None:
    def job(rank: int) -> None:
        with pytest.raises(RuntimeError, match="out of memory"), distributed.process_group():
            raise RuntimeError("out of memory")
        if rank == 1:
            os._exit(3)
        with pytest.raises(LostProcess, match="process 0 of 2"), distributed.process_group():
            distributed.barrier()
        os._exit(4)

    with pytest.raises(AssertionError, match=r"\[4, 3\]"):
        in_processes(job, 2, tmp_path)


def test_half_an_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UsageError, match="2 processes"), distributed.process_group():
        pass


def test_the_gpu_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed._local_gpu() == 1
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match="process 2 of this machine has no GPU"):
        distributed._local_gpu()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("SLURM_LOCALID", "2")  # each task is shown its own
    assert distributed._local_gpu() == 0


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
