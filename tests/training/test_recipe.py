"""Recipes: which combinations make sense, and what a change of method leaves of the layers below."""

from typing import Any

import pytest

from groundswell.backbones import BackboneSettings
from groundswell.config import parse_override
from groundswell.errors import ConfigError, UsageError
from groundswell.methods.dino import DINOSettings
from groundswell.methods.dinov2 import DINOv2Settings
from groundswell.methods.mae import MAESettings
from groundswell.methods.simclr import SimCLRSettings
from groundswell.training.recipe import resolve_recipe

BASE: dict[str, Any] = {
    "name": "base",
    "method": {"name": "simclr", "temperature": 0.2},
    "backbone": {"name": "vit-s/8", "image_size": 64},
    "optimiser": {"name": "adamw", "lr": 0.001, "betas": [0.9, 0.95]},
    "length": {"steps": 10},
}
RESNET = {**BASE, "backbone": {"name": "resnet50"}}


@pytest.mark.parametrize(
    ("values", "overrides", "what", "fix"),
    [
        (RESNET, ["method.name=dinov2"], "masks patches", "backbone.name to a vision transformer"),
        (RESNET, ["method.name=mae"], "masks patches", "backbone.name to a vision transformer"),
        (RESNET, ["optimiser.layer_decay=0.9"], "layer_decay", "vision transformer"),
        (
            BASE,
            ["method.name=dinov2", "backbone.pooling=stages"],
            "cannot share a head",
            "method.separate_heads=true, or backbone.pooling=class",
        ),
        (BASE, ["view_size=60"], "view_size 60 is no multiple of the patch of 8 px", "view_size=56"),
        (
            BASE,
            ["method.name=dino", "local_views={}", "local_view_size=36"],
            "local_view_size 36",
            "local_view_size=32",
        ),
        (BASE, ["method.name=mae", "view_size=128"], "positions", "backbone.image_size=128"),
        (
            RESNET,
            ["method.name=dino", "local_views={policy: oceansar1-local}"],
            "local views of 96 px are larger than the global ones of 64",
            "local_view_size=32",
        ),
        (
            BASE,
            ["method.name=mae", "backbone.neighbours=true"],
            "a part of the patches",
            "method.decoder_neighbours=true",
        ),
        (RESNET, ["backbone.neighbours=true"], "bad value for the setting 'backbone'", ""),
        (BASE, ["preprocessing.size=100"], "preprocessing.size 100 is no multiple", "preprocessing.size=96"),
        (BASE, ["local_view_count=2"], "no local views for local_view_count", "local_views.policy"),
        (BASE, ["local_views.policy=ocean"], "local_views means nothing for simclr", "local_views=null"),
        (BASE, ["method.name=mae", "second_views={}"], "second_views means nothing for mae", "second_views=null"),
    ],
)
def test_combinations_without_sense_are_usage_errors_that_name_the_fix(
    values: dict[str, Any], overrides: list[str], what: str, fix: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_recipe([("recipe base", values)], overrides)
    assert caught.value.exit_code == 2
    assert what in caught.value.what
    assert fix in (caught.value.fix or "")


def test_the_fix_that_is_named_mends_it() -> None:
    for overrides in (["view_size=60"], ["method.name=mae", "view_size=128"], ["local_views={}"]):
        with pytest.raises(ConfigError) as caught:
            resolve_recipe([("recipe base", BASE)], overrides)
        words = (caught.value.fix or "").replace("(", " ").replace(")", " ").replace(",", " ").split()
        mended = next(word for word in words if "=" in word)
        field = parse_override(mended)[0]
        kept = [text for text in overrides if parse_override(text)[0] != field]
        resolve_recipe([("recipe base", BASE)], [*kept, mended])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("simclr", SimCLRSettings), ("dino", DINOSettings), ("dinov2", DINOv2Settings), ("mae", MAESettings)],
)
def test_the_name_tells_the_method_and_leaves_the_settings_of_another_behind(name: str, kind: type) -> None:
    recipe, origins = resolve_recipe([("recipe base", BASE)], [f"method.name={name}"])
    assert isinstance(recipe.method, kind)
    assert origins["method.name"] == "command line"
    if name == "simclr":
        assert recipe.method == SimCLRSettings(temperature=0.2)  # the same method: what the recipe says holds
    else:
        assert recipe.method == kind()


