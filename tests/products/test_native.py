"""The native grid: read where it is looked at, whatever the way of looking, and in little memory."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safe_products import expected, member, wave_mode

import groundswell as gs
from groundswell.errors import ProductError
from groundswell.products.safe.measurement import Measurement
from groundswell.products.safe.scene import Scene
from groundswell.products.safe_writer.laws import AzimuthBlock
from groundswell.products.safe_writer.model import Image, Settings, Signal, truth_of
from groundswell.products.safe_writer.writer import write_grd

SHAPE = (90, 70)
IMAGE = Image(
    shape=SHAPE,
    beam="IW",
    signals=(Signal(sigma0=0.05, nesz_db=-24.0), Signal(polarisation="VH", sigma0=0.01, nesz_db=-26.0)),
    grid=(5, 5),
    blocks=(AzimuthBlock("IW1", (0, SHAPE[0] - 1), (0, SHAPE[1] - 1), level=1.1, slope=1e-4),),
    border=(3, 0, 0, 2),
)
WINDOW = (slice(2, 88), slice(1, 69))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grd(tmp_path_factory.mktemp("native"), IMAGE)


@pytest.fixture(scope="module")
def scene(path: Path) -> Scene:
    return gs.open_product(path)["iw"]


class Truths(dict[str, np.ndarray]):
    """Arrays by name; short where a failure prints them."""

    def __repr__(self) -> str:
        return f"<{', '.join(self)}>"


@pytest.fixture(scope="module")
def truth() -> Truths:
    """What the variables hold in `WINDOW`, by the laws; [2, lines, pixels] or [lines, pixels]."""
    y, x = np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])[None, :]
    valid = (y >= 3) & (x < SHAPE[1] - 2)
    names, laws = ("VV", "VH"), truth_of(IMAGE)
    lon, lat = laws.geometry.lonlat(y, x)
    fields = {
        "sigma0": np.stack([np.where(valid, expected(IMAGE, polarisation=name), np.nan) for name in names]),
        "nesz": np.stack([np.broadcast_to(truth_of(IMAGE, polarisation=n).nesz(y, x), SHAPE) for n in names]),
        "valid": np.stack([valid, valid]).astype(float),
        "lon": lon,
        "lat": lat,
    }
    return Truths({name: values[..., WINDOW[0], WINDOW[1]] for name, values in fields.items()})


def test_nothing_is_read_before_it_is_looked_at(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Measurement, "blocks", lambda *_: pytest.fail("pixels were read"))
    data = gs.open_product(path)["iw"].to_dataset(spacing_m=None)
    assert data.sigma0.shape == (2, *SHAPE)
    assert data.isel(azimuth=slice(5, 9)).lon.values.shape == (4, SHAPE[1])
    assert "sigma0" in repr(data)
    with pytest.raises(pytest.fail.Exception):
        data.sigma0.isel(azimuth=0).load()


def slices(length: int) -> st.SearchStrategy[slice]:
    """Any slice but an empty one that runs backwards, over which xarray 2026.9 itself stumbles."""
    return st.slices(length).filter(lambda s: s.step is None or s.step > 0 or len(range(length)[s]) > 0)


def parts(length: int) -> st.SearchStrategy[Any]:
    """An index, a slice or a list of indices."""
    index = st.integers(-length, length - 1)
    return st.one_of(index, slices(length), st.lists(index, max_size=4))


@settings(max_examples=40, deadline=None)
@given(rows=parts(86), columns=parts(68), band=parts(2))
def test_every_way_of_looking_gives_what_is_there(
    scene: Scene, truth: Truths, rows: Any, columns: Any, band: Any
) -> None:
    data = scene.to_dataset(spacing_m=None, lines=WINDOW[0], pixels=WINDOW[1])
    found = data.isel(polarisation=band, azimuth=rows, range=columns)
    for name, whole in truth.items():
        want = whole[band] if whole.ndim == 3 else whole
        offset = want.ndim - 2
        want = want[(slice(None),) * offset + (rows,)]
        want = want[..., columns]
        # float32, and for places the bilinear grid of the annotation
        np.testing.assert_allclose(found[name].values, want, rtol=2e-6, atol=1e-7, err_msg=name)


def test_a_band_is_read_in_parts_in_little_memory(tmp_path: Path) -> None:
    image = Image(shape=(4000, 1500), beam="IW", grid=(5, 5), blocks=(AzimuthBlock("IW1", (0, 3999), (0, 1499)),))
    scene = gs.open_product(write_grd(tmp_path, image, Settings(speckle=False)))["iw"]
    whole = 4000 * 1500 * 4

    def peak(read: Callable[[Any], object]) -> float:
        data = scene.to_dataset(spacing_m=None)
        tracemalloc.start()
        read(data)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top / whole

    scene.to_dataset(spacing_m=None).sigma0[:1].load()  # tables
    blocks = 10 * 2**19 * 4 / whole  # what is being calibrated
    in_parts = peak(lambda d: [d.isel(azimuth=slice(k, k + 100)).sigma0.values.sum() for k in range(0, 4000, 100)])
    assert in_parts < blocks
    overview = peak(lambda d: (d.sigma0[::20, ::20].values, d.lon[::20, ::20].values))
    assert overview < blocks
    # All of it is the array and what is being calibrated, not a second array; and the measure would see one.
    assert 1.0 < peak(lambda d: d.sigma0.values) < 1.0 + blocks
    assert peak(lambda d: d.sigma0.values + 1.0) > 2.0


def test_a_dataset_in_chunks_and_in_another_process(path: Path) -> None:
    data = gs.open_product(path)["iw"].to_dataset(spacing_m=None)
    again = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(again.sigma0, data.sigma0)
    fresh = gs.open_product(path)["iw"].to_dataset(spacing_m=None).chunk({"azimuth": 20})
    assert fresh.sigma0.chunks is not None
    np.testing.assert_allclose(fresh.sigma0.mean("range").compute(), data.sigma0.mean("range"), rtol=1e-6)


def test_looked_at_twice_read_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = gs.open_product(path)["iw"].to_dataset(spacing_m=None)
    first = data.sigma0.values
    monkeypatch.setattr(Measurement, "blocks", lambda *_: pytest.fail("pixels were read again"))
    np.testing.assert_array_equal(data.sigma0.values, first)


def test_damage_is_named_when_it_is_met(tmp_path: Path) -> None:
    path = wave_mode(tmp_path, 1)
    data = gs.open_product(path)[1].to_dataset(spacing_m=None)
    file = member(path, "measurement/*.tiff")
    file.write_bytes(file.read_bytes()[:300_000])
    with pytest.raises(ProductError, match="truncated"):
        data.sigma0.load()
    with pytest.raises(ProductError, match="truncated"):  # found by the header alone
        gs.open_product(path)[1].to_dataset(spacing_m=None)
