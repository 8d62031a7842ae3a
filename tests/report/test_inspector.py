"""``groundswell inspect``: what is measured of a product and of an archive, and what the picture is made of."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from typer.testing import CliRunner

from groundswell.archive.ingest import ingest
from groundswell.cli import verbs  # noqa: F401 - importing the verbs registers them
from groundswell.cli.app import application
from groundswell.errors import UsageError
from groundswell.physics.imagette import Quantity
from groundswell.products.safe_writer.model import Image, Settings, Signal
from groundswell.products.safe_writer.writer import write_wv
from groundswell.report.inspector import inspect, view_of
from groundswell.report.inspector_figure import _line
from groundswell.simulator.source import SimulatedSource, SimulatorSettings

WAVELENGTH_M, ANGLE_DEG = 400.0, 30.0


def swell(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """sigma0 of a swell over ground metres (azimuth, range)."""
    angle = math.radians(ANGLE_DEG)
    return 0.1 * (1.0 + 0.5 * np.cos(2 * math.pi / WAVELENGTH_M * (x * math.cos(angle) + y * math.sin(angle))))


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    signals = (Signal(sigma0=swell),)
    images = [Image(shape=(1500, 1600), signals=signals, number=n, near_deg=22.8) for n in (1, 3)]
    return write_wv(tmp_path_factory.mktemp("safe"), images, Settings())


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "a"
    settings = SimulatorSettings(count=2, seed=3, size=64, quantity=Quantity.ROUGHNESS_DB)
    ingest(SimulatedSource(settings), path, quantity=Quantity.ROUGHNESS_DB)
    return path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(application, ["inspect", *map(str, arguments)])


def test_a_product_from_file_to_numbers(product: Path, tmp_path: Path) -> None:
    done = run(product, 3, "-o", tmp_path / "p.png", "--json", "--quiet")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["id"].endswith("-003")
    # 0.1 is -10 dB; 78 looks over 120 x 120 cells leave 0.01 dB, the part of a period at the edge 0.1.
    assert data["sigma0_db"] == pytest.approx(-10.0, abs=0.15)
    # One bin of a segment of 6 km is 6.5 % of the wavenumber; the angle goes with it.
    assert data["peak_wavelength_m"] == pytest.approx(WAVELENGTH_M, rel=0.08)
    assert data["peak_angle_deg"] == pytest.approx(ANGLE_DEG, abs=5.0)
    assert data["nesz_db"] == pytest.approx(-22.0, abs=0.5)
    with Picture.open(tmp_path / "p.png") as picture:
        assert picture.size == (1560, 1008)
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    # North points down on this descending pass: the arrow is there in its own colour.
    assert (np.abs(pixels - [0xFF, 0xA9, 0x0E]).sum(axis=2) < 30).sum() > 100


@pytest.mark.filterwarnings("error")
def test_an_image_without_a_noise_table_has_no_nesz(tmp_path: Path) -> None:
    product = write_wv(tmp_path, [Image(shape=(600, 600))], Settings())
    for noise in product.glob("annotation/calibration/noise-*"):
        noise.unlink()
    view = view_of(product)
    assert view.metadata.nesz_db is None
    assert np.nanmean(view.pixels) == pytest.approx(0.1 + 10**-2.2, rel=0.01)  # the noise is not taken off


def test_a_view_of_a_product_is_its_dataset(product: Path) -> None:
    view = view_of(product, "1", spacing_m=100.0)
    assert view.spacing_m == (100.0, 100.0)
    assert view.quantity is Quantity.SIGMA0
    assert view.notice == "Simulated: no real image."
    assert view.incidence_deg is not None
    assert view.incidence_deg[0] == pytest.approx(22.8, abs=0.05)
    assert bool((np.diff(view.incidence_deg) > 0).all())
    assert view.metadata.image_number == 1


def test_an_imagette_of_an_archive(archive: Path, tmp_path: Path) -> None:
    done = run(archive, "sim-3-000000001", "-o", tmp_path / "a.svg", "--json", "--quiet")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["quantity"] == "roughness_db"
    text = (tmp_path / "a.svg").read_text()
    assert text.lstrip().startswith("<?xml")
    view = view_of(archive, "sim-3-000000001")
    found = inspect(view)
    assert found.unit == "sigma0, dB"
    assert view.notice == "Simulated: no real image."
    # Roughness and sigma0 differ by the reference of each column: some -13 dB at 36 degrees, -5 dB at 23.
    assert np.nanmedian(found.shown) < np.nanmedian(view.pixels) - 4.0


def test_faults_are_named(product: Path, archive: Path, tmp_path: Path) -> None:
    for arguments, says in (
        ((product,), "2 images: name one"),
        ((product, "2"), "no image '2'"),
        ((archive, "sim-3-000000007"), "no imagette"),
        ((archive, "sim-3-000000000", "--channel", "HH"), "no channel 'HH'"),
    ):
        done = run(*arguments, "-o", tmp_path / "x.png")
        assert done.exit_code == 2, done.output
        assert says in done.output
    done = run(archive, "sim-3-000000000", "-o", tmp_path / "x.bmp")
    assert done.exit_code == 2
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="name one"):
        view_of(archive)


def test_the_incidence_axis_goes_both_ways_and_beyond_its_ends() -> None:
    x, y = np.array([1.0, 2.0, 4.0]), np.array([20.0, 21.0, 22.0])
    there, back = _line(x, y), _line(y, x)
    assert np.allclose(there([1.0, 1.5, 3.0, 4.0]), [20.0, 20.5, 21.5, 22.0])
    assert np.allclose(back(there([1.0, 1.5, 3.0, 4.0])), [1.0, 1.5, 3.0, 4.0])
    assert there(0.0) < 20.0 < 22.0 < there(5.0)