def test_an_optimiser_of_another_name_starts_afresh_too_and_files_count_as_well() -> None:
    layers = [("recipe base", BASE), ("more.yaml", {"optimiser": {"name": "lars", "lr": 0.3}})]
    recipe, _ = resolve_recipe(layers, ["optimiser.weight_decay=0.01"])
    assert recipe.optimiser.model_dump(exclude_defaults=True) == {"name": "lars", "lr": 0.3, "weight_decay": 0.01}
    recipe, _ = resolve_recipe([*layers, ("last.yaml", {"optimiser": {"lr": 0.5}})])
    assert (recipe.optimiser.name, recipe.optimiser.lr) == ("lars", 0.5)


@pytest.mark.parametrize("given", ["backbone.name={}", "backbone={{name: {}}}"])
def test_a_backbone_of_another_family_keeps_only_what_both_know(given: str) -> None:
    layers = [("recipe base", BASE | {"backbone": {"name": "resnet18", "width": 32, "pooling": "stages"}})]
    recipe, origins = resolve_recipe(layers, [given.format("vit-s/8")])
    assert recipe.backbone == BackboneSettings(name="vit-s/8", pooling="stages")
    assert (origins["backbone.name"], origins["backbone.pooling"]) == ("command line", "recipe base")
    recipe, _ = resolve_recipe(layers, [given.format("resnet50")])  # the same family: all of it holds
    assert recipe.backbone == BackboneSettings(name="resnet50", width=32, pooling="stages")
    with pytest.raises(ConfigError, match="width"):  # said of the other family itself
        resolve_recipe(layers, [given.format("vit-s/8"), "backbone.width=16"])


@pytest.mark.parametrize("below", [[("recipe base", RESNET)], []])
def test_settings_without_a_name_are_those_of_the_name_below_them(below: list[tuple[str, Any]]) -> None:
    rest = {k: v for k, v in BASE.items() if k != "backbone"}
    layers = [*below, ("more.yaml", rest | {"backbone": {"width": 16, "pooling": "stages"}})]
    recipe, _ = resolve_recipe(layers, ["backbone.name=vit-s/8"])
    assert recipe.backbone == BackboneSettings(name="vit-s/8", pooling="stages")
    assert resolve_recipe(layers)[0].backbone.width == 16
    layers = [("recipe base", BASE), ("more.yaml", {"method": {"temperature": 0.7}})]
    assert resolve_recipe(layers, ["method.name=mae"])[0].method == MAESettings()
    assert resolve_recipe(layers)[0].method == SimCLRSettings(temperature=0.7)


def test_a_setting_of_local_views_makes_none_by_itself() -> None:
    with pytest.raises(ConfigError, match="nobody asked for") as caught:
        resolve_recipe([("recipe base", BASE)], ["method.name=dino", "local_views.contrast.p=0"])  # whatever their size
    assert caught.value.where == "local_views.contrast.p"
    asked = ["method.name=dino", "local_views.policy=oceansar1-local", "local_view_size=32", "local_views.contrast.p=0"]
    views = resolve_recipe([("recipe base", BASE)], asked)[0].local_views
    assert views is not None
    assert views.contrast.p == 0


def test_an_unknown_setting_of_a_method_is_compared_with_those_of_that_method() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_recipe([("recipe base", BASE)], ["method={name: mae, mask_rato: 0.6}"])
    assert caught.value.fix == "did you mean 'mask_ratio'?"
    with pytest.raises(ConfigError) as caught:
        resolve_recipe([("recipe base", BASE)], ["method={name: mae, koleo_weight: 0.6}"])
    assert "koleo" not in (caught.value.fix or "")


