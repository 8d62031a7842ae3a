"""A linear map of tokens that on an x86 CPU multiplies float32 by oneDNN.

torch gives these products to MKL, which on a Zen 4 takes up to a third longer where few numbers come out of many
(docs/speed.md). oneDNN's operator is in torch for its compiler, and without a gradient; here it has one. In any other
precision, and on other devices, the map is torch's own; so it is for rows ``[M, in]``, such as masked patches, of which
there are others at every step: oneDNN keeps code for each of the last thousand shapes, about 1 MB each.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AVAILABLE = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") and hasattr(
    torch.ops.mkldnn, "_linear_pointwise"
)
"""Whether this is such a CPU, and a torch that has the operator."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` of float ``[..., in]`` and weights ``[out, in]``, as `F.linear`: float ``[..., out]``."""
    tokens = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and x.ndim == 3 and x.numel() > 0
    if not (AVAILABLE and tokens) or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    y: Tensor = _OneDNN.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


class Linear(nn.Linear):
    """`torch.nn.Linear`, by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class _OneDNN(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            _product(gradient, weight.T) if of_x else None,
            rows.T @ x.flatten(0, -2) if of_weight else None,  # many rows into few numbers: MKL is the faster there
            rows.sum(0) if of_bias else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y
