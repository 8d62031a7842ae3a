"""Wave-mode geometry against a real product's numbers and closed forms."""

import numpy as np
import pytest
import torch

from groundswell.errors import DataError
from groundswell.physics.geometry import (
    BEAMS,
    EARTH_RADIUS_M,
    ORBIT_HEIGHT_M,
    beam,
    beta,
    incidence_profile,
    look_azimuth,
    relative_wind_direction,
    slant_range,
)


def test_slant_range_and_beta_of_the_real_product() -> None:
    incidence = torch.tensor([23.4, 36.9], dtype=torch.float64)
    # From the state vector of a real product: 761 and 858 km, beta 100.3 and 113.1 s, as printed there.
    assert np.allclose(slant_range(incidence) / 1e3, [761.0, 858.0], atol=0.5)
    assert np.allclose(beta(incidence), [100.3, 113.1], atol=0.05)


def test_slant_range_closes_the_triangle() -> None:
    theta = torch.linspace(0, 45, 10, dtype=torch.float64)
    r, centre = slant_range(theta), EARTH_RADIUS_M + ORBIT_HEIGHT_M
    assert float(slant_range(0.0)) == pytest.approx(ORBIT_HEIGHT_M, rel=1e-6)
    # Law of cosines at the sea cell.
    third = EARTH_RADIUS_M**2 + r**2 + 2 * EARTH_RADIUS_M * r * torch.cos(torch.deg2rad(theta))
    assert np.allclose(third.sqrt(), centre, rtol=1e-12)


def test_incidence_change_across_an_imagette_follows_from_the_triangle() -> None:
    for b in BEAMS.values():
        middle = sum(b.incidence_deg) / 2
        theta = np.deg2rad(np.array([middle - b.width_deg / 2, middle + b.width_deg / 2]))
        # Earth-centre angle to the cell: incidence less look angle; the arc is the ground range.
        look = np.arcsin(EARTH_RADIUS_M * np.sin(theta) / (EARTH_RADIUS_M + ORBIT_HEIGHT_M))
        ground = EARTH_RADIUS_M * np.diff(theta - look)[0]
        # 20 km within 6 %: the tabulated widths are rounded and taken at one orbit altitude.
        assert ground == pytest.approx(20e3, rel=0.06)


def test_incidence_profile_is_batched_and_linear() -> None:
    profile = incidence_profile([22.0, 36.0], [23.5, 37.25], 4)
    assert profile.shape == (2, 4)
    assert profile.dtype == np.float64
    assert np.allclose(profile[0], [22.0, 22.5, 23.0, 23.5])
    assert profile[1, 0] == 36.0
    assert profile[1, -1] == 37.25
    assert np.allclose(incidence_profile(30.0, 31.0, 1), [30.5])


def test_directions() -> None:
    assert look_azimuth(348.0) == pytest.approx(78.0)
    assert look_azimuth(348.0, "left") == pytest.approx(258.0)
    # Wind from where the antenna looks blows at the radar: phi is 0.
    assert relative_wind_direction(78.0, 348.0) == pytest.approx(0.0)
    assert relative_wind_direction(78.0 + 180.0, 348.0) == pytest.approx(180.0)
    with pytest.raises(DataError, match="right or left"):
        look_azimuth(0.0, "up")


def test_beams() -> None:
    assert beam("WV1").name == "WV1"
    with pytest.raises(DataError, match="wv9"):
        beam("wv9")
