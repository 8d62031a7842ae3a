"""Precision follows the machine's instructions."""

import pytest
import torch

from groundswell.training import precision
from groundswell.training.precision import choose

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("instructions", "expected"), [([], "fp32"), (["avx512_bf16"], "bf16"), (["avx512_bf16", "amx_bf16"], "bf16")]
)
def test_a_cpu_takes_bf16_only_with_the_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, instructions: list[str], expected: str
) -> None:
    monkeypatch.setattr(precision, "cpu_instructions", lambda: instructions)
    chosen = choose("auto", CPU)
    assert chosen.name == expected
    assert all(name in chosen.reason for name in instructions)
    assert choose("fp32", CPU).name == "fp32"
    assert choose("bf16", CPU).name == "bf16"
    assert ("slow" in choose("bf16", CPU).reason) == (not instructions)


def test_bf16_reaches_the_network_and_not_the_views_or_the_loss() -> None:
    from groundswell import rng
    from groundswell.backbones import BackboneSettings, build_backbone
    from groundswell.methods.simclr import SimCLR, SimCLRSettings

    seen: dict[str, torch.dtype] = {}

    def view(images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        seen["views"] = torch.nn.functional.avg_pool2d(images @ images, 1).dtype  # autocast would make it bf16
        return images

    backbone = build_backbone(BackboneSettings(name="resnet18", width=4), 1, seed=0)
    backbone.layer4.register_forward_hook(lambda module, inputs, output: seen.update(network=output.dtype))
    method = SimCLR(SimCLRSettings(), backbone, view, seed=0)
    method.head.register_forward_hook(lambda module, inputs, output: seen.update(head=output.dtype))
    with choose("bf16", CPU).autocast(CPU):
        loss, _ = method.loss(torch.randn(4, 1, 32, 32), rng.keys(0, range(4)))
    assert (seen["views"], seen["network"], seen["head"], loss.dtype) == (
        *(torch.float32, torch.bfloat16, torch.float32, torch.float32),
    )
