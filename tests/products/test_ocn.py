"""Level-2 wave-mode labels: a real file, files of known content in both formats, and damaged ones."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ocn_files import NAME, contents, write_classic, write_hdf5, write_ocn_product

from groundswell.errors import DataError
from groundswell.products.references.ocn import KEYS, OceanProduct, open_ocn
from groundswell.products.safe.find import find_products
from groundswell.products.safe.level2 import read_ocn_labels


@pytest.fixture(params=["classic", "hdf5"])
def written(request: pytest.FixtureRequest, tmp_path: Path):
    def write(variables: dict, number: int = 7, folder: str = "", **attributes: str) -> Path:
        path = tmp_path / folder / NAME.format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        if request.param == "classic":
            return write_classic(path, variables, **attributes)
        (tmp_path / "c").mkdir(exist_ok=True)
        return write_hdf5(path, write_classic(tmp_path / "c" / path.name, variables, **attributes))

    return write


def test_content_of_a_known_file(written) -> None:
    product = open_ocn(written(contents()))
    assert (product.name.mission, product.name.orbit, product.name.datatake, product.name.image_number) == (
        "S1C",
        1234,
        "00ABCD",
        7,
    )
    assert product.time == datetime(2026, 1, 2, 3, 4, 6, 500_000, tzinfo=UTC)
    assert product.ipf_version == "4.02"
    assert (product.lon, product.lat, product.heading_deg, product.incidence_deg) == (-179.5, -60.25, 350.0, 23.5)
    first, second = product.partitions  # -1, NaN and -999 are no partitions
    assert (first.hs_m, first.wavelength_m, first.direction_deg, first.quality) == (2.5, 310.0, 200.0, 0)
    assert (second.hs_m, second.wavelength_m, second.direction_deg, second.quality) == (1.0, None, 10.0, 4)
    assert product.total_hs_m == 3.25
    assert product.wind_sea_hs_m is None
    assert product.wave_age is None  # no such variable in this file
    assert product.azimuth_cutoff_m == 210.0
    assert product.quality == 1
    assert product.land_fraction == 0.25
    # Land and filled cells left out: 8 m/s, 350 and 10 degrees in equal parts, 0.1.
    assert product.owi_refused is None
    assert product.owi_wind_speed == 8.0
    assert product.owi_wind_direction_deg is not None
    assert math.cos(math.radians(product.owi_wind_direction_deg)) == pytest.approx(1.0, abs=1e-6)
    assert product.nrcs_db == pytest.approx(-10.0, abs=1e-5)  # float32 in the file
    assert product.nesz_db == pytest.approx(-20.0, abs=1e-5)
    labels = product.labels()
    assert labels["hs_1"] == 2.5
    assert labels["hs_3"] is labels["wl_2"] is labels["quality_5"] is None
    assert labels["wind_speed_owi"] == 8.0


@pytest.mark.parametrize(("heading", "accepted"), [(354.9, True), (345.1, True), (355.1, False), (170.0, False)])
def test_heading_check_across_north(tmp_path: Path, heading: float, accepted: bool) -> None:

    product = open_ocn(write_classic(tmp_path / NAME.format(1), contents(heading)))
    assert (product.owi_refused is None) is accepted
    assert (product.owi_wind_speed is None) is not accepted
    if not accepted:
        assert "350.0" in str(product.owi_refused)
        assert product.wind_speed == 7.5  # what does not hang on it stays
    wrapped = open_ocn(write_classic(tmp_path / NAME.format(2), contents(2.0, oswHeading=359.0)))
    assert wrapped.owi_refused is None


def test_labels_of_a_product_folder_keep_the_last_version(written, tmp_path: Path) -> None:
    written(contents(oswTotalHs=1.0), 2, "new.SAFE/measurement", processed="2026-03-01T00:00:00Z")
    written(contents(oswTotalHs=2.0), 2, "old.SAFE/measurement", processed="2026-02-01T00:00:00Z")
    written(contents(oswTotalHs=3.0), 1, "old.SAFE/measurement")
    bad = tmp_path / "old.SAFE" / "measurement" / NAME.format(3)
    bad.write_bytes(b"CDF\x01")
    (tmp_path / "old.SAFE" / "preview.nc").write_bytes(b"no measurement")
    found = find_products([tmp_path / "new.SAFE", tmp_path / "old.SAFE"])
    frame, rejected = read_ocn_labels(found.level2)
    assert frame["image_number"].tolist() == [1, 2]
    assert frame["hs_total"].tolist() == [3.0, 1.0]
    assert not frame.duplicated(list(KEYS)).any()
    assert [r.id for r in rejected] == [str(bad)]
    assert len(read_ocn_labels([])[0]) == 0


def test_labels_of_packed_products_are_those_of_folders(tmp_path: Path) -> None:
    files = {NAME.format(n): contents(oswTotalHs=float(n)) for n in (1, 2)}
    tables = {}
    for container in ("folder", "zip", "tar"):
        product = write_ocn_product(tmp_path / container, files, container)  # type: ignore[arg-type]
        for source in (product, product.parent):
            frame, rejected = read_ocn_labels(find_products([source]).level2)
            assert rejected == []
            tables[str(source)] = frame
    first, *others = tables.values()
    assert first["hs_total"].tolist() == [1.0, 2.0]
    for other in others:
        pd.testing.assert_frame_equal(first, other)


@pytest.mark.parametrize(
    "name", ["picture.nc", NAME.format(1).replace("ocn", "slc"), NAME.format(1).replace("wv1", "iw")]
)
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no level-2 wave-mode file"):
        open_ocn(tmp_path / name)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / NAME.format(1)
    cases = {b"": "empty", b"PK\x03\x04": "neither", b"\x89HDF\r\n\x1a\n" + bytes(100): ""}
    for content, why in cases.items():
        path.write_bytes(content)
        with pytest.raises(DataError, match="could not be read") as caught:
            open_ocn(path)
        assert why in str(caught.value)
    lacking = contents()
    del lacking["oswHs"]
    with pytest.raises(DataError, match="no variable oswHs"):
        open_ocn(write_classic(path, lacking))
    with pytest.raises(DataError, match="could not be read"):
        open_ocn(tmp_path / NAME.format(9))  # not there


def test_every_truncation_is_named(written) -> None:
    path = written(contents())
    content = path.read_bytes()
    whole = open_ocn(path)
    step = max(1, len(content) // 300)
    for length in {*range(0, len(content), step), *range(len(content) - 64, len(content))}:
        path.write_bytes(content[:length])
        if length > len(content) - 4 and open_or_none(path) == whole:
            continue  # classic files may end in padding, which holds nothing
        with pytest.raises(DataError, match="could not be read"):
            open_ocn(path)


def open_or_none(path: Path) -> OceanProduct | None:
    try:
        return open_ocn(path)
    except DataError:
        return None


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_changed_bytes_never_crash(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("mutants")
    path = write_classic(folder / NAME.format(1), contents())
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, len(content), rng.integers(1, 6)):
        content[place] ^= int(rng.integers(1, 256))
    path.write_bytes(bytes(content))
    try:
        product = open_ocn(path)
    except DataError:
        return
    # Whatever was read is a number within its meaning, or nothing.
    for name, value in product.labels().items():
        if isinstance(value, float):
            assert math.isfinite(value), name
            if name.startswith(("hs", "wl", "wind_speed")):
                assert value >= 0.0, name


def test_the_real_file(real_data: Path, tmp_path: Path) -> None:
    (path,) = (real_data / "ocn-wv").glob("*.nc")
    product = open_ocn(path)
    assert (product.name.mission, product.name.beam, product.name.image_number) == ("S1A", "WV2", 4)
    assert product.ipf_version == "3.31"
    # Numbers of the file as other tools print them (ncdump).
    assert [p.hs_m for p in product.partitions] == pytest.approx([2.8766484, 1.8914632, 0.98997569], rel=1e-7)
    assert [p.wavelength_m for p in product.partitions] == pytest.approx([208.168, 437.8987, 208.29097], rel=1e-6)
    assert product.total_hs_m is None  # filled in this file
    assert product.wind_sea_hs_m == pytest.approx(4.386716, rel=1e-6)
    assert product.azimuth_cutoff_m == 342.0
    assert product.quality is None
    assert product.nesz_db == pytest.approx(-21.6, abs=0.05)
    assert product.nrcs_db == pytest.approx(-11.34, abs=0.01)
    # The trap of this file: its wind was inverted with 357.2 degrees where the platform flew 191.0.
    assert product.owi_refused is not None
    assert "357.2" in product.owi_refused
    assert product.owi_wind_speed is None
    assert product.wind_speed == pytest.approx(13.512214, rel=1e-6)

    modern = open_ocn(write_hdf5(tmp_path / path.name, path))
    assert modern.labels() == product.labels()
    assert modern.ipf_version == product.ipf_version

    copy, content = tmp_path / "t" / path.name, path.read_bytes()
    copy.parent.mkdir()
    for length in np.linspace(0, len(content) - 8, 25).astype(int):
        copy.write_bytes(content[:length])
        with pytest.raises(DataError, match="could not be read"):
            open_ocn(copy)
