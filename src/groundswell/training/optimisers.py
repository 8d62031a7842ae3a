"""Optimisers: LARS as SimCLR uses it, AdamW and SGD; who decays, who learns how fast, and clipping."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import Optimizer

from groundswell.config import Settings
from groundswell.methods.schedules import cosine

LRScaling = Literal["none", "linear", "sqrt"]
ClipScope = Literal["whole", "part", "tensor"]
_Beta = Annotated[float, Field(ge=0, lt=1)]


class _Common(Settings):
    lr: float = Field(gt=0)
    """The peak, before `scaling`."""
    scaling: LRScaling = "none"
    """How the peak follows the batch: ``linear`` lr * batch / 256, ``sqrt`` lr * sqrt(batch) (SimCLR appendix B.1)."""
    weight_decay: float = Field(default=0.0, ge=0)
    final_weight_decay: float | None = Field(default=None, ge=0)
    """Where a cosine takes the decay by the end of the run; None keeps it."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Vision transformer: each block learns so much slower than the one above it (BEiT, arXiv 2106.08254)."""
    patch_rate: float = Field(default=1.0, gt=0, le=1)
    """Vision transformer: the patch embedding learns so much slower than the other embeddings (0.2 in DINOv2)."""

    def peak(self, batch: int) -> float:
        """The peak learning rate for ``batch`` images a step."""
        factor = {"none": 1.0, "linear": batch / 256, "sqrt": math.sqrt(batch)}[self.scaling]
        return self.lr * factor

    def decay(self, progress: float) -> float:
        """The weight decay at some progress of the run."""
        if self.final_weight_decay is None:
            return self.weight_decay
        return cosine(progress, self.weight_decay, self.final_weight_decay)


class LARSSettings(_Common):
    """Layer-wise adaptive rate scaling, with the constants of SimCLR's code."""

    name: Literal["lars"]
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    trust: float = Field(default=0.001, gt=0)


class AdamWSettings(_Common):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

    name: Literal["adamw"]
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    weight_decay: float = Field(default=0.05, ge=0)


class SGDSettings(_Common):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"]
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)


OptimiserSettings = Annotated[LARSSettings | AdamWSettings | SGDSettings, Field(discriminator="name")]


class LARS(Optimizer):
    """LARS by the rule of SimCLR's code (google-research/simclr 383d414, lars_optimizer.py); You et al. 2017.

        g <- g + weight_decay * w
        r  = trust * |w| / |g|          (1 where a norm is 0, and for groups that do not adapt)
        v <- momentum * v + lr * r * g  (the learning rate is inside the buffer)
        w <- w - v

    A group with ``adapt=False`` (biases, norms) has r = 1.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                g = w.grad.add(w, alpha=group["weight_decay"])
                rate: float | Tensor = group["lr"]
                if group["adapt"]:
                    rate = rate * _trust_ratio(w, g, group["trust"])
                state = self.state[w]
                if "velocity" not in state:
                    state["velocity"] = torch.zeros_like(w)
                velocity = state["velocity"].mul_(group["momentum"]).add_(g * rate)
                w.sub_(velocity)


def _trust_ratio(w: Tensor, g: Tensor, trust: float) -> Tensor:
    """``trust * |w| / |g|``, or 1 where either norm is 0; stays on the device."""
    weight, gradient = torch.linalg.vector_norm(w), torch.linalg.vector_norm(g)
    usable = (weight > 0) & (gradient > 0)
    return torch.where(usable, trust * weight / gradient, torch.ones_like(weight))


def parameter_groups(
    module: nn.Module, weight_decay: float, layer_decay: float = 1.0, patch_rate: float = 1.0
) -> list[dict[str, Any]]:
    """Weights, which decay, and biases and norms (everything of one dimension), which do not; split by `rate_scale`.

    Where all learn alike these are two groups. Tokens and position tables decay, as in DINO and DINOv2.
    """
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    numbers = [int(found[1]) for name, _ in trained if (found := re.match(r"backbone\.blocks\.(\d+)\.", name))]
    depth = max(numbers, default=-1) + 1
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, p in trained:
        scale = rate_scale(name, depth, layer_decay, patch_rate)
        groups.setdefault((-scale, p.ndim <= 1), []).append(p)
    return [
        {"params": params, "weight_decay": 0.0 if bare else weight_decay, "decays": not bare, "lr_scale": -scale}
        for (scale, bare), params in sorted(groups.items(), key=lambda item: item[0])
    ]


def rate_scale(name: str, depth: int, layer_decay: float, patch_rate: float) -> float:
    """The learning rate of a parameter over that of the run.

    layer_decay^(depth - i) in block i of ``depth``, layer_decay^(depth + 1) below the first (times ``patch_rate`` for
    the patch embedding), 1 for the final norm and the heads (facebookresearch/dinov2 b8931f7, utils/param_groups.py).
    Neighbours between the first two blocks count as part of block 1.
    """
    if not depth or not name.startswith("backbone.") or name.startswith("backbone.norm."):
        return 1.0
    if name.startswith("backbone.neighbours."):  # between blocks 0 and 1
        return float(layer_decay ** (depth - 1))
    if block := re.match(r"backbone\.blocks\.(\d+)\.", name):
        return float(layer_decay ** (depth - int(block[1])))
    return float(layer_decay ** (depth + 1)) * (patch_rate if name.startswith("backbone.patch_embed.") else 1.0)


def build_optimiser(settings: OptimiserSettings, module: nn.Module) -> Optimizer:
    """The optimiser of a recipe over the parameters of ``module``; the loop calls `set_rates` before each step."""
    groups = parameter_groups(module, settings.weight_decay, settings.layer_decay, settings.patch_rate)
    match settings:
        case LARSSettings():
            for group in groups:
                group["adapt"] = group["decays"]
            return LARS(groups, lr=settings.lr, momentum=settings.momentum, trust=settings.trust)
        case AdamWSettings():
            device = next(module.parameters()).device
            return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=device.type in {"cpu", "cuda"})
        case SGDSettings():
            return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)


def set_rates(optimiser: Optimizer, rate: float, decay: float) -> None:
    """The learning rate and the weight decay of the next step, for those who have them."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_scale"]
        if group.get("decays"):
            group["weight_decay"] = decay


def clip_gradients(module: nn.Module, limit: float | None, scope: ClipScope) -> Tensor:
    """Scale gradients down to a norm of ``limit``; the norm of the whole gradient before that, float32 [].

    ``scope`` says whose norm is limited: that of the ``whole`` gradient, of each ``part`` of the method by itself (the
    backbone, each head; DINOv2), or of each ``tensor`` (DINO).
    """
    gradients = {name: p for name, p in module.named_parameters() if p.grad is not None}
    norm = torch.nn.utils.get_total_norm([p.grad for p in gradients.values() if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    if limit is None:
        return norm
    grads = [p.grad for p in gradients.values() if p.grad is not None]
    if scope == "tensor" and not any(isinstance(grad, DTensor) for grad in grads):
        sizes = torch.stack(torch._foreach_norm(grads))  # all at once: a loop takes 10 ms of each step
        torch._foreach_mul_(grads, (limit / (sizes + 1e-6)).clamp(max=1).unbind())
        return norm
    if scope == "whole":
        torch.nn.utils.clip_grads_with_norm_(gradients.values(), limit, norm)
        return norm
    parts: dict[str, list[Tensor]] = {}
    for name, p in gradients.items():
        parts.setdefault(name if scope == "tensor" else name.split(".")[0], []).append(p)
    for part in parts.values():
        torch.nn.utils.clip_grad_norm_(part, limit)
    return norm
