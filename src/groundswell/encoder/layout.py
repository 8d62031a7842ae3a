"""Weights on disk: in the layout of transformers where the architecture has one, else in our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from groundswell.backbones import Backbone, BackboneSettings
from groundswell.errors import ModelError
from groundswell.files import write_bytes


def transformers_config(settings: BackboneSettings, backbone: Backbone) -> tuple[dict[str, Any], str | None]:
    """The ``config.json`` of transformers for a backbone, and the class that reads it (None: there is none)."""
    return {}, None


def write_weights(backbone: Backbone, settings: BackboneSettings, path: Path) -> None:
    """Write the weights as safetensors."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    write_bytes(path, save(state, metadata={"format": "pt"}))


def read_weights(backbone: Backbone, settings: BackboneSettings, path: Path) -> None:
    """Fill a backbone with the weights of a safetensors file.

    Raises
    ------
    ModelError
        When the file is damaged or holds the weights of another architecture.
    """
    try:
        backbone.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(
            "the weights do not fit the architecture that config.json names",
            where=path,
            why=str(error).splitlines()[-1].strip(),
            fix="save the model again from its run's checkpoint",
        ) from error
