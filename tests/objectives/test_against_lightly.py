"""The same arrays through the losses and heads of lightly (MIT): what it gave once, always; itself, where installed.

Each test says how one side is run, which callable of ours stands there, which call of lightly's, and the figures that
the latter gave (lightly 1.6.0, torch 2.13.0, on a CPU). ``[golden]`` holds our side to the figures. ``[lightly]`` holds
lightly to them, and our side to lightly number by number, gradients included; it is skipped without lightly, which is
no dependency: it requires torchvision, which this project never has, so no extra can name it, though its losses need no
more of it than two names. To run: ``pip install --no-deps --target FOLDER lightly==1.6.0 lightly-utils`` and
``PYTHONPATH=FOLDER pytest tests/objectives/test_against_lightly.py``.

lightly has no MAE loss of its own (tests/methods has MAE against transformers), and its head of SimCLR shifts the last
normalisation, which ours, after SimCLR's code, does not.
"""

import importlib
import importlib.machinery
import importlib.util
import itertools
import sys
import warnings
from collections.abc import Callable, Iterable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from groundswell.methods.distillation import follow
from groundswell.methods.heads import PrototypeHead
from groundswell.methods.simclr import projection_head
from groundswell.objectives.dino import Centre, centred, dino_loss, sinkhorn_knopp
from groundswell.objectives.ibot import ibot_loss
from groundswell.objectives.koleo import koleo
from groundswell.objectives.nt_xent import nt_xent

TOLERANCE = 1e-5  # relative; lightly holds temperatures in float32

Outcome = list[list[Tensor]]  # values that are compared one by one, and gradients, which share one golden figure
Agree = Callable[[Callable[[Any], Outcome], Any, Callable[[Any], Any], list[float]], None]


@pytest.fixture
def lightly(monkeypatch: pytest.MonkeyPatch) -> Any:
    """lightly's losses and heads, with stand-ins for the two names of torchvision that its import asks for."""
    if importlib.util.find_spec("lightly") is None:
        pytest.skip("lightly is not installed")
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
    from lightly.loss import dino_loss, ibot_loss, koleo_loss, ntx_ent_loss, swav_loss
    from lightly.models import utils
    from lightly.models.modules import heads

    return SimpleNamespace(
        NTXentLoss=ntx_ent_loss.NTXentLoss,
        DINOLoss=dino_loss.DINOLoss,
        IBOTPatchLoss=ibot_loss.IBOTPatchLoss,
        KoLeoLoss=koleo_loss.KoLeoLoss,
        sinkhorn=swav_loss.sinkhorn,
        heads=heads,
        update_momentum=utils.update_momentum,
    )


@pytest.fixture(params=["golden", "lightly"])
def agree(request: pytest.FixtureRequest) -> Agree:
    """``agree(run, ours, theirs, figures)``: run(ours) gives the figures; or run(theirs(lightly)) does, and the same.

    A figure is a value itself or, of many numbers, their sum weighted at random, which no two orders share.
    """

    def judge(run: Callable[[Any], Outcome], ours: Any, theirs: Callable[[Any], Any], figures: list[float]) -> None:
        if request.param == "golden":
            assert digests(run(ours)) == pytest.approx(figures, rel=TOLERANCE, abs=0)
            return
        expected = run(theirs(request.getfixturevalue("lightly")))
        assert digests(expected) == pytest.approx(figures, rel=TOLERANCE, abs=0)
        for mine, other in zip(itertools.chain(*run(ours)), itertools.chain(*expected), strict=True):
            scale = float(other.abs().max())
            torch.testing.assert_close(mine.double(), other.double(), rtol=0, atol=TOLERANCE * scale)

    return judge


def digests(outcome: Outcome) -> list[float]:
    values, gradients = outcome
    joint = [torch.cat([gradient.double().flatten() for gradient in gradients])] if gradients else []
    return [float(x if x.ndim == 0 else (x * draw(*x.shape, seed=99)).sum()) for x in (*values, *joint)]


def draw(*shape: int, seed: int) -> Tensor:
    """Standard normal float64 of NumPy's stream, which outlives the versions of torch."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def leaf(*shape: int, seed: int) -> Tensor:
    return draw(*shape, seed=seed).requires_grad_()


def logits(x: Tensor) -> Tensor:
    """Of the size of cosines, which the heads give; of one precision, as lightly's einsum asks."""
    return (0.3 * x).float()


