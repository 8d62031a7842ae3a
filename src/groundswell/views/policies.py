"""A policy makes a view: one cut, then the operations in their order; some policies have names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from groundswell.config import Settings
from groundswell.errors import UsageError
from groundswell.physics.imagette import Quantity
from groundswell.views import named
from groundswell.views.elastic import Elastic
from groundswell.views.filters import Blur, Notch, Sharpness
from groundswell.views.geometry import Geometry, affine_maps, resample
from groundswell.views.injection import Erasing, Mixup, Noise, Speckle
from groundswell.views.named import POLICIES
from groundswell.views.operation import Operation, PixelScale
from groundswell.views.tones import Brightness, Contrast, Gain, GammaCurve, Inversion, Solarise

ORDER = (
    *("elastic", "gain", "brightness", "contrast", "gamma_curve", "inversion", "solarise"),
    *("blur", "sharpness", "notch", "speckle", "noise", "erasing"),
)

# Pixels worked on at a time, of the views or half of the images: 4 MB stays near a core, and keeps temporaries small.
CPU_CHUNK = 1 << 20
GPU_CHUNK = 1 << 27


class ViewSettings(Settings):
    """What views are made of.

    Attributes
    ----------
    policy : str
        The named settings that the others start from (`named.POLICIES`).
    pixels : "db" or "amplitude", optional
        What the normalised pixels are proportional to (amplitude: to a power of it), for the operations that act on
        the radar signal. A run takes this, and the next three, from its preprocessing
        (`groundswell.training.building.fitted`); "db" where there is none.
    unit_db : float, optional
        For "db": how many dB one unit of the normalised pixels is (7.5 for our ocean encoders).
    zero : float, optional
        For "amplitude": the normalised pixel value of no signal; to be stated where each image is standardised.
    gamma : float, optional
        For "amplitude": that power (2 for pixels linear in intensity, 0.5 after a root in the preprocessing).
    geometry, mixup, elastic, gain, brightness, contrast, ...
        The cut, and the operations in the order in which they act.
    """

    policy: named.Name = "plain"
    pixels: Literal["db", "amplitude"] | None = None
    unit_db: float | None = Field(default=None, gt=0)
    zero: float | None = None
    gamma: float | None = Field(default=None, gt=0)
    geometry: Geometry = Geometry()
    mixup: Mixup = Mixup()
    elastic: Elastic = Elastic()
    gain: Gain = Gain()
    brightness: Brightness = Brightness()
    contrast: Contrast = Contrast()
    gamma_curve: GammaCurve = GammaCurve()
    inversion: Inversion = Inversion()
    solarise: Solarise = Solarise()
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

    def in_use(self) -> tuple[Operation, ...]:
        """The operations that change anything: mixup, which needs the whole batch, then the others in their order."""
        every: list[Operation] = [getattr(self, name) for name in ("mixup", *ORDER)]
        return tuple(operation for operation in every if operation.p > 0)


class ViewPolicy:
    """Makes one view of every image: ``policy(images, keys)``.

    Parameters
    ----------
    settings : ViewSettings
    size : int
        Height and width of the views in px.
    quantities : sequence of Quantity
        What the pixels of each channel are; nothing is checked where it is left out.
    name : str
        Of the settings in their recipe, for errors.

    Raises
    ------
    UsageError
        When a quantity does not allow an operation that is in use, with the reason.
    """

    def __init__(
        self, settings: ViewSettings, size: int, quantities: Sequence[Quantity] = (), name: str = "views"
    ) -> None:
        if size < 8:
            raise UsageError("views must be at least 8 px high and wide", where=f"size {size}")
        self.settings = settings
        self.size = size
        told = {"kind": settings.pixels, "unit_db": settings.unit_db, "zero": settings.zero, "gamma": settings.gamma}
        known = {name: value for name, value in told.items() if value is not None}
        self.scale = PixelScale(**known, quantities=tuple(quantities))  # type: ignore[arg-type]
        self.operations = tuple(step for step in settings.in_use() if step is not settings.mixup)
        for operation in settings.in_use():
            operation.check(self.scale, name)

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
        chunk = CPU_CHUNK if images.device.type == "cpu" else GPU_CHUNK
        step = max(1, chunk // max(views[:1].numel(), images[:1].numel() // 2, 1))
        parts = [slice(first, first + step) for first in range(0, len(images), step)]
        for part in parts:
            views[part] = resample(images[part], maps[part], self.size)
        views = self.settings.mixup(views, keys, self.scale)  # before the batch is taken in parts
        for part in parts:
            changed = views[part]
            for operation in self.operations:
                changed = operation(changed, keys[part], self.scale, in_place=True)
            views[part] = changed
        return views

    def unphysical_for(self) -> dict[str, tuple[str, ...]]:
        """Of each part of the cut and each operation in use, the labels that it breaks."""
        used = [operation for operation in self.settings.in_use() if operation.unphysical_for]
        return self.settings.geometry.unphysical_for() | {
            operation.name: operation.unphysical_for for operation in used
        }
