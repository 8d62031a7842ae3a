"""Every operation against an independent implementation or a closed form."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy import interpolate, ndimage, special, stats

from groundswell import rng
from groundswell.views.elastic import Elastic
from groundswell.views.filters import Blur, Notch, Sharpness
from groundswell.views.injection import Erasing, Mixup, Noise, Speckle, normal_field
from groundswell.views.operation import PixelScale
from groundswell.views.tones import Brightness, Contrast, Gain, GammaCurve, Inversion, Solarise

DB = PixelScale("db", 7.5)
QUICKLOOK = PixelScale("amplitude", zero=-1.0, gamma=2.0)
N, C, H, W = 6, 2, 33, 40
KEYS = rng.keys(11, range(N))
IMAGES = rng.normal(rng.keys(5, range(N)), "image", C * H * W).view(N, C, H, W)

ALL = [
    Elastic(p=0.5),
    Gain(p=0.5),
    Brightness(p=0.5),
    Contrast(p=0.5),
    GammaCurve(p=0.5),
    Inversion(p=0.5),
    Solarise(p=0.5),
    Blur(p=0.5),
    Sharpness(p=0.5),
    Notch(p=0.5),
    Speckle(p=0.5),
    Noise(p=0.5),
    Erasing(p=0.5),
]


@pytest.mark.parametrize("operation", ALL, ids=lambda op: type(op).__name__)
def test_an_operation_acts_on_its_share_of_the_batch_and_leaves_the_rest(operation):
    keys = rng.keys(2, range(400))
    x = IMAGES[:1].expand(400, -1, -1, -1).clone()
    before = x.clone()
    y = operation(x, keys, DB)
    changed = (y != before).flatten(1).any(1)
    assert stats.binomtest(int(changed.sum()), 400, 0.5).pvalue > 1e-3
    assert torch.equal(x, before)  # the caller's images stay as they were
    torch.testing.assert_close(operation(x[200:], keys[200:], DB), y[200:], atol=1e-5, rtol=0)
    assert type(operation)()(x, keys, DB) is x  # p = 0 costs nothing


def test_each_operation_is_chosen_and_draws_by_itself():
    keys = rng.keys(2, range(2000))
    chosen = {type(op).__name__: torch.zeros(2000).index_fill(0, op.chosen(keys), 1).numpy() for op in ALL}
    drawn = {f"{name}'s draw": op.draw(keys, "factor").numpy() for name, op in zip(chosen, ALL, strict=True)}
    every = np.array([*chosen.values(), *drawn.values()])
    correlation = np.corrcoef(every)[np.triu_indices(len(every), 1)]
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)  # of 325 pairs, 4 standard errors are to be expected


def test_gain_shifts_db_and_multiplies_amplitude():
    gain = Gain(p=1.0, db=(-3.0, 3.0))
    db = (gain(IMAGES, KEYS, DB) - IMAGES) * 7.5
    drawn = gain.draw(KEYS, "db", -3, 3).float()
    torch.testing.assert_close(db, drawn[:, None, None, None].expand_as(db), atol=1e-5, rtol=0)
    assert drawn.std() > 0.5
    amplitude = IMAGES.abs() + 1.0
    scaled = gain(amplitude - 0.7, KEYS, PixelScale("amplitude", zero=-0.7)) + 0.7
    measured = 20 * torch.log10(scaled / amplitude)
    torch.testing.assert_close(measured, drawn[:, None, None, None].expand_as(db), atol=1e-4, rtol=0)
    root = gain(amplitude.sqrt(), KEYS, PixelScale("amplitude", gamma=0.5)).square()  # the same gain on the amplitude
    torch.testing.assert_close(20 * torch.log10(root / amplitude), measured, atol=1e-4, rtol=0)


def bytes_and_pixels():
    """Eight-bit images [N, H, W], and the same as encoders of quick-looks see them, [N, 1, H, W]."""
    grey = (IMAGES[:, 0] * 50 + 120).clamp(0, 255).to(torch.uint8)
    return grey.numpy(), (grey[:, None].float() - 127.5) / 127.5


def test_brightness_is_that_of_pil():
    grey, pixels = bytes_and_pixels()
    bright = Brightness(p=1.0, factor=(0.3, 1.8))
    ours = bright(pixels, KEYS, QUICKLOOK)[:, 0].numpy() * 127.5 + 127.5
    for i, factor in enumerate(bright.draw(KEYS, "factor", 0.3, 1.8).tolist()):
        pil = np.asarray(ImageEnhance.Brightness(Image.fromarray(grey[i])).enhance(factor), dtype=float)
        assert np.abs(ours[i].clip(0, 255) - pil).max() < 1 + 1e-3  # PIL keeps whole levels, and those within bytes


def test_solarise_is_that_of_pil():
    grey, pixels = bytes_and_pixels()
    ours = Solarise(p=1.0)(pixels, KEYS, QUICKLOOK)[:, 0].numpy() * 127.5 + 127.5
    for i in range(N):
        np.testing.assert_allclose(ours[i], np.asarray(ImageOps.solarize(Image.fromarray(grey[i]), 128)), atol=1e-4)


def test_gamma_is_a_power_between_black_and_white():
    grey, pixels = bytes_and_pixels()
    curve = GammaCurve(p=1.0, power=(0.5, 2.0))
    ours = curve(pixels, KEYS, QUICKLOOK)[:, 0].numpy()
    for i, power in enumerate(np.exp(curve.draw(KEYS, "power", np.log(0.5), np.log(2.0)).numpy())):
        np.testing.assert_allclose(ours[i] * 127.5 + 127.5, 255 * (grey[i] / 255.0) ** power, atol=1e-3)
    ends = torch.tensor([-1.5, -1.0, 1.0]).expand(N, 1, 1, 3)
    expected = torch.tensor([-1.0, -1.0, 1.0]).expand(N, 1, 1, 3)  # below black is black; both ends stay
    torch.testing.assert_close(curve(ends, KEYS, QUICKLOOK), expected)
    # The power law of decibels: in dB a power of the signal is a factor.
    signal = IMAGES.abs() + 0.5
    curved = curve(signal, KEYS, PixelScale("amplitude"))
    factor = torch.log(curved) / torch.log(signal)
    torch.testing.assert_close(factor, factor[:, :1, :1, :1].expand_as(factor), atol=1e-3, rtol=1e-3)


def test_contrast_keeps_the_mean_and_scales_the_deviation():
    y = Contrast(p=1.0, factor=(0.5, 2.0))(IMAGES, KEYS, DB).numpy()
    x = IMAGES.numpy()
    np.testing.assert_allclose(y.mean((2, 3)), x.mean((2, 3)), atol=1e-6)
    drawn = Contrast().draw(KEYS, "factor", 0.5, 2.0).numpy()
    np.testing.assert_allclose(y.std((2, 3)) / x.std((2, 3)), drawn[:, None].repeat(C, 1), rtol=1e-5)


def test_inversion_mirrors_about_its_value_and_undoes_itself():
    once = Inversion(p=1.0, about=0.25)(IMAGES, KEYS, DB)
    torch.testing.assert_close(once + IMAGES, torch.full_like(once, 0.5))
    torch.testing.assert_close(Inversion(p=1.0, about=0.25)(once, KEYS, DB), IMAGES)


def test_blur_is_the_gaussian_of_scipy():
    y = Blur(p=1.0, sigma=(0.3, 2.0))(IMAGES, KEYS, DB)
    for i, sigma in enumerate(Blur().draw(KEYS, "sigma", 0.3, 2.0).tolist()):
        for c in range(C):
            expected = ndimage.gaussian_filter(IMAGES[i, c].numpy(), sigma, mode="mirror", radius=6)
            np.testing.assert_allclose(y[i, c].numpy(), expected, atol=2e-6)  # float32 sums of 13 x 13 terms


def test_blur_of_an_image_smaller_than_its_kernel_keeps_a_constant():
    flat = torch.full((2, 1, 4, 4), 3.0)
    torch.testing.assert_close(Blur(p=1.0, sigma=(1.0, 5.0))(flat, KEYS[:2], DB), flat)


def test_sharpness_is_that_of_scipy_and_pil():
    y = Sharpness(p=1.0, factor=(0.0, 3.0))(IMAGES, KEYS, DB)
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    for i, factor in enumerate(Sharpness().draw(KEYS, "factor", 0.0, 3.0).tolist()):
        x = IMAGES[i, 0].numpy().astype(float)
        smooth = ndimage.convolve(x, kernel, mode="nearest")
        np.testing.assert_allclose(y[i, 0].numpy(), smooth + factor * (x - smooth), atol=5e-6)
    grey = ((IMAGES[0, 0] * 40 + 128).clamp(0, 255)).to(torch.uint8)
    ours = Sharpness(p=1.0, factor=(0.0, 0.0))(grey.float()[None, None], KEYS[:1], DB)[0, 0]
    pil = np.asarray(Image.fromarray(grey.numpy()).filter(ImageFilter.SMOOTH), dtype=float)
    assert np.abs(ours.numpy() - pil)[1:-1, 1:-1].max() <= 0.5 + 1e-4  # PIL rounds to whole grey levels, copies edges


def test_notch_is_its_transfer_function():
    notch = Notch(p=1.0, wavelength=(5.0, 15.0), octaves=0.3)
    y = notch(IMAGES, KEYS, DB).numpy()
    frequency = np.hypot(np.fft.fftfreq(H)[:, None], np.fft.fftfreq(W))
    lengths = np.exp(notch.draw(KEYS, "wavelength", np.log(5.0), np.log(15.0)).numpy())
    for i, length in enumerate(lengths):
        with np.errstate(divide="ignore"):
            keep = 1 - np.exp(-0.5 * (np.log2(frequency * length) / 0.3) ** 2)
        expected = np.fft.ifft2(np.fft.fft2(IMAGES[i, 1].numpy()) * keep).real
        np.testing.assert_allclose(y[i, 1], expected, atol=1e-5)


def test_several_notches_multiply_each_with_a_frequency_of_its_own():
    notch = Notch(p=1.0, count=3, wavelength=(4.0, 20.0), octaves=0.2)
    frequency = np.hypot(np.fft.fftfreq(H)[:, None], np.fft.fftfreq(W))
    keep = np.ones((N, H, W))
    for name in ("wavelength", "wavelength 2", "wavelength 3"):
        lengths = np.exp(notch.draw(KEYS, name, np.log(4.0), np.log(20.0)).numpy())
        with np.errstate(divide="ignore"):
            keep *= 1 - np.exp(-0.5 * (np.log2(frequency * lengths[:, None, None]) / 0.2) ** 2)
    expected = np.fft.ifft2(np.fft.fft2(IMAGES[:, 0].numpy()) * keep).real
    np.testing.assert_allclose(notch(IMAGES, KEYS, DB)[:, 0].numpy(), expected, atol=1e-5)


def test_notch_takes_its_wave_and_leaves_the_others_and_the_mean():
    column = torch.arange(64.0)
    waves = [torch.cos(2 * np.pi * column / length).expand(1, 1, 64, 64) for length in (8, 32)]
    notch = Notch(p=1.0, wavelength=(8.0, 8.0), octaves=0.2)
    y = notch(waves[0] + waves[1] + 2.0, KEYS[:1], DB)
    # Two octaves away the filter keeps 1 - exp(-50).
    torch.testing.assert_close(y, waves[1] + 2.0, atol=1e-5, rtol=0)


@pytest.mark.parametrize("looks", [3.0, 5.0, 30.0])
def test_speckle_has_the_moments_of_its_looks(looks):
    flat = torch.zeros(64, 1, 64, 64)
    keys = rng.keys(1, range(64))
    db = Speckle(p=1.0, looks=(looks, looks))(flat, keys, DB).double() * 7.5
    mean = 10 / np.log(10) * (special.digamma(looks) - np.log(looks))
    deviation = 10 / np.log(10) * np.sqrt(special.polygamma(1, looks))
    # The promised 1.2 % of the standard deviation, plus four standard errors of 262,144 values (1 / 128 of one).
    assert db.mean().item() == pytest.approx(mean, abs=(0.012 + 4 / 512) * deviation)
    assert db.std().item() == pytest.approx(deviation, rel=0.012 + 4 / 512)
    assert (10 ** (db / 10)).mean().item() == pytest.approx(1.0, abs=4 / 512 / np.sqrt(looks) + 0.005)
    amplitude = Speckle(p=1.0, looks=(looks, looks))(flat + 1.0, keys, PixelScale("amplitude", zero=0.0)).double()
    torch.testing.assert_close(20 * torch.log10(amplitude), db, atol=1e-3, rtol=0)


def test_noise_is_white_normal_of_its_strength_and_new_for_every_key():
    keys = rng.keys(1, range(64))
    noise = Noise(p=1.0, std=(0.3, 0.3))(torch.zeros(64, 1, 64, 64), keys, DB)[:, 0]
    assert stats.kstest(noise.flatten().numpy()[::7] / np.float32(0.3), "norm").pvalue > 1e-3
    flat = noise.flatten(1) - noise.flatten(1).mean(1, keepdim=True)
    unit = flat / flat.norm(dim=1, keepdim=True)
    correlation = unit @ unit.T - torch.eye(64)
    assert correlation.abs().max() < 6 / 64  # 4,096 values each: standard error 1/64
    assert (unit[:, 1:] * unit[:, :-1]).sum(1).abs().max() < 6 / 64


def test_noise_fields_of_one_key_are_the_same_alone_and_differ_between_names():
    whole = normal_field(KEYS, "a", IMAGES)
    assert torch.equal(whole[3:4], normal_field(KEYS[3:4], "a", IMAGES[3:4]))
    assert not torch.equal(whole, normal_field(KEYS, "b", IMAGES))


def test_erasing_fills_one_rectangle_of_the_drawn_size_with_the_mean():
    keys = rng.keys(3, range(300))
    x = IMAGES[:1].expand(300, -1, -1, -1)
    y = Erasing(p=1.0, area=(0.05, 0.15), ratio=(0.5, 2.0))(x, keys, DB)
    erased = (y != x).any(1)
    rows, columns = erased.any(2).sum(1), erased.any(1).sum(1)
    assert torch.equal(rows * columns, erased.sum((1, 2)))  # every one a full rectangle
    means = IMAGES[0].mean((1, 2))
    for c in range(C):
        assert (y[:, c][erased] - means[c]).abs().max() < 1e-6
    drawn = Erasing().draw(keys, "area", 0.05, 0.15) * (H * W)
    # Rounding moves each side by half a px at most.
    assert ((rows * columns - drawn).abs() <= 0.5 * (rows + columns) + 0.25 + 1e-6).all()
    assert erased.any(0).any(0).all()  # rectangles reach every column and every row
    assert erased.any(0).any(1).all()
    tops, lefts = (erased.any(axis).int().argmax(1).numpy() for axis in (2, 1))
    assert stats.spearmanr(tops, lefts).pvalue > 1e-3


def displacements(elastic, height, width):
    """Rows and columns [N, 2, H, W] that each pixel moves by, with the B-splines of scipy."""
    spacing, points = elastic.spacing, [int(np.ceil(length / elastic.spacing)) + 3 for length in (height, width)]
    control = rng.normal(KEYS, "Elastic/control", 2 * points[0] * points[1]).view(N, 2, *points).double().numpy()
    basis = []
    for length, count in zip((height, width), points, strict=True):
        knots = np.arange(-3, count + 1) * spacing  # the first spline is centred at -spacing
        at = np.arange(length) + 0.5
        basis.append(interpolate.BSpline.design_matrix(at, knots, 3).toarray())
    strength = elastic.draw(KEYS, "displacement", *elastic.displacement).numpy() * 315 / 151
    moved = np.einsum("yr,nkrc,xc->nkyx", basis[0], control, basis[1]) * strength[:, None, None, None]
    return moved[:, ::-1]


@pytest.mark.parametrize("spacing", [8.0, 13.5])
def test_elastic_moves_pixels_as_scipy_does(spacing):
    elastic = Elastic(p=1.0, displacement=(0.5, 3.0), spacing=spacing)
    moved = displacements(elastic, H, W)
    y = elastic(IMAGES, KEYS, DB)
    place = np.indices((H, W))
    for i in range(N):
        for c in range(C):
            expected = ndimage.map_coordinates(
                IMAGES[i, c].numpy().astype(float), place + moved[i], order=1, mode="reflect"
            )
            np.testing.assert_allclose(y[i, c].numpy(), expected, atol=2e-4)  # float32 coordinates of up to 45 px


def test_elastic_moves_by_the_displacement_it_names():
    """A ramp shows the displacement itself: root mean square 2 px, over 200 independent fields."""
    keys = rng.keys(8, range(200))
    ramp = torch.arange(128.0).expand(200, 1, 128, 128)
    moved = (Elastic(p=1.0, displacement=(2.0, 2.0))(ramp, keys, DB) - ramp)[:, 0, 32:96, 32:96]
    # 200 fields of some 4 x 4 independent control points each: standard error of the variance 2.5 %.
    assert moved.square().mean().sqrt().item() == pytest.approx(2.0, rel=0.05)


def test_mixup_takes_the_next_in_the_order_of_keys_whatever_the_order_of_the_batch():
    mixup = Mixup(p=1.0, weight=(0.1, 0.4))
    y = mixup(IMAGES, KEYS, DB)
    order = np.argsort(KEYS.numpy())
    weight = mixup.draw(KEYS, "weight", 0.1, 0.4).numpy()
    for place, i in enumerate(order):
        other = order[(place + 1) % N]
        expected = (1 - weight[i]) * IMAGES[i].numpy() + weight[i] * IMAGES[other].numpy()
        np.testing.assert_allclose(y[i].numpy(), expected, atol=1e-6)
    shuffled = torch.tensor([4, 2, 0, 5, 1, 3])
    torch.testing.assert_close(mixup(IMAGES[shuffled], KEYS[shuffled], DB), y[shuffled])


def test_mixup_changes_its_share_of_the_batch():
    keys = rng.keys(2, range(400))
    x = rng.normal(keys, "image", 64).view(400, 1, 8, 8)
    changed = (Mixup(p=0.3, weight=(0.1, 0.4))(x, keys, DB) != x).flatten(1).any(1)
    assert stats.binomtest(int(changed.sum()), 400, 0.3).pvalue > 1e-3
