"""Whole tensors put back into what holds them in another way."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from groundswell import rng
from groundswell.backbones import build_backbone
from groundswell.methods.base import Method
from groundswell.training.building import build_method, preprocessing_of
from groundswell.training.optimisers import build_optimiser
from groundswell.training.parallel import restore
from training.tiny import make_archive, tiny_recipe


def test_moments_that_lie_otherwise_in_memory_go_on_to_the_same_bits(tmp_path: Any) -> None:
    # A checkpoint of a sharded run holds contiguous tensors; a run of one process has its weights channels last.
    recipe = tiny_recipe()
    channels = preprocessing_of(recipe, make_archive(tmp_path / "a", count=20)).channels
    method = build_method(recipe, build_backbone(recipe.backbone, 1, 0), channels)
    method = method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = build_optimiser(recipe.optimiser, method)
    images = torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(0))

    def step(method: Method, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        torch.autograd.backward(method.loss(images, rng.keys(0, range(8)))[0])
        optimiser.step()

    def contiguous(state: Any) -> Any:
        if isinstance(state, Tensor):
            return state.clone(memory_format=torch.contiguous_format)
        return {k: contiguous(v) for k, v in state.items()} if isinstance(state, dict) else state

    step(method, optimiser)
    other = copy.deepcopy(method)
    again = build_optimiser(recipe.optimiser, other)
    restore(other, again, contiguous(method.state_dict()), contiguous(optimiser.state_dict()))
    moments = [entries["exp_avg"] for entries in again.state.values()]
    assert any(not m.is_contiguous() for m in moments)
    step(method, optimiser)
    step(other, again)
    for (name, one), two in zip(method.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name
