"""The linear map of oneDNN against torch's own, forward and back, and where it steps aside."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from groundswell.backbones import linear as place
from groundswell.backbones.linear import Linear, linear

needs_onednn = pytest.mark.skipif(not place.AVAILABLE, reason="this CPU or this torch goes without oneDNN's operator")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(y: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    direction = normal(*y.shape, seed=9).to(y.dtype)
    return list(torch.autograd.grad((y * direction).sum(), inputs))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("into", "out"), [(192, 576), (768, 192), (3, 1), (1, 5)])
@pytest.mark.parametrize("shape", [(), (7,), (1, 1), (4, 65)])
def test_it_is_torchs_own_map_forward_and_back(shape: tuple[int, ...], into: int, out: int, bias: bool) -> None:
    given = [normal(*shape, into, seed=1), normal(out, into, seed=2), *([normal(out, seed=3)] if bias else [])]
    inputs = [t.requires_grad_() for t in given]
    exact = [t.detach().double().requires_grad_() for t in given]
    y, expected = linear(*inputs), F.linear(*exact)
    # Float32 sums of `into`, and of as many rows, terms of size one: each rounded to 2^-24 of what is summed so far.
    torch.testing.assert_close(y, expected.float(), rtol=1e-5, atol=1e-4)
    for ours, theirs in zip(gradients(y, inputs), gradients(expected, exact), strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=3e-4)


@needs_onednn
def test_inputs_that_lie_otherwise_in_memory() -> None:
    x, weight, bias = normal(64, 5, 9), normal(9, 12, seed=2), normal(24, seed=3)
    y = linear(x.transpose(0, 2)[:, 1:, ::2], weight.T[:, :9].repeat(1, 4)[:, :32], bias[::2])
    assert "OneDNN" not in str(y.grad_fn)  # nothing to learn here
    expected = F.linear(x.transpose(0, 2)[:, 1:, ::2], weight.T[:, :9].repeat(1, 4)[:, :32], bias[::2])
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-4)


@needs_onednn
def test_it_works_out_the_gradients_that_are_asked_for_by_its_operator() -> None:
    layer = Linear(6, 4)
    y = layer(normal(3, 2, 6))
    assert "OneDNN" in str(y.grad_fn)
    y.sum().backward()
    assert layer.weight.grad is not None
    layer.requires_grad_(False)
    x = normal(3, 2, 6).requires_grad_()
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(3, 2, 6))


@pytest.mark.parametrize("case", ["half", "double", "autocast", "nothing", "rows", "another torch"])
def test_elsewhere_it_is_torchs_own(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = {"half": torch.bfloat16, "double": torch.float64}.get(case, torch.float32)
    if case == "another torch":
        monkeypatch.setattr(place, "AVAILABLE", False)
    layer = Linear(6, 4).to(dtype)
    x = normal(0 if case == "nothing" else 3, 2, 6).to(dtype)
    if case == "rows":
        x = x.flatten(0, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case == "autocast"):
        y = layer(x)
        assert torch.equal(y, F.linear(x, layer.weight, layer.bias))
    assert "OneDNN" not in str(y.grad_fn)
    y.sum().backward()
    assert layer.weight.grad is not None
