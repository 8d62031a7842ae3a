"""The same tensors through the losses and heads of lightly (MIT), where it is installed; it is no dependency.

lightly requires torchvision, which this project never has, so no extra can name it; its losses need no more of it than
two names. To run: ``pip install --no-deps --target FOLDER lightly==1.6.0 lightly-utils`` and ``PYTHONPATH=FOLDER pytest
tests/objectives/test_against_lightly.py``. lightly has no Sinkhorn-Knopp and no MAE loss of its own (tests/methods has
MAE against transformers), and its head of SimCLR shifts the last normalisation, which ours, after SimCLR's code, does
not.
"""

import copy
import importlib
import importlib.machinery
import importlib.util
import sys
import warnings
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from groundswell.methods.distillation import follow
from groundswell.methods.heads import PrototypeHead
from groundswell.methods.simclr import projection_head
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
    try:
        importlib.import_module("torchvision.ops")
    except (ImportError, RuntimeError):  # RuntimeError: a torchvision that was built for another torch
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            monkeypatch.delitem(sys.modules, name)
        for name in ("torchvision", "torchvision.ops"):
            module = ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            monkeypatch.setitem(sys.modules, name, module)
        ops: Any = sys.modules["torchvision.ops"]
        ops.roi_align, ops.StochasticDepth = None, torch.nn.Identity
        sys.modules["torchvision"].ops = ops  # type: ignore[attr-defined]
    from lightly.loss import dino_loss, ibot_loss, koleo_loss, ntx_ent_loss
    from lightly.models import utils
    from lightly.models.modules import heads

    return {
        "dino": dino_loss,
        "ibot": ibot_loss,
        "koleo": koleo_loss,
        "ntx_ent": ntx_ent_loss,
        "heads": heads,
        "utils": utils,
    }


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


def test_ibot_and_its_centre_over_steps_at_a_rising_temperature(losses: Any) -> None:
    judge, centre = losses["ibot"].IBOTPatchLoss(output_dim=24), Centre(24)
    for step, temperature in enumerate((0.04, 0.05, 0.07)):
        mask = torch.rand(5, 3, 3, generator=torch.Generator().manual_seed(step)) < 0.4
        count = int(mask.sum())
        teacher, student = draw(count, 24, seed=step).float(), twice(draw(count, 24, seed=50 + step))
        theirs = judge(teacher, student[1].float(), mask, teacher_temp=temperature)
        chosen = centred(teacher, centre.value, temperature)
        same(ibot_loss(student[0].float(), chosen, mask.flatten(1)), theirs, student)
        centre.update(teacher)
        torch.testing.assert_close(centre.value, judge.center.value.flatten(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("local", "batch"), [(0, 3), (8, 2)])
def test_dino_with_any_number_of_local_views(losses: Any, local: int, batch: int) -> None:
    teacher, student = draw(2, batch, 16, seed=0).float(), twice(draw(2 + local, batch, 16, seed=1))
    theirs = losses["dino"].DINOLoss(output_dim=16)(list(teacher), list(student[1].float()), teacher_temp=0.06)
    chosen = centred(teacher.flatten(0, 1), torch.zeros(16), 0.06).view(2, batch, 16)
    same(dino_loss(student[0].float(), chosen), theirs, student)


@pytest.mark.parametrize(("trained", "norm"), [(False, False), (True, False), (False, True)])
def test_head_of_dino_and_of_dinov2(losses: Any, trained: bool, norm: bool) -> None:
    """The same weights give the same logits, and the same gradients of every weight."""
    ours = PrototypeHead(12, 20, 8, 32, train_scale=trained, norm=norm, seed=0, name="head")
    kind = losses["heads"].DINOv2ProjectionHead if trained else losses["heads"].DINOProjectionHead
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch has another weight norm by now
        theirs = kind(12, 20, 8, 32, **({"batch_norm": True} if norm else {}))
    pairs = [
        (mine, other)
        for a, b in zip(ours.mlp, theirs.layers, strict=True)
        for mine, other in zip(a.parameters(), b.parameters(), strict=True)
    ]
    pairs += [(ours.last.direction, theirs.last_layer.weight_v), (ours.last.scale, theirs.last_layer.weight_g)]
    with torch.no_grad():
        for mine, other in pairs:
            mine.add_(0.1 * torch.randn(mine.shape, generator=torch.Generator().manual_seed(mine.numel())))
            other.copy_(mine)
    x = draw(6, 12, seed=3).float()
    weight = draw(6, 32, seed=4).float()
    logits, expected = ours(x), theirs(x)
    torch.testing.assert_close(logits, expected, rtol=TOLERANCE, atol=1e-6)
    for output in (logits, expected):
        (output * weight).sum().backward()
    for mine, other in pairs:
        assert mine.requires_grad == other.requires_grad
        if mine.requires_grad:
            assert mine.grad is not None
            scale = float(other.grad.abs().max())
            torch.testing.assert_close(mine.grad, other.grad, rtol=TOLERANCE, atol=TOLERANCE * scale)


def test_head_of_simclr_up_to_the_shift_that_is_theirs(losses: Any) -> None:
    ours, theirs = projection_head(12, 20, 8, 2, seed=0), losses["heads"].SimCLRProjectionHead(12, 20, 8)
    theirs.layers.load_state_dict(ours.state_dict())  # their last shift starts, as ours stays, at zero
    first, second = twice(draw(7, 12, seed=0))
    mine, other = ours(first.float()), theirs(second.float())
    torch.testing.assert_close(mine, other, rtol=TOLERANCE, atol=1e-6)
    weight = draw(7, 8, seed=1).float()
    same((mine * weight).sum(), (other * weight).sum(), (first, second))


def test_the_teacher_follows(losses: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    student, ours = torch.nn.Linear(7, 5), torch.nn.Linear(7, 5)
    with torch.no_grad():
        for p in (*student.parameters(), *ours.parameters()):
            p.normal_(generator=generator)
    theirs = copy.deepcopy(ours)
    for momentum in (0.9, 0.996, 1.0):
        follow([ours], [student], momentum)
        losses["utils"].update_momentum(student, theirs, m=momentum)
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=TOLERANCE, atol=1e-7)
