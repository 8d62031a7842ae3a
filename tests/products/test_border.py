"""Border noise of early ground-range images is left out, and nothing that a radar can see is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import groundswell as gs
from groundswell.errors import ProductError
from groundswell.products.safe.border import border_noise
from groundswell.products.safe.scene import Scene
from groundswell.products.safe_writer.model import Image, Settings, Signal
from groundswell.products.safe_writer.writer import write_grd

SHAPE = (120, 300)
BORDER = (6, 4, 45, 29)
OLD = Settings(ipf="002.72", mission="S1A")
# DN up to 11 under A of 335: a pixel of -29.7 dB now and then, -34 dB on average; the sea with its noise is at -20 dB
IMAGE = Image(
    shape=SHAPE,
    beam="IW",
    signals=(Signal(sigma0=0.006, nesz_db=-24.0), Signal(polarisation="VH", sigma0=0.0005, nesz_db=-26.0)),
    grid=(5, 5),
    border=BORDER,
    border_dn=11,
)


def opened(folder: Path, image: Image = IMAGE, settings: Settings = OLD) -> Scene:
    return gs.open_product(write_grd(folder, image, settings))["iw"]


def inside() -> np.ndarray:
    top, bottom, left, right = BORDER
    out = np.zeros(SHAPE, bool)
    out[top : SHAPE[0] - bottom, left : SHAPE[1] - right] = True
    return out


@pytest.mark.parametrize("polarisation", ["VV", "VH"])
def test_the_border_holds_no_data_and_all_else_does(tmp_path: Path, polarisation: str) -> None:
    scene = opened(tmp_path)
    data = scene.to_dataset(spacing_m=None, polarisations=polarisation)
    valid = data.valid.values == 1.0
    truth = inside()
    assert not valid[~truth].any()
    # At most the rest of the group of eight in which the border ends, and the group behind it.
    assert valid[6:-4, 56:256].all()
    assert np.isnan(data.sigma0.values[~valid]).all()
    assert "small numbers" in data.attrs["border_note"]


def test_cells_at_the_edge_are_as_bright_as_the_sea(tmp_path: Path) -> None:
    old = opened(tmp_path / "old").to_dataset(spacing_m=50.0, polarisations="VV", denoise=False)
    level = 0.006 + 10**-2.4
    mean = float(old.sigma0.where(old.valid > 0.2).mean())
    # 110 lines of 226 pixels of 4.4 looks: 0.3 %, and the noise of the swath is not the same everywhere
    assert mean == pytest.approx(level, rel=0.05)
    edge = old.sigma0.where(old.valid > 0.2).isel(range=9)  # cells with five border pixels and more
    assert float(edge.mean()) == pytest.approx(level, rel=0.15)
    # the same numbers from a processor that is said to write zeros: the border stays, and is dark
    new = opened(tmp_path / "new", settings=replace(OLD, ipf="003.31"))
    assert "border_note" not in new.to_dataset().attrs
    dark = new.to_dataset(spacing_m=50.0, polarisations="VV", denoise=False)
    assert float(dark.valid.isel(range=4).mean()) > 0.5
    assert float(dark.sigma0.isel(range=4).mean()) < 0.1 * level


def test_windows_and_uncalibrated_numbers_have_the_same_border(tmp_path: Path) -> None:
    scene = opened(tmp_path)
    whole = scene.to_dataset(spacing_m=None, polarisations="VV").valid.values
    for pixels in (slice(0, 60), slice(20, 46), slice(100, 300)):
        part = scene.to_dataset(spacing_m=None, polarisations="VV", pixels=pixels, lines=slice(3, 90))
        np.testing.assert_array_equal(part.valid, whole[3:90, pixels])
    raw = scene.to_dataset(spacing_m=None, polarisations="VV", calibration=None)
    np.testing.assert_array_equal(raw.valid, whole)
    assert (raw.intensity.notnull() == (whole == 1.0)).all()


def test_the_table_that_tells_the_border_must_be_there(tmp_path: Path) -> None:
    path = write_grd(tmp_path, IMAGE, OLD)
    for table in path.glob("annotation/calibration/calibration-*"):
        table.unlink()
    with pytest.raises(ProductError, match="is missing"):
        gs.open_product(path)["iw"].to_dataset(calibration=None)


@pytest.mark.parametrize("level_db", [-28.0, -20.0, 0.0])
def test_no_sea_is_taken_for_border_whatever_its_level(level_db: float) -> None:
    """Of the weakest noise of IW, -28 dB, with speckle of 4.4 looks 1 in 5 pixels and 1 in 150 groups are so dark."""
    rng = np.random.default_rng(1)
    sea = (10 ** (level_db / 10) * rng.gamma(4.4, 1 / 4.4, (2000, 400))).astype(np.float32)
    found = border_noise(sea)
    assert found.sum() < 2 * 2000 * (0.2 / 0.8 + 16 / 150) * (1.3 if level_db == -28.0 else 0.01)
    assert not found[:, 32:-32].any()


def test_only_what_joins_an_end_of_its_line_is_border() -> None:
    sigma0 = np.full((5, 64), 0.01, np.float32)
    sigma0[0, :20] = 1e-4  # near
    sigma0[1, 40:] = 1e-4  # far
    sigma0[2, 20:40] = 1e-4  # a dark patch in the middle stays
    sigma0[3] = 1e-4  # all
    sigma0[4, :16] = [1e-4] * 11 + [2e-3] + [1e-4] * 4  # one bright number among the dark
    wanted = np.zeros((5, 64), bool)
    wanted[0, :24] = wanted[1, 32:] = wanted[3] = wanted[4, :24] = True  # and the group in which it ends
    np.testing.assert_array_equal(border_noise(sigma0), wanted)


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 40)),
        elements=st.sampled_from([0.0, 1e-5, 9e-4, 2e-3, 0.1]),
    )
)
def test_border_runs_in_from_the_ends_and_grows_as_it_darkens(sigma0: np.ndarray) -> None:
    found = border_noise(sigma0)
    for mask in found:
        kept = np.flatnonzero(~mask)
        assert kept.size == 0 or not mask[kept[0] : kept[-1]].any()
    assert border_noise(sigma0 / 2)[found].all()
    assert border_noise(sigma0 / 1e6).all()
    np.testing.assert_array_equal(border_noise(sigma0 + np.float32(0.01)), False)
