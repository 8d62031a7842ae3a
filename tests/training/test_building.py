"""Views know what the preprocessing makes of the pixels."""

import pytest

from groundswell.encoder.preprocessing import ChannelInput, PreprocessingSettings
from groundswell.errors import UsageError
from groundswell.physics.imagette import Channel, Quantity
from groundswell.training.building import build_views, fitted
from groundswell.views import MultiCrop, ViewSettings
from training.tiny import tiny_recipe

GAIN = {"gain": {"p": 1.0, "db": (-3.0, 3.0)}}
NOISE = {"noise": {"p": 1.0}}


def channels(*quantities: Quantity, **settings: object) -> tuple[ChannelInput, ...]:
    given = [Channel(f"band{i}", quantity) for i, quantity in enumerate(quantities)]
    return PreprocessingSettings.model_validate(settings).resolve(given, 64, 64).channels


@pytest.mark.parametrize(
    ("quantities", "settings", "expected"),
    [
        ([Quantity.ROUGHNESS_DB], {}, {"pixels": "db", "unit_db": 7.5}),
        ([Quantity.SIGMA0_DB, Quantity.RATIO], {}, {"pixels": "db", "unit_db": 10.0}),
        ([Quantity.SIGMA0_DB], {"scale": 4.0}, {"pixels": "db", "unit_db": 4.0}),
        # Grey level 0 after (x - 127.5) / 127.5; a quick-look is linear in power.
        ([Quantity.QUICKLOOK], {}, {"pixels": "amplitude", "gamma": 2.0, "zero": -1.0}),
        ([Quantity.SIGMA0], {"gamma": 0.5}, {"pixels": "amplitude", "gamma": 1.0, "zero": -0.5}),
        ([Quantity.AMPLITUDE], {"standardise": False}, {"pixels": "amplitude", "gamma": 0.5, "zero": 0.0}),
    ],
)
def test_views_take_the_scale_of_the_preprocessing(
    quantities: list[Quantity], settings: dict[str, object], expected: dict[str, object]
) -> None:
    views = fitted(ViewSettings.model_validate(GAIN), channels(*quantities, **settings))
    assert {name: getattr(views, name) for name in expected} == expected


def test_no_signal_of_standardised_images_must_be_stated() -> None:
    amplitude = channels(Quantity.AMPLITUDE)
    with pytest.raises(UsageError, match=r"local_views.zero[\s\S]*standardised"):
        fitted(ViewSettings.model_validate(GAIN), amplitude, "local_views")
    with pytest.raises(UsageError, match=r"views\.unit_db"):
        fitted(ViewSettings.model_validate(GAIN), channels(Quantity.SIGMA0_DB, standardise=True))
    stated = fitted(ViewSettings.model_validate({**GAIN, "zero": -1.38}), amplitude)
    assert (stated.zero, stated.gamma) == (-1.38, 0.5)
    fitted(ViewSettings.model_validate(NOISE), amplitude)  # noise asks for no scale


@pytest.mark.parametrize(
    ("views", "quantities", "match"),
    [
        ({"unit_db": 7.5}, [Quantity.SIGMA0_DB], r"unit_db is 7.5, and the preprocessing makes it 10.0"),
        ({"pixels": "db"}, [Quantity.QUICKLOOK], r"pixels is db, and the preprocessing makes it amplitude"),
        ({"gamma": 1.0}, [Quantity.QUICKLOOK], r"gamma is 1.0, and the preprocessing makes it 2.0"),
        ({}, [Quantity.SIGMA0_DB, Quantity.ROUGHNESS_DB], r"unit_db is 10.0, and the preprocessing makes it 7.5"),
    ],
)
def test_what_the_preprocessing_says_otherwise_is_refused(
    views: dict[str, object], quantities: list[Quantity], match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        fitted(ViewSettings.model_validate({**GAIN, **views}), channels(*quantities))
    fitted(ViewSettings.model_validate({**NOISE, **views}), channels(*quantities))  # nothing asks


def test_smaller_views_share_the_value_of_no_signal() -> None:
    recipe = tiny_recipe(
        method={"name": "dino", "prototypes": 16, "head_hidden": 8, "head_bottleneck": 4},
        views={**GAIN, "zero": -1.5},
        local_views={**GAIN, "policy": "plain"},
        local_view_size=16,
        local_view_count=2,
    )
    made = build_views(recipe, channels(Quantity.AMPLITUDE))
    assert isinstance(made, MultiCrop)
    assert made.locals_ is not None
    assert made.locals_.scale.zero == -1.5


def test_what_local_views_cannot_do_is_said_of_local_views() -> None:
    recipe = tiny_recipe(
        method={"name": "dino", "prototypes": 16, "head_hidden": 8, "head_bottleneck": 4},
        local_views={"policy": "plain", "solarise": {"p": 0.2}},
        local_view_size=16,
    )
    with pytest.raises(UsageError, match=r"\(local_views\.solarise\.p=0\)"):
        build_views(recipe, channels(Quantity.SIGMA0_DB))
