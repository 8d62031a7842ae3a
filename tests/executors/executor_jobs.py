"""Tasks that worker processes can import."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from groundswell.errors import DataError
from groundswell.executors.local import Local


def scaled(factor: int, task: int) -> int:
    """The later the task, the sooner it is done."""
    time.sleep(max(0.0, 0.05 * (4 - task)))
    return factor * task


def mostly(bad: dict[int, str], task: int) -> tuple[int, int]:
    """The task and the process that did it, unless the task is to raise, to die or to leave."""
    what = bad.get(task)
    if what == "raise":
        raise DataError("a bad task", where=task, fix="leave it out")
    if what == "bug":
        raise KeyError(task)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        os._exit(3)
    if what == "sleep":
        time.sleep(60)
    return task, os.getpid()


def threads(context: None, task: int) -> dict[str, Any]:
    """How many threads the libraries of this process use."""
    import numpy as np
    import threadpoolctl
    import torch

    np.ones((4, 4)) @ np.ones((4, 4))
    pools = {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    return {"pid": os.getpid(), "torch": torch.get_num_threads(), "pools": sorted(pools)}


def endless(folder: str) -> None:
    """A parent whose two workers say who they are, and then are busy for a minute."""
    tasks: Iterator[int] = iter(range(2))
    print("READY", flush=True)
    list(Local(2, patience_s=0).map(announce, folder, tasks))


def announce(folder: str, task: int) -> None:
    (Path(folder) / f"{task}.pid").write_text(str(os.getpid()))
    time.sleep(60)


class Large:
    """A context of more than a pipe holds, that kills the process which unpacks it (unless that made it)."""

    def __init__(self, maker: int, content: bytes) -> None:
        if os.getpid() != maker:
            os.kill(os.getpid(), signal.SIGKILL)
        self.maker, self.content = maker, content

    def __reduce__(self) -> Any:
        return Large, (self.maker, self.content)


class Heavy:
    """A context that cannot be made in another process."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    print("refused on purpose", file=sys.stderr)
    raise ValueError("not here")


if __name__ == "__main__":
    endless(sys.argv[1])
