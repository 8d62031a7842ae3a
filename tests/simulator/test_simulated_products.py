"""Where the simulated products lie."""

from __future__ import annotations

import numpy as np

from groundswell.products.land import is_land
from groundswell.products.safe_writer.model import Image, truth_of
from groundswell.simulator.products import PER_PRODUCT, _settings


def test_no_simulated_sea_lies_on_land() -> None:
    """Every imagette of every track, as of either beam, to its corners."""
    lines, samples = np.meshgrid(np.linspace(0, 4899, 4), np.linspace(0, 4999, 4), indexing="ij")
    places = [(track, number, beam) for track in range(10) for number in range(1, 61) for beam in ("WV1", "WV2")]
    corners = []
    for track, number, beam in places:
        image = Image(shape=(4900, 5000), beam=beam, number=number)
        corners.append(truth_of(image, _settings(track)).geometry.lonlat(lines, samples))
    lon, lat = np.moveaxis(np.array(corners), 1, 0)
    shares = is_land(lon, lat).mean((1, 2))
    assert {place: share for place, share in zip(places, shares, strict=True) if share > 0} == {}
    assert PER_PRODUCT == 60
    assert is_land(np.array([-155.5]), np.array([19.5])).all()  # Hawaii, which one track once crossed
