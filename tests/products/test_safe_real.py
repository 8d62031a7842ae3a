"""Real products: what their manifests list, and laws that their tables must obey. No other reader is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import groundswell as gs
from groundswell.errors import ProductError

WV = "S1B_WV_SLC__1SSV_20210403T083025_20210403T084452_026300_032390_D542"
FIXTURES = {
    "S1B_IW_SLC__1SDV_20210401T052622_20210401T052650_026269_032297_EFA4": ["iw1", "iw2", "iw3"],
    "S1A_S3_SLC__1SDV_20210401T152855_20210401T152914_037258_04638E_6001": ["s3"],
    "S1B_IW_GRDH_1SDV_20210401T052623_20210401T052648_026269_032297_ECC8": ["iw"],
    "S1B_IW_GRDH_1SDV_20211223T051122_20211223T051147_030148_039993_5371": ["iw"],
}


def opened(real_data: Path, name: str) -> gs.products.safe.sentinel1.Product:  # type: ignore[name-defined]
    return gs.open_product(real_data / "safe-fixtures" / f"{name}.SAFE")


def test_sixty_imagettes_of_a_real_manifest(real_data: Path) -> None:
    product = opened(real_data, WV)
    assert list(product) == list(range(1, 61))
    assert product.ipf_version == "003.31"
    assert not product.notes
    missing = [fault.file for fault in product.faults]
    assert sum(name.startswith("annotation/s1b-wv") for name in missing) == 60
    with pytest.raises(ProductError, match=r"-017\.xml is missing"):
        product[17]


@pytest.mark.parametrize("name", FIXTURES)
def test_real_products_are_listed_and_described(real_data: Path, name: str) -> None:
    product = opened(real_data, name)
    assert list(product) == FIXTURES[name]
    assert product.id == name
    assert product.ipf_version in ("003.31", "003.40")
    scene = product[FIXTURES[name][0]]
    facts = scene.metadata
    assert facts.product_id == name
    assert facts.orbit_pass == ("ascending" if name.startswith("S1A") else "descending")
    # Lines follow the heading: Earth's turn and the swath's offset leave some degrees.
    lon, lat = scene.geolocation.lonlat([0, scene.shape[0] - 1], [scene.shape[1] / 2])
    east, north = float(lon[1, 0] - lon[0, 0]) * np.cos(np.deg2rad(lat.mean())), float(lat[1, 0] - lat[0, 0])
    assert facts.heading_deg is not None
    turn = (np.rad2deg(np.arctan2(east, north)) - facts.heading_deg + 180.0) % 360.0 - 180.0
    assert abs(turn) < 6.0
    # They are as far apart as the annotation says; that of GRD is nominal (1.4 % more was measured), bursts overlap.
    if not scene.annotation.bursts:
        length = 111_195.0 * np.hypot(east, north) / (scene.shape[0] - 1)
        known = scene.annotation.azimuth_spacing_m
        assert length == pytest.approx(known, rel=0.005 if scene.annotation.slant else 0.02)


@pytest.mark.parametrize("name", [n for n in FIXTURES if "ECC8" not in n])
def test_tables_of_a_real_product_agree_with_its_incidence(real_data: Path, name: str) -> None:
    # sigma0 = beta0 sin(incidence), gamma0 = beta0 tan(incidence): A goes with the inverse root. The grid's incidence
    # is that of the terrain, the tables' that of a mean height: the two are some tenths of a degree apart on land.
    scene = opened(real_data, name)[FIXTURES[name][0]]
    image = scene.image(scene.polarisations[0])
    lines, pixels = np.linspace(0, scene.shape[0] - 1, 7), np.linspace(0, scene.shape[1] - 1, 50)
    beta, sigma, gamma = (image.lut(q).at(lines, pixels) for q in ("beta0", "sigma0", "gamma0"))
    angle = np.rad2deg(np.arcsin((beta / sigma) ** 2))
    np.testing.assert_allclose(np.rad2deg(np.arctan((beta / gamma) ** 2)), angle, atol=5e-4)  # seven digits
    np.testing.assert_allclose(angle, scene.geolocation.incidence_at(lines, pixels), atol=0.4)


@pytest.mark.parametrize(("name", "level_db"), [(n, -24.0) for n in FIXTURES if n[-4:] in ("EFA4", "5371")])
def test_real_noise_is_plausible_and_subtracted(real_data: Path, name: str, level_db: float) -> None:
    scene = opened(real_data, name)[FIXTURES[name][0]]
    image = scene.image("VV")
    assert image.denoising.subtract
    nesz = image.nesz(np.linspace(0, scene.shape[0] - 1, 9), np.linspace(1000, scene.shape[1] - 1000, 33))
    assert 10 * np.log10(np.median(nesz)) == pytest.approx(level_db, abs=3.0)


def test_blanked_pixels_of_a_real_scene_are_gaps(real_data: Path) -> None:
    scene = opened(real_data, "S1B_IW_GRDH_1SDV_20211223T051122_20211223T051147_030148_039993_5371")["iw"]
    data = scene.to_dataset(lines=slice(8000, 8100))
    assert data.sigma0.shape == (20, 5220)
    assert np.isnan(data.sigma0).all()
    assert (data.valid == 0).all()
    assert (data.incidence.diff("range") > -0.05).all()


def test_bursts_are_not_averaged(real_data: Path) -> None:
    scene = opened(real_data, "S1B_IW_SLC__1SDV_20210401T052622_20210401T052650_026269_032297_EFA4")["iw1"]
    with pytest.raises(ProductError, match="bursts") as caught:
        scene.to_dataset()
    assert "GRD" in str(caught.value.fix)
    assert scene.to_dataset(None, lines=slice(0, 3), pixels=slice(0, 9)).sizes["polarisation"] == 2
