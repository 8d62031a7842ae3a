"""Grids: cells, seeds, products, and what is wrong with them said before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundswell.ablation.grid import grid_names, nested, read_grid
from groundswell.config import flatten
from groundswell.errors import ConfigError

PROBE = {"targets": ["label_pattern"]}


def write(folder: Path, **values: Any) -> Path:
    file = folder / "study.yaml"
    file.write_text(
        yaml.safe_dump(
            {"base": "demo", "probe": PROBE, "changes": {"flat": {"views.gain.p": 0}}} | values, sort_keys=False
        )
    )
    return file


def test_cells_are_the_base_the_changes_and_every_combination(tmp_path: Path) -> None:
    axes = {
        "width": {"narrow": {"backbone.width": 8}, "wide": {"backbone.width": 16}},
        "blur": {"sharp": {"views.blur.p": 0}, "soft": {"views.blur": {"p": 1.0, "sigma": [1.0, 2.0]}}},
    }
    grid = read_grid(write(tmp_path, product=axes, settings={"length.steps": 5}), ["batch_size=32"])
    assert grid.settings.name == "study"
    names = ["base", "flat", "narrow, sharp", "narrow, soft", "wide, sharp", "wide, soft"]
    assert [cell.name for cell in grid.cells] == names
    by_name = {cell.name: cell.recipe for cell in grid.cells}
    assert {recipe.batch_size for recipe in by_name.values()} == {32}
    assert {recipe.length.steps for recipe in by_name.values()} == {5}  # the base's minutes are gone
    assert by_name["base"].views.gain.p == 0.8
    assert by_name["flat"].views.gain.p == 0
    assert by_name["flat"].views.contrast.p == 0.5  # the rest of the policy stays
    soft = by_name["wide, soft"]
    assert (soft.backbone.width, soft.views.blur.p, soft.views.blur.sigma) == (16, 1.0, (1.0, 2.0))
    assert [grid.cells[1].with_seed(seed).seed for seed in grid.settings.seeds] == [0, 1, 2]


def test_seeds_and_probe_of_a_grid_can_be_given_beside_it(tmp_path: Path) -> None:
    grid = read_grid(write(tmp_path), ["probe.targets=[label_hs]", "batch_size=32", "seeds=[4]"])
    assert grid.settings.probe.targets == ("label_hs",)
    assert grid.settings.seeds == (4,)
    assert {(cell.recipe.batch_size, cell.recipe.seed) for cell in grid.cells} == {(32, 4)}
    with pytest.raises(ConfigError, match=r"unknown setting 'probe\.target'") as caught:
        read_grid(write(tmp_path), ["probe.target=label_hs"])
    assert "'targets'" in (caught.value.fix or "")


def test_a_base_is_looked_for_beside_its_grid_and_terms_of_its_loss_can_be_left_out(tmp_path: Path) -> None:
    mine = {"name": "m", "optimiser": {"name": "adamw", "lr": 1e-3}, "length": {"steps": 3}}
    mine |= {"method": {"name": "dinov2"}, "backbone": {"name": "vit-s/16"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
    axes = {
        "patches": {"no iBOT": {"method.ibot_weight": 0}, "half iBOT": {"method.ibot_weight": 0.5}},
        "spread": {"no KoLeo": {"method.koleo_weight": 0}},
    }
    grid = read_grid(write(tmp_path, base="mine.yaml", changes=axes["patches"] | axes["spread"], product=axes))
    assert grid.cells[0].recipe.name == "m"
    base = dict(flatten(grid.cells[0].recipe.model_dump(mode="json")))
    differing = {
        cell.name: {k: v for k, v in flatten(cell.recipe.model_dump(mode="json")) if base[k] != v}
        for cell in grid.cells
    }
    assert differing == {
        "base": {},
        "no iBOT": {"method.ibot_weight": 0.0},
        "half iBOT": {"method.ibot_weight": 0.5},
        "no KoLeo": {"method.koleo_weight": 0.0},
        "no iBOT, no KoLeo": {"method.ibot_weight": 0.0, "method.koleo_weight": 0.0},
        "half iBOT, no KoLeo": {"method.ibot_weight": 0.5, "method.koleo_weight": 0.0},
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"chnages": {}}, "did you mean 'changes'"),
        ({"probe": {**PROBE, "protocol": ["knn"]}}, "did you mean 'protocols'"),
        ({"changes": {"flat": {"views.gian.p": 0}}}, "did you mean 'gain'"),
        ({"changes": {"flat": {"views.gain.p": 2}}}, "cell flat"),
        ({"changes": {"flat": {"views.gain.p": 0.8}}}, "changes nothing"),
        ({"changes": {"flat": {"seed": 4}}}, "seeds:"),
        ({"settings": {"seed": 4}}, "seeds:"),
        ({"changes": {"flat": {"batch_size": 8, "batch_size.a": 8}}}, "lies within"),
        ({"changes": {}}, "compares nothing"),
        ({"changes": {"base": {"batch_size": 8}}}, "that is the recipe as it is"),
        ({"changes": {"statistics": {"batch_size": 8}}}, "no cell may be called 'statistics'"),
        ({"changes": {"random weights": {"batch_size": 8}}}, "no cell may be called 'random weights'"),
        ({"changes": {"random weights of flat": {"batch_size": 8}}}, "no cell may be called"),
        ({"product": {"how": {"statistics": {"batch_size": 8}}}}, "no cell may be called 'statistics'"),
        (
            {"product": {"width": {"w": {"backbone.width": 8}}, "size": {"s": {"backbone.width": 16}}}},
            "the axes 'width' and 'size' both set backbone.width",
        ),
        (
            {"product": {"blur": {"b": {"views.blur": {"p": 0}}}, "sharp": {"s": {"views.blur.p": 1}}}},
            "the axes 'blur' and 'sharp' both set views.blur.p",
        ),
        ({"seeds": [1, 1]}, "different whole numbers"),
        ({"product": {"width": {"flat": {"backbone.width": 8}}}}, "two cells"),
        ({"controls": ["randon"]}, "controls"),
        ({"base": "dmeo"}, "did you mean 'demo'"),
    ],
)
def test_a_mistake_is_an_error_that_names_it(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_grid(write(tmp_path, **values))
    assert message in str(caught.value)


def test_an_unknown_grid_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'wvnet-augmentations'"):
        read_grid("wvnet-augmentation")


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])  # busy machines
@given(st.dictionaries(st.text("ab", min_size=1, max_size=3), st.integers(), max_size=6))
def test_nested_is_the_inverse_of_flatten(values: dict[str, int]) -> None:
    dotted = {f"{'.'.join(key)}.leaf": value for key, value in values.items()}
    assert dict(flatten(nested(dotted, "here"))) == dotted


def test_the_study_of_wvnet_ships_large_and_small_with_what_the_paper_names() -> None:
    assert {"wvnet-augmentations", "wvnet-augmentations-small"} <= set(grid_names())
    large, small = ([c.name for c in read_grid(f"wvnet-augmentations{end}").cells] for end in ("", "-small"))
    assert large == small
    for name in grid_names():
        grid = read_grid(name)
        cells = {cell.name: cell.recipe.views for cell in grid.cells}
        used = {
            n: {k for k in ("mixup", "inversion", "sharpness", "notch", "blur") if getattr(v, k).p > 0}
            for n, v in cells.items()
        }
        assert used["base"] == {"mixup", "inversion", "sharpness"}
        assert cells["base"].geometry.rotation > 0
        assert used["crops alone"] == set()
        assert used["mixup alone"] == {"mixup"}
        assert used["CV Aug alone"] == {"inversion", "sharpness"}
        assert used["notch alone"] == {"notch"}
        assert used["photograph"] == {"blur"}
        assert [cells[n].geometry.rotation > 0 for n in ("mixup alone", "notch alone", "CV Aug alone")] == [
            False,
            False,
            True,
        ]
        assert {recipe.recipe.length for recipe in grid.cells} == {grid.cells[0].recipe.length}
