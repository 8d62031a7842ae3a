"""The model directory: an encoder on disk, whole or absent, every byte that matters checked on the way in.

    config.json         architecture; the native transformers layout where there is one; under the key "groundswell"
                        the version, the name, and the SHA-256 of the other files
    model.safetensors   weights
    preprocessing.json  version, settings and hash
    README.md           the card
    training.yaml       the settings of the run, where one made it
    metrics.json        what was measured in training, where something was

A new directory is written beside the old one and swapped in by renames. A kill between the two renames leaves the
old one under the name ``.NAME.previous``, where `load` looks when NAME is missing: old or new, never a mix.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from groundswell.backbones import BackboneSettings, build_backbone
from groundswell.backbones.transformers_keys import transformers_config
from groundswell.config import to_yaml, validate
from groundswell.encoder.card import write_card
from groundswell.encoder.encoder import Encoder
from groundswell.encoder.layout import read_weights, write_weights
from groundswell.encoder.preprocessing import Preprocessing
from groundswell.encoder.provenance import DataUsed
from groundswell.errors import ConfigError, DataError, GroundswellError, ModelError
from groundswell.files import digest, read_json, sha256_file, sync_folder, write_bytes, write_json

FORMAT = 1
CONFIG, WEIGHTS, PREPROCESSING = "config.json", "model.safetensors", "preprocessing.json"
_AGAIN = "save the model again from its run's checkpoint, or copy the folder again from where it came"


def save_model(
    encoder: Encoder,
    path: str | Path,
    *,
    data: Sequence[DataUsed] = (),
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Path:
    """Write an encoder as a model directory; one that stands at ``path`` is replaced whole.

    Parameters
    ----------
    data : sequence of DataUsed
        What it was trained on (`provenance.describe`), for the card.
    training, metrics : mapping, optional
        The resolved settings of the run, and figures measured in it.

    Raises
    ------
    ModelError
        When ``path`` is something else than a model directory.
    """
    target = Path(path)
    if target.exists() and not (target / CONFIG).is_file() and (target.is_file() or any(target.iterdir())):
        raise ModelError(
            "will not replace what is not a model directory", where=target, fix="choose another folder for the model"
        )
    native = transformers_config(encoder.settings, encoder.backbone.in_channels)
    with _replacing_folder(target) as folder:
        write_weights(encoder.backbone, encoder.settings, folder / WEIGHTS)
        preprocessing = encoder.preprocessing.model_dump(mode="json")
        write_json(folder / PREPROCESSING, {**preprocessing, "hash": encoder.preprocessing.hash})
        write_bytes(folder / "README.md", write_card(encoder, data, metrics, native).encode())
        if training is not None:
            write_bytes(folder / "training.yaml", to_yaml(training).encode())
        if metrics is not None:
            write_json(folder / "metrics.json", dict(metrics))
        ours: dict[str, Any] = {
            "format": FORMAT,
            "name": encoder.name,
            "layout": "transformers" if native else "groundswell",
            "backbone": encoder.settings.model_dump(mode="json", exclude_defaults=True),
            "data": [d.to_json() for d in data],
            "files": {name: sha256_file(folder / name) for name in (WEIGHTS, PREPROCESSING)},
        }
        config = {**(native or {}), "groundswell": ours}
        ours["digest"] = digest(config)
        write_json(folder / CONFIG, config)
    return target


def load(path: str | Path) -> Encoder:
    """The encoder in a model directory, on the CPU.

    Raises
    ------
    ModelError
        When the directory is missing, of an unknown version, or a file in it is missing, truncated or altered.
    """
    folder = _existing(path)
    ours = _read_config(folder)
    for name, expected in ours["files"].items():
        _check_file(folder / name, expected)
    stored = _json(folder / PREPROCESSING)
    claimed = stored.pop("hash", None)
    try:
        preprocessing = validate(Preprocessing, stored)
        settings = validate(BackboneSettings, ours["backbone"])
    except ConfigError as error:
        raise ModelError(
            "a model directory holds settings that this version does not know",
            where=folder,
            why=str(error),
            fix="use the version of groundswell that wrote it, or a newer one",
        ) from error
    if preprocessing.hash != claimed:
        raise ModelError(
            "the preprocessing does not have the hash it claims",
            where=folder / PREPROCESSING,
            why=f"{preprocessing.hash[:12]} is not {str(claimed)[:12]}: the file was edited",
            fix=_AGAIN,
        )
    backbone = build_backbone(settings, len(preprocessing.channels), seed=0)
    read_weights(backbone, settings, folder / WEIGHTS)
    return Encoder(backbone.eval(), preprocessing, ours["name"], settings)


def read_data(path: str | Path) -> tuple[DataUsed, ...]:
    """What the encoder in a model directory was trained on; empty where it was not recorded."""
    return tuple(DataUsed.from_json(d) for d in _read_config(_existing(path))["data"])


def is_model_directory(path: str | Path) -> bool:
    """Whether ``path`` looks like a model directory of ours."""
    config = Path(path) / CONFIG
    return config.is_file() and "groundswell" in read_json(config)


def _existing(given: str | Path) -> Path:
    path = _absolute(given)
    for folder in (path, _previous(path)):
        if (folder / CONFIG).is_file():
            return folder
    if (path / "model" / CONFIG).is_file():
        raise ModelError("a run directory is not a model directory", where=path, fix=f"give {path / 'model'}")
    raise ModelError(
        "there is no model here",
        where=path,
        why="the folder has no config.json" if path.is_dir() else "there is no such folder",
        fix="give the model/ folder of a run (groundswell pretrain ... -o RUN makes RUN/model)",
    )


def _read_config(folder: Path) -> dict[str, Any]:
    """The section of config.json that is ours, checked for version and integrity."""
    config = _json(folder / CONFIG)
    ours = config.get("groundswell") if isinstance(config, dict) else None
    if not isinstance(ours, dict):
        raise ModelError(
            "not a groundswell model",
            where=folder / CONFIG,
            why='it has no section "groundswell", which holds name, preprocessing and hashes',
            fix="give a folder that groundswell wrote",
        )
    if ours.get("format") != FORMAT:
        raise ModelError(
            f"a model directory of the unknown version {ours.get('format')!r}",
            where=folder / CONFIG,
            why=f"this groundswell reads version {FORMAT}",
            fix="update groundswell (pip install -U groundswell)",
        )
    claimed = ours.pop("digest", None)
    if digest(config) != claimed:
        raise ModelError("the configuration was altered after it was written", where=folder / CONFIG, fix=_AGAIN)
    return ours


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except DataError as error:
        raise ModelError("a model directory is damaged", where=path, why=error.why or error.what, fix=_AGAIN) from error


def _check_file(path: Path, expected: str) -> None:
    if not path.is_file():
        raise ModelError("a file is missing from a model directory", where=path, fix=_AGAIN)
    found = sha256_file(path)
    if found != expected:
        raise ModelError(
            "a file in a model directory is not the one that was saved",
            where=path,
            why=f"SHA-256 {found[:12]} is not {expected[:12]}: it is truncated, or was altered",
            fix=_AGAIN,
        )


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a link to the old folder


def _previous(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous")


@contextmanager
def _replacing_folder(target: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``target`` only when the block ends without an error."""
    target = _absolute(target)
    fresh, previous = target.with_name(f".{target.name}.new"), _previous(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _recover(target, previous)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        yield fresh
        sync_folder(fresh)
        if target.exists():
            target.replace(previous)
        fresh.replace(target)
        sync_folder(target.parent)
        shutil.rmtree(previous, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(fresh, ignore_errors=True)
        with suppress(OSError):
            _recover(target, previous)
        if not isinstance(error, OSError):
            raise
        raise GroundswellError(
            "could not write a model directory",
            where=target,
            why=error.strerror or str(error),
            fix="free some space or choose another folder; the model that was there before still stands",
        ) from error


def _recover(target: Path, previous: Path) -> None:
    """Put right what a kill or an error between the two renames left behind."""
    if previous.exists():
        if target.exists():
            shutil.rmtree(previous)
        else:
            previous.replace(target)
