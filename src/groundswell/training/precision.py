"""Precision by what the machine's instructions are good at, never by hope.

On a CPU without bfloat16 instructions bf16 is emulated, 2 to 3 times slower than fp32; with AVX512-BF16 or AMX it is
1.6 to 2.8 times faster (measured, see the design). Softmax, losses and statistics stay in fp32 everywhere: the
methods leave autocast for them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch

PrecisionName = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Precision:
    """The precision of a run: ``fp32`` or ``bf16``, and why."""

    name: Literal["fp32", "bf16"]
    reason: str

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context in which a forward pass runs."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.name == "bf16")


def cpu_instructions() -> list[str]:
    """The instructions of this CPU that multiply bfloat16: a part of ``["avx512_bf16", "amx_bf16"]``."""
    found = []
    if torch.cpu._is_avx512_bf16_supported():
        found.append("avx512_bf16")
    if torch.cpu._is_amx_tile_supported():
        found.append("amx_bf16")
    return found


def choose(asked: PrecisionName, device: torch.device) -> Precision:
    """The precision to run at on ``device``; ``auto`` takes bf16 where the hardware multiplies it."""
    if asked == "fp32":
        return Precision("fp32", "asked for")
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        reason = "the GPU multiplies bfloat16" if able else "the GPU has no bfloat16 units"
    elif device.type == "cpu":
        instructions = cpu_instructions()
        able = bool(instructions)
        reason = f"the CPU has {' and '.join(instructions)}" if able else "the CPU has no AVX512-BF16 and no AMX"
    else:
        able, reason = False, f"bf16 is not used on {device.type}"
    if asked == "bf16":
        return Precision("bf16", "asked for" if able else f"asked for, though {reason}: expect it to be slow")
    return Precision("bf16" if able else "fp32", reason)
