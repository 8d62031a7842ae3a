"""``groundswell list``: what is there to choose from."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from groundswell.cli.app import Outcome, verb

if TYPE_CHECKING:
    from groundswell.training.recipe import Recipe


class Kind(StrEnum):
    """What can be listed."""

    RECIPES = "recipes"
    ENCODERS = "encoders"
    GRIDS = "grids"


@verb
def list_(kind: Annotated[Kind, typer.Argument(help="What to list.")]) -> Outcome:
    """List the recipes, the grids or the encoders that come with the package.

    Of a recipe: what it is for, its method, backbone, input and length. Encoders are the names that `embed` takes
    besides a model directory, and the architectures a recipe may build. Grids are what `ablate` takes.

    Example: `groundswell list recipes`
    """
    if kind is not Kind.RECIPES:
        named = _encoders() if kind is Kind.ENCODERS else _grids()
        width = max(map(len, named))
        return Outcome({kind.value: named}, "\n".join(f"{name:<{width}}  {about}" for name, about in named.items()))
    recipes = _recipes()
    width = max(map(len, recipes))
    lines = [
        f"{name:<{width}}  {about['description']}\n{'':<{width}}  "
        + "; ".join(f"{key}: {about[key]}" for key in ("method", "backbone", "input", "length"))
        for name, about in recipes.items()
    ]
    return Outcome({kind.value: recipes}, "\n".join(lines))


def _recipes() -> dict[str, dict[str, str]]:
    from groundswell.config import read_recipe, recipe_names
    from groundswell.training.recipe import resolve_recipe

    return {name: _about(resolve_recipe([(f"recipe {name}", read_recipe(name)[0])])[0]) for name in recipe_names()}


def _about(recipe: Recipe) -> dict[str, str]:
    backbone, preprocessing = recipe.backbone, recipe.preprocessing
    quantity = "the archive's quantity" if preprocessing.quantity is None else str(preprocessing.quantity.value)
    size = "" if preprocessing.size is None else f", its centre of {preprocessing.size} px"
    small = f" and {recipe.local_view_count} of {recipe.local_view_size} px" if recipe.local_views else ""
    unit, amount = next((name, value) for name, value in recipe.length.model_dump().items() if value is not None)
    return {
        "description": recipe.description,
        "method": recipe.method.name,
        "backbone": f"{backbone.name}, width {backbone.width}" if "resnet" in backbone.name else backbone.name,
        "input": f"{quantity}{size}, views of {recipe.view_size} px{small}",
        "length": f"{amount:g} {unit}",
    }


def _grids() -> dict[str, str]:
    from groundswell.ablation.grid import grid_names, read_grid

    grids = {name: read_grid(name) for name in grid_names()}
    return {
        name: f"{g.settings.description}; {len(g.cells)} cells, {len(g.settings.seeds)} seeds"
        for name, g in grids.items()
    }


def _encoders() -> dict[str, str]:
    from groundswell.backbones import backbone_names

    controls = {
        "random:MODEL": "control: the architecture of MODEL with fresh weights",
        "statistics": "control: image statistics",
        "cmod5n": "control: wind speed from CMOD5.N, for calibrated quantities",
    }
    return controls | dict.fromkeys(backbone_names(), "architecture: backbone.name in a recipe")
