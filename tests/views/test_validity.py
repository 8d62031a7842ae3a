"""What each operation is valid for, and what it breaks."""

import math
import re

import pytest
import torch

from groundswell import rng
from groundswell.config import validate
from groundswell.errors import ConfigError, UsageError
from groundswell.physics.imagette import Quantity
from groundswell.views import ViewPolicy, ViewSettings
from groundswell.views.named import POLICIES, Name
from groundswell.views.policies import ORDER
from groundswell.views.tasks import CLASSES, NUMBERS, broken_labels

Q = Quantity
LAND = (Q.AMPLITUDE, Q.AMPLITUDE, Q.RATIO) * 4  # VV, VH and their ratio, of four seasons


@pytest.mark.parametrize(
    ("settings", "quantities", "message"),
    [
        ({"solarise": {"p": 0.2}}, [Q.SIGMA0_DB], "no white to fold back from"),
        ({"solarise": {"p": 0.2}}, [Q.AMPLITUDE], "becomes negative"),
        ({"inversion": {"p": 0.2}}, [Q.SIGMA0], "becomes negative"),
        ({"inversion": {"p": 0.2}}, [Q.SIGMA0_DB, Q.RATIO], r"channel 2 of 2, ratio"),
        ({"policy": "wvnet"}, [Q.AMPLITUDE], r"views.inversion.p=0"),
        ({"speckle": {"p": 0.2}, "pixels": "amplitude"}, LAND, "ratio of two speckled channels"),
        ({"gamma_curve": {"p": 0.2}, "pixels": "amplitude"}, [Q.SIGMA0], "negative where noise was taken off"),
        ({"gamma_curve": {"p": 0.2}, "pixels": "amplitude"}, [Q.ROUGHNESS_DB], "that is contrast"),
        ({"gamma_curve": {"p": 0.2}}, [], "use gain and contrast"),
        ({"brightness": {"p": 0.2}}, [Q.ROUGHNESS_DB], "no black to count from"),
        ({"gain": {"p": 0.2}}, [Q.AMPLITUDE], "views.pixels=amplitude"),
        ({"speckle": {"p": 0.2}, "pixels": "amplitude"}, [Q.SIGMA0_DB], "views.pixels=db"),
        ({"gain": {"p": 0.2}, "pixels": "amplitude"}, [Q.RATIO], "cancels in their ratio"),
    ],
)
def test_what_a_quantity_does_not_allow_is_refused_with_the_reason(settings, quantities, message):
    with pytest.raises(UsageError, match=message):
        ViewPolicy(ViewSettings(**settings), 16, quantities)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"gain": {"db": (1.0, -1.0)}}, r"\(low, high\) with low <= high"),
        ({"gain": {"db": (0.0, math.nan)}}, "finite"),
        ({"gain": {"db": (0.0, math.inf)}}, "finite"),
        ({"contrast": {"factor": (-0.1, 1.0)}}, "0 <= low"),
        ({"gamma_curve": {"power": (0.0, 1.0)}}, "0 < low"),
        ({"blur": {"sigma": (0.0, 1.0)}}, "0 < low"),
        ({"notch": {"wavelength": (1.0, 8.0)}}, "2 <= low"),
        ({"notch": {"octaves": 0.0}}, "greater than 0"),
        ({"speckle": {"looks": (2.0, 8.0)}}, "3 <= low"),
        ({"noise": {"std": (-0.1, 0.2)}}, "0 <= low"),
        ({"erasing": {"area": (0.1, 20.0)}}, "high <= 1"),
        ({"erasing": {"ratio": (0.0, 3.0)}}, "0 < low"),
        ({"mixup": {"weight": (0.0, 3.0)}}, "high <= 1"),
        ({"elastic": {"displacement": (-1.0, 3.0)}}, "0 <= low"),
        ({"geometry": {"scale": (0.0, 1.0)}}, "0 < low"),
        ({"geometry": {"ratio": (2.0, 1.0)}}, "low <= high"),
    ],
)
def test_ranges_without_sense_are_refused_with_the_rule(settings, rule):
    with pytest.raises(ConfigError, match="bad value") as caught:
        validate(ViewSettings, settings)
    assert re.search(rule, caught.value.why or "")


