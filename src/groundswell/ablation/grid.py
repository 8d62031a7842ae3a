"""The grid: a base recipe, named changes to it, seeds, and what to probe; one strict schema, in YAML.

base: wvnet-small                     a shipped recipe, or a path (seen from the grid's folder)
settings: {length.steps: 300}         changed in every cell, the base's too
seeds: [0, 1, 2]
changes:                              one cell each
  no mixup: {views.mixup.p: 0}
product:                              one cell for each combination of one value of every axis
  notches: {one: {views.notch.count: 1}, three: {views.notch.count: 3}}
  width: {narrow: {backbone.width: 16}, wide: {backbone.width: 32}}
probe: {targets: [label_phenomenon], protocols: [knn, linear]}
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from groundswell.config import Settings, parse_override, parse_yaml, read_recipe, read_text, resolve
from groundswell.errors import ConfigError, did_you_mean
from groundswell.evaluation.cases import ProbeSettings
from groundswell.training.recipe import Recipe, resolve_recipe

BASE = "base"
RANDOM, STATISTICS = "random weights", "statistics"
"""Names of the controls in the table; random weights of other architectures are ``random weights of CELL``."""
Overrides = dict[str, Any]
Control = Literal["random", "statistics"]


class GridSettings(Settings):
    """What a grid file may hold.

    Attributes
    ----------
    name, description : str
    base : str
        A recipe.
    settings : dict
        Dotted settings for every cell.
    seeds : tuple of int
        Each cell runs once with each: of the weights, the batches and the views.
    changes : dict
        Cells by name, each with its dotted settings on top of the base.
    product : dict
        Axes by name, each with named values: every combination is a cell ``value, value``.
    probe : ProbeSettings
    controls : tuple of "random" and "statistics"
    """

    name: str = Field(min_length=1)
    description: str = ""
    base: str
    settings: Overrides = Field(default_factory=dict)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**62)], ...] = Field(default=(0, 1, 2), min_length=1)
    changes: dict[str, Overrides] = Field(default_factory=dict)
    product: dict[str, dict[str, Overrides]] = Field(default_factory=dict)
    probe: ProbeSettings
    controls: tuple[Control, ...] = ("random", "statistics")

    @model_validator(mode="after")
    def _cells(self) -> Self:
        if not self.changes and not self.product:
            raise ValueError("give changes or product: a grid of the base alone compares nothing")
        if BASE in self.changes:
            raise ValueError(f"no change may be called {BASE!r}: that is the recipe as it is")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds must be different whole numbers from 0")
        if any(not values for values in self.product.values()):
            raise ValueError("every axis of product needs at least one value")
        return self


@dataclass(frozen=True)
class Cell:
    """One column of the study: a recipe without its seed.

    Attributes
    ----------
    name : str
    overrides : dict
        What it changes.
    recipe : Recipe
        Resolved, with the first seed.
    """

    name: str
    overrides: Overrides
    recipe: Recipe

    def with_seed(self, seed: int) -> Recipe:
        """Its recipe with another seed."""
        return self.recipe.model_copy(update={"seed": seed})


@dataclass(frozen=True)
class Grid:
    """A grid and its cells, the base first."""

    settings: GridSettings
    cells: tuple[Cell, ...]


def grid_names() -> list[str]:
    """The names of the grids that ship with the package."""
    folder = resources.files("groundswell") / "recipes" / "grids"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def read_grid(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Grid:
    """A grid by shipped name or by path, every cell resolved and checked.

    Parameters
    ----------
    name_or_path : str
    overrides : sequence of str
        ``a.b=c`` texts for every cell; what a cell changes itself wins over them. ``seeds=[...]`` and ``probe.x=...``
        are those of the grid.

    Raises
    ------
    ConfigError
        When there is no such grid, a key is unknown (with a suggestion), a value is bad, or a change changes nothing.
    """
    name, path, known = str(name_or_path), Path(name_or_path), grid_names()
    folder = Path()
    if name in known:
        text = (resources.files("groundswell") / "recipes" / "grids" / f"{name}.yaml").read_text(encoding="utf-8")
    elif path.is_file():
        text, folder = read_text(path), path.parent
    else:
        raise ConfigError(
            f"no grid is called {name!r}",
            where=path if path.suffix in {".yaml", ".yml"} else None,
            fix=f"{did_you_mean(name, known)} (groundswell list grids), or give a .yaml file",
        )
    values = {"name": path.stem, **parse_yaml(text, where=name)}
    own = [text for text in overrides if parse_override(text)[0][0] in ("seeds", "probe")]
    settings, _ = resolve(GridSettings, [(name, values)], own)
    beside = folder / settings.base
    base, _ = read_recipe(beside if beside.is_file() else settings.base)
    return Grid(settings, tuple(_cells(settings, base, [text for text in overrides if text not in own])))


def _cells(settings: GridSettings, base: Mapping[str, Any], overrides: Sequence[str]) -> Iterable[Cell]:
    _check_axes(settings)
    given = {".".join(path): value for path, value in map(parse_override, overrides)}
    changes: dict[str, Overrides] = {BASE: {}, **settings.changes}
    for combination in itertools.product(*(values.items() for values in settings.product.values())):
        if combination:
            name = ", ".join(value for value, _ in combination)
            if name in changes:
                raise ConfigError(f"two cells are called {name!r}", where=settings.name, fix="rename one of them")
            changes[name] = {key: value for _, changed in combination for key, value in changed.items()}
    whole = None
    for name, changed in changes.items():
        if name in (RANDOM, STATISTICS) or name.startswith(f"{RANDOM} of "):
            raise ConfigError(
                f"no cell may be called {name!r}", where=settings.name, why="a control is", fix="rename it"
            )
        for owner, keys in (("settings", {**settings.settings, **given}), (name, changed)):
            if any(key.split(".")[0] == "seed" for key in keys):
                raise ConfigError(
                    "seed is no setting of a cell", where=owner, fix="list them under seeds:, or say seeds=[0,1]"
                )
        layers = [(f"recipe {settings.base}", base), ("settings", nested(settings.settings, "settings"))]
        layers += [("command line", nested(given, "command line")), (f"cell {name}", nested(changed, name))]
        layers.append(("seeds", {"seed": settings.seeds[0]}))
        try:
            recipe, _ = resolve_recipe(layers)
        except ConfigError as error:
            where = f"{settings.name}, cell {name}" + (f": {error.where}" if error.where else "")
            raise ConfigError(error.what, where=where, why=error.why, fix=error.fix) from error
        if whole is None:
            whole = recipe
        elif name in settings.changes and recipe.hash == whole.hash:
            raise ConfigError(
                f"the change {name!r} changes nothing",
                where=settings.name,
                why="its settings are those of the base already",
                fix="remove it, or set what differs",
            )
        yield Cell(name, changed, recipe)


def _check_axes(settings: GridSettings) -> None:
    """Refuse axes that set the same: of two values the later would win in silence."""
    axes = {axis: dict.fromkeys(itertools.chain(*values.values())) for axis, values in settings.product.items()}
    for (one, keys), (other, others) in itertools.combinations(axes.items(), 2):
        for pair in itertools.product(keys, others):
            outer, inner = sorted(pair, key=len)
            if f"{inner}.".startswith(f"{outer}."):
                raise ConfigError(
                    f"the axes {one!r} and {other!r} both set {inner}",
                    where=settings.name,
                    why="one of them would be without effect",
                    fix="let one axis alone set it",
                )


def nested(dotted: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``{"a.b": c}`` as ``{"a": {"b": c}}``; values may be mappings themselves.

    Raises
    ------
    ConfigError
        When one key lies within another that is no mapping.
    """
    tree: dict[str, Any] = {}
    for key, value in dotted.items():
        *path, last = str(key).split(".")
        place = tree
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(f"the setting {key!r} lies within one that has a value", where=where)
        if isinstance(value, Mapping) and isinstance(place.get(last), dict):
            place[last] |= value
        else:
            place[last] = dict(value) if isinstance(value, Mapping) else value
    return tree
