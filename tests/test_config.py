"""Settings: strict keys, order of layers, overrides, and where each value came from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import model_validator

from groundswell import config
from groundswell.ablation.grid import read_grid
from groundswell.config import Settings
from groundswell.errors import ConfigError
from groundswell.training.recipe import resolve_recipe


class Adam(Settings):
    name: Literal["adam"] = "adam"
    lr: float = 0.1


class Lars(Settings):
    name: Literal["lars"] = "lars"
    lr: float = 0.3
    trust: float = 0.001


class Run(Settings):
    steps: int = 10
    optimiser: Adam | Lars = Adam()
    channels: tuple[str, ...] = ("VV",)
    note: str | None = None


def test_later_layers_win_and_leave_the_rest_alone() -> None:
    layers: list[tuple[str, dict[str, Any]]] = [
        ("recipe demo", {"steps": 5, "optimiser": {"name": "lars", "lr": 1.0}}),
        ("--config a.yaml", {"optimiser": {"lr": 2.0}}),
    ]
    settings, origins = config.resolve(Run, layers, ["optimiser.trust=0.5", "steps=7"])
    assert settings == Run(steps=7, optimiser=Lars(lr=2.0, trust=0.5))
    assert origins == {
        "steps": "command line",
        "optimiser.name": "recipe demo",
        "optimiser.lr": "--config a.yaml",
        "optimiser.trust": "command line",
        "channels": "default",
        "note": "default",
    }


def test_a_value_that_was_taken_away_leaves_no_origin_behind() -> None:
    layers: list[tuple[str, dict[str, Any]]] = [
        ("recipe demo", {"note": {"from": "demo", "by": "x"}}),
        ("a.yaml", {"note": None}),
        ("b.yaml", {"note": {"by": "y"}}),
    ]

    class Free(Settings):
        note: dict[str, str]

    settings, origins = config.resolve(Free, layers)
    assert settings.note == {"by": "y"}
    assert origins == {"note.by": "b.yaml"}
    _, origins = config.resolve(Run, [("recipe demo", {"optimiser": {"lr": 1.0}})], ["optimiser={name: adam}"])
    assert origins["optimiser.lr"] == "recipe demo"  # a mapping adds to one


def test_the_layers_given_are_not_changed() -> None:
    layer = {"optimiser": {"lr": 1.0}}
    config.resolve(Run, [("recipe", layer)], ["optimiser.lr=3"])
    assert layer == {"optimiser": {"lr": 1.0}}

    class Deep(config.Settings):
        views: dict[str, dict[str, float]]

    deep = {"views": {"geometry": {"rotation": 1.0}}}
    config.resolve(Deep, [("recipe", deep)], ["views.geometry.rotation=0"])
    assert deep == {"views": {"geometry": {"rotation": 1.0}}}  # however deep the mappings lie


@pytest.mark.parametrize(
    ("override", "what", "fix"),
    [
        ("step=3", "unknown setting 'step'", "'steps'"),
        ("optimiser.lrr=3", "unknown setting", "'lr'"),
        ("optimiser.trst=3", "unknown setting", "'trust'"),
        ("steps=many", "bad value for the setting 'steps'", ""),
        ("steps=1.5", "bad value for the setting 'steps'", ""),
        ("steps", "is not a setting", "key=value"),
        ("=3", "is not a setting", "key=value"),
        ("steps={", "not valid YAML", ""),
    ],
)
def test_faults_are_named_with_a_suggestion(override: str, what: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=what) as error:
        config.resolve(Run, overrides=[override])
    assert fix in (error.value.fix or "")


@given(st.lists(st.from_regex(r"[a-z]{1,5}", fullmatch=True), min_size=1, max_size=3), st.integers() | st.booleans())
def test_overrides_are_yaml_values_at_dotted_paths(path: list[str], value: Any) -> None:
    assert config.parse_override(f"{'.'.join(path)}={value}") == (path, value)


def test_override_values_may_hold_equal_signs_and_lists() -> None:
    assert config.parse_override("note=a=b") == (["note"], "a=b")
    assert config.parse_override("channels=[VV, VH]") == (["channels"], ["VV", "VH"])
    assert config.parse_override("note=null") == (["note"], None)


def test_settings_are_frozen_and_strict() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Run().steps = 3  # type: ignore[misc]
    with pytest.raises(ConfigError, match="unknown setting 'x'"):
        config.validate(Run, {"x": 1})


def test_flatten_names_every_leaf() -> None:
    assert config.flatten({"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": {}}) == [
        ("a", 1),
        ("b.c", 2),
        ("b.d.e", 3),
        ("f", {}),
    ]


def test_settings_go_through_yaml() -> None:
    run = Run(steps=3, optimiser=Lars(lr=0.25), channels=("VV", "VH"), note="größer")
    text = config.to_yaml(run.model_dump(mode="json"))
    assert config.validate(Run, config.parse_yaml(text, "x")) == run
    assert text.index("steps") < text.index("optimiser") < text.index("note")


def test_recipe_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("steps: 3\n", encoding="utf-8")
    assert config.read_recipe(path) == ({"steps": 3}, "steps: 3\n")
    path.write_text("")
    assert config.read_recipe(path)[0] == {}
    for text, what in (
        ("- 1\n", "must hold a mapping"),
        ("a: [", "not valid YAML"),
        ("!!python/object:os.x {}", "YAML"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=what):
            config.read_recipe(path)
    with pytest.raises(ConfigError, match="no such recipe file"):
        config.read_recipe(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="no recipe is called"):
        config.read_recipe("no-such-recipe")


@pytest.mark.parametrize("read", [config.read_recipe, read_grid])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_that_is_not_utf_8_is_named(read: Callable[[Path], object], encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("description: größer\n", encoding=encoding)
    with pytest.raises(ConfigError, match="not UTF-8") as caught:
        read(path)
    assert caught.value.where == str(path)
    assert "UTF-8" in (caught.value.fix or "")


def test_settings_that_are_not_valid_together_are_not_all_shown() -> None:
    class Ordered(Settings):
        low: float
        high: float

        @model_validator(mode="after")
        def _order(self) -> Ordered:
            if self.low > self.high:
                raise ValueError("low must not exceed high")
            return self

    with pytest.raises(ConfigError) as caught:
        config.validate(Ordered, {"low": 2, "high": 1})
    assert caught.value.what == "the settings are not valid together"
    assert (caught.value.where, caught.value.why) == (None, "low must not exceed high")
    with pytest.raises(ConfigError) as caught:
        config.validate(Ordered, {"low": 2})
    assert (caught.value.what, caught.value.where) == ("the setting 'high' is missing", None)


@pytest.mark.parametrize(
    ("override", "where", "fix"),
    [
        ("method.name=dinov3", "'dinov3'", r"did you mean .*'dinov2'"),
        ("method=dino", "'dino'", r"method\.PART=VALUE \(.*name.*\)"),
        ("backbone=vit-s/16", "'vit-s/16'", r"backbone\.PART=VALUE \(.*depth.*name.*\)"),
    ],
)
def test_a_section_is_told_from_its_parts(override: str, where: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=r"the setting '(method|backbone)(\.name)?'") as caught:
        resolve_recipe([("demo", config.read_recipe("demo")[0])], [override])
    assert caught.value.where == where
    assert re.search(fix, caught.value.fix or "")


@pytest.mark.parametrize(("given", "number"), [("[0.9]", 2), ("[]", 1)])
def test_a_pair_that_lacks_a_value_is_named_whole(given: str, number: int) -> None:
    with pytest.raises(ConfigError, match=r"the setting 'optimiser\.betas' needs more values") as caught:
        resolve_recipe([("demo", config.read_recipe("demo")[0])], [f"optimiser.betas={given}"])
    assert caught.value.where == given
    assert f"give number {number}, too" in (caught.value.fix or "")


def test_a_fault_of_a_whole_section_does_not_show_all_of_it() -> None:
    with pytest.raises(ConfigError, match="the setting 'method'") as caught:
        resolve_recipe([("small", config.read_recipe("oceansar2-small")[0])], ["method.mask_ratio=[0.5, 0.1]"])
    assert caught.value.where is None
    assert "low <= high" in (caught.value.why or "")


def test_a_name_with_brackets_is_told_whole() -> None:
    class Named(Settings):
        cells: dict[str, dict[str, float]]
        pooling: Literal["mean", "stages"] | int = 0

    with pytest.raises(ConfigError, match=r"'cells\.crops \[0\.3, 1\]\.lr'"):
        config.validate(Named, {"cells": {"crops [0.3, 1]": {"lr": "much"}}})
    with pytest.raises(ConfigError, match="the setting 'pooling'"):
        config.validate(Named, {"cells": {}, "pooling": "max"})


@pytest.mark.parametrize("name", config.recipe_names())
def test_shipped_recipes_are_mappings(name: str) -> None:
    values, text = config.read_recipe(name)
    assert values
    assert config.parse_yaml(text, name) == values


def test_a_folder_named_like_a_recipe_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()  # what `make demo` writes into
    values, _ = config.read_recipe("demo")
    assert values["name"] == "demo"