def outcome(loss: Tensor, values: Iterable[Tensor], leaves: Iterable[Tensor]) -> Outcome:
    """The values, and the gradients of the loss with respect to the leaves that have one."""
    loss.backward()
    return [[value.detach() for value in values], [x.grad for x in leaves if x.grad is not None]]


def fill(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The parameters, set to draws that depend on their order alone."""
    filled = list(parameters)
    with torch.no_grad():
        for seed, parameter in enumerate(filled):
            parameter.copy_(draw(*parameter.shape, seed=20 + seed))
    return filled


def test_the_stream_is_the_one_that_the_figures_were_made_with() -> None:
    assert draw(3, seed=0).tolist() == pytest.approx([0.12573022, -0.13210486, 0.64042265], abs=1e-8)


@pytest.mark.parametrize(
    ("temperature", "figures"),
    [(0.1, [5.91468913, 0.0468465335]), (0.5, [3.08362442, -0.0340354475])],
    ids=["at 0.1", "at 0.5"],
)
def test_nt_xent(agree: Agree, temperature: float, figures: list[float]) -> None:
    def run(criterion: Any) -> Outcome:
        views = leaf(9, 16, seed=0), leaf(9, 16, seed=1)
        loss = criterion(*views)
        return outcome(loss, [loss], views)

    agree(
        run,
        lambda first, second: nt_xent(first, second, temperature),
        lambda lightly: lightly.NTXentLoss(temperature=temperature),
        figures,
    )


class OurDINO:
    """Our loss and centre in the shape of lightly's ``DINOLoss``."""

    def __init__(self, prototypes: int) -> None:
        self.running = Centre(prototypes)

    @property
    def center(self) -> Tensor:
        return self.running.value

    def __call__(self, teacher: list[Tensor], student: list[Tensor], teacher_temp: float) -> Tensor:
        raw = torch.cat(teacher)
        chosen = centred(raw, self.running.value, teacher_temp).view(len(teacher), *teacher[0].shape)
        self.running.update(raw)
        return dino_loss(torch.stack(student), chosen)


@pytest.mark.parametrize(
    ("views", "batch", "temperatures", "figures"),
    [
        (6, 6, (0.04, 0.04, 0.04), [6.68590069, 6.90364838, 7.31932878, -0.126429973, 0.736913552]),
        (10, 2, (0.06,), [6.55474234, -0.0745818406, -0.245127884]),
        (2, 3, (0.06,), [7.69643021, -0.0816877203, -1.61800991]),
    ],
    ids=["three steps", "eight local views", "no local view"],
)
def test_dino_and_its_centre(
    agree: Agree, views: int, batch: int, temperatures: tuple[float, ...], figures: list[float]
) -> None:
    def run(criterion: Any) -> Outcome:
        students = [leaf(views, batch, 32, seed=10 + step) for step in range(len(temperatures))]
        losses = [
            criterion(list(logits(draw(2, batch, 32, seed=step))), list(logits(student)), teacher_temp=temperature)
            for step, (student, temperature) in enumerate(zip(students, temperatures, strict=True))
        ]
        return outcome(torch.stack(losses).sum(), [*losses, criterion.center.flatten()], students)

    agree(run, OurDINO(32), lambda lightly: lightly.DINOLoss(output_dim=32, student_temp=0.1), figures)


@pytest.mark.parametrize(
    ("batch", "prototypes", "temperature", "rounds", "figure"),
    [(16, 12, 0.05, 3, 2.74291159), (5, 32, 0.04, 3, 0.5645878), (16, 12, 0.07, 1, 0.737374422)],
    ids=["more images than prototypes", "fewer images", "one round"],
)
def test_sinkhorn_knopp(
    agree: Agree, batch: int, prototypes: int, temperature: float, rounds: int, figure: float
) -> None:
    """Ours works out the two scalings alone; lightly, as SwAV's authors, rescales the whole matrix."""

    def run(choose: Callable[[Tensor, float, int], Tensor]) -> Outcome:
        return [[choose(logits(draw(batch, prototypes, seed=0)), temperature, rounds)], []]

    agree(
        run,
        sinkhorn_knopp,
        lambda lightly: lambda x, epsilon, iterations: lightly.sinkhorn(x, iterations=iterations, epsilon=epsilon),
        [figure],
    )


class OurIBOT:
    """Our loss and centre in the shape of lightly's ``IBOTPatchLoss``."""

    def __init__(self, prototypes: int) -> None:
        self.center = Centre(prototypes)

    def __call__(self, teacher: Tensor, student: Tensor, mask: Tensor, teacher_temp: float) -> Tensor:
        chosen = centred(teacher, self.center.value, teacher_temp)
        self.center.update(teacher)
        return ibot_loss(student, chosen, mask.flatten(1))


def test_ibot_and_its_centre_over_steps_at_a_rising_temperature(agree: Agree) -> None:
    def run(criterion: Any) -> Outcome:
        losses, students = [], []
        for step, temperature in enumerate((0.04, 0.05, 0.07)):
            mask = draw(5, 3, 3, seed=step) < -0.25
            mask[step] = False  # an image without a masked patch counts too
            count = int(mask.sum())
            students.append(leaf(count, 24, seed=50 + step))
            teacher = logits(draw(count, 24, seed=60 + step))
            losses.append(criterion(teacher, logits(students[-1]), mask, teacher_temp=temperature))
        return outcome(torch.stack(losses).sum(), [*losses, criterion.center.value.flatten()], students)

    figures = [4.92838144, 5.68013191, 4.66097498, 0.121776216, -0.974739634]
    agree(run, OurIBOT(24), lambda lightly: lightly.IBOTPatchLoss(output_dim=24, student_temp=0.1), figures)


def test_koleo(agree: Agree) -> None:
    def run(criterion: Any) -> Outcome:
        features = leaf(12, 8, seed=0)
        loss = criterion(features.float())
        return outcome(loss, [loss], [features])

    agree(run, koleo, lambda lightly: lightly.KoLeoLoss(), [0.148988903, -0.0201463448])


@pytest.mark.parametrize(
    ("trained", "norm", "figures"),
    [
        (False, False, [-4.16536011, 11.3229749]),
        (True, False, [-4.16536011, 3.0715265]),
        (False, True, [-2.11579227, 5.52285946]),
    ],
    ids=["DINO", "DINOv2", "DINO, normalised"],
)
def test_head_of_dino_and_of_dinov2(agree: Agree, trained: bool, norm: bool, figures: list[float]) -> None:
    """The same weights give the same logits, and the same gradients of every weight that is trained."""

    def run(head: nn.Module) -> Outcome:
        body, last = (head.mlp, head.last) if isinstance(head, PrototypeHead) else (head.layers, head.last_layer)
        names = ("direction", "scale") if isinstance(head, PrototypeHead) else ("weight_v", "weight_g")
        weights = fill([*body.parameters(), *(getattr(last, name) for name in names)])
        x = leaf(6, 12, seed=3)
        chosen = head(x.float())
        return outcome((chosen * draw(6, 32, seed=4)).sum(), [chosen], [x, *weights])

    def theirs(lightly: Any) -> nn.Module:
        kind = lightly.heads.DINOv2ProjectionHead if trained else lightly.heads.DINOProjectionHead
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch has another weight norm by now
            head: nn.Module = kind(12, 20, 8, 32, batch_norm=norm)
        return head

    agree(run, PrototypeHead(12, 20, 8, 32, train_scale=trained, norm=norm, seed=0, name="head"), theirs, figures)


def test_head_of_simclr_up_to_the_shift_that_is_theirs(agree: Agree) -> None:
    def run(head: nn.Module) -> Outcome:
        weights = fill([*head.parameters()][:-1])  # the last shift starts, as ours stays, at zero
        x = leaf(7, 12, seed=0)
        z = head(x.float())
        return outcome((z * draw(7, 8, seed=1)).sum(), [z], [x, *weights])

    agree(
        run,
        projection_head(12, 20, 8, 2, seed=0),
        lambda lightly: lightly.heads.SimCLRProjectionHead(12, 20, 8).layers,
        [0.924539265, -0.632631963],
    )


def test_the_teacher_follows(agree: Agree) -> None:
    def run(update: Callable[[nn.Module, nn.Module, float], None]) -> Outcome:
        student, teacher = nn.Linear(7, 5), nn.Linear(7, 5)
        fill([*student.parameters(), *teacher.parameters()])
        values = []
        for momentum in (0.9, 0.996, 1.0):
            update(student, teacher, momentum)
            values += [parameter.detach().clone() for parameter in teacher.parameters()]
        return [values, []]

    agree(
        run,
        lambda student, teacher, momentum: follow([teacher], [student], momentum),
        lambda lightly: lightly.update_momentum,
        [-4.88647541, -2.11911413, -4.85079895, -2.10872447, -4.85079895, -2.10872447],
    )
