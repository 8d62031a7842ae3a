"""How the work of a method is shared by processes; neither the method nor the loop knows which way.

``ddp``: every process has all weights, and gradients are averaged while the backward pass runs (Li et al. 2020,
arXiv 2006.15704). ``fsdp``: every process keeps a share of weights, gradients and moments, and transformer blocks are
put together only while they compute (FSDP2, torch.distributed.fsdp.fully_shard; Zhao et al. 2023, arXiv 2304.11277).
Either way the gradient is the mean of those of the processes, and a checkpoint holds whole tensors: a run begun one way
goes on the other.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import Optimizer

from groundswell import distributed
from groundswell.backbones.blocks import Block
from groundswell.methods.base import Method, Observed

ParallelName = Literal["ddp", "fsdp"]


class Loss(nn.Module):
    """The loss of a method as the forward pass of a module, which is what DDP and FSDP wrap."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor, keys: Tensor) -> tuple[Tensor, Observed]:
        """As `Method.loss`."""
        return self.method.loss(images, keys)


def parallelise(method: Method, how: ParallelName) -> nn.Module:
    """The loss of a method over the processes of the run; its parameters are changed in place by ``fsdp``."""
    loss, device = Loss(method), next(method.parameters()).device
    if distributed.world_size() == 1:
        return loss
    if how == "ddp":
        with warnings.catch_warnings():  # torch 2.13 has another name for it
            warnings.simplefilter("ignore", FutureWarning)
            # Buffers are equal already: batch statistics and centres are those of all images.
            averaging = DistributedDataParallel(loss, broadcast_buffers=False)
        if device.type == "cpu":
            averaging.register_comm_hook(None, lambda _, bucket: _mean_in_order(bucket))
        return averaging
    loss.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # FSDP takes no other
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for module in method.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh)
    fully_shard(loss, mesh=mesh)
    return loss


def _mean_in_order(bucket: Any) -> torch.futures.Future[Tensor]:
    """The mean of the gradients in a bucket, summed in the order of ranks.

    DDP fills its buckets anew after the first step of a process. The order in which three or more numbers are summed
    depends on their place in a bucket, so a resumed run would end in other bits, which on a CPU it must not.
    """
    own = bucket.buffer()
    parts = [torch.empty_like(own) for _ in range(distributed.world_size())]
    work = dist.all_gather(parts, own, async_op=True)
    assert work is not None
    mean: torch.futures.Future[Tensor] = work.get_future().then(
        lambda _: functools.reduce(torch.add, parts).div_(len(parts))
    )
    return mean


@contextmanager
def exchanging(loss: nn.Module, last: bool) -> Iterator[None]:
    """Around forward and backward passes: gradients are averaged over processes only with the last batch of a step."""
    if isinstance(loss, FSDPModule):
        loss.set_requires_gradient_sync(last)
        yield
    elif isinstance(loss, DistributedDataParallel) and not last:
        with loss.no_sync():
            yield
    else:
        yield


def whole(state: Any) -> Any:
    """A state (nested mappings and lists) with every tensor in one piece; all processes must ask for it.

    What was sharded comes to the CPU, tensor by tensor: together they may be more than a GPU holds.
    """
    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, Mapping):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, list):
        return [whole(value) for value in state]
    return state


def give(method: Method, weights: Mapping[str, Tensor]) -> None:
    """Put whole weights into a method, sharded or not, each process its share."""
    now = method.state_dict()
    method.load_state_dict({name: _alike(value, now.get(name)) for name, value in weights.items()})


def restore(method: Method, optimiser: Optimizer, weights: Mapping[str, Tensor], moments: dict[str, Any]) -> None:
    """Put whole weights and an optimiser's whole state back, each process its share.

    Parameters
    ----------
    method, optimiser
        As they are now, sharded or not.
    weights, moments
        What `whole` made of ``method.state_dict()`` and ``optimiser.state_dict()``.
    """
    give(method, weights)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]  # numbered in this order
    state = {
        number: {name: _alike(value, parameters[number]) for name, value in entries.items()}
        for number, entries in moments["state"].items()
    }
    optimiser.load_state_dict({**moments, "state": state})


def _alike(value: Any, example: Any) -> Any:
    """A whole tensor, cut or laid out in memory as ``example`` is; what has no such shape (a count of steps) as it is.

    Fused optimisers walk through a weight and its moments as they lie in memory, without a look at the strides.
    """
    if not isinstance(example, Tensor) or not isinstance(value, Tensor) or value.shape != example.shape:
        return value
    if isinstance(example, DTensor):
        return distribute_tensor(value.to(example.device), example.device_mesh, example.placements)
    return torch.empty_like(example, dtype=value.dtype).copy_(value)
