"""A run against the same run written out by hand: which batches, views, rates, decays and limits each step has.

By hand are the order of things, the schedules, the clipping and AdamW; the batches, the method and its gradients are
the product's own, each with tests of its own.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from groundswell import rng
from groundswell.archive.reader import Archive
from groundswell.backbones import build_backbone
from groundswell.methods.base import Method
from groundswell.training.building import build_method, preprocessing_of
from groundswell.training.checkpoint import Checkpoints, read_checkpoint
from groundswell.training.data import Feed
from groundswell.training.loop import pretrain
from groundswell.training.optimisers import parameter_groups
from groundswell.training.recipe import Recipe
from groundswell.training.run_directory import read_metrics
from training.tiny import METHODS, tiny_recipe

SEED, STEPS, BATCH, ACCUMULATE = 5, 6, 8, 3  # an epoch has four batches: a step begins in one and ends in the next
LR, WARMUP, FINAL, LIMIT, BETAS = 0.02, 0.3, 0.1, 0.05, (0.8, 0.95)


def limited(method: Method, scope: str) -> Tensor:
    """Clip the gradients to a norm of LIMIT: of all, of each child, or of each tensor; the norm of all before."""
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    groups: dict[str, list[Tensor]] = {}
    for name, gradient in gradients.items():
        group = {"whole": "", "part": name.split(".")[0], "tensor": name}[scope]
        groups.setdefault(group, []).append(gradient)
    norm = torch.cat([g.flatten() for g in gradients.values()]).norm()
    for group_ in groups.values():
        size = torch.cat([g.flatten() for g in group_]).norm()
        for gradient in group_:
            gradient *= min(1.0, LIMIT / (float(size) + 1e-6))
    return norm


class AdamW:
    """Algorithm 2 of Loshchilov and Hutter (arXiv 1711.05101), the rate inside the decay, as torch has it."""

    def __init__(self) -> None:
        self.first: dict[Tensor, Tensor] = {}
        self.second: dict[Tensor, Tensor] = {}
        self.count: dict[Tensor, int] = {}

    @torch.no_grad()
    def step(self, p: Tensor, rate: float, decay: float) -> None:
        if p.grad is None:
            return
        count = self.count[p] = self.count.get(p, 0) + 1
        zeros = torch.zeros_like(p)
        first = self.first[p] = BETAS[0] * self.first.get(p, zeros) + (1 - BETAS[0]) * p.grad
        second = self.second[p] = BETAS[1] * self.second.get(p, zeros) + (1 - BETAS[1]) * p.grad**2
        p *= 1 - rate * decay
        p -= rate * (first / (1 - BETAS[0] ** count)) / ((second / (1 - BETAS[1] ** count)).sqrt() + 1e-8)


def by_hand(archive: Archive, recipe: Recipe) -> tuple[dict[str, Tensor], Method, list[dict[str, float]]]:
    """The state of the method at the start, the method at the end, and what each step showed."""
    chosen = archive.where(recipe.where)
    preprocessing = preprocessing_of(recipe, chosen)
    feed = Feed([chosen], preprocessing, BATCH, SEED, torch.device("cpu"))
    method = build_method(recipe, build_backbone(recipe.backbone, 1, SEED), preprocessing.channels).train()
    method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fresh, s = copy.deepcopy(method.state_dict()), recipe.optimiser
    groups, adamw, shown = parameter_groups(method, 1.0, s.layer_decay, s.patch_rate), AdamW(), []
    batches = [(epoch, index) for epoch in range(5) for index in range(4)]
    for step in range(STEPS):
        progress = method.progress = (step + 0.5) / STEPS
        method.zero_grad()
        losses = []
        for epoch, index in batches[step * ACCUMULATE : (step + 1) * ACCUMULATE]:
            images, rows = feed.batch(epoch, index)
            loss, _ = method.loss(images, rng.keys(SEED, rows, "views", epoch))
            torch.autograd.backward(loss / ACCUMULATE)
            losses.append(float(loss.detach()))
        norm = limited(method, recipe.clip_scope)
        peak = LR * BATCH * ACCUMULATE / 256
        fall = 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))
        rate = peak * progress / WARMUP if progress < WARMUP else peak * (FINAL + (1 - FINAL) * fall)
        decay = 0.4 + (0.04 - 0.4) * 0.5 * (1 + math.cos(math.pi * progress))
        method.before_update()
        for group in groups:
            for p in group["params"]:
                adamw.step(p, rate * group["lr_scale"], decay if group["decays"] else 0.0)
        method.after_update()
        shown.append({"learning_rate": rate, "loss": sum(losses) / ACCUMULATE, "gradient_norm": float(norm)})
    return fresh, method, shown


@pytest.mark.parametrize(
    ("name", "scope"),
    [("simclr", "whole"), ("dino", "tensor"), ("dino-resnet", "part"), ("dinov2", "part"), ("mae", "tensor")],
)
def test_a_run_is_the_same_run_written_out_by_hand(archive: Archive, tmp_path: Path, name: str, scope: str) -> None:
    changes: dict[str, Any] = dict(METHODS.get(name, {}))
    optimiser = {"name": "adamw", "lr": LR, "scaling": "linear", "betas": BETAS}
    optimiser |= {"weight_decay": 0.04, "final_weight_decay": 0.4}
    if name == "dinov2":
        optimiser |= {"layer_decay": 0.9, "patch_rate": 0.2}
    changes |= {"optimiser": optimiser, "schedule": {"warmup": WARMUP, "final": FINAL}}
    changes |= {"clip_norm": LIMIT, "clip_scope": scope, "seed": SEED}
    changes |= {"batch_size": BATCH, "accumulate": ACCUMULATE, "length": {"steps": STEPS}}
    recipe = tiny_recipe(**changes)
    fresh, method, shown = by_hand(archive, recipe)
    assert max(row["gradient_norm"] for row in shown) > LIMIT  # else the limit limits nothing

    pretrain([archive], recipe, tmp_path)
    told = read_metrics(tmp_path / "metrics.jsonl")
    for ours, by_hands in zip(told, shown, strict=True):
        # The first steps agree to rounding; what rounding leaves then grows with each step of Adam.
        assert {key: ours[key] for key in by_hands} == pytest.approx(by_hands, rel=1e-3), ours["step"]
    assert Checkpoints(tmp_path / "checkpoints").steps()[-1] == STEPS
    saved = read_checkpoint(tmp_path / "checkpoints" / f"step-{STEPS:08d}.pt")["method"]
    apart, moved = dict[str, float](), dict[str, float]()
    for key, value in method.state_dict().items():
        if value.is_floating_point():
            part = key.split(".")[0]
            apart[part] = apart.get(part, 0.0) + float((saved[key] - value).square().sum())
            moved[part] = moved.get(part, 0.0) + float((fresh[key] - value).square().sum())
    assert all(apart[part] <= 1e-6 * moved[part] for part in apart), (apart, moved)
