"""Reading: any rows in any order, selections, the ways out, and damage found by name."""

from __future__ import annotations

import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from fake_source import FakeSource
from hypothesis import given
from hypothesis import strategies as st

from groundswell.archive import reader
from groundswell.archive.ingest import ingest
from groundswell.archive.reader import Archive, open_archive
from groundswell.archive.schema import SCHEMA_FILE
from groundswell.errors import ArchiveError, UsageError
from groundswell.physics.imagette import Quantity

COUNT = 17


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader") / "archive"
    ingest(FakeSource(count=COUNT, names=("VV", "VH"), quantity=Quantity.SIGMA0_DB), folder, shard_rows=5)
    return folder


@pytest.fixture(scope="module")
def archive(path: Path) -> Archive:
    return open_archive(path)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    source = FakeSource(count=COUNT, names=("VV", "VH"), quantity=Quantity.SIGMA0_DB)
    return np.stack([source.values(index) for index in range(COUNT)])


STEP = 0.00101  # half a step of 0.002 dB, and float32 rounding


@given(rows=st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=20))
def test_any_rows_in_any_order(archive: Archive, pixels: np.ndarray, rows: list[int]) -> None:
    read = archive.read(rows)
    assert read.dtype == np.float32
    assert read.shape == (len(rows), 2, 12, 16)
    np.testing.assert_allclose(read, pixels[rows], atol=STEP)
    masks = archive.masks(rows)["slick"]
    np.testing.assert_array_equal(masks, (pixels[rows, 0] > np.median(pixels[rows, 0], axis=(1, 2), keepdims=True)))


def test_slices_and_bad_rows(archive: Archive, pixels: np.ndarray) -> None:
    np.testing.assert_allclose(archive.read(slice(3, None, 4)), pixels[3::4], atol=STEP)
    np.testing.assert_allclose(archive.read(np.int64(2)), pixels[[2]], atol=STEP)
    for rows in ([COUNT], [-1], [0.5], [[1, 2]], np.ones(COUNT, bool)):
        with pytest.raises(UsageError):
            archive.read(rows)


def test_a_selection_is_an_archive(archive: Archive, pixels: np.ndarray) -> None:
    assert archive.where(None) is archive
    train = archive.where("split == 'train'")
    index = [i for i in range(COUNT) if i % 4]
    assert train.catalogue["image_number"].tolist() == index
    assert train.catalogue.index.tolist() == list(range(len(index)))
    np.testing.assert_allclose(train.read(slice(None)), pixels[index], atol=STEP)
    assert sum(train.shard_sizes) == len(train) == len(index)
    boxes = train.boxes(slice(None))
    assert (train.catalogue["id"].to_numpy()[boxes["row"]] == boxes["id"]).all()
    high = train.where("label_hs > 1 and beam == 'WV1'")
    assert high.catalogue["image_number"].tolist() == [i for i in index if i > 10 and i % 2]
    np.testing.assert_allclose(high.read([0]), pixels[[11]], atol=STEP)
    # The identity of content: of the archive, of each selection, however it was reached.
    assert len({archive.hash, train.hash, high.hash}) == 3
    assert high.hash == archive.where("split == 'train' and label_hs > 1 and beam == 'WV1'").hash


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("splt == 'train'", "no column 'splt'"),
        ("split == ", "could not be understood"),
        ("split = 'train'", "true or false"),
        ("label_hs > 'a'", "could not be understood"),
        ("label_hs", "true or false"),
        ("1 == 1", "true or false"),
        ("label_hs > 99", "holds for none of 17"),
        ("__import__('os')", "could not be understood"),
    ],
)
def test_a_bad_selection_is_explained(archive: Archive, expression: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        archive.where(expression)
    assert error.value.fix
    if "splt" in expression:
        assert "'split'" in error.value.fix


def test_statistics_are_those_of_the_pixels(archive: Archive) -> None:
    values = archive.read(slice(None)).astype(np.float64)
    for c, name in enumerate(("VV", "VH")):
        figures = archive.statistics["channels"][name]
        assert figures["mean"] == pytest.approx(values[:, c].mean(), rel=1e-9)
        assert figures["std"] == pytest.approx(values[:, c].std(), rel=1e-9)
        assert figures["minimum"] == values[:, c].min()
        assert figures["quantiles"]["0.5"] == pytest.approx(np.median(values[:, c]), abs=0.25)  # one bin


def test_xarray_reads_on_demand_with_names_and_units(archive: Archive, pixels: np.ndarray, tmp_path: Path) -> None:
    dataset = archive.to_xarray()
    assert dataset["VV"].dims == ("imagette", "azimuth", "range")
    assert dataset["VV"].attrs["units"] == "dB"
    assert dataset["incidence_deg"].attrs["units"] == "degrees"
    assert dataset["range_spacing_m"].attrs["units"] == "m"
    np.testing.assert_allclose(
        dataset["VH"].isel(imagette=[4, 1], range=slice(2, 9, 3)), pixels[[4, 1], 1, :, 2:9:3], atol=STEP
    )
    np.testing.assert_allclose(dataset["VH"].isel(imagette=7, azimuth=3), pixels[7, 1, 3], atol=STEP)
    chosen = dataset.where(dataset["label_phenomenon"] == "rain", drop=True)
    assert chosen.sizes["imagette"] == 9
    np.testing.assert_array_equal(dataset["mask_slick"][2], archive.masks([2])["slick"][0])
    dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as back:
        np.testing.assert_allclose(back["VV"], pixels[:, 0], atol=STEP)
        assert back["id"].values.tolist() == archive.catalogue["id"].tolist()


def test_torch_loader_gives_the_same_pixels(archive: Archive, pixels: np.ndarray) -> None:
    from torch.utils.data import DataLoader

    batches = list(DataLoader(archive.to_torch(), batch_size=5))
    assert [len(batch["id"]) for batch in batches] == [5, 5, 5, 2]
    np.testing.assert_allclose(np.concatenate([batch["pixels"] for batch in batches]), pixels, atol=STEP)
    assert np.concatenate([batch["row"] for batch in batches]).tolist() == list(range(COUNT))


def test_an_archive_travels_to_another_process(archive: Archive, pixels: np.ndarray) -> None:
    archive.read([0])
    there = pickle.loads(pickle.dumps(archive.where("image_number > 12")))
    np.testing.assert_allclose(there.read([1]), pixels[[14]], atol=STEP)


def test_several_threads_read_one_archive(
    archive: Archive, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    # As the feed of a run and its monitor do; with more shards than stay open, so that each read closes another's.
    monkeypatch.setattr(reader, "_OPEN_SHARDS", 1)
    request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-7)

    def read(seed: int) -> None:
        draw = np.random.default_rng(seed)
        for _ in range(300):
            rows = draw.integers(0, len(archive), 4)
            np.testing.assert_allclose(archive.read(rows), pixels[rows], atol=STEP)

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(read, seed) for seed in range(4)]:
            done.result()


