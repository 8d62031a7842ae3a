"""Optimisers: LARS as SimCLR uses it, AdamW and SGD; no weight decay on biases and norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from groundswell.config import Settings

LRScaling = Literal["none", "linear", "sqrt"]


class _Rate(Settings):
    lr: float = Field(gt=0)
    """The peak, before `scaling`."""
    scaling: LRScaling = "none"
    """How the peak follows the batch: ``linear`` lr * batch / 256, ``sqrt`` lr * sqrt(batch) (SimCLR appendix B.1)."""

    def peak(self, batch: int) -> float:
        """The peak learning rate for ``batch`` images a step."""
        factor = {"none": 1.0, "linear": batch / 256, "sqrt": math.sqrt(batch)}[self.scaling]
        return self.lr * factor


class LARSSettings(_Rate):
    """Layer-wise adaptive rate scaling, with the constants of SimCLR's code."""

    name: Literal["lars"]
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    trust: float = Field(default=0.001, gt=0)


class AdamWSettings(_Rate):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

    name: Literal["adamw"]
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.05, ge=0)


class SGDSettings(_Rate):
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


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weights, which decay, and biases and norms (everything of one dimension), which do not."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def build_optimiser(settings: OptimiserSettings, module: nn.Module) -> Optimizer:
    """The optimiser of a recipe over the parameters of ``module``; the loop sets the learning rate at each step."""
    groups = parameter_groups(module, settings.weight_decay)
    match settings:
        case LARSSettings():
            groups[1]["adapt"] = False
            return LARS(groups, lr=settings.lr, momentum=settings.momentum, trust=settings.trust)
        case AdamWSettings():
            device = next(module.parameters()).device
            return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=device.type in {"cpu", "cuda"})
        case SGDSettings():
            return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
