"""Collocation against brute force on the sphere, in every shape and format that references come in."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groundswell.errors import DataError, GroundswellError, UsageError
from groundswell.products.references.collocate import Criteria, collocate, join_ocn, write_labels
from groundswell.products.references.files import Columns, open_reference
from groundswell.products.references.points import EARTH_RADIUS_KM, Points

START = datetime(2021, 2, 1, tzinfo=UTC)


def catalogue(hours: list[float], lon: list[float], lat: list[float]) -> pd.DataFrame:
    times = [START + timedelta(hours=h) for h in hours]
    return pd.DataFrame({"id": [f"i{n}" for n in range(len(hours))], "time": times, "lon": lon, "lat": lat})


def frame(hours: list[float], lon: list[float], lat: list[float], **values: list[object]) -> pd.DataFrame:
    return catalogue(hours, lon, lat).drop(columns="id").assign(**values)


def points(tmp_path: Path, data: pd.DataFrame, name: str = "buoys") -> Points:
    data.to_parquet(tmp_path / f"{name}.parquet")
    found = open_reference(tmp_path / f"{name}.parquet")
    assert isinstance(found, Points)
    return found


def chord_km(lon0: np.ndarray, lat0: np.ndarray, lon1: np.ndarray, lat1: np.ndarray) -> np.ndarray:
    """Great-circle distance by the angle between unit vectors: no formula in common with the haversine."""

    def unit(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        lon, lat = np.deg2rad(lon), np.deg2rad(lat)
        return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)

    a, b = unit(lon0, lat0), unit(lon1, lat1)
    return EARTH_RADIUS_KM * np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(-1))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    centre=st.sampled_from([(180.0, 0.0), (0.0, 90.0), (30.0, -90.0), (-179.9, 70.0), (0.0, 10.0)]),
)
def test_brute_force_over_the_date_line_and_the_poles(seed: int, centre: tuple[float, float]) -> None:
    rng = np.random.default_rng(seed)
    n, m, hours, km = (
        int(rng.integers(1, 30)),
        int(rng.integers(1, 200)),
        float(rng.uniform(0.2, 5)),
        float(rng.uniform(20, 300)),
    )

    def places(count: int) -> tuple[np.ndarray, np.ndarray]:
        lat = np.clip(centre[1] + rng.normal(0, 2, count), -90, 90)
        lon = centre[0] + rng.normal(0, 2, count) / max(np.cos(np.deg2rad(centre[1])), 0.02)
        return (lon + 180.0) % 360.0 - 180.0, lat

    (lon, lat), (x, y) = places(n), places(m)
    x = np.where(rng.random(m) < 0.5, x % 360.0, x)  # either way of counting longitudes
    t, s = rng.uniform(0, 12, n), rng.uniform(-3, 15, m)
    value = np.where(rng.random(m) < 0.1, np.nan, rng.normal(size=m))
    stamps = (pd.Timestamp(START).tz_localize(None) + pd.to_timedelta(s, unit="h")).as_unit("ns").asi8
    reference = Points("r", stamps, x, y, {"v": value})
    images = catalogue(t.tolist(), lon.tolist(), lat.tolist())

    distance = chord_km(lon[:, None], lat[:, None], x, y)
    minutes = 60 * (s - t[:, None])
    near = (distance <= km) & (np.abs(minutes) <= 60 * hours) & np.isfinite(value)
    # No pair so close to the edge that rounding decides.
    assume(np.abs(distance - km).min() > 1e-4)
    assume(np.abs(np.abs(minutes) - 60 * hours).min() > 1e-4)
    if not near.any():
        with pytest.raises(DataError, match="no imagette has a reference"):
            collocate(images, [("", reference)], Criteria(hours, km))
        return
    score = np.where(near, (minutes / (60 * hours)) ** 2 + (distance / km) ** 2, np.inf)
    best = score.argmin(axis=1)
    found = collocate(images, [("", reference)], Criteria(hours, km))
    matched = near.any(axis=1)
    assert np.array_equal(found["v"].notna(), matched)
    row = np.flatnonzero(matched)
    assert np.array_equal(found["v"].to_numpy()[row], value[best[row]])
    # A haversine keeps some eight digits: 1e-5 km of 300. Times are whole microseconds in the catalogue.
    assert np.allclose(found["v_km"].to_numpy()[row], distance[row, best[row]], atol=1e-4)
    assert np.allclose(found["v_dt_min"].to_numpy()[row], minutes[row, best[row]], atol=1e-6)

    mean = collocate(images, [("", reference)], Criteria(hours, km, "mean"))
    weight = np.where(near, (km**2 - distance**2) / (km**2 + distance**2), 0.0)
    total = np.where(matched, weight.sum(axis=1), np.nan)
    average = np.nansum(weight * value, axis=1) / total
    assert np.allclose(mean["v"].to_numpy()[row], average[row], atol=1e-6)
    assert np.array_equal(mean["v_n"], near.sum(axis=1))
    spread = np.sqrt(np.nansum(weight * (value - average[:, None]) ** 2, axis=1) / total)
    assert np.allclose(mean["v_std"].to_numpy()[row], spread[row], atol=1e-5)


def test_columns_of_the_contract_and_signs(tmp_path: Path) -> None:
    images = catalogue([10.0, 10.0, 10.0], [-179.95, 0.0, np.nan], [0.0, 89.9, 0.0])
    data = frame([9.5, 11.0], [179.95, 180.0], [0.0, 89.9], Hs=[2.5, 3.5], station=["a", "b"])
    data.to_csv(tmp_path / "buoys.csv", index=False)
    reference = open_reference(tmp_path / "buoys.csv", Columns(source="station"))
    found = collocate(images, [("buoy", reference)])
    assert list(found.columns) == ["id", "buoy_Hs", "buoy_Hs_dt_min", "buoy_Hs_km", "buoy_Hs_src"]
    assert found["buoy_Hs"].tolist()[:2] == [2.5, 3.5]
    assert found["buoy_Hs_dt_min"].tolist()[:2] == pytest.approx([-30.0, 60.0])
    # 0.1 degrees of the equator over the date line; 0.2 degrees of a meridian over the pole.
    degree = np.pi * EARTH_RADIUS_KM / 180
    assert found["buoy_Hs_km"].tolist()[:2] == pytest.approx([0.1 * degree, 0.2 * degree], rel=1e-6)
    assert found["buoy_Hs_src"].tolist()[:2] == ["buoys:a", "buoys:b"]
    assert found.iloc[2, 1:].isna().all()  # no place


def test_several_tables_of_one_variable_are_one_reference(tmp_path: Path) -> None:
    images = catalogue([1.0, 30.0], [0.0, 0.0], [0.0, 0.0])
    january = points(tmp_path, frame([1.5, 29.0], [0.1, 0.5], [0.0, 0.0], hs=[1.0, 2.0]), "january")
    february = points(tmp_path, frame([1.2, 30.1], [0.0, 0.0], [0.0, 0.0], hs=[3.0, 4.0]), "february")
    found = collocate(images, [("", january), ("", february)])
    assert found["hs"].tolist() == [3.0, 4.0]
    assert found["hs_src"].tolist() == ["february", "february"]
    apart = collocate(images, [("a", january), ("b", february)])
    assert apart["a_hs"].tolist() == [1.0, 2.0]
    assert apart["b_hs"].tolist() == [3.0, 4.0]
    mean = collocate(images, [("", january), ("", february)], Criteria(match="mean"))
    assert mean["hs_n"].tolist() == [2, 2]


GRID_LON, GRID_LAT = np.arange(0.0, 360.0, 1.0), np.array([-90.0, -1.0, 0.0, 1.0, 60.0, 90.0])


@pytest.mark.parametrize("engine", ["scipy", "h5netcdf"])
@pytest.mark.parametrize("descending", [False, True])
def test_gridded_netcdf_is_its_points(tmp_path: Path, engine: str, descending: bool) -> None:
    rng = np.random.default_rng(1)
    hours = np.arange(0, 24)
    swh = rng.normal(3, 1, (24, len(GRID_LAT), len(GRID_LON))).astype(np.float32)
    swh[rng.random(swh.shape) < 0.1] = np.nan
    order = slice(None, None, -1) if descending else slice(None)
    times = (pd.Timestamp("2021-02-01") + pd.to_timedelta(hours, unit="h")).to_numpy()
    data = xr.Dataset(
        {
            "swh": (("time", "latitude", "longitude"), swh[order, order]),
            "steps": (("time",), np.arange(24.0)),  # no value of a place
            "expver": (("number", "time", "latitude", "longitude"), swh[None, order, order] * 2),
        },
        coords={"time": times[order], "latitude": GRID_LAT[order], "longitude": GRID_LON},
    )
    path = tmp_path / "era5.nc"
    data.to_netcdf(path, engine=engine)
    reference = open_reference(path)
    assert sorted(reference.variables) == ["expver", "swh"]
    images = catalogue([3.2, 23.9, 12.0], [-0.3, 179.6, 77.0], [0.1, 59.8, -89.9])
    found = collocate(images, [("", reference)], Criteria(3.0, 120.0))

    t, y, x = np.meshgrid(hours, GRID_LAT, GRID_LON, indexing="ij")
    stamps = (pd.Timestamp("2021-02-01") + pd.to_timedelta(t.ravel(), unit="h")).as_unit("ns").asi8
    expanded = Points("era5", stamps, x.ravel(), y.ravel(), {"expver": 2 * swh.ravel(), "swh": swh.ravel()})
    expected = collocate(images, [("", expanded)], Criteria(3.0, 120.0))
    for name in ("swh", "swh_km", "swh_dt_min", "expver"):
        if name.startswith("swh_") or images["lat"].iloc[2] > -89:
            assert np.allclose(found[name], expected[name])
        else:  # at the pole hundreds of cells are one place: only their distance is theirs alone
            assert np.allclose(found[name][:2], expected[name][:2])
    assert found["swh_src"].tolist() == ["era5"] * 3


@pytest.mark.parametrize("engine", ["scipy", "h5netcdf"])
def test_tracks_stations_and_single_fields(tmp_path: Path, engine: str) -> None:
    images = catalogue([10.0], [5.0], [50.0])
    times = pd.to_datetime(["2021-02-01T09:59", "2021-02-01T10:30"]).to_numpy()
    track = xr.Dataset(
        {
            "swh": ("time", [1.5, 2.5]),
            "x": ("time", [5.1, 5.0], {"standard_name": "longitude"}),
            "y": ("time", [50.0, 50.0], {"units": "degrees_north"}),
        },
        coords={"time": times},
    )
    track.to_netcdf(tmp_path / "track.nc", engine=engine)
    reference = open_reference(tmp_path / "track.nc")
    assert isinstance(reference, Points)
    assert collocate(images, [("", reference)])["swh"].tolist() == [1.5]

    stations = xr.Dataset(
        {"hs": (("station", "time"), [[1.0, np.nan], [3.0, 4.0]])},
        coords={"time": times, "lon": ("station", [5.0, 5.9]), "lat": ("station", [50.0, 50.0])},
    )
    stations.to_netcdf(tmp_path / "stations.nc", engine=engine)
    found = collocate(images, [("", open_reference(tmp_path / "stations.nc"))])
    assert found["hs"].tolist() == [1.0]

    mooring = xr.Dataset({"hs": ("time", [1.0, 2.0])}, coords={"time": times, "lon": 5.0, "lat": 50.0})
    mooring.to_netcdf(tmp_path / "mooring.nc", engine=engine)
    assert collocate(images, [("", open_reference(tmp_path / "mooring.nc"))])["hs"].tolist() == [1.0]

    field = xr.Dataset(
        {"t2m": (("lat", "lon"), [[270.0, 271.0]])}, coords={"time": times[0], "lat": [50.0], "lon": [5.0, 6.0]}
    )
    field.to_netcdf(tmp_path / "field.nc", engine=engine)
    assert collocate(images, [("", open_reference(tmp_path / "field.nc"))])["t2m"].tolist() == [270.0]

    curved = xr.Dataset(
        {"u": (("time", "j", "i"), np.arange(8.0).reshape(2, 2, 2))},
        coords={
            "time": times,
            "nav_lon": (("j", "i"), [[5.0, 6.0], [7.0, 8.0]]),
            "nav_lat": (("j", "i"), [[49.0, 50.0], [50.0, 50.0]]),
        },
    )
    curved.to_netcdf(tmp_path / "curved.nc", engine=engine)
    assert collocate(images, [("", open_reference(tmp_path / "curved.nc"))])["u"].tolist() == [
        1.0
    ]  # 72 km; 111 to (5, 49)


def test_tables_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "\ufeffTime;Longitude;Latitude;hs;name\n2021-02-01T10:00:00Z;5.0;50.0;2.0;x\n"
        ";5.0;50.0;9.0;y\n2021-02-01 10:00;;50;8;z\n"
    )
    found = open_reference(path)
    assert len(found) == 1  # rows without a time or a place match nothing
    assert found.variables == ["hs"]
    path.write_text("when,where_x,where_y,a,b\n2021-02-01T12:00:00+02:00,5,50,1,2\n")
    named = open_reference(path, Columns("when", "where_x", "where_y", variables=("b",)))
    assert named.variables == ["b"]
    assert named.time.tolist() == [pd.Timestamp("2021-02-01T10:00").as_unit("ns").value]


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("", DataError, "could not be read"),
        ("time,lon,hs\n2021-02-01,1,2\n", DataError, "looks like latitude"),
        ("time,lon,lat,hs\n1612137600,1,2,3\n", DataError, "plain numbers"),
        ("time,lon,lat,hs\nsoon,1,2,3\n", DataError, "holds no times"),
        ("time,lon,lat,hs\n2021-02-01,1,99,3\n", DataError, "not on the globe"),
        ("time,lon,lat,name\n2021-02-01,1,2,a\n", DataError, "no numbers beside"),
        ("time,lon,lat,hs\n2021-02-01,1,2,3,4,5\n", DataError, "Expected 4 columns, got 6"),
        ("time,lon,lat,hs\n2021-02-01,1,2,3\n2021,1\n", DataError, "Expected 4 columns, got 2"),
    ],
)
def test_faulty_tables_are_named(tmp_path: Path, text: str, kind: type[GroundswellError], says: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(kind, match=says):
        open_reference(path)


def test_other_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="could not be read"):
        open_reference(tmp_path / "absent.parquet")
    reference = points(tmp_path, frame([0.0], [0.0], [0.0], hs=[1.0]))
    with pytest.raises(UsageError, match="no column 'sh'"):
        open_reference(tmp_path / "buoys.parquet", Columns(variables=("sh",)))
    whole = (tmp_path / "buoys.parquet").read_bytes()
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.parquet").write_bytes(whole[:length])
        with pytest.raises(DataError):
            open_reference(tmp_path / "cut.parquet")
    images = catalogue([500.0], [0.0], [0.0])
    with pytest.raises(DataError, match="2021-02-21"):
        collocate(images, [("", reference)])
    with pytest.raises(DataError, match="no imagette of the archive has a time"):
        collocate(images.assign(lon=np.nan), [("", reference)])
    with pytest.raises(UsageError, match="makes no sense"):
        Criteria(hours=-1.0)


def test_level_two_labels_join_by_name() -> None:
    keys = {"mission": ["S1A"] * 3, "orbit": [1, 1, 2], "datatake": ["00AB"] * 3, "image_number": [4, 5, 4]}
    images = catalogue([0.0] * 3, [0.0] * 3, [0.0] * 3).assign(**keys)
    labels = pd.DataFrame({"id": ["ocn-5", "ocn-9"], "orbit": [1, 7], "image_number": [5, 4], "hs_1": [2.5, 9.0]})
    labels = labels.assign(mission="S1A", datatake="00AB", time=START, lon=0.0, lat=0.0)
    found = join_ocn(images, labels)
    assert found["id"].tolist() == ["i0", "i1", "i2"]
    assert found["hs_1"].isna().tolist() == [True, False, True]
    assert found.loc[1, ["hs_1", "ocn_id"]].tolist() == [2.5, "ocn-5"]
    assert list(found.columns) == ["id", "ocn_id", "hs_1"]
    with pytest.raises(DataError, match="no imagette has a level-2 file"):
        join_ocn(images, labels.assign(mission="S1B"))


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.parquet"
    labels = pd.DataFrame({"id": ["a"], "hs": [1.0]})
    write_labels(path, labels, {"hours": 3})
    before = path.read_bytes()
    assert pd.read_parquet(path).equals(labels)
    assert json.loads(pq.read_schema(path).metadata[b"groundswell"]) == {"hours": 3}

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(GroundswellError, match="could not write"):
        write_labels(path, labels.assign(hs=2.0), {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["labels.parquet"]
