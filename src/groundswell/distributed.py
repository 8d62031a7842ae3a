"""Several processes, one run: the process group, and the few collectives that objectives and the training loop need.

In one process without a group every function here is the identity, so nothing else asks how many there are. Only
means and sums over *all* images pass through this module; the gradients themselves are averaged in
`groundswell.training.parallel`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from groundswell.errors import LostProcess, UsageError

TIMEOUT_S = 600.0
"""How long a process waits for the others: longer than any save, shorter than a night."""

BEAT_S = 2.0
"""How often a process that works alone tells the others so (`by_first`), and all look for signals: far less than
`TIMEOUT_S`, and than a launcher waits between a signal and a kill."""

Rows = TypeVar("Rows")
Result = TypeVar("Result")
Heed = Callable[[], None]

_joined: list[Any] = []
"""The group last joined, held until the process ends or joins another. DDP owns it, too; were DDP's the last hand to
let go of it, it would wait for gloo's threads and keep Python's lock, for which one of them may be waiting (seen once).
A reference of Python's own gives the lock away first."""


def launched() -> tuple[int, int]:
    """Rank and number of processes as a launcher has put them into the environment; (0, 1) without one."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def world_size() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the process that writes and speaks for all."""
    return rank() == 0


@contextmanager
def process_group(timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """Join the processes that a launcher (torchrun, a Slurm script) started; nothing where it started none.

    Numbers on GPUs are exchanged by NCCL, those on the CPU by gloo, which notices at once when a process dies.

    Raises
    ------
    LostProcess
        When another process has gone, or has not answered for so long.
    UsageError
        When a machine has more processes than GPUs, or the environment is incomplete.
    """
    joining = launched()[1] > 1 and not dist.is_initialized()
    if joining:
        if torch.cuda.is_available():
            torch.cuda.set_device(_local_gpu())
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            with _naming_lost_processes():
                dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
        except ValueError as error:
            raise UsageError(
                f"the environment speaks of {launched()[1]} processes (WORLD_SIZE) and not of how they meet",
                why=str(error),
                fix="start them by torchrun; for a single one, unset WORLD_SIZE",
            ) from error
        _joined[:] = [dist.group.WORLD]
    try:
        with _naming_lost_processes():
            yield
    finally:
        if joining:
            dist.destroy_process_group()


def _local_gpu() -> int:
    """The GPU of this process: the one it sees, or that of its number on this machine."""
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if count == 1 and "SLURM_LOCALID" in os.environ:  # Slurm shows each of its tasks its own
        return 0
    if local >= count:
        raise UsageError(
            f"process {local} of this machine has no GPU",
            why=f"it has {count}, and a process needs one for itself",
            fix=f"start {count} processes a machine; CUDA_VISIBLE_DEVICES= (empty) trains on the CPU",
        )
    return local


def processes_here() -> int:
    """How many processes of the run share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world_size() > 1 else 1


@contextmanager
def _naming_lost_processes() -> Iterator[None]:
    """Give the error of a broken exchange a name and a remedy."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise LostProcess(
            "another process of the run is gone, or does not answer",
            where=f"process {rank()} of {world_size()}, numbered from 0",
            why=str(error).splitlines()[0],
            fix="its own message says why; --resume goes on from the last checkpoint",
        ) from error


def own(rows: Rows) -> Rows:
    """This process's equal part of rows ``[world * n, ...]`` of a list, an array or a tensor, in the order of ranks."""
    count = len(rows) // world_size()  # type: ignore[arg-type]
    part: Rows = rows[rank() * count : (rank() + 1) * count]  # type: ignore[index]
    return part


def barrier() -> None:
    """Wait for all processes."""
    total(torch.zeros(1))


def first(value: float) -> float:
    """The number that the first process has, on all of them."""
    return float(total(torch.tensor(value if is_first() else 0.0, dtype=torch.float64)))


def by_first(work: Callable[[Heed], Result], heed: Heed = lambda: None) -> Result | None:
    """What ``work`` gives in the first process, which does it alone; None in the others, which wait however long it is.

    The first process works in a thread, and tells the others every `BEAT_S` that it is still there: a single wait of
    theirs would end after `TIMEOUT_S`. At each beat all processes call ``heed``, which may stop all of them by an
    error; ``work`` is given what to call between its parts, so that it ends then, too.
    """
    if world_size() == 1:
        return work(heed)
    if not is_first():
        while not first(0.0):
            heed()
        return None
    given_up = threading.Event()

    def go_on() -> None:
        if given_up.is_set():
            raise CancelledError

    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(work, go_on)
        try:
            while not (done := bool(wait([future], timeout=BEAT_S).done)):
                first(done)
                heed()
        except BaseException:
            given_up.set()
            raise
        first(done)
        return future.result()


@torch.no_grad()
def mean(x: Tensor) -> Tensor:
    """The mean of ``x`` over all processes, without gradient."""
    return total(x) / world_size()


@torch.no_grad()
def total(x: Tensor) -> Tensor:
    """The sum of ``x`` over all processes, without gradient; the shape is the same everywhere."""
    if world_size() == 1:
        return x
    out = x.detach().clone()
    dist.all_reduce(out)
    return out


@torch.no_grad()
def maximum(x: Tensor) -> Tensor:
    """The element-wise maximum of ``x`` over all processes, without gradient; the shape is the same everywhere."""
    if world_size() == 1:
        return x
    out = x.detach().clone()
    dist.all_reduce(out, dist.ReduceOp.MAX)
    return out


def summed(x: Tensor) -> Tensor:
    """The sum of ``x`` over all processes, with gradient: that of a summand is the sum of those all processes have."""
    if world_size() == 1:
        return x
    out: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return out


def gather(x: Tensor) -> Tensor:
    """The rows of all processes, ``[n, ...]`` to ``[world * n, ...]`` in the order of ranks, with gradient.

    Every process must have as many rows. The gradient of a row is the sum of those that all processes have for it:
    ``torch.distributed.all_gather`` alone would lose all but its own.
    """
    if world_size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]
    return gathered


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return total(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return total(gradients[0].contiguous())


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.chunk(world_size())[rank()]
