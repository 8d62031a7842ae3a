"""What bands are by their names: seasons and polarisations, ratios, incidence angles; and what order they come in.

Seasons, their months and their order, and the order of the 12 channels (the ratios first, then VV, then VH) are those
of the public code of M3LEO and geetiles (arXiv 2310.00826, 2406.04230), whose bands are called ``winter_vvasc``.
There the third channel is VV minus VH in decibels; here it is `Quantity.RATIO`, the linear quotient, which holds the
same: 10 log10 of it is that difference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from groundswell.errors import DataError
from groundswell.physics.imagette import Quantity

SEASONS = {"winter": (12, 1, 2), "spring": (3, 4, 5), "summer": (6, 7, 8), "fall": (9, 10, 11)}
"""Months of each season, the same south of the equator: names of quarters, not of weather."""
COMPOSITE = tuple(f"{season}_{kind}" for kind in ("ratio", "vv", "vh") for season in SEASONS)
"""The 12 channels of a seasonal composite, in their order."""
INCIDENCE = ("incidence", "incidence_angle", "incidence_deg", "incidenceangle", "angle")
"""Names, in small letters, of incidence angles (degrees), which are metadata and no channel."""

_KINDS = {"vv": "vv", "vh": "vh", "hh": "hh", "hv": "hv"} | dict.fromkeys(
    ("ratio", "vvvh", "vvvhratio", "ratiovvvh", "vvminusvh", "vvdivvh", "vvbyvh"), "ratio"
)
_PASS = re.compile(r"(asc|des|desc|ascending|descending)$")
_ALIKE_DB = 1.0
_CALIBRATED = (Quantity.SIGMA0, Quantity.SIGMA0_DB)


def season_of(month: int) -> str:
    """The season of a month (1 to 12)."""
    return next(season for season, months in SEASONS.items() if month in months)


def _parts(name: str) -> tuple[str | None, str | None, str]:
    """(season, kind, pass) of a band's name, as far as it tells them."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    seasons = [word for word in words if word in (*SEASONS, "autumn")]
    rest = "".join(word for word in words if word not in seasons)
    found = _PASS.search(rest)
    pass_ = found[1][:3] if found and rest != found[1] else ""
    kind = _KINDS.get(rest[: found.start()] if found and pass_ else rest)
    season = seasons[0].replace("autumn", "fall") if len(seasons) == 1 else None
    return season, kind, pass_


def is_ratio(name: str) -> bool:
    """Whether a band's name says that it is VV over VH."""
    return _parts(name)[1] == "ratio"


def is_polarised(names: Sequence[str]) -> bool:
    """Whether every band is a polarisation or their ratio, of a season or of one day."""
    return all(_parts(name)[1] for name in names)


def canonical(names: Sequence[str]) -> tuple[str, ...]:
    """Names of seasonal bands as `COMPOSITE` has them (``VV_winter``, ``winter_vvasc`` to ``winter_vv``).

    Others stay as they are. The pass is kept (``winter_vvasc``) where a file has both.
    """
    parts = [_parts(name) for name in names]
    passes = {pass_ for season, kind, pass_ in parts if season and kind}
    return tuple(
        f"{season}_{kind}{pass_ if len(passes) > 1 else ''}" if season and kind else name
        for name, (season, kind, pass_) in zip(names, parts, strict=True)
    )


def in_order(names: Sequence[str]) -> list[str]:
    """Names in the order of `COMPOSITE` where all are of it, else as given."""
    return sorted(names, key=COMPOSITE.index) if set(names) <= set(COMPOSITE) else list(names)


def quantity_of(name: str, declared: Quantity) -> Quantity:
    """The quantity of a band among calibrated ones: a ratio stays a ratio."""
    return Quantity.RATIO if declared in _CALIBRATED and is_ratio(name) else declared


def linear_ratios(pixels: NDArray[np.float32], names: Sequence[str], declared: Quantity) -> NDArray[np.float32]:
    """Bands ``[C, H, W]`` with each ratio as linear VV over VH, whether the file has it linear or in decibels.

    Which it is shows beside the VV and VH of the same file: the one that is nearer to their quotient (in the median
    over pixels; composites of ratios are near to ratios of composites), and within 1 dB.

    Raises
    ------
    DataError
        When the file has not both, or the band is neither, such as a quotient of decibels.
    """
    if declared not in _CALIBRATED or not any(map(is_ratio, names)):
        return pixels
    index = {_parts(name): i for i, name in enumerate(names)}
    out = pixels.astype(np.float32, copy=True)
    for (season, kind, pass_), i in index.items():
        if kind != "ratio":
            continue
        vv, vh = (index.get((season, p, pass_)) for p in ("vv", "vh"))
        if vv is None or vh is None:
            raise DataError(
                "a ratio cannot be told",
                why=f"whether {names[i]} is linear or in decibels shows beside VV and VH, and the file has not both",
                fix="leave it out by --channels, or export VV and VH with it",
            )
        with np.errstate(all="ignore"):
            both = pixels[[vv, vh]].astype(np.float64)
            both = both if declared is Quantity.SIGMA0_DB else 10.0 * np.log10(both)
            given = pixels[i].astype(np.float64)
            off = [np.abs(form - (both[0] - both[1])) for form in (given, 10.0 * np.log10(given))]
        there = np.isfinite(given) & np.isfinite(both).all(axis=0)
        if not there.any():
            continue
        in_db, linear = (float(np.median(np.where(np.isfinite(o), o, np.inf)[there])) for o in off)
        if min(in_db, linear) > _ALIKE_DB:
            raise DataError(
                "a ratio is none",
                why=f"{names[i]} is neither VV over VH (off by {linear:.2g} dB in the median) nor their difference in "
                f"decibels (off by {in_db:.2g} dB); a quotient of decibels means nothing",
                fix="leave it out by --channels",
            )
        if in_db < linear:
            out[i] = 10.0 ** (given / 10.0)
    return out


def incidence_facts(values: NDArray[np.float64]) -> dict[str, object]:
    """Metadata from incidence angles (degrees) of an image ``[H, W]`` or of its columns ``[W]``.

    The mean, and those of the first and the last column; what is not finite is left out.
    """
    with np.errstate(all="ignore"):
        columns = np.nanmean(values, axis=0) if values.ndim == 2 else values
        facts: dict[str, object] = {"incidence_deg": float(np.nanmean(columns))}
    if columns.size > 1:
        facts |= {"incidence_near_deg": float(columns[0]), "incidence_far_deg": float(columns[-1])}
    return {name: value for name, value in facts.items() if np.isfinite(float(str(value)))}
