"""The sheet of views: the views of training, in their places, with what they break."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from groundswell import rng
from groundswell.archive.reader import Archive
from groundswell.backbones import build_backbone
from groundswell.cli import verbs  # noqa: F401 - importing the verbs registers them
from groundswell.cli.app import application
from groundswell.methods import dinov2, mae
from groundswell.physics.imagette import Channel, Quantity
from groundswell.report.sheets import grey
from groundswell.report.views import Panel, masked, panels_of, show_views
from groundswell.training.building import build_method, build_views
from groundswell.views import ViewPolicy, ViewSettings, block_masks, crops
from groundswell.views.tasks import broken_labels
from training.tiny import make_archive, tiny_recipe

TILE, GAP, LINE = 180, 6, 15


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return make_archive(tmp_path_factory.mktemp("sheet") / "a", count=24)


TRANSFORMER = {"name": "vit-ti/16", "image_size": 64}
SMALL = {"prototypes": 16, "head_hidden": 8, "head_bottleneck": 4}
LOCAL = {
    "local_views": {"policy": "plain", "geometry": {"scale": (0.05, 0.3)}},
    "local_view_size": 32,
    "local_view_count": 3,
}
METHODS: dict[str, dict[str, Any]] = {
    "simclr": {"view_size": 16},
    "dino": {"method": {"name": "dino", **SMALL}, **LOCAL, "second_views": {"policy": "chip"}},
    "dinov2": {"method": {"name": "dinov2", **SMALL}, "backbone": TRANSFORMER, "view_size": 64, **LOCAL},
    "mae": {
        "method": {"name": "mae", "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2},
        "backbone": TRANSFORMER,
        "view_size": 64,
    },
}


@pytest.mark.parametrize("name", METHODS)
def test_the_panels_are_what_the_loss_of_the_method_takes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(**METHODS[name])
    channels = recipe.preprocessing.resolve([Channel("VV", Quantity.ROUGHNESS_DB)], 72, 72).channels
    images = rng.normal(rng.keys(0, range(4)), "image", 72 * 72).view(4, 1, 72, 72)
    keys = rng.keys(3, range(4))
    panels = panels_of(recipe, build_views(recipe, channels), images, keys)

    views, masks = [], []
    monkeypatch.setattr(crops, "AT_ONCE", 0)  # one call a view

    def listen(place: Any, function: str, heard: list[torch.Tensor], pick: Callable[[Any], torch.Tensor]) -> None:
        original = getattr(place, function)

        def wrapper(*arguments: Any) -> Any:
            result = original(*arguments)
            heard.append(pick(result))
            return result

        monkeypatch.setattr(place, function, wrapper)

    listen(ViewPolicy, "__call__", views, lambda made: made)
    listen(dinov2, "block_masks", masks, lambda made: made)
    listen(mae, "random_masks", masks, lambda made: made[1])
    build_method(recipe, build_backbone(recipe.backbone, 1, 0), channels).loss(images, keys)
    whole = [panel for panel in panels if "masked" not in panel.title]
    assert len(whole) == len(views) == {"simclr": 2, "mae": 1}.get(name, 5)
    for panel, view in zip(whole, views, strict=True):
        assert torch.equal(panel.images, view)
    hidden = [panel for panel in panels if "masked" in panel.title]
    assert len(hidden) == {"dinov2": 2, "mae": 1}.get(name, 0)
    if hidden:
        centres = torch.cat([panel.images[:, 0, 8::16, 8::16].isnan().flatten(1) for panel in hidden])
        assert torch.equal(centres, masks[0])
        assert centres.any()


def test_each_row_is_an_original_and_its_views_in_one_grey_scale(archive: Archive, tmp_path: Path) -> None:
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    views = {"geometry": whole, "gain": {"p": 1.0, "db": (3.0, 3.0)}}
    shown = show_views(archive, tiny_recipe(views=views), tmp_path / "s.png", count=4)
    rows = [0, 8, 15, 23]  # evenly spaced among 24
    assert shown.ids == [archive.catalogue["id"].iloc[i] for i in rows]
    page = np.asarray(Image.open(tmp_path / "s.png").convert("L")).astype(int)
    pixels = np.clip(archive.read(rows)[:, 0], -15, 15) / 7.5
    for i in range(4):
        low, high = np.percentile(pixels[i], [1, 99])
        top = LINE + 2 * GAP + i * (TILE + 2 * LINE + 2 * GAP)
        for column, expected in enumerate((pixels[i], pixels[i] + 3 / 7.5, pixels[i] + 3 / 7.5)):
            left = GAP + column * (TILE + GAP)
            tile = page[top : top + TILE, left : left + TILE]
            centres = np.floor((np.arange(32) + 0.5) * TILE / 32).astype(int)
            assert np.abs(tile[np.ix_(centres, centres)] - grey(expected, (low, high))).max() <= 1


def test_the_verb_writes_the_sheet_and_says_what_breaks(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(json.dumps(tiny_recipe().model_dump(mode="json")))
    command = ["views", str(archive.path), "--recipe", str(tmp_path / "r.yaml"), "-o", str(tmp_path / "s.png")]
    command += ["--count", "3", "--where", "split == 'test'", "views.geometry.rotation=1"]
    result = CliRunner().invoke(application, [*command, "--json"])
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["views"] == ["first view", "second view"]
    assert set(data["ids"]) <= set(archive.where("split == 'test'").catalogue["id"])
    assert "direction" in data["unphysical_for"]["rotation"]
    assert "rotation: direction" in CliRunner().invoke(application, command).stdout
    assert Image.open(tmp_path / "s.png").width == 3 * (TILE + GAP) + GAP


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["views.solarise.p=0.5"], "no white to fold back from"),
        (["--channel", "VH"], "choose from VV"),
        (["--where", "split == 'none'"], "holds for none"),
        (["views.solarize.p=0.5"], "solarise"),
    ],
)
def test_what_cannot_be_shown_is_a_usage_error(
    archive: Archive, tmp_path: Path, extra: list[str], message: str
) -> None:
    command = ["views", str(archive.path), "--recipe", "demo", "-o", str(tmp_path / "s.png"), *extra]
    result = CliRunner().invoke(application, command)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "s.png").exists()


def test_the_help_names_every_ending_that_may_be_given(archive: Archive, tmp_path: Path) -> None:
    shown = CliRunner().invoke(application, ["views", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    for ending in (".png", ".jpg", ".jpeg", ".webp"):
        assert ending in shown
        page = tmp_path / f"s{ending}"
        show_views(archive, tiny_recipe(), page, count=1)
        assert Image.open(page).format == {".png": "PNG", ".webp": "WEBP"}.get(ending, "JPEG")
    gif = CliRunner().invoke(application, ["views", str(archive.path), "-r", "demo", "-o", str(tmp_path / "s.gif")])
    assert "end its name in .png, .jpg, .jpeg, .webp" in gif.stderr


def test_a_sheet_below_a_file_is_refused(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    command = ["views", str(archive.path), "-r", "demo", "-o", str(tmp_path / "file" / "deep" / "s.png")]
    result = CliRunner().invoke(application, command)
    assert (result.exit_code, "could not write a file" in result.stderr) == (1, True), result.output


def test_an_archive_beside_another_is_refused(archive: Archive, tmp_path: Path) -> None:
    both = ["views", str(archive.path), str(archive.path), "--recipe", "demo", "-o", str(tmp_path / "s.png")]
    result = CliRunner().invoke(application, both)
    assert result.exit_code == 2
    assert "one archive" in result.stderr


def test_labels_are_known_by_their_names() -> None:
    columns = [
        "id",
        "incidence_deg",
        "label_wind_speed",
        "label_wind_direction_deg",
        "label_hs_swell",
        "label_phenomenon",
    ]
    chip = ViewPolicy(ViewSettings(policy="chip"), 16).unphysical_for()
    broken = broken_labels(chip, columns)
    assert set(broken) == {"label_wind_speed", "label_wind_direction_deg", "label_hs_swell"}
    assert broken["label_wind_speed"] == ("gain",)
    assert broken["label_wind_direction_deg"] == ("flip_azimuth", "flip_range", "rotation")
    mixed = ViewPolicy(ViewSettings(mixup={"p": 0.5}, geometry={"scale": (1.0, 1.0)}), 16).unphysical_for()
    assert set(broken_labels(mixed, columns)) == set(broken)
    assert broken_labels({}, columns) == {}
    spelt = ["label_Hs", "label_SWH", "label_U10", "label_hsALT", "label_wdir"]
    assert set(broken_labels(chip, spelt)) == set(spelt)
    assert set(broken_labels(mixed, ["label_air_temperature", "label_Tp"])) == {"label_air_temperature", "label_Tp"}


def test_a_masked_panel_hides_whole_patches_and_nothing_else() -> None:
    keys = rng.keys(3, range(3))
    panel = Panel("view", torch.zeros(3, 1, 32, 32))
    masks = block_masks(keys, (4, 4), (0.4, 0.6), 1.0)
    hidden = masked(panel, masks)
    for i in range(3):
        for patch in range(16):
            y, x = divmod(patch, 4)
            part = hidden.images[i, 0, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
            assert part.isnan().all() if masks[i, patch] else part.isfinite().all()
    assert hidden.title == "view (masked)"
    assert panel.title_of(0) == "view"
    some = masked(panel, masks * torch.tensor([[True], [False], [True]]))
    assert [some.title_of(i) for i in range(3)] == ["view (masked)", "view (not masked)", "view (masked)"]
