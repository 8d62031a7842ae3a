"""The model directory: an encoder on disk, whole or absent, every byte that matters checked on the way in.

    config.json         architecture; the native transformers layout where there is one; under the key "groundswell"
                        the version, the name, and the SHA-256 of the other files
    model.safetensors   weights
    preprocessing.json  version, settings and hash
    README.md           the card
    training.yaml       the settings of the run, where one made it
    metrics.json        what was measured in training, where something was

A new directory is written beside the old one and swapped in (`files.replacing_folder`); a kill in between leaves the
old one under another name, where `load` looks when the right one is missing: old or new, never a mix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from groundswell.errors import ConfigError, DataError, ModelError
from groundswell.files import (
    digest,
    previous_folder,
    read_json,
    replacing_folder,
    sha256_file,
    write_bytes,
    write_json,
)

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
    with replacing_folder(target) as folder:
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
    path = Path(given)
    for folder in (path, previous_folder(path)):
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