def test_labels_that_differ_between_shards_meet_in_one_column(tmp_path: Path) -> None:
    from dataclasses import replace

    from groundswell.physics.imagette import Imagette, Label
    from groundswell.products.source import Rejected

    labels: list[dict[str, Label]] = [
        {"n": 1, "mixed": 1, "flag": True},
        {"n": None, "mixed": "ice", "flag": None},
        {"n": 2.5, "late": "yes"},
        {"n": np.float32(0.5).item(), "nothing": None},
    ]

    class Labelled(FakeSource):
        def item(self, index: int) -> Imagette | Rejected:
            item = super().item(index)
            assert isinstance(item, Imagette)
            return replace(item, labels=labels[index])

    ingest(Labelled(count=4), tmp_path / "a", shard_rows=1)
    catalogue = open_archive(tmp_path / "a").catalogue
    assert [c for c in catalogue if c.startswith("label_")] == [
        f"label_{name}" for name in ("flag", "late", "mixed", "n", "nothing")
    ]
    np.testing.assert_array_equal(catalogue["label_n"], [1, np.nan, 2.5, 0.5])
    assert catalogue["label_mixed"].tolist()[:2] == ["1", "ice"]
    assert catalogue["label_late"].isna().tolist() == [True, True, False, True]
    assert catalogue["label_flag"].iloc[0] == 1
    assert catalogue["label_nothing"].isna().all()


@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
def test_one_flipped_byte_in_any_file_is_found_and_named(tmp_path: Path, place: float) -> None:
    folder = tmp_path / "a"
    ingest(FakeSource(count=6, bad={2: "unreadable"}), folder, shard_rows=4)
    assert open_archive(folder).verify() == []
    from groundswell.archive.verify import verify

    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    # archive.json, statistics.json, manifest, failures of shard 0; of two shards pixels, masks, boxes, catalogue
    assert len(files) == 12
    for file in files:
        whole = file.read_bytes()
        at = int(place * len(whole))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            named = {damage.file for damage in verify(folder)}
        except ArchiveError as error:
            assert file.name == SCHEMA_FILE
            named = {Path(str(error.where)).name}
        assert str(file.relative_to(folder)) in named, file
        file.unlink()
        if file.name != SCHEMA_FILE:
            assert str(file.relative_to(folder)) in {damage.file for damage in verify(folder)}
        file.write_bytes(whole)
    assert verify(folder) == []


def test_reading_a_damaged_shard_names_it(tmp_path: Path) -> None:
    ingest(FakeSource(count=4), tmp_path / "a", shard_rows=2)
    shard = tmp_path / "a" / "shards" / "000001.npy"
    shard.write_bytes(shard.read_bytes()[:150])
    archive = open_archive(tmp_path / "a")
    archive.read([0, 1])
    with pytest.raises(ArchiveError, match="damaged") as error:
        archive.read([2])
    assert error.value.where == str(shard)


def test_what_is_no_archive_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no such archive"):
        open_archive(tmp_path / "none")
    with pytest.raises(ArchiveError, match="not an archive"):
        open_archive(tmp_path)
    file = tmp_path / SCHEMA_FILE
    for text, message in (
        ("{", "damaged"),
        ("[1]", "damaged"),
        ('{"schema_version": 1}', "damaged"),
        ('{"schema_version": 2}', "newer groundswell"),
    ):
        file.write_text(text)
        with pytest.raises(ArchiveError, match=message):
            open_archive(tmp_path)
