"""Several processes, one run: the process group, and the few collectives that objectives need.

In one process without a group every function here is the identity, so nothing else asks how many there are. Only
means and sums over *all* images pass through this module; the gradients themselves are averaged by the training loop.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started (NCCL on GPUs, else gloo); nothing where it started none."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) < 2:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


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
