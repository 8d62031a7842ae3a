"""The same tensors through the losses of lightly (MIT), where it is installed; it is no dependency, not even of tests.

lightly wants torchvision, which this project never has; its losses need no more of it than two names. To run:
``pip install --no-deps --target FOLDER lightly==1.6.0 lightly-utils`` and ``PYTHONPATH=FOLDER pytest ...``.
"""

import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from groundswell.objectives.dino import Centre, centred, dino_loss
from groundswell.objectives.ibot import ibot_loss
from groundswell.objectives.koleo import koleo
from groundswell.objectives.nt_xent import nt_xent

if importlib.util.find_spec("lightly") is None:
    pytest.skip("lightly is not installed", allow_module_level=True)

TOLERANCE = 1e-5  # relative; lightly holds temperatures in float32


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``lightly.loss``, with stand-ins for the two names of torchvision that its import asks for."""
    if importlib.util.find_spec("torchvision") is None:
        for name in ("torchvision", "torchvision.ops"):
            module = ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            monkeypatch.setitem(sys.modules, name, module)
        ops: Any = sys.modules["torchvision.ops"]
        ops.roi_align, ops.StochasticDepth = None, torch.nn.Identity
        sys.modules["torchvision"].ops = ops  # type: ignore[attr-defined]
    from lightly.loss import dino_loss, ibot_loss, koleo_loss, ntx_ent_loss

    return {"dino": dino_loss, "ibot": ibot_loss, "koleo": koleo_loss, "ntx_ent": ntx_ent_loss}


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(ours: Tensor, theirs: Tensor, *inputs: tuple[Tensor, Tensor]) -> None:
    """Values and gradients agree."""
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=TOLERANCE, atol=0)
    ours.backward()
    theirs.backward()
    for mine, other in inputs:
        assert mine.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(
            mine.grad, other.grad, rtol=TOLERANCE, atol=TOLERANCE * float(other.grad.abs().max())
        )


def twice(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.clone().requires_grad_(), x.clone().requires_grad_()


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent(losses: Any, temperature: float) -> None:
    first, second = twice(draw(9, 16, seed=0)), twice(draw(9, 16, seed=1))
    theirs = losses["ntx_ent"].NTXentLoss(temperature=temperature)(first[1], second[1])
    same(nt_xent(first[0], second[0], temperature), theirs, first, second)


def test_dino_and_its_centre(losses: Any) -> None:
    judge = losses["dino"].DINOLoss(
        output_dim=32, warmup_teacher_temp=0.04, teacher_temp=0.04, warmup_teacher_temp_epochs=1, student_temp=0.1
    )
    centre = Centre(32)
    for step in range(3):
        teacher, student = draw(2, 6, 32, seed=step), twice(draw(6, 6, 32, seed=10 + step))
        theirs = judge(list(teacher.float()), list(student[1].float()), epoch=0)
        chosen = centred(teacher.float().flatten(0, 1), centre.value, 0.04).view(2, 6, 32)
        same(dino_loss(student[0].float(), chosen), theirs, student)
        centre.update(teacher.float().flatten(0, 1))
        torch.testing.assert_close(centre.value, judge.center.flatten(), rtol=0, atol=1e-6)


def test_ibot(losses: Any) -> None:
    mask = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
    teacher, student = draw(4, 16, seed=0), twice(draw(4, 16, seed=1))
    judge = losses["ibot"].IBOTPatchLoss(output_dim=16, teacher_temp=0.07, student_temp=0.1)
    theirs = judge(teacher.float(), student[1].float(), mask.view(3, 2, 2))
    chosen = centred(teacher.float(), torch.zeros(16), 0.07)
    same(ibot_loss(student[0].float(), chosen, mask), theirs, student)


def test_koleo(losses: Any) -> None:
    features = twice(draw(12, 8, seed=0))
    same(koleo(features[0].float()), losses["koleo"].KoLeoLoss()(features[1].float()), features)
