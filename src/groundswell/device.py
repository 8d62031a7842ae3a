"""Where a computation runs."""

from __future__ import annotations

import torch

from groundswell.errors import UsageError


def choose_device(name: str | torch.device) -> torch.device:
    """The torch device called ``name``; ``auto`` is a GPU where there is one.

    Raises
    ------
    UsageError
        When there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises AssertionError
        why = str(error).splitlines()[0]
        raise UsageError(f"there is no device {str(name)!r} here", why=why, fix="use auto or cpu") from error
    return device
