"""Weights on disk: in the layout of transformers where the architecture has one, else in our own."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from groundswell.backbones import Backbone, BackboneSettings
from groundswell.backbones.transformers_keys import from_transformers, to_transformers, transformers_config
from groundswell.errors import ModelError
from groundswell.files import write_bytes


def write_weights(backbone: Backbone, settings: BackboneSettings, path: Path) -> None:
    """Write the weights of a backbone as safetensors."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    config = transformers_config(settings, backbone.in_channels)
    if config:
        state = to_transformers(state, config["model_type"])
    write_bytes(path, save(state, metadata={"format": "pt"}))


def read_weights(backbone: Backbone, settings: BackboneSettings, path: Path) -> None:
    """Fill a backbone with the weights of a safetensors file.

    Raises
    ------
    ModelError
        When the file is damaged or holds the weights of another architecture.
    """
    config = transformers_config(settings, backbone.in_channels)
    try:
        state = load_file(path)
        backbone.load_state_dict(from_transformers(state, config["model_type"]) if config else state)
    except (SafetensorError, RuntimeError, ModelError) as error:
        raise ModelError(
            "the weights do not fit the architecture that config.json names",
            where=path,
            why=str(error).splitlines()[-1].strip(),
            fix="save the model again from its run's checkpoint",
        ) from error