@pytest.mark.parametrize(
    ("policy", "pixels", "quantities"),
    [
        ("plain", "db", [Q.SIGMA0]),
        ("ocean", "db", [Q.ROUGHNESS_DB]),
        ("ocean", "amplitude", [Q.QUICKLOOK]),
        ("chip", "amplitude", [Q.AMPLITUDE]),
        ("wvnet", "amplitude", [Q.QUICKLOOK]),
        ("wvnet", "db", [Q.ROUGHNESS_DB]),
        ("oceansar1", "amplitude", [Q.AMPLITUDE]),
        ("oceansar1-local", "amplitude", [Q.AMPLITUDE]),
        ("oceansar2", "db", [Q.SIGMA0_DB, Q.SIGMA0_DB]),
        ("oceansar2-local", "db", [Q.SIGMA0_DB]),
        ("sar-mae", "amplitude", LAND),
        ("sar-dino", "amplitude", LAND),
        ("sar-dino-local", "amplitude", LAND),
    ],
)
def test_every_named_policy_is_valid_for_the_pixels_it_is_meant_for(policy, pixels, quantities):
    settings = ViewSettings(policy=policy, pixels=pixels, zero=-1.0 if pixels == "amplitude" else 0.0)
    x = rng.normal(rng.keys(5, range(4)), "image", len(quantities) * 40 * 40).view(4, len(quantities), 40, 40)
    views = ViewPolicy(settings, 16, quantities)(x, rng.keys(1, range(4)))
    assert torch.isfinite(views).all()


def test_the_names_are_the_policies():
    assert set(Name.__args__) == set(POLICIES)
    for name in POLICIES:
        assert ViewSettings(policy=name).policy == name
    local = ViewSettings(policy="oceansar2-local")
    assert local.geometry.scale == (0.05, 0.32)  # DINOv2
    assert local.gain == ViewSettings(policy="oceansar2").gain


def test_a_gain_leaves_the_ratio_of_channels_alone():
    x = rng.normal(rng.keys(5, range(5)), "image", 3 * 16 * 16).view(5, 3, 16, 16)
    settings = ViewSettings(
        pixels="amplitude", gain={"p": 1.0, "db": (-3, 3)}, geometry={"scale": (1, 1), "ratio": (1, 1)}
    )
    y = ViewPolicy(settings, 16, LAND[:3])(x, rng.keys(1, range(5)))
    torch.testing.assert_close(y[:, 2], x[:, 2], atol=1e-5, rtol=0)
    drawn = settings.gain.draw(rng.keys(1, range(5)), "db", -3, 3).float()
    torch.testing.assert_close(y[:, 0], x[:, 0] * 10 ** (drawn / 20)[:, None, None], atol=1e-4, rtol=1e-4)


def test_policies_tell_what_they_break():
    chip = ViewPolicy(ViewSettings(policy="chip"), 16).unphysical_for()
    assert "direction" in chip["rotation"]
    ocean = ViewPolicy(ViewSettings(policy="ocean"), 16).unphysical_for()
    assert "rotation" not in ocean
    assert ocean["flip_azimuth"] == ("direction",)
    half = ViewSettings(geometry={"scale": (0.5, 0.5)}, gamma_curve={"p": 0.1}, pixels="amplitude")
    assert set(ViewPolicy(half, 16).unphysical_for()) == {"gamma_curve"}


SWAPPED = "tag_biological_slicks oil_share tag_low_wind tag_sea_ice wind_speed nrcs_db sigma0_mean nv looks"


