"""Settings: strict schemas, recipes in YAML, ``a.b=c`` overrides, and where each value came from.

A schema is a frozen pydantic model that refuses unknown keys. The order of settings, later wins: defaults of the
schema, recipe, ``--config`` files, trailing ``a.b=c``, flags.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from groundswell.errors import ConfigError, did_you_mean

_UNION = re.compile(r"(literal|tuple|list|dict|function-\w+)\[")
"""What pydantic adds to the path of a fault in a part of a union that has no name: literal['mean','stages']."""


class Settings(BaseModel):
    """Base of every schema: frozen, strict about keys, numbers finite, defaults validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


S = TypeVar("S", bound=Settings)
Origins = dict[str, str]


def recipe_names() -> list[str]:
    """The names of the recipes that ship with the package."""
    folder = resources.files("groundswell") / "recipes"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def read_recipe(name_or_path: str | Path) -> tuple[dict[str, Any], str]:
    """The contents of a recipe and the text it was read from, by shipped name or by path.

    Raises
    ------
    ConfigError
        When there is no such recipe, or it is not a YAML mapping.
    """
    name, path, known = str(name_or_path), Path(name_or_path), recipe_names()
    if name in known:  # a folder or file that happens to be called so does not hide it
        text = (resources.files("groundswell") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    elif path.is_file():
        text = read_text(path)
    elif path.suffix in {".yaml", ".yml"}:
        raise ConfigError("no such recipe file", where=path)
    else:
        raise ConfigError(
            f"no recipe is called {name!r}",
            fix=f"{did_you_mean(name, known)} (groundswell list recipes), or give a .yaml file",
        )
    return parse_yaml(text, where=str(name_or_path)), text


def read_text(path: Path) -> str:
    """The text of a settings file; `ConfigError` where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            "a settings file is not UTF-8 text",
            where=path,
            why=f"byte {error.start + 1} is 0x{error.object[error.start]:02x}",
            fix="save it as UTF-8 in an editor, or convert it: iconv -f latin1 -t utf-8 OLD.yaml > NEW.yaml",
        ) from error


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """A YAML mapping as a dictionary; an empty document is an empty mapping."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError("a settings file is not valid YAML", where=where, why=str(error)) from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError("a settings file must hold a mapping of keys to values", where=where)
    return value


def parse_override(text: str) -> tuple[list[str], Any]:
    """``a.b=c`` as the path ``[a, b]`` and the YAML value ``c``."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"{text!r} is not a setting", fix="write key=value, for example optimiser.lr=0.001")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of {key} is not valid YAML", where=text, why=str(error)) from error
    return key.strip().split("."), parsed


def _merge(base: dict[str, Any], new: Mapping[str, Any], origin: str, origins: Origins, path: str = "") -> None:
    for key, value in new.items():
        where = f"{path}{key}"
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value, origin, origins, where + ".")
        else:
            base[key] = copy.deepcopy(value)
            for gone in [name for name in origins if name.startswith(where + ".")]:
                del origins[gone]
            for name, _ in flatten({key: value}, path):
                origins[name] = origin


def flatten(values: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as ``("a.b", value)`` pairs."""
    flat: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat += flatten(value, f"{path}{key}.")
        else:
            flat.append((f"{path}{key}", value))
    return flat


def resolve(
    schema: type[S],
    layers: Iterable[tuple[str, Mapping[str, Any]]] = (),
    overrides: Iterable[str] = (),
) -> tuple[S, Origins]:
    """Merge layers of settings into a validated schema.

    Parameters
    ----------
    schema : type[Settings]
    layers : iterable of (origin, mapping)
        Earlier first, for example ``("recipe demo", {...})``; later wins.
    overrides : iterable of str
        ``a.b=c`` texts, which win over the layers.

    Returns
    -------
    settings : Settings
    origins : dict
        For every leaf of the settings, where its value came from (``default`` where nothing set it).

    Raises
    ------
    ConfigError
        For an unknown key (with a suggestion) or a bad value (with what is allowed).
    """
    merged: dict[str, Any] = {}
    origins: Origins = {}
    for origin, layer in layers:
        _merge(merged, layer, origin, origins)
    for text in overrides:
        path, value = parse_override(text)
        nested: dict[str, Any] = {path[-1]: value}
        for key in reversed(path[:-1]):
            nested = {key: nested}
        _merge(merged, nested, "command line", origins)
    settings = validate(schema, merged)
    complete = {name: origins.get(name, "default") for name, _ in flatten(settings.model_dump(mode="json"))}
    return settings, complete


def validate(schema: type[S], values: Mapping[str, Any]) -> S:
    """``values`` as ``schema``; the first fault becomes a `ConfigError` that names the key."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        faults = error.errors()
        first, name = faults[0], _key(schema, faults[0]["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(
                f"unknown setting {name!r}", fix=did_you_mean(str(first["loc"][-1]), _known(schema, first["loc"][:-1]))
            ) from error
        if first["type"] == "missing" and isinstance(place := first["loc"][-1], int):  # of a list of fixed length
            raise ConfigError(
                f"the setting {name.rpartition('.')[0]!r} needs more values",
                where=repr(first["input"]),
                fix=f"give number {place + 1}, too, as in [0.1, 0.9]",
            ) from error
        if first["type"] == "missing":  # its input is all that was given beside it
            raise ConfigError(f"the setting {name!r} is missing", fix=f"give {name}") from error
        if first["type"] == "union_tag_invalid":
            tag, tags = str(first["ctx"]["tag"]), re.findall(r"'([^']*)'", first["ctx"]["expected_tags"])
            fix = did_you_mean(tag, tags)
            raise ConfigError(f"bad value for the setting {f'{name}.name'!r}", where=repr(tag), fix=fix) from error
        if first["type"] in ("model_attributes_type", "model_type"):
            raise ConfigError(
                f"the setting {name!r} has parts of its own, and no value",
                where=repr(first["input"]),
                fix=f"give one part at a time, {name}.PART=VALUE ({', '.join(_known(schema, first['loc']))})",
            ) from error
        alike = [fault["msg"].removeprefix("Value error, ") for fault in faults if _key(schema, fault["loc"]) == name]
        raise ConfigError(
            f"bad value for the setting {name!r}" if name else "the settings are not valid together",
            where=repr(given) if name and not isinstance(given := first.get("input"), Mapping) else None,
            why="; ".join(alike),  # one for each part of a union
        ) from error


def _key(schema: type[BaseModel], path: tuple[int | str, ...]) -> str:
    """The dotted key at the path of a fault, without what pydantic adds to it: which part of a union was tried."""
    models, parts = [schema], []
    for part in path:
        models, is_key = _below(models, part)
        if is_key and not _UNION.match(str(part)):
            parts.append(str(part))
    return ".".join(parts)


def _known(schema: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys that a schema knows at a path (all keys below it where the path leads through a union of no names)."""
    models = [schema]
    for part in path:
        models, _ = _below(models, part)
    return sorted({name for model in models for name in model.model_fields})


def _below(models: list[type[BaseModel]], part: int | str) -> tuple[list[type[BaseModel]], bool]:
    """The models below a part of a path, and whether it is a key and not the name that tells the parts of a union."""
    tagged = [m for m in models if "name" in m.model_fields and part in get_args(m.model_fields["name"].annotation)]
    if tagged and len(models) > 1:
        return tagged, False
    inner = [m.model_fields[str(part)].annotation for m in models if str(part) in m.model_fields]
    return [model for annotation in inner for model in _models_in(annotation)] or models, True


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]


def to_yaml(values: Mapping[str, Any]) -> str:
    """Settings as YAML text, in their own order."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
