"""``groundswell list``: what is there to choose from."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from groundswell.cli.app import Outcome, verb


class Kind(StrEnum):
    """What can be listed."""

    RECIPES = "recipes"
    ENCODERS = "encoders"


@verb
def list_(kind: Annotated[Kind, typer.Argument(help="What to list.")]) -> Outcome:
    """List the recipes or the encoders that come with the package.

    Encoders are the names that `embed` takes besides a model directory, and the architectures a recipe may build.

    Example: `groundswell list recipes`
    """
    rows = _recipes() if kind is Kind.RECIPES else _encoders()
    width = max(len(name) for name in rows)
    return Outcome({kind.value: rows}, "\n".join(f"{name:<{width}}  {about}" for name, about in rows.items()))


def _recipes() -> dict[str, str]:
    from groundswell.config import read_recipe, recipe_names

    return {name: str(read_recipe(name)[0].get("description", "")) for name in recipe_names()}


def _encoders() -> dict[str, str]:
    from groundswell.backbones import backbone_names

    controls = {
        "random:MODEL": "control: the architecture of MODEL with fresh weights",
        "statistics": "control: image statistics",
        "cmod5n": "control: wind speed from CMOD5.N, for calibrated quantities",
    }
    return controls | dict.fromkeys(backbone_names(), "architecture: backbone.name in a recipe")