@pytest.mark.parametrize(
    ("views", "broken"),
    [
        ({"blur": {"p": 0.5}}, "azimuth_cutoff_m sigma_v nv looks"),
        ({"sharpness": {"p": 0.5}}, "azimuth_cutoff_m sigma_v nv looks"),
        ({"notch": {"p": 0.5}}, "azimuth_cutoff_m sigma_v nv looks hs wl_1"),
        ({"contrast": {"p": 0.5}}, "nv looks hs"),
        ({"speckle": {"p": 0.5}}, "nv looks"),
        ({"noise": {"p": 0.5}}, "nv looks nesz_db"),
        ({"gain": {"p": 0.5}}, "wind_speed nesz_db nrcs_db sigma0_mean"),
        ({"erasing": {"p": 0.5}}, "tag_icebergs IB ship"),
        ({"inversion": {"p": 0.5}}, SWAPPED),
        ({"solarise": {"p": 0.5}}, SWAPPED + " hs"),
        (
            {"mixup": {"p": 0.5}},
            "azimuth_cutoff_m sigma_v nv looks nesz_db nrcs_db sigma0_mean wind_speed hs wl_1 air_temperature "
            "oil_share height",
        ),
        ({"geometry": {"scale": (0.5, 1.0)}}, "azimuth_cutoff_m sigma_v nv looks wl_1 height"),
        ({"geometry": {"scale": (0.3, 0.3)}}, "tag_icebergs IB ship"),
        ({"geometry": {"scale": (0.4, 1.0)}}, "azimuth_cutoff_m sigma_v nv looks wl_1 height tag_icebergs IB ship"),
        ({"geometry": {"scale": (1.0, 1.0), "quarter_turns": True}}, "azimuth_cutoff_m sigma_v hs"),
        ({"elastic": {"p": 0.5}}, "azimuth_cutoff_m sigma_v wl_1 height"),
        ({}, ""),
    ],
)
def test_the_labels_that_each_part_of_a_view_breaks(views, broken):
    """Beside those of the directions; classes of the whole image, such as its phenomenon, outlast all."""
    columns = [
        *("azimuth_cutoff_m", "sigma_v", "nv", "looks", "nesz_db", "wind_speed", "hs", "wl_1", "air_temperature"),
        *("tag_icebergs", "IB", "ship", "tag_biological_slicks", "oil_share", "tag_low_wind", "tag_sea_ice"),
        *("phenomenon", "tag_rain_cells", "level", "name", "nrcs_db", "sigma0_mean", "height"),
    ]
    settings = ViewSettings(**{"geometry": {"scale": (1.0, 1.0)}, **views})
    notes = ViewPolicy(settings, 16).unphysical_for()
    found = broken_labels(notes, [f"label_{column}" for column in columns] + ["nesz_db", "looks"])
    assert set(found) == {f"label_{column}" for column in broken.split()}


def test_the_height_of_waves_is_no_size():
    notes = ViewPolicy(ViewSettings(geometry={"scale": (0.5, 1.0)}), 16).unphysical_for()
    assert set(broken_labels(notes, ["label_significant_wave_height", "label_height_m"])) == {"label_height_m"}


def test_every_operation_breaks_something_and_every_kind_is_broken():
    """Kinds are found by how a note begins: a word of the one and not of the other would be never told."""
    operations = [getattr(ViewSettings(), name) for name in ("mixup", *ORDER)]
    assert all(operation.unphysical_for for operation in operations)
    turned = ViewSettings(geometry={"scale": (0.1, 1.0), "rotation": 0.5, "flip_azimuth": 0.5}).geometry
    notes = [*turned.unphysical_for().values(), *(operation.unphysical_for for operation in operations)]
    told = [label for labels in notes for label in labels]
    for kind in (NUMBERS | CLASSES).keys() - {"temperature", "shares"}:
        assert any(label.startswith(kind) for label in told), kind


def test_operations_are_called_as_their_settings():
    for name in ("mixup", *ORDER):
        assert getattr(ViewSettings(), name).name == name
