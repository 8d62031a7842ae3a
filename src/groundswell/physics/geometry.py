"""How Sentinel-1 wave mode looks at the sea: beams, incidence, slant range, and what a moving scatterer does.

Numbers from a real wave-mode Level-2 product (S1A, 2021: state vectors and incidence) and the ESA Sentinel-1
technical guide (incidence ranges of WV1 and WV2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from groundswell.errors import DataError, did_you_mean

EARTH_RADIUS_M = 6_371_000.0
RADAR_FREQUENCY_HZ = 5.405e9
PLATFORM_VELOCITY_M_S = 7588.0
"""Speed of the satellite in the Earth-fixed frame, as in the orbit state vectors."""
ORBIT_HEIGHT_M = 705_000.0
"""Height above a sphere of 6371 km that gives the slant ranges of the real product (761 km at 23.4 degrees, 858 km
at 36.9) to 0.2 km: an effective height, which absorbs the flattening of the Earth."""


@dataclass(frozen=True, slots=True)
class Beam:
    """One wave-mode beam.

    Attributes
    ----------
    name : str
    incidence_deg : (low, high)
        Range of the centre incidence over the orbit, degrees.
    width_deg : float
        Change of incidence across the 20 km of one imagette, degrees.
    """

    name: str
    incidence_deg: tuple[float, float]
    width_deg: float


WV1 = Beam("WV1", (22.4, 24.3), 1.54)
WV2 = Beam("WV2", (35.4, 37.4), 1.25)
BEAMS = {beam.name: beam for beam in (WV1, WV2)}


def beam(name: str) -> Beam:
    """The beam called ``name`` (``WV1`` or ``WV2``, any case); `DataError` for any other."""
    try:
        return BEAMS[name.upper()]
    except KeyError:
        raise DataError(f"no wave-mode beam is called {name!r}", fix=did_you_mean(name.upper(), BEAMS)) from None


def slant_range(incidence_deg: Tensor | float, height_m: float = ORBIT_HEIGHT_M) -> Tensor:
    """Distance (m) ``[...]`` from the radar to a sea cell seen at an incidence (degrees) ``[...]``; spherical Earth."""
    if not isinstance(incidence_deg, Tensor):
        incidence_deg = torch.as_tensor(incidence_deg, dtype=torch.float64)
    theta = torch.deg2rad(incidence_deg)
    cos = torch.cos(theta)
    # Cosine rule in the triangle Earth centre, sea cell, satellite; the angle at the cell is 180 - theta.
    orbit = (EARTH_RADIUS_M + height_m) ** 2 - EARTH_RADIUS_M**2
    return torch.sqrt((EARTH_RADIUS_M * cos) ** 2 + orbit) - EARTH_RADIUS_M * cos


def beta(incidence_deg: Tensor | float, velocity_m_s: float = PLATFORM_VELOCITY_M_S) -> Tensor:
    """R/V (s) ``[...]``: azimuth shift in metres per m/s of radial velocity (Alpers and Rufenach 1979)."""
    return slant_range(incidence_deg) / velocity_m_s


def look_azimuth(heading_deg: ArrayLike, look: str = "right") -> NDArray[np.float64]:
    """Azimuth (degrees from north, 0..360) in which the antenna looks, from the platform heading (degrees).

    Raises
    ------
    DataError
        When ``look`` is neither ``right`` nor ``left``.
    """
    turn = {"right": 90.0, "left": -90.0}.get(look.lower())
    if turn is None:
        raise DataError(f"a radar looks right or left, not {look!r}", fix="give look='right' (all of Sentinel-1)")
    return np.mod(np.asarray(heading_deg, dtype=np.float64) + turn, 360.0)


def relative_wind_direction(wind_from_deg: ArrayLike, heading_deg: ArrayLike) -> NDArray[np.float64]:
    """The phi of CMOD5.N (degrees, 0..360): wind direction (from) minus look azimuth, right-looking."""
    return np.mod(np.asarray(wind_from_deg, dtype=np.float64) - look_azimuth(heading_deg), 360.0)


def incidence_profile(near_deg: ArrayLike, far_deg: ArrayLike, width: int) -> NDArray[np.float64]:
    """Incidence (degrees) at the centre of each column, for equal steps of ground range.

    Parameters
    ----------
    near_deg, far_deg : [...]
        Incidence at the centres of the first and the last column, degrees.
    width : int
        Number of columns W.

    Returns
    -------
    float64 [..., W]. Linear: over 20 km the spherical-Earth incidence departs from a line by under 0.01 degrees.
    """
    near, far = np.broadcast_arrays(np.asarray(near_deg, dtype=np.float64), np.asarray(far_deg, dtype=np.float64))
    steps = np.linspace(0.0, 1.0, width) if width > 1 else np.full(1, 0.5)
    return np.asarray(near[..., None] + (far - near)[..., None] * steps)
