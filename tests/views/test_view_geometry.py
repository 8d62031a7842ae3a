"""The cut of a view: against scipy, closed forms, and its declared distribution."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from groundswell import rng
from groundswell.config import validate
from groundswell.errors import ConfigError
from groundswell.views.geometry import Geometry, affine_maps, resample

WHOLE = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}


def image(height: int, width: int, channels: int = 1, count: int = 1) -> torch.Tensor:
    return rng.normal(rng.keys(3, range(count)), "image", channels * height * width).view(
        count, channels, height, width
    )


def by_scipy(picture: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Bilinear samples of one channel, mirrored at the edges, with the order-1 spline of scipy."""
    step = (np.arange(size) + 0.5) / size - 0.5
    u, v = np.meshgrid(step, step)
    x, y = np.einsum("rc,cij->rij", matrix, np.stack([u, v, np.ones_like(u)]))
    return ndimage.map_coordinates(picture, [y - 0.5, x - 0.5], order=1, mode="reflect")


def test_whole_crop_at_its_own_size_is_the_image():
    x = image(24, 24, 2, 5)
    keys = rng.keys(0, range(5))
    # 24 px need no exact power of two: 1e-5 covers the float32 rounding of the sampling coordinates.
    torch.testing.assert_close(resample(x, affine_maps(Geometry(**WHOLE), keys, 24, 24), 24), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("flip", "axis"), [("flip_azimuth", 0), ("flip_range", 1)])
def test_flips_reverse_rows_and_columns(flip, axis):
    x = image(16, 16)
    maps = affine_maps(Geometry(**WHOLE, **{flip: 1.0}), rng.keys(0, [1]), 16, 16)
    expected = np.flip(x[0, 0].numpy(), axis)
    np.testing.assert_allclose(resample(x, maps, 16)[0, 0].numpy(), expected, atol=1e-5)


def test_quarter_turns_are_those_of_numpy_and_all_occur():
    x = image(16, 16)
    maps = affine_maps(Geometry(**WHOLE, quarter_turns=True), rng.keys(0, range(200)), 16, 16)
    views = resample(x.expand(200, -1, -1, -1), maps, 16)[:, 0].numpy()
    turned = np.stack([np.rot90(x[0, 0].numpy(), k) for k in range(4)])
    distance = np.abs(views[:, None] - turned).max((2, 3))
    assert distance.min(1).max() < 1e-5
    counts = np.bincount(distance.argmin(1), minlength=4)
    assert stats.chisquare(counts).pvalue > 1e-3  # 50 expected of each


