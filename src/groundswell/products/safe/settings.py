"""How Sentinel-1 products are to be read into imagettes, and what is set aside on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from groundswell.errors import UsageError
from groundswell.physics.imagette import Quantity
from groundswell.physics.multilook import Filter
from groundswell.products.folder.labels import Columns
from groundswell.products.source import Rejected

SCREENED = "screened"
REASONS = ("land", "ice", "valid", "nesz")
"""What an item may be screened for."""
IMAGETTE_M = 20_000.0
"""Side of a wave-mode imagette."""
CHIP = (256, 256)
"""Rows and columns of a chip of a scene unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Screening:
    """What is set aside.

    Attributes
    ----------
    land : float
        Most of an item that may be land, by the packaged mask (GLOBE, 30 arc seconds); 1 keeps all.
    ice : float
        Most of it that may be sea ice, where a level-2 product of it says so; 1 keeps all.
    valid : float
        Least share of its area with data.
    nesz : bool
        Whether it is set aside when the noise table of a channel is implausible.
    """

    land: float = 0.1
    ice: float = 0.1
    valid: float = 0.5
    nesz: bool = True

    def __post_init__(self) -> None:
        for name in ("land", "ice", "valid"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UsageError(f"a share of {name} is from 0 to 1", where=f"{getattr(self, name):g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SafeSettings:
    """How products are to be read.

    Attributes
    ----------
    spacing_m : float
        Side of the ground cells.
    quantity : Quantity
        ``sigma0``, or ``amplitude`` for the root of the mean |DN|^2, neither calibrated nor denoised.
    denoise : bool
    filter : "box" or "kaiser"
    chip : (rows, columns), optional
        Cells of a chip: 20 km where there are wave-mode imagettes (which are not cut), else `CHIP`.
    overlap : int
        Cells that neighbouring chips share.
    channels : tuple of str, optional
        Polarisations to keep; those that every image has by default.
    allow_missing_channel : bool
        Keep images without one of ``channels``, with NaN in its place.
    screening : Screening
    mask_land : bool
        Cells on land count as without data.
    labels : Path, optional
        A table whose rows name imagettes by their ids.
    columns : Columns
    only_labelled : bool
        Leave out images without a row in the table.
    """

    spacing_m: float = 50.0
    quantity: Quantity = Quantity.SIGMA0
    denoise: bool = True
    filter: Filter = "box"
    chip: tuple[int, int] | None = None
    overlap: int = 0
    channels: tuple[str, ...] | None = None
    allow_missing_channel: bool = False
    screening: Screening = field(default_factory=Screening)
    mask_land: bool = False
    labels: Path | None = None
    columns: Columns = field(default_factory=Columns)
    only_labelled: bool = False

    def __post_init__(self) -> None:
        if not 1.0 <= self.spacing_m <= 1e5:
            raise UsageError(f"cells of {self.spacing_m:g} m make no sense", fix="give --spacing in metres, such as 50")
        if self.quantity not in (Quantity.SIGMA0, Quantity.AMPLITUDE):
            raise UsageError(
                f"products are not read as {self.quantity.value}",
                why="what comes out of them is calibrated sigma0, or uncalibrated amplitude",
                fix=f"read sigma0 and store another: --convert-to {self.quantity.value}",
            )


def screened(id_: str, reason: str, why: str) -> Rejected:
    """An item that is set aside for one of `REASONS`."""
    return Rejected(id_, f"{SCREENED}, {reason}: {why}")


def screened_for(item: Rejected) -> str | None:
    """Which of `REASONS` an item was screened for, None where it is broken."""
    name = item.reason.removeprefix(f"{SCREENED}, ").partition(":")[0]
    return name if item.reason.startswith(f"{SCREENED}, ") and name in REASONS else None
