"""Which data stands behind a model or a table: simulated or real, how much, and whose notice it must carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from groundswell.archive.reader import Archive
from groundswell.archive.summary import notice, sentinel1_years


@dataclass(frozen=True, slots=True)
class DataUsed:
    """What an archive contributed.

    Attributes
    ----------
    archive : str
        The name of its folder.
    hash : str
        Identity of its content.
    imagettes : int
    simulated : int
        How many of them the simulator made.
    sentinel1_years : tuple of int
        Years of real Sentinel-1 data, for the Copernicus notice.
    quantities : dict
        Channel to quantity, as archived.
    """

    archive: str
    hash: str
    imagettes: int
    simulated: int
    sentinel1_years: tuple[int, ...]
    quantities: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """As a JSON-able dictionary."""
        return {**asdict(self), "sentinel1_years": list(self.sentinel1_years)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DataUsed:
        """The inverse of `to_json`."""
        return cls(**{**value, "sentinel1_years": tuple(value["sentinel1_years"])})


def describe(archive: Archive) -> DataUsed:
    """What an archive (or a view of one) holds: simulated imagettes are known by their ids, ``sim-<seed>-<index>``."""
    frame = archive.catalogue
    simulated = frame["id"].astype("string").str.startswith("sim-")
    return DataUsed(
        archive=archive.path.name,
        hash=archive.hash,
        imagettes=len(frame),
        simulated=int(simulated.sum()),
        sentinel1_years=sentinel1_years(frame),
        quantities={c.name: c.quantity.value for c in archive.channels},
    )


def in_words(data: Sequence[DataUsed]) -> str:
    """One sentence that says how much of the data is simulated and how much is real."""
    total = sum(d.imagettes for d in data)
    simulated = sum(d.simulated for d in data)
    if not total:
        return "The data is not recorded."
    if simulated == total:
        return f"{total:,} simulated imagettes; no real image. Skill on them is not skill on the ocean."
    if not simulated:
        return f"{total:,} real images."
    return f"{total:,} images: {total - simulated:,} real and {simulated:,} simulated."


def attribution(data: Sequence[DataUsed]) -> str | None:
    """The notice that the Copernicus licence asks for, where real Sentinel-1 data was used, else None."""
    return notice(year for d in data for year in d.sentinel1_years)