@pytest.mark.parametrize("size", [40, 64])
def test_magnified_rotated_crops_equal_scipy(size):
    height, width, n = 37, 52, 6
    x = image(height, width, 2, n)
    maps = affine_maps(Geometry(scale=(0.2, 0.5), rotation=1.0, flip_range=0.5), rng.keys(1, range(n)), height, width)
    views = resample(x, maps, size)
    for i in range(n):
        for c in range(2):
            expected = by_scipy(x[i, c].numpy().astype(float), maps[i].numpy(), size)
            # float32 coordinates of up to 52 px have steps of 4e-6; neighbouring pixels differ by up to 5.
            np.testing.assert_allclose(views[i, c].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("size", [50, 40, 32, 24, 16, 11])
def test_a_coarser_view_blends_two_levels_of_block_means(size):
    x = image(64, 64)
    maps = affine_maps(Geometry(scale=(0.9, 1.0), rotation=1.0), rng.keys(1, [5]), 64, 64)
    level = math.log2(math.sqrt(abs(np.linalg.det(maps[0, :, :2].numpy()))) / size)
    expected = np.zeros((size, size))
    for depth, weight in ((math.floor(level), 1 - level % 1), (math.floor(level) + 1, level % 1)):
        k = 2**depth
        blocks = x[0, 0].numpy().astype(float).reshape(64 // k, k, 64 // k, k).mean((1, 3))
        expected += weight * by_scipy(blocks, maps[0].numpy() / k, size)
    np.testing.assert_allclose(resample(x, maps, size)[0, 0].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("spacing", [1.0, 1.2, 1.414, 1.7, 2.0, 2.8, 3.3, 4.0])
def test_speckle_loses_variance_with_the_square_of_the_spacing_of_a_turned_view(spacing):
    """Bilinear sampling at random phases keeps (2/3)^2 of white noise; the blend follows 1 / spacing^2 from there."""
    n, size = 64, 32
    x = image(256, 256, 1, n)
    crop = spacing * size
    geometry = Geometry(scale=((crop / 256) ** 2,) * 2, ratio=(1.0, 1.0), rotation=1.0)
    variance = resample(x, affine_maps(geometry, rng.keys(0, range(n)), 256, 256), size).var().item()
    # Linear blending sags or bulges between octaves: within a fifth of the law, where one level alone is off by two.
    assert variance == pytest.approx(4 / 9 / spacing**2, rel=0.2)


@pytest.mark.parametrize("factor", [2, 4])
def test_speckle_is_averaged_like_looks(factor):
    """White noise of a grid-aligned view loses variance like looks; plain bilinear sampling stops at 1/4."""
    x = image(128, 128, 1, 4)
    maps = affine_maps(Geometry(**WHOLE), rng.keys(0, range(4)), 128, 128)
    variance = resample(x, maps, 128 // factor).var().item()
    # 4 * (128 / factor)^2 >= 4096 independent values: relative standard error sqrt(2 / 4096) = 2.2 %, five of them.
    assert variance == pytest.approx(factor**-2, rel=0.11)


def test_a_wave_above_the_new_nyquist_frequency_fades():
    frequency = 0.375  # cycles a px; the view's own limit is 0.25
    wave = torch.cos(2 * math.pi * frequency * (torch.arange(64) + 0.5)).expand(1, 1, 64, 64)
    view = resample(wave, affine_maps(Geometry(**WHOLE), rng.keys(0, [0]), 64, 64), 32)
    # Means of two neighbours multiply a wave by cos(pi f), and move nothing: the pair's centre keeps its phase.
    expected = math.cos(math.pi * frequency) * torch.cos(2 * math.pi * frequency * (2 * torch.arange(32) + 1.0))
    torch.testing.assert_close(view[0, 0, 7], expected, atol=1e-4, rtol=0)


def test_odd_sizes_keep_their_place():
    """A ramp stays a ramp where an odd image is halved (the repeated last column would bend it only at its end)."""
    ramp = torch.arange(65.0).expand(1, 1, 65, 65)
    view = resample(ramp, affine_maps(Geometry(**WHOLE), rng.keys(0, [0]), 65, 65), 32)
    expected = (torch.arange(32) + 0.5) * 65 / 32 - 0.5
    torch.testing.assert_close(view[0, 0, 9, 1:-1], expected[1:-1], atol=1e-3, rtol=0)


def test_crops_have_the_declared_areas_and_stay_inside():
    height, width = 100, 140
    maps = affine_maps(Geometry(scale=(0.2, 0.5)), rng.keys(0, range(4000)), height, width)
    area = torch.linalg.det(maps[:, :, :2]).abs().numpy() / (height * width)
    assert stats.kstest(area, stats.uniform(0.2, 0.3).cdf).pvalue > 1e-3  # no side exceeds the image at these scales
    log_ratio = torch.log(maps[:, 0, 0] / maps[:, 1, 1]).numpy()
    assert stats.kstest(log_ratio, stats.uniform(math.log(3 / 4), 2 * math.log(4 / 3)).cdf).pvalue > 1e-3
    for sign in (-0.5, 0.5):
        corner = maps @ torch.tensor([sign, sign, 1.0], dtype=torch.float64)
        assert corner.min() > -1e-9
        assert (corner - torch.tensor([width, height])).max() < 1e-9


def test_flips_and_turns_come_as_often_and_go_as_far_as_is_said_each_by_itself():
    n, p = 4000, {"flip_azimuth": 0.3, "flip_range": 0.6, "rotation": 0.4}
    maps = affine_maps(Geometry(**WHOLE, **p, rotation_deg=20.0), rng.keys(2, range(n)), 40, 40).numpy()
    angle = np.degrees(np.arctan(maps[:, 1, 0] / maps[:, 0, 0]))  # both hold the sign of a flip
    happened = {"flip_azimuth": maps[:, 1, 1] < 0, "flip_range": maps[:, 0, 0] < 0, "rotation": angle != 0}
    for name, which in happened.items():
        assert stats.binomtest(int(which.sum()), n, p[name]).pvalue > 1e-3, name
    for one, other in (("flip_azimuth", "flip_range"), ("flip_azimuth", "rotation"), ("flip_range", "rotation")):
        table = np.histogram2d(happened[one], happened[other], bins=2)[0]
        assert stats.chi2_contingency(table).pvalue > 1e-3, (one, other)
    assert stats.kstest(angle[happened["rotation"]], stats.uniform(-20, 40).cdf).pvalue > 1e-3


def test_crops_lie_anywhere_along_each_axis():
    height, width, n = 30, 50, 2000
    maps = affine_maps(Geometry(scale=(0.1, 0.4)), rng.keys(4, range(n)), height, width).numpy()
    places = []
    for axis, length in ((0, width), (1, height)):
        side = maps[:, axis, axis]
        assert (side <= length).all()
        places.append((maps[:, axis, 2] - side / 2) / (length - side))
    for place in places:
        assert stats.kstest(place, stats.uniform.cdf).pvalue > 1e-3
    assert stats.spearmanr(*places).pvalue > 1e-3


def test_a_side_that_would_exceed_the_image_is_cut_to_it():
    maps = affine_maps(Geometry(scale=(1.0, 1.0), ratio=(0.5, 2.0)), rng.keys(4, range(200)), 30, 50)
    sides = torch.stack([maps[:, 0, 0], maps[:, 1, 1]])
    assert (sides.amax(1) == torch.tensor([50.0, 30.0], dtype=torch.float64)).all()  # each is cut in some of them
    assert (maps[:, :, 2] >= 0.5 * sides.T - 1e-9).all()


def test_maps_are_the_same_bits_whatever_the_batch():
    geometry = Geometry(flip_azimuth=0.5, quarter_turns=True, rotation=0.5)
    keys = rng.keys(7, range(257))
    whole = affine_maps(geometry, keys, 90, 70)
    alone = torch.cat([affine_maps(geometry, keys[i : i + 1], 90, 70) for i in range(257)])
    assert torch.equal(whole, alone)


def test_bad_ranges_name_the_setting():
    with pytest.raises(ConfigError, match="setting 'scale'"):
        validate(Geometry, {"scale": (0.5, 1.5)})
