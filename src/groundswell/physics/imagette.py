"""The imagette: one SAR image chip with its metadata, the unit that everything else passes on."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from groundswell.errors import DataError

Pixel = TypeVar("Pixel", bound=np.generic)


class Quantity(StrEnum):
    """What the pixels of a channel are. Never rescaled silently from one to another."""

    SIGMA0 = "sigma0"
    """Normalised radar cross-section, linear; may be negative after noise removal."""
    SIGMA0_DB = "sigma0_db"
    """``10 log10(sigma0)``."""
    ROUGHNESS_DB = "roughness_db"
    """``sigma0_db`` minus 10 log10 of CMOD5.N at 10 m/s, 45 degrees and the column's own incidence."""
    AMPLITUDE = "amplitude"
    """Uncalibrated: the root of the mean squared digital number over the cell."""
    RATIO = "ratio"
    """VV over VH, linear."""
    QUICKLOOK = "quicklook"
    """8-bit; linear between the 1st and 99th percentile of the valid pixels; absolute level lost."""


DECIBELS = frozenset({Quantity.SIGMA0_DB, Quantity.ROUGHNESS_DB})


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of an image: its name (``VV``, ``VH``, ``intensity`` ...) and its quantity."""

    name: str
    quantity: Quantity


@dataclass(frozen=True, slots=True)
class Box:
    """An object in an imagette, in its own pixels: the left, top edge (0-based) and the size."""

    class_name: str
    x: float
    y: float
    width: float
    height: float


Label = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What is known of an imagette: one column of the catalogue each; None where unknown, never invented.

    Angles are in degrees, spacings in metres, ``nesz_db`` in dB, ``time`` in UTC. ``group`` names what must never
    straddle a split: the datatake where it is known, else the product, else what the user names. ``footprint`` is
    a polygon in WKB (longitude, latitude).
    """

    id: str
    product_id: str | None = None
    image_number: int | None = None
    mission: str | None = None
    beam: str | None = None
    mode: str | None = None
    polarisations: str | None = None
    time: datetime | None = None
    lon: float | None = None
    lat: float | None = None
    footprint: bytes | None = None
    heading_deg: float | None = None
    orbit: int | None = None
    orbit_pass: str | None = None
    look: str | None = None
    incidence_deg: float | None = None
    incidence_near_deg: float | None = None
    incidence_far_deg: float | None = None
    range_spacing_m: float | None = None
    azimuth_spacing_m: float | None = None
    nesz_db: float | None = None
    denoised: bool | None = None
    ipf_version: str | None = None
    datatake: str | None = None
    group: str | None = None
    split: str | None = None
    source_uri: str | None = None
    source_hash: str | None = None


METADATA_FIELDS: tuple[str, ...] = tuple(f.name for f in fields(Metadata))


@dataclass(slots=True)
class Imagette:
    """One SAR image chip.

    Attributes
    ----------
    pixels : float32 [C, H, W]
        Rows azimuth (or north-south), columns ground range (or east-west). NaN where there is no valid data.
    channels : tuple of Channel
        Name and quantity of each of the C channels.
    metadata : Metadata
    labels : dict
        Label name (without the ``label_`` prefix of the catalogue) to value.
    masks : dict
        Mask name to uint8 ``[H, W]``; 255 is unknown.
    boxes : list of Box
        Objects, in pixels of this imagette.
    """

    pixels: NDArray[np.float32]
    channels: tuple[Channel, ...]
    metadata: Metadata
    labels: dict[str, Label] = field(default_factory=dict)
    masks: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    boxes: list[Box] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[0] != len(self.channels):
            raise DataError(
                "the pixels of an imagette must be [channels, rows, columns]",
                where=self.metadata.id,
                why=f"shape {self.pixels.shape} for the channels {[c.name for c in self.channels]}",
            )
        for name, mask in self.masks.items():
            if mask.shape != self.pixels.shape[1:]:
                raise DataError(
                    f"the mask {name!r} does not have the size of its image",
                    where=self.metadata.id,
                    why=f"mask {mask.shape}, image {self.pixels.shape[1:]}",
                )

    def turned(self, far_range: FarRange) -> Imagette:
        """The same, turned so that far range, which now lies on the side ``far_range``, lies on the right.

        Pixels, masks and boxes are turned; metadata names azimuth and range itself, and stays.
        """
        size = self.pixels.shape[1:]
        return replace(
            self,
            pixels=turn(self.pixels, far_range),
            masks={name: turn(mask, far_range) for name, mask in self.masks.items()},
            boxes=[turn_box(box, size, far_range) for box in self.boxes],
        )


FarRange = Literal["right", "up", "left", "down"]
"""The side of an image on which far range lies: columns count it from left to right, unless a file differs."""
_QUARTERS: dict[FarRange, int] = {"right": 0, "down": 1, "left": 2, "up": 3}  # anticlockwise


def turn(plane: NDArray[Pixel], far_range: FarRange) -> NDArray[Pixel]:
    """``[..., H, W]`` turned so that far range, which lies on the side ``far_range``, lies on the right."""
    return np.ascontiguousarray(np.rot90(plane, _QUARTERS[far_range], axes=(-2, -1)))


def turn_box(box: Box, size: tuple[int, ...], far_range: FarRange) -> Box:
    """A box of an image of ``size`` (rows, columns) where `turn` takes it."""
    rows, columns = size
    for _ in range(_QUARTERS[far_range]):
        box = Box(box.class_name, box.y, columns - box.x - box.width, box.height, box.width)
        rows, columns = columns, rows
    return box
