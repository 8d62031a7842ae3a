"""A policy makes a view: one cut, then the operations in their order; some policies have names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from groundswell.config import Settings
from groundswell.errors import UsageError
from groundswell.views.augment import Contrast, Erasing, Gain, Inversion, Mixup, Noise, Operation, PixelScale, Speckle
from groundswell.views.filters import Blur, Notch, Sharpness
from groundswell.views.geometry import Geometry, affine_maps, resample

ORDER = ("gain", "contrast", "inversion", "blur", "sharpness", "notch", "speckle", "noise", "erasing")

# Pixels of the views worked on at a time: 4 MB stays near a core, and keeps the temporaries of large views small.
CPU_CHUNK = 1 << 20
GPU_CHUNK = 1 << 27

# Ours, plain settings: what a recipe writes beside `policy` wins over them.
POLICIES: dict[str, dict[str, Any]] = {
    "plain": {},
    # Waves and wind keep their axes: no rotation. Flips keep azimuth and range apart; the crop keeps swell in view.
    "ocean": {
        "geometry": {"scale": (0.4, 1.0), "flip_azimuth": 0.5, "flip_range": 0.5},
        "gain": {"p": 0.8, "db": (-1.0, 1.0)},
        "contrast": {"p": 0.5, "factor": (0.8, 1.25)},
        "blur": {"p": 0.3, "sigma": (0.3, 1.0)},
        "speckle": {"p": 0.5, "looks": (20.0, 200.0)},
    },
    # Targets seen from any side: the class survives every rotation, the absolute level means little.
    "chip": {
        "geometry": {"scale": (0.3, 1.0), "flip_azimuth": 0.5, "flip_range": 0.5, "rotation": 1.0},
        "gain": {"p": 0.8, "db": (-3.0, 3.0)},
        "contrast": {"p": 0.5, "factor": (0.7, 1.4)},
        "blur": {"p": 0.3, "sigma": (0.3, 1.2)},
        "noise": {"p": 0.5, "std": (0.0, 0.2)},
    },
}


class ViewSettings(Settings):
    """What views are made of.

    Attributes
    ----------
    policy : "plain", "ocean" or "chip"
        The named settings that the others start from.
    pixels : "db" or "amplitude"
        What the normalised pixels are proportional to (amplitude: to a power of it), for gain and speckle.
    unit_db : float
        For "db": how many dB one unit of the normalised pixels is (7.5 for our ocean encoders).
    zero : float
        For "amplitude": the normalised pixel value of no signal.
    gamma : float
        For "amplitude": that power (2 for pixels linear in intensity, 0.5 after a root in the preprocessing).
    geometry, mixup, gain, contrast, inversion, blur, sharpness, notch, speckle, noise, erasing
        The cut, and the operations in the order in which they act.
    """

    policy: Literal["plain", "ocean", "chip"] = "plain"
    pixels: Literal["db", "amplitude"] = "db"
    unit_db: float = Field(default=7.5, gt=0)
    zero: float = 0.0
    gamma: float = Field(default=1.0, gt=0)
    geometry: Geometry = Geometry()
    mixup: Mixup = Mixup()
    gain: Gain = Gain()
    contrast: Contrast = Contrast()
    inversion: Inversion = Inversion()
    blur: Blur = Blur()
    sharpness: Sharpness = Sharpness()
    notch: Notch = Notch()
    speckle: Speckle = Speckle()
    noise: Noise = Noise()
    erasing: Erasing = Erasing()

    @model_validator(mode="before")
    @classmethod
    def _start_from_the_policy(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        named = POLICIES.get(str(values.get("policy")), {})
        merged: dict[str, Any] = {**named, **values}
        for key, base in named.items():
            if isinstance(values.get(key), Mapping):
                merged[key] = {**base, **values[key]}
        return merged


class ViewPolicy:
    """Makes one view of every image: ``policy(images, keys)``.

    Parameters
    ----------
    settings : ViewSettings
    size : int
        Height and width of the views in px.
    """

    def __init__(self, settings: ViewSettings, size: int) -> None:
        if size < 8:
            raise UsageError("views must be at least 8 px high and wide", where=f"size {size}")
        self.settings = settings
        self.size = size
        self.scale = PixelScale(settings.pixels, settings.unit_db, settings.zero, settings.gamma)
        steps: list[Operation] = [getattr(settings, name) for name in ORDER]  # mixup comes before them
        self.operations = tuple(step for step in steps if step.p > 0)

    @torch.no_grad()
    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """One view of every image.

        Parameters
        ----------
        images : float [B, C, H, W]
            Normalised pixels, without NaN.
        keys : int64 [B]
            One key for each view (`groundswell.rng.keys` of seed, row, epoch and number of the view): the same key
            gives the same view whatever the batch (mixup apart, which needs the other imagettes).

        Returns
        -------
        float [B, C, size, size]

        Raises
        ------
        UsageError
            When the numbers of images and keys differ.
        """
        if len(keys) != len(images):
            raise UsageError("every image needs one key", where=f"{len(images)} images, {len(keys)} keys")
        keys = keys.cpu()
        maps = affine_maps(self.settings.geometry, keys, images.shape[2], images.shape[3])
        views = images.new_empty(len(images), images.shape[1], self.size, self.size)
        step = max(1, (CPU_CHUNK if images.device.type == "cpu" else GPU_CHUNK) // max(views[:1].numel(), 1))
        parts = [slice(first, first + step) for first in range(0, len(images), step)]
        for part in parts:
            views[part] = resample(images[part], maps[part], self.size)
        views = self.settings.mixup(views, keys, self.scale)  # before the batch is taken in parts
        for part in parts:
            changed = views[part]
            for operation in self.operations:
                changed = operation(changed, keys[part], self.scale)
            views[part] = changed
        return views

    def unphysical_for(self) -> dict[str, tuple[str, ...]]:
        """Of each operation in use, the labels that it breaks (the docstring of `Geometry` tells of the cut)."""
        used = [op for op in (self.settings.mixup, *self.operations) if op.p > 0]
        return {type(op).__name__.lower(): op.unphysical_for for op in used if op.unphysical_for}
