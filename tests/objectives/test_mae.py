"""MAE's loss in closed form, against a loop, and its invariances."""

import math

import pytest
import torch
from torch import Tensor

from groundswell.objectives.mae import mae_loss, patchify

MASK = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 1]], dtype=torch.bool)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_patches_run_row_by_row_with_the_channel_last() -> None:
    images = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    patches = patchify(images, 2)
    assert patches.shape == (2, 6, 12)
    for image in range(2):
        for p in range(6):
            row, column = divmod(p, 3)
            for i, value in enumerate(patches[image, p].tolist()):
                y, rest = divmod(i, 6)
                x, c = divmod(rest, 3)
                assert value == images[image, c, 2 * row + y, 2 * column + x]


@pytest.mark.parametrize("normalise", [False, True])
def test_equals_the_loop(normalise: bool) -> None:
    prediction, patches = draw(2, 6, 8), draw(2, 6, 8, seed=1)
    squares = []
    for image in range(2):
        for p in range(6):
            if MASK[image, p]:
                x = patches[image, p].tolist()
                if normalise:
                    mean = sum(x) / 8
                    deviation = math.sqrt(sum((v - mean) ** 2 for v in x) / 7 + 1e-6)
                    x = [(v - mean) / deviation for v in x]
                squares += [(a - b) ** 2 for a, b in zip(prediction[image, p].tolist(), x, strict=True)]
    expected = sum(squares) / len(squares)
    assert mae_loss(prediction, patches, MASK, normalise).item() == pytest.approx(expected, rel=1e-12)


def test_closed_forms() -> None:
    patches = draw(2, 6, 64)
    assert mae_loss(patches, patches, MASK, normalise=False).item() == 0.0
    # Targets have mean 0 and unbiased variance 1 (but for 1e-6): the mean square is 63 / 64.
    assert mae_loss(torch.zeros_like(patches), patches, MASK).item() == pytest.approx(63 / 64, rel=1e-5)
    flat = torch.full_like(patches, 7.0)  # nothing to tell: the target is 0
    assert mae_loss(torch.zeros_like(flat), flat, MASK).item() == 0.0


def test_normalised_targets_do_not_know_gain_and_offset_of_a_patch() -> None:
    prediction, patches = draw(2, 6, 16), draw(2, 6, 16, seed=1)
    scaled = patches * torch.linspace(20, 50, 6)[:, None] + draw(2, 6, 1, seed=2)
    # The 1e-6 beside variances of about 1 before and above 400 after.
    torch.testing.assert_close(
        mae_loss(prediction, scaled, MASK), mae_loss(prediction, patches, MASK), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("normalise", [False, True])
def test_gradient_by_finite_differences_and_none_at_what_was_seen(normalise: bool) -> None:
    prediction, patches = draw(2, 6, 4).requires_grad_(), draw(2, 6, 4, seed=1)
    assert torch.autograd.gradcheck(lambda p: mae_loss(p, patches, MASK, normalise), (prediction,), eps=1e-6, atol=1e-6)
    mae_loss(prediction, patches, MASK, normalise).backward()
    assert prediction.grad is not None
    assert torch.equal(prediction.grad[~MASK], torch.zeros_like(prediction.grad[~MASK]))
