"""From physical pixels to what a network sees: versioned, hashed, with the quantity of every channel declared.

    select channels -> convert quantity -> x^gamma -> [standardise] -> clip -> (x - offset) / scale -> fill -> size

Encodings made under two hashes are not comparable, and every table carries the hash it was made under.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from groundswell.config import Settings
from groundswell.encoder.pixels import converted, name_of, ring_median, standardised
from groundswell.errors import DataError
from groundswell.files import digest
from groundswell.physics.imagette import Channel, Quantity

POLARISATIONS = frozenset({"VV", "VH", "HH", "HV"})

Mirror = Literal["azimuth", "range"]

DEFAULTS: dict[Quantity, dict[str, Any]] = {
    # Clip and scale of the contract for ocean encoders: +-15 dB about the sea's own mean.
    Quantity.ROUGHNESS_DB: {"clip": (-15.0, 15.0), "offset": 0.0, "scale": 7.5},
    # Ours: from the noise floor to a bright ship, centred on a moderate sea.
    Quantity.SIGMA0_DB: {"clip": (-35.0, 15.0), "offset": -10.0, "scale": 10.0},
    Quantity.SIGMA0: {"clip": (-0.05, 1.0), "offset": 0.1, "scale": 0.2},
    Quantity.RATIO: {"clip": (0.0, 50.0), "offset": 10.0, "scale": 10.0},
    # Uncalibrated: the level means nothing, so each image is brought to zero mean and unit variance; the root before
    # that and the far upper bound, because targets are much brighter than their surroundings.
    Quantity.AMPLITUDE: {"gamma": 0.5, "clip": (-4.0, 8.0), "offset": 0.0, "scale": 1.0, "standardise": True},
    Quantity.QUICKLOOK: {"clip": (0.0, 255.0), "offset": 127.5, "scale": 127.5},
}


class ChannelInput(Settings):
    """One channel that an encoder takes.

    Attributes
    ----------
    name : str
        ``VV``, ``VH``, ``intensity`` ...
    quantity : Quantity
        What the pixels must be, after conversion.
    gamma : float
        Pixels are first raised to this power (signed); 1 leaves them as they are.
    standardise : bool
        Bring each image to zero mean and unit variance (over its valid pixels) before the clip: for quantities whose
        level carries nothing. Clip, offset and scale are then in standard deviations.
    clip : (low, high)
    offset, scale : float
        The network sees ``(clip(x) - offset) / scale``.
    """

    name: str
    quantity: Quantity
    gamma: float = Field(default=1.0, gt=0, le=2)
    standardise: bool = False
    clip: tuple[float, float]
    offset: float
    scale: float = Field(gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.clip[0] < self.clip[1]:
            raise ValueError("clip must be (low, high) with low < high")
        return self


class PreprocessingSettings(Settings):
    """The preprocessing a recipe asks for; whatever is None comes from the archive or from the quantity's defaults.

    Attributes
    ----------
    quantity : Quantity or None
        Converted to where physics allows; None keeps the archive's own.
    channels : tuple of str or None
        Which channels, each once, in which order; None takes all of the archive's.
    size : int or None
        Side of the square an encoder sees, px; None takes the smaller side of the archive's images, or what whole
        patches leave of it.
    mirror : "azimuth", "range" or None
        As in `Preprocessing`.
    gamma, standardise, clip, offset, scale
        As in `ChannelInput`, for every channel.
    """

    quantity: Quantity | None = None
    channels: tuple[str, ...] | None = Field(default=None, min_length=1)
    size: int | None = Field(default=None, ge=8)
    mirror: Mirror | None = None
    gamma: float | None = Field(default=None, gt=0, le=2)
    standardise: bool | None = None
    clip: tuple[float, float] | None = None
    offset: float | None = None
    scale: float | None = Field(default=None, gt=0)

    @field_validator("channels")
    @classmethod
    def _each_once(cls, channels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if channels is not None and len(set(channels)) < len(channels):
            raise ValueError("a channel is named twice")
        return channels

    def resolve(
        self, channels: Sequence[Channel], height: int, width: int, spacing_m: float | None = None, patch: int = 1
    ) -> Preprocessing:
        """The preprocessing for images of the given channels, size (px) and spacing (m), and an encoder's patch (px).

        Raises
        ------
        DataError
            When a named channel is not there.
        """
        known = {c.name: c for c in channels}
        names = list(known) if self.channels is None else list(self.channels)
        for name in names:
            if name not in known:
                raise DataError(
                    f"the archive has no channel {name!r}",
                    why=f"its channels are {', '.join(known)}",
                    fix="set preprocessing.channels to some of these",
                )
        given = {
            k: v for k in ("gamma", "standardise", "clip", "offset", "scale") if (v := getattr(self, k)) is not None
        }
        inputs = []
        for name in names:
            quantity = self.quantity or known[name].quantity
            inputs.append(ChannelInput(name=name, quantity=quantity, **{**DEFAULTS[quantity], **given}))
        size = self.size or max(min(height, width) // patch, 1) * patch
        return Preprocessing(channels=tuple(inputs), size=size, mirror=self.mirror, spacing_m=spacing_m)


class Preprocessing(Settings):
    """What happens to an imagette before the network sees it.

    Attributes
    ----------
    version : int
        Of this chain; raised whenever the same settings would give other numbers.
    channels : tuple of ChannelInput
    size : int
        Side of the square that the network sees, px. Larger images are centre-cropped, smaller ones filled with the
        median of their outer ring; nothing is ever resized.
    mirror : "azimuth", "range" or None
        The embedding is the mean of those of the image and of its mirror image: rows (azimuth) or columns (range)
        in reverse. For what means the same when mirrored, such as a target that has a left and a right side alike.
    spacing_m : float or None
        Pixel spacing the encoder is made for; None where it is not known.
    spacing_tolerance : float
        Relative departure from ``spacing_m`` that is let through. It decides what is refused, not any number, so it
        is no part of the hash.
    """

    version: Literal[1] = 1
    channels: tuple[ChannelInput, ...] = Field(min_length=1)
    size: int = Field(ge=8)
    mirror: Mirror | None = None
    spacing_m: float | None = Field(default=None, gt=0)
    spacing_tolerance: float = Field(default=0.1, ge=0)

    @property
    def hash(self) -> str:
        """Hex SHA-256 of everything that decides a number."""
        unused = {"mirror"} if self.mirror is None else set()  # as before there was such a setting
        return digest(self.model_dump(mode="json", exclude={"spacing_tolerance", *unused}))

    def __call__(
        self,
        pixels: NDArray[np.float32] | Tensor,
        channels: Sequence[Channel],
        rows: pd.DataFrame | None = None,
    ) -> Tensor:
        """`normalise`, then `fit`: physical ``[N, K, H, W]`` to float32 ``[N, C, size, size]``."""
        return self.fit(self.normalise(pixels, channels, rows))

    def normalise(
        self,
        pixels: NDArray[np.float32] | Tensor,
        channels: Sequence[Channel],
        rows: pd.DataFrame | None = None,
    ) -> Tensor:
        """Physical pixels to network units, at their own size.

        Parameters
        ----------
        pixels : float32 [N, K, H, W]
            In the quantities of ``channels``; NaN where there is no valid data.
        channels : sequence of Channel, K
        rows : DataFrame, N rows, optional
            The catalogue rows of the images; their incidence (degrees) is needed to go to or from roughness,
            their spacing (m) is checked.

        Returns
        -------
        float32 [N, C, H, W] on the device of ``pixels``; finite everywhere.

        Raises
        ------
        QuantityError
            When a quantity is not the one declared and physics does not allow the conversion.
        DataError
            When a channel is missing or the spacing is another.
        """
        if rows is not None:
            self.check_spacing(rows)
        planes = []
        for wanted, position in zip(self.channels, self.match(channels), strict=True):
            plane = pixels[:, position]
            if channels[position].quantity != wanted.quantity:
                plane = converted(plane, channels[position].quantity, wanted.quantity, rows)
            plane = torch.as_tensor(plane, dtype=torch.float32)
            planes.append(plane if wanted.gamma == 1.0 else torch.sign(plane) * torch.abs(plane) ** wanted.gamma)
        x = torch.stack(planes, dim=1)
        x = torch.where(torch.isfinite(x), x, math.nan)
        standardise = [c.standardise for c in self.channels]
        if any(standardise):
            on = torch.tensor(standardise, device=x.device)[None, :, None, None]
            x = torch.where(on, standardised(x), x)
        low, high, offset, scale = (
            torch.tensor(values, dtype=torch.float32, device=x.device)[None, :, None, None]
            for values in zip(*((*c.clip, c.offset, c.scale) for c in self.channels), strict=True)
        )
        x = (torch.minimum(torch.maximum(x, low), high) - offset) / scale
        missing = torch.isnan(x)
        if bool(missing.any()):
            x = torch.where(missing, ring_median(x)[..., None, None], x)
        return x

    def fit(self, images: Tensor) -> Tensor:
        """Normalised ``[N, C, H, W]`` to ``[N, C, size, size]``: centre crop, or fill with the ring's median."""
        height, width = images.shape[-2:]
        top, left = max(height - self.size, 0) // 2, max(width - self.size, 0) // 2
        images = images[..., top : top + self.size, left : left + self.size]
        rows, columns = self.size - images.shape[-2], self.size - images.shape[-1]
        if not rows and not columns:
            return images.contiguous()
        edges = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        inside = F.pad(torch.ones_like(images[:1, :1], dtype=torch.bool), edges)
        return torch.where(inside, F.pad(images, edges), ring_median(images)[..., None, None])

    def match(self, channels: Sequence[Channel]) -> list[int]:
        """For each channel the encoder takes, its position among ``channels``.

        By name; or in order where the counts agree and no polarisation would be taken for another one.

        Raises
        ------
        DataError
            When a channel is missing.
        """
        names = [c.name for c in channels]
        wanted = [c.name for c in self.channels]
        if set(wanted) <= set(names):
            return [names.index(name) for name in wanted]
        pairs = list(zip(names, wanted, strict=False))
        if len(names) == len(wanted) and not any(a != b and {a, b} <= POLARISATIONS for a, b in pairs):
            return list(range(len(wanted)))
        raise DataError(
            f"the encoder takes the channels {', '.join(wanted)}; the images have {', '.join(names)}",
            why="a missing polarisation cannot be made from another",
            fix="ingest the channels the encoder needs, or use an encoder made for these",
        )

    def check(self, channels: Sequence[Channel], rows: pd.DataFrame) -> None:
        """Raise what `normalise` would of images of these channels and catalogue rows, without their pixels.

        Raises
        ------
        QuantityError, DataError
            As `normalise`.
        """
        self.check_spacing(rows)
        for wanted, position in zip(self.channels, self.match(channels), strict=True):
            given = channels[position].quantity
            # Images of no height and two columns: the incidence of all columns lies between those of the outer two.
            told = rows if Quantity.ROUGHNESS_DB in (given, wanted.quantity) else rows.iloc[:1]
            converted(np.empty((len(told), 0, 2), dtype=np.float32), given, wanted.quantity, told)

    def check_spacing(self, rows: pd.DataFrame) -> None:
        """Raise `DataError` where a known pixel spacing (m) is off by more than the tolerance."""
        if self.spacing_m is None or not math.isfinite(self.spacing_tolerance):
            return
        for column in ("range_spacing_m", "azimuth_spacing_m"):
            if column not in rows:
                continue
            spacing = rows[column].to_numpy(dtype=np.float64, na_value=np.nan)
            with np.errstate(invalid="ignore"):
                off = np.abs(spacing / self.spacing_m - 1.0) > self.spacing_tolerance
            if off.any():
                first = int(np.flatnonzero(off)[0])
                raise DataError(
                    f"the encoder is made for a pixel spacing of {self.spacing_m:g} m",
                    where=f"{column} of {name_of(rows, first)}: {spacing[first]:g} m ({int(off.sum())} such)",
                    why="the same sea at another spacing has other wavelengths in pixels",
                    fix=f"bring the images to {self.spacing_m:g} m (groundswell ingest --fit resize with the --size "
                    "that gives it), leave them out of a training (`where`), or pass --spacing-tolerance inf to embed "
                    "if you mean it",
                )
