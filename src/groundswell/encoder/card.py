"""The model card: what the encoder takes, what it was made from, what it must not be claimed to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from groundswell.backbones.vit import quarters
from groundswell.config import to_yaml
from groundswell.encoder.encoder import Encoder
from groundswell.encoder.provenance import DataUsed, attribution, in_words
from groundswell.physics.quantities import MEANINGS


def write_card(
    encoder: Encoder,
    data: Sequence[DataUsed],
    metrics: Mapping[str, Any] | None,
    native: Mapping[str, Any] | None,
) -> str:
    """The card of an encoder as Markdown with YAML front matter.

    ``data`` is what it was trained on, ``native`` the configuration of the transformers class that loads the weights.
    """
    front = {
        "library_name": "groundswell",
        "tags": ["SAR", "ocean", "Sentinel-1", "image-feature-extraction"],
        "embedding_dimension": encoder.dim,
        "architecture": encoder.settings.name,
        "pretraining": {
            "imagettes": sum(d.imagettes for d in data),
            "simulated": sum(d.simulated for d in data),
            "sentinel1_years": sorted({y for d in data for y in d.sentinel1_years}),
        },
    }
    sections = [
        f"---\n{to_yaml(front)}---\n\n# {encoder.name}",
        f"An encoder of SAR images: {encoder.settings.name}, embeddings of {encoder.dim} numbers.",
        _data(data),
        _input(encoder),
        _use(native, encoder),
    ]
    if metrics:
        rows = "\n".join(f"| {name} | {_number(value)} |" for name, value in metrics.items() if _is_number(value))
        sections.append(f"## Measured in training\n\n| figure | value |\n|---|---|\n{rows}")
    return "\n\n".join(sections) + "\n"


def _data(data: Sequence[DataUsed]) -> str:
    if not data:
        return "## Data\n\nNot recorded by whoever saved this model."
    lines = [f"| {d.archive} | {d.imagettes:,} | {d.simulated:,} | {_pairs(d)} | `{d.hash[:12]}` |" for d in data]
    table = "| archive | images | simulated | quantities | hash |\n|---|---|---|---|---|\n" + "\n".join(lines)
    notice = attribution(data)
    return "\n\n".join(["## Data", in_words(data), *([notice] if notice else []), table])


def _pairs(data: DataUsed) -> str:
    return ", ".join(f"{name}: {quantity}" for name, quantity in data.quantities.items())


def _input(encoder: Encoder) -> str:
    p = encoder.preprocessing
    rows = "\n".join(
        f"| {c.name} | `{c.quantity.value}`: {MEANINGS[c.quantity]} | {'per image, then ' if c.standardise else ''}"
        f"clip {c.clip[0]:g} to {c.clip[1]:g}, minus {c.offset:g}, over {c.scale:g} |"
        for c in p.channels
    )
    spacing = "any spacing" if p.spacing_m is None else f"{p.spacing_m:g} m spacing"
    return (
        f"## Input\n\n{p.size} x {p.size} px at {spacing}; larger images are centre-cropped, smaller ones filled with "
        f"the median of their outer ring, never resized.\n\n| channel | quantity | scaling |\n|---|---|---|\n{rows}\n\n"
        f"Preprocessing version {p.version}, hash `{p.hash[:12]}`."
    )


def _use(native: Mapping[str, Any] | None, encoder: Encoder) -> str:
    text = (
        "## Use\n\n```python\nimport groundswell\n\nencoder = groundswell.load('path/to/this/folder')\n"
        "vectors = encoder.encode(groundswell.open_archive('archive'))  # float32 [N, D]\n```"
    )
    if native is None:
        return f"{text}\n\nThis architecture has no counterpart in transformers; only groundswell loads it."
    mirror = encoder.preprocessing.mirror
    reverse = "rows" if mirror == "azimuth" else "columns"
    mirrored = f", the mean over them and over the same with their {reverse} in reverse" if mirror else ""
    return (
        f"{text}\n\nThe weights also load with `transformers.AutoModel.from_pretrained` "
        f"(`{native['architectures'][0]}`); give it images scaled as above, the embedding is "
        f"`{_pooled(native, encoder.settings.pooling)}`{mirrored}."
    )


def _pooled(native: Mapping[str, Any], pooling: str) -> str:
    """The embedding in terms of what a class of transformers returns, with ``output_hidden_states=True``."""
    if pooling == "mean":
        return "pooler_output[..., 0, 0]"
    if pooling == "class":
        return "last_hidden_state[:, 0]"
    if native["model_type"] == "resnet":
        stages = "hidden_states[-3:]"
        return f"torch.cat([h.mean((2, 3)) for h in {stages}] + [h.amax((2, 3)) for h in {stages}], 1)"
    prefix = 1 + native.get("num_register_tokens", 0)
    blocks = ", ".join(f"hidden_states[{end}]" for end in quarters(native["num_hidden_layers"]))
    means, maxima = (f"[h[:, {prefix}:].{function}(1) for h in ({blocks})]" for function in ("mean", "amax"))
    return f"torch.cat([last_hidden_state[:, 0]] + {means} + {maxima}, 1)"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: float) -> str:
    return f"{value:.4g}"
