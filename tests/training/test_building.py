"""Views know what the preprocessing makes of the pixels, the watch is the method's; a bad row is refused at once."""

import logging
from pathlib import Path
from typing import Any

import pytest

from groundswell.archive.reader import Archive, open_archive
from groundswell.encoder.preprocessing import ChannelInput, PreprocessingSettings
from groundswell.errors import ArchiveError, DataError, UsageError
from groundswell.physics.imagette import Channel, Quantity
from groundswell.training.building import build_session, build_views, check_fits, fitted, warn_of_doubts
from groundswell.training.checkpoint import Checkpoints
from groundswell.training.run_directory import RunDirectory
from groundswell.views import MultiCrop, ViewSettings
from training.tiny import METHODS, tiny_recipe

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


def test_each_kind_of_view_has_its_own_policy_size_and_number() -> None:
    recipe = tiny_recipe(
        method={"name": "dino", "prototypes": 16, "head_hidden": 8, "head_bottleneck": 4},
        views={"policy": "plain", "gain": {"p": 0.3}},
        second_views={"policy": "plain", "gain": {"p": 0.4}},
        local_views={"policy": "plain", "gain": {"p": 0.5}},
        local_view_size=16,
        local_view_count=3,
    )
    given = channels(Quantity.SIGMA0_DB)
    made = build_views(recipe, given)
    assert isinstance(made, MultiCrop)
    assert made.locals_ is not None
    policies = [*made.globals_, made.locals_]
    assert [(policy.size, policy.settings.gain.p) for policy in policies] == [(32, 0.3), (32, 0.4), (16, 0.5)]
    assert (made.n_global, made.n_local) == (2, 3)
    alike = build_views(recipe.model_copy(update={"second_views": None}), given)
    assert isinstance(alike, MultiCrop)
    assert [policy.settings.gain.p for policy in alike.globals_] == [0.3, 0.3]


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", ["simclr", *METHODS])
def test_the_watch_over_a_run_is_that_of_its_method(archive: Archive, tmp_path: Path, name: str) -> None:
    run = RunDirectory(tmp_path / "run")
    recipe = tiny_recipe(**METHODS.get(name, {}), health={"patience": 7})
    session = build_session([archive], recipe, run, Checkpoints(run.checkpoints), 0.0)
    expected = {"simclr": "chance_ratio", "mae": "explained"}.get(name, "teacher_uniformity")
    assert expected in session.health.watched
    assert session.health.watched == session.method.watched
    assert session.health.settings.patience == 7


def test_what_local_views_cannot_do_is_said_of_local_views() -> None:
    recipe = tiny_recipe(
        method={"name": "dino", "prototypes": 16, "head_hidden": 8, "head_bottleneck": 4},
        local_views={"policy": "plain", "solarise": {"p": 0.2}},
        local_view_size=16,
    )
    with pytest.raises(UsageError, match=r"\(local_views\.solarise\.p=0\)"):
        build_views(recipe, channels(Quantity.SIGMA0_DB))


def with_row(archive: Archive, row: int, **changes: float) -> Archive:
    """The archive, known to be of 50 m at 23 degrees, with one row changed."""
    catalogue = archive.catalogue.assign(range_spacing_m=50.0, incidence_deg=23.0)
    for column, value in changes.items():
        catalogue.loc[row, column] = value
    return Archive(archive.path, archive.schema.model_copy(update={"spacing_m": 50.0}), catalogue, archive.records)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"range_spacing_m": 100.0}, r"range_spacing_m of w0030: 100 m \(1 such\)"),
        ({"incidence_deg": float("nan")}, r"w0030 \(1 of 48 images\)"),
        ({"incidence_deg": 95.0}, "between 0 and 90"),
    ],
)
def test_a_bad_row_anywhere_is_refused_from_the_catalogue(archive: Archive, changes: dict[str, Any], why: str) -> None:
    recipe = tiny_recipe(where=None, preprocessing={"quantity": "sigma0_db"})
    whole = with_row(archive, 30)
    check_fits(recipe, [whole])
    for archives in ([with_row(archive, 30, **changes)], [whole, with_row(archive, 30, **changes)]):
        with pytest.raises(DataError, match=why):
            check_fits(recipe, archives)
    spared = tiny_recipe(where="id != 'w0030'", preprocessing={"quantity": "sigma0_db"})
    check_fits(spared, [with_row(archive, 30, **changes)])


def test_images_that_are_given_twice_are_refused(archive: Archive) -> None:
    with pytest.raises(UsageError, match="given twice"):
        check_fits(tiny_recipe(where=None), [archive, open_archive(archive.path)])
    empty = Archive(archive.path, archive.schema, archive.catalogue.iloc[:0], ())
    check_fits(tiny_recipe(where=None), [archive, empty, empty])  # of nothing there is no twice


@pytest.mark.parametrize("where", [None, "split == 'train'"])
def test_an_archive_without_images_is_called_empty_or_incomplete(archive: Archive, where: str | None) -> None:
    empty = Archive(archive.path, archive.schema, archive.catalogue.iloc[:0], ())
    with pytest.raises(ArchiveError, match="no image to train on") as caught:
        check_fits(tiny_recipe(where=where), [empty])
    assert str(archive.path) in (caught.value.where or "")
    assert "groundswell stats ARCHIVE --verify" in (caught.value.fix or "")


def test_an_archive_that_lacks_a_part_is_warned_of(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    torn = Archive(archive.path, archive.schema, archive.catalogue.iloc[:40], archive.records[:2])
    with caplog.at_level(logging.WARNING):
        warn_of_doubts(tiny_recipe(), [archive, torn])
    (record,) = caplog.records
    assert f"{archive.path} is incomplete: it has 2 of 3 shards" in record.getMessage()


def test_views_far_larger_than_the_images_are_warned_of(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_doubts(tiny_recipe(view_size=2 * archive.height), [archive])
        assert not caplog.records
        warn_of_doubts(tiny_recipe(view_size=3 * archive.height), [archive])
    (record,) = caplog.records
    assert f"no more than view_size={archive.height}, for 9 times the work" in record.getMessage()
