"""A tiny archive and a tiny recipe, with everything that a large run has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groundswell.archive.ingest import ingest
from groundswell.archive.reader import Archive, open_archive
from groundswell.physics.imagette import Channel, Imagette, Metadata, Quantity
from groundswell.products.source import Rejected
from groundswell.training.recipe import Recipe

CLASSES = ("fine", "coarse", "flat")


class Waves:
    """Plane waves of two wavelengths in noise, and noise alone: three classes that a small network can tell apart."""

    channels = (Channel("VV", Quantity.ROUGHNESS_DB),)
    mask_names: tuple[str, ...] = ()
    eight_bit = False

    def __init__(self, count: int, size: int = 32) -> None:
        self.count, self.size = count, size
        self.description: dict[str, Any] = {"source": "waves", "count": count, "size": size}

    def ids(self) -> Sequence[str]:
        return [f"w{i:04d}" for i in range(self.count)]

    def read(self, ids: Sequence[str]) -> list[Imagette | Rejected]:
        return [self._one(name) for name in ids]

    def _one(self, name: str) -> Imagette:
        index = int(name[1:])
        random = np.random.default_rng(index)
        y, x = np.mgrid[: self.size, : self.size]
        angle, phase = random.uniform(0, np.pi, 2)
        wavelength = (5.0, 12.0, np.inf)[index % 3]
        wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / wavelength + phase)
        pixels = 3.0 * wave + random.normal(0.0, 1.0, (self.size, self.size))
        return Imagette(
            pixels=pixels[None].astype(np.float32),
            channels=self.channels,
            metadata=Metadata(id=name, group=f"g{index // 3}", split="train" if index % 4 else "test"),
            labels={"pattern": CLASSES[index % 3]},
        )


_VIT = {"name": "vit-ti/8", "image_size": 32}
_HEAD = {"prototypes": 32, "head_hidden": 32, "head_bottleneck": 64, "freeze_prototypes": 0.3}
_CROPS = {"local_views": {"policy": "oceansar1-local"}, "local_view_size": 16, "local_view_count": 2}
_CLIP = {"clip_norm": 1.0, "clip_scope": "part"}
_DECAY = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.04, "final_weight_decay": 0.4}

# What changes `tiny_recipe` to each method but SimCLR; schedules, decay and clipping of every kind among them.
METHODS: dict[str, dict[str, Any]] = {
    "dino": {"method": {"name": "dino", "momentum": 0.9, **_HEAD}, "backbone": _VIT, "optimiser": _DECAY, **_CROPS},
    "dino-resnet": {
        "method": {"name": "dino", "centring": "sinkhorn", "head_norm": True, **_HEAD},
        "clip_norm": 3.0,
        **_CROPS,
    },
    "dinov2": {
        "method": {"name": "dinov2", "momentum": 0.9, "layer_scale": 0.1, **_HEAD},
        "backbone": _VIT,
        "optimiser": {**_DECAY, "layer_decay": 0.9, "patch_rate": 0.2},
        **_CROPS,
        **_CLIP,
    },
    "mae": {"method": {"name": "mae", "decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}, "backbone": _VIT},
}


def make_archive(path: Path, count: int = 48, size: int = 32) -> Archive:
    """An archive of waves in shards of 20."""
    ingest(Waves(count, size), path, shard_rows=20)
    return open_archive(path)


def tiny_recipe(**changes: Any) -> Recipe:
    """A run of a few seconds; two batches of 16 an epoch from 36 training images, with their remainder dropped."""
    values: dict[str, Any] = {
        "name": "tiny",
        "where": "split == 'train'",
        "backbone": {"name": "resnet18", "width": 4},
        "views": {"policy": "ocean"},
        "view_size": 32,
        "batch_size": 16,
        "optimiser": {"name": "adamw", "lr": 1e-3},
        "length": {"steps": 7},
        "precision": "fp32",
        "device": "cpu",
        "log_steps": 1,
        "checkpoint": {"steps": 3},
    }
    return Recipe.model_validate(values | changes)
