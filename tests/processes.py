"""Run a function in several processes that form a gloo group, on one machine and without a network."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def in_processes(job: Callable[[int], Any], world: int, folder: Path) -> list[Any]:
    """``job(rank)`` in each of ``world`` forked processes; what they returned, in the order of ranks.

    Results must be tensors, numbers, or lists and dicts of these.
    """
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
                dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
                torch.save(job(rank), folder / f"result{rank}.pt")
                dist.barrier()  # none may leave while another still needs it
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * world, codes
    return [torch.load(folder / f"result{rank}.pt") for rank in range(world)]
