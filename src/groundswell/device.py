"""Where a computation runs, how it multiplies, and how it holds its memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

import torch

from groundswell.errors import UsageError


def choose_device(name: str | torch.device) -> torch.device:
    """The torch device called ``name``; ``auto`` is a GPU where there is one.

    Raises
    ------
    UsageError
        When there is no such device, or it cannot compute.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises AssertionError
        why = str(error).splitlines()[0]
        raise UsageError(f"there is no device {str(name)!r} here", why=why, fix="use auto or cpu") from error
    if device.type == "meta":
        raise UsageError("the device 'meta' does not compute", why="its tensors hold no values", fix="use auto or cpu")
    return device


@contextmanager
def float32_matmul(device: torch.device, precision: Literal["highest", "high"]) -> Iterator[None]:
    """How a GPU multiplies float32 matrices in the block: as float32 (``highest``), or in TF32, of 11 bits (``high``).

    The setting is one of the whole process, and put back at the end; other devices know no TF32.
    """
    if device.type != "cuda":
        yield
        return
    matmul, before = torch.backends.cuda.matmul, "highest"
    newer = getattr(matmul, "fp32_precision", None)  # since torch 2.9: a second name, which may say otherwise
    with suppress(RuntimeError):  # "highest", and the newer name says TF32
        before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        if newer is not None:
            matmul.fp32_precision = newer


def keep_freed_memory() -> bool:
    """Let this process hold what it frees, for its next step; whether that was possible (glibc alone can).

    By default glibc gives every block above 32 MiB back at once, and the next step has its pages cleared anew:
    a fifth of a ResNet's step on a CPU (docs/speed.md). The peak grows by some per cent; memory does not fall again.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    trim_threshold, mmap_max = -1, -4  # malloc.h
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, -1))