def test_origins_name_the_policy_of_each_kind_of_view() -> None:
    overrides = [
        "method.name=dino",
        "views.policy=oceansar1",
        "local_views.policy=oceansar1-local",
        "local_view_size=32",
    ]
    recipe, origins = resolve_recipe([("recipe base", BASE)], overrides)
    assert recipe.local_views is not None
    assert recipe.local_views.geometry.scale == (0.05, 0.4)
    assert origins["local_views.geometry.scale"] == "policy oceansar1-local"
    assert origins["views.geometry.scale"] == "policy oceansar1"


def test_views_that_were_taken_away_and_given_again_have_the_origins_of_the_last() -> None:
    layers = [
        ("recipe base", {**BASE, "method": {"name": "dino"}, "second_views": {"blur": {"p": 0.1}, "gain": {"p": 0.2}}}),
        ("more.yaml", {"second_views": None}),
    ]
    recipe, origins = resolve_recipe(layers, ["second_views.policy=oceansar1", "second_views.gain.p=0.3"])
    assert recipe.second_views is not None
    assert origins["second_views.policy"] == origins["second_views.gain.p"] == "command line"
    assert origins["second_views.blur.p"] == origins["second_views.gain.db"] == "policy oceansar1"
    assert origins["second_views.notch.p"] == "default"
    assert recipe.second_views.blur.p == 0.5


def test_sizes_of_local_views_that_a_later_layer_took_away_are_no_mistake() -> None:
    crops = {"local_views": {"policy": "oceansar1-local"}, "local_view_size": 32, "local_view_count": 2}
    recipe, _ = resolve_recipe([("recipe base", BASE | {"method": {"name": "dino"}} | crops)], ["local_views=null"])
    assert recipe.local_views is None
    again, _ = resolve_recipe([("resolved.yaml", recipe.model_dump(mode="json"))])
    assert again == recipe


@pytest.mark.parametrize("ratio", [0.99, 1e-17])
def test_a_mask_that_leaves_nothing_to_see_or_to_guess_is_refused_with_the_settings(ratio: float) -> None:
    with pytest.raises(UsageError, match="of 64 patches keeps"):
        resolve_recipe([("recipe base", BASE)], ["method.name=mae", f"method.mask_ratio={ratio}"])


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("pruning.keep=0.3", "keep without a rule"),
        ("optimiser.betas=[0.9,1.0]", "less than 1"),
        (f"seed={2**64}", "less than"),
    ],
)
def test_a_setting_that_would_do_nothing_or_fail_late_is_refused(override: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        resolve_recipe([("recipe base", BASE)], [override])
    below = {**BASE, "pruning": {"rule": "balanced", "keep": 0.3}}
    assert resolve_recipe([("recipe base", below)], ["pruning.rule=none"])[0].pruning.rule == "none"


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("optimiser.lr=-1", "bad value for the setting 'optimiser.lr'"),
        ("optimiser.betas=[0.9, 2]", "bad value for the setting 'optimiser.betas.1'"),
        ("optimiser.adamw=1", "unknown setting 'optimiser.adamw'"),
        ("method.momentum=0.3", "unknown setting 'method.momentum'"),
        ("backbone.pooling=sum", "bad value for the setting 'backbone.pooling'"),
        ("preprocessing.channels=[]", "bad value for the setting 'preprocessing.channels'"),
        ("preprocessing.channels=[VV, VV]", "bad value for the setting 'preprocessing.channels'"),
    ],
)
def test_a_fault_names_the_setting_as_it_is_written(override: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_recipe([("recipe base", BASE)], [override])
    assert caught.value.what == what


def test_a_value_that_no_part_of_a_union_takes_is_told_of_all() -> None:
    with pytest.raises(ConfigError, match=r"'mean' or 'stages'; .*'class' or 'stages'"):
        resolve_recipe([("recipe base", BASE)], ["backbone.pooling=sum"])


def test_the_advice_for_a_run_without_a_length_is_not_what_led_to_it() -> None:
    with pytest.raises(ConfigError, match=r"given: none\); one given on the command line replaces") as caught:
        resolve_recipe([("recipe base", BASE)], ["length.steps=null"])
    assert "null" not in (caught.value.why or "")
    assert resolve_recipe([("recipe base", BASE)], ["length.minutes=2"])[0].length.steps is None
