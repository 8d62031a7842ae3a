"""``groundswell collocate`` from files to a label table, by the command line."""

from __future__ import annotations

import json
import sys
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "archive"))
from fake_source import FakeSource

from groundswell.archive.ingest import ingest
from groundswell.archive.reader import open_archive
from groundswell.cli import verbs  # noqa: F401 - importing the verbs registers them
from groundswell.cli.app import application
from groundswell.physics.imagette import Imagette
from groundswell.products.source import Rejected

START = datetime(2021, 2, 1, 8, 33, 8, 500_000, tzinfo=UTC)


class Along(FakeSource):
    """Imagettes along the equator over the date line, a degree and a minute apart, of one datatake."""

    def item(self, index: int) -> Imagette | Rejected:
        item = super().item(index)
        if isinstance(item, Rejected):
            return item
        place = {"time": START + timedelta(minutes=index), "lon": (178.0 + index + 180) % 360 - 180, "lat": 0.0}
        name = {"mission": "S1A", "orbit": 36394, "datatake": "044589", "image_number": index + 1}
        return replace(item, metadata=replace(item.metadata, **place, **name))


def collocate(*arguments: object) -> Any:
    return CliRunner().invoke(application, ["collocate", *map(str, arguments), "--json", "--quiet"])


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("collocate") / "archive"
    ingest(Along(count=6), path)
    return path


def test_tables_of_three_formats_become_one_label_table(archive: Path, tmp_path: Path) -> None:
    ids = open_archive(archive).catalogue["id"].tolist()
    buoys = pd.DataFrame({"time": [START, START], "lon": [180.0, 181.0], "lat": [0.1, 0.1], "hs": [2.0, 3.0]})
    buoys.to_csv(tmp_path / "buoys.csv", index=False)
    buoys.assign(time=START + timedelta(hours=2), hs=9.0).to_parquet(tmp_path / "late.parquet")
    times = pd.to_datetime(["2021-02-01T08:00", "2021-02-01T09:00"]).to_numpy()
    field = np.arange(2 * 1 * 360, dtype=float).reshape(2, 1, 360)
    xr.Dataset(
        {"swh": (("time", "lat", "lon"), field)}, coords={"time": times, "lat": [0.0], "lon": np.arange(360.0)}
    ).to_netcdf(tmp_path / "ww3.nc", engine="h5netcdf")
    output = tmp_path / "labels.parquet"
    done = collocate(
        archive,
        tmp_path / "buoys.csv",
        tmp_path / "late.parquet",
        f"ww3={tmp_path / 'ww3.nc'}",
        "--km",
        60,
        "-o",
        output,
    )
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    labels = pd.read_parquet(output)
    assert labels["id"].tolist() == ids
    # 11 km north of the third and fourth imagette; the near time wins over the table two hours later.
    assert labels["hs"].tolist()[2:4] == [2.0, 3.0]
    assert labels["hs"].notna().tolist() == [False, False, True, True, False, False]
    assert labels["hs_src"].tolist()[2] == "buoys"
    # Imagettes 0 to 5 at 08:33 to 08:38 take the field of 09:00, at their own longitudes.
    assert labels["ww3_swh"].tolist() == [360 + 178.0 + i for i in range(6)]
    assert np.allclose(labels["ww3_swh_km"], 0.0, atol=1e-6)
    assert data["variables"]["hs"]["known"] == 2
    assert data["variables"]["ww3_swh"] == {
        "known": 6,
        "km": pytest.approx(0.0, abs=1e-6),
        "minutes": pytest.approx(24.36, abs=0.01),
    }

    one = collocate(archive, tmp_path / "buoys.csv", "--where", "image_number == 3", "--match", "mean", "-o", output)
    assert one.exit_code == 0, one.output
    labels = pd.read_parquet(output)
    assert labels["id"].tolist() == [ids[2]]
    assert labels["hs_n"].tolist() == [1]  # the other buoy is 111.7 km away, beyond the default of 100


def test_level_two_products_join_by_name(archive: Path, real_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "labels.parquet"
    done = collocate(archive, real_data / "ocn-wv", "-o", output)
    assert done.exit_code == 0, done.output
    labels = pd.read_parquet(output)
    assert labels["ocn_id"].notna().tolist() == [False, False, False, True, False, False]  # image 004
    assert labels.loc[3, "azimuth_cutoff"] == 342.0
    assert "357.2" in labels.loc[3, "owi_refused"]
    # packed as it is downloaded
    file = next((real_data / "ocn-wv").glob("*.nc"))
    product = "S1A_WV_OCN__2SSV_20210201T083307_20210201T083310_036394_044589_BA74"
    with zipfile.ZipFile(tmp_path / f"{product}.zip", "w") as packed:
        packed.writestr(f"{product}.SAFE/manifest.safe", "<xfdu/>")
        packed.write(file, f"{product}.SAFE/measurement/{file.name}")
    again = collocate(archive, tmp_path / f"{product}.zip", "-o", tmp_path / "packed.parquet")
    assert again.exit_code == 0, again.output
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "packed.parquet"), labels)


def test_faults_are_named_and_write_nothing(archive: Path, tmp_path: Path) -> None:
    output = tmp_path / "labels.parquet"
    (tmp_path / "empty").mkdir()
    far = pd.DataFrame({"time": [START], "lon": [0.0], "lat": [0.0], "hs": [1.0]})
    far.to_parquet(tmp_path / "far.parquet")
    cases = [
        (tmp_path / "absent.csv", 3, "could not be read"),
        (tmp_path / "empty", 3, "no level-2 file"),
        (tmp_path / "far.parquet", 3, "no imagette has a reference"),
    ]
    for table, code, says in cases:
        done = CliRunner().invoke(application, ["collocate", str(archive), str(table), "-o", str(output)])
        assert done.exit_code == code, done.output
        assert says in done.output
        assert not output.exists()
