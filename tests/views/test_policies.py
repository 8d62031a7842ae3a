"""Policies: the same key gives the same view; names, overrides and errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from groundswell import rng
from groundswell.config import resolve, validate
from groundswell.errors import ConfigError, UsageError
from groundswell.views import ViewPolicy, ViewSettings, policies

EVERYTHING = ViewSettings(
    policy="chip",
    inversion={"p": 0.5},
    sharpness={"p": 0.5},
    notch={"p": 0.5},
    speckle={"p": 0.5},
    erasing={"p": 0.5},
)


def images(count: int, channels: int = 1, height: int = 72, width: int = 60) -> torch.Tensor:
    field = rng.normal(rng.keys(5, range(count)), "image", channels * height * width)
    return field.view(count, channels, height, width)


@pytest.mark.parametrize("settings", [EVERYTHING, ViewSettings(policy="ocean"), ViewSettings(policy="chip")])
def test_the_same_keys_give_the_same_views_whatever_the_batch(settings):
    x, keys = images(40, 2), rng.keys(1, range(40), "epoch 3", "view 0")
    policy = ViewPolicy(settings, 24)
    whole = policy(x, keys)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = policy(x[order], keys[order])
    alone = torch.cat([policy(x[i : i + 1], keys[i : i + 1]) for i in range(40)])
    # Parameters are equal bit for bit; the sums of filters may be taken in another order.
    torch.testing.assert_close(shuffled, whole[order], atol=1e-5, rtol=0)
    torch.testing.assert_close(alone, whole, atol=1e-5, rtol=0)


def test_views_taken_in_parts_are_the_same(monkeypatch):
    x, keys = images(20), rng.keys(1, range(20))
    policy = ViewPolicy(EVERYTHING.model_copy(update={"mixup": policies.Mixup(p=0.7)}), 24)
    whole = policy(x, keys)
    monkeypatch.setattr(policies, "CPU_CHUNK", 3 * 24 * 24)
    torch.testing.assert_close(policy(x, keys), whole, atol=1e-5, rtol=0)


def test_other_keys_give_other_views_and_the_global_random_state_is_left_alone():
    x = images(16)
    before = torch.get_rng_state()
    policy = ViewPolicy(ViewSettings(policy="chip"), 32)
    first, second = (policy(x, rng.keys(0, range(16), view)) for view in ("a", "b"))
    assert torch.equal(torch.get_rng_state(), before)
    difference = (first - second).flatten(1).square().mean(1)
    assert difference.min() > 0.05  # unit-variance noise: unrelated views differ by about 2 x their variance


def test_operations_act_in_the_order_in_which_an_image_comes_about():
    order = ["elastic", "gain", "brightness", "contrast", "gamma_curve", "inversion", "solarise"]  # the scene
    order += ["blur", "sharpness", "notch", "speckle", "noise", "erasing"]  # the radar; its noise is not blurred
    settings = ViewSettings(pixels="amplitude", zero=0.0, **{name: {"p": 1.0} for name in order[::-1]})
    assert [operation.name for operation in ViewPolicy(settings, 16).operations] == order


def test_the_plain_policy_only_cuts():
    x = images(5, height=32, width=32)
    policy = ViewPolicy(ViewSettings(geometry={"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}), 32)
    torch.testing.assert_close(policy(x, rng.keys(0, range(5))), x, atol=1e-5, rtol=0)


def test_ocean_views_keep_azimuth_and_range_on_their_axes():
    """Stripes along range stay stripes along range: no row of a view varies."""
    rows = images(8, height=64, width=1).expand(8, 1, 64, 64)
    settings = ViewSettings(policy="ocean", speckle={"p": 0.0})
    views = ViewPolicy(settings, 48)(rows, rng.keys(0, range(8)))
    assert views.std(3).max() < 1e-4
    assert views.std(2).min() > 0.1


def test_a_named_policy_is_a_start_that_settings_change_one_by_one():
    chip = ViewSettings(policy="chip")
    changed, origins = resolve(ViewSettings, [("recipe", {"policy": "chip"})], ["blur.p=0.9", "geometry.rotation=0"])
    assert changed.blur.p == 0.9
    assert changed.blur.sigma == chip.blur.sigma != ViewSettings().blur.sigma
    assert changed.geometry.rotation == 0
    assert changed.geometry.scale == chip.geometry.scale
    assert origins["blur.p"] == "command line"
    assert ViewSettings.model_validate(changed.model_dump()) == changed  # resolved.yaml reads back as itself


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"policy": "sea"}, "policy"),
        ({"blurr": {"p": 1}}, "did you mean 'blur'"),
        ({"blur": {"sigmas": 1}}, "did you mean 'sigma'"),
        ({"speckle": {"looks": (1, 4)}}, "3 <= low"),
        ({"noise": {"p": 1.5}}, "noise.p"),
    ],
)
def test_bad_settings_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        validate(ViewSettings, values)


def test_images_without_keys_are_refused():
    with pytest.raises(UsageError, match="one key"):
        ViewPolicy(ViewSettings(), 16)(images(3), rng.keys(0, range(2)))


def test_operations_tell_what_they_break():
    broken = ViewPolicy(ViewSettings(policy="ocean"), 16).unphysical_for()
    assert "wind speed from the absolute level" in broken["gain"]
    assert broken["speckle"] == ("texture",)
    assert "noise" not in broken  # not in use


@hypothesis_settings(max_examples=25, deadline=None)
@given(
    count=st.integers(0, 4),
    channels=st.integers(1, 4),
    height=st.integers(8, 70),
    width=st.integers(8, 70),
    size=st.integers(8, 40),
)
def test_any_shape_gives_finite_views_of_the_asked_size(count, channels, height, width, size):
    x, keys = images(count, channels, height, width), rng.keys(0, range(count))
    views = ViewPolicy(EVERYTHING, size)(x, keys)
    assert views.shape == (count, channels, size, size)
    assert torch.isfinite(views).all()
    # Where views are only cut, each pixel is a mean of pixels of the image: none comes from beyond its edge.
    cut = ViewPolicy(ViewSettings(geometry={"scale": (0.1, 1.0), "rotation": 1.0}), size)(2 + x.sigmoid(), keys)
    assert ((cut > 2 - 1e-5) & (cut < 3 + 1e-5)).all()
