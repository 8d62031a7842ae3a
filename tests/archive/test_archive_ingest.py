"""What ingest stores, what it sets aside, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_source import FakeSource

from groundswell.archive.encoding import channel_schema
from groundswell.archive.ingest import ingest
from groundswell.archive.prepare import prepare
from groundswell.archive.reader import open_archive
from groundswell.archive.schema import ArchiveSchema, read_schema
from groundswell.errors import ArchiveError, DataError, QuantityError, UsageError
from groundswell.physics.imagette import Box, Channel, Imagette, Metadata, Quantity
from groundswell.products.source import Rejected


def test_pixels_masks_boxes_and_labels_come_back(tmp_path: Path) -> None:
    source = FakeSource(count=10, names=("VV", "VH"))
    report = ingest(source, tmp_path / "a", shard_rows=4)
    archive = open_archive(tmp_path / "a")
    assert (report.written, report.shards, report.resumed_shards, report.rejected) == (10, 3, 0, [])
    for row, index in enumerate(archive.catalogue["image_number"]):
        item = source.item(index)
        assert isinstance(item, Imagette)
        np.testing.assert_array_equal(archive.read([row])[0], item.pixels)
        np.testing.assert_array_equal(archive.masks([row])["slick"][0], item.masks["slick"])
        boxes = archive.boxes([row])
        assert [(b.class_name, b.x, b.y, b.width, b.height) for b in boxes.itertuples()] == [
            (b.class_name, b.x, b.y, b.width, b.height) for b in item.boxes
        ]
        labels = archive.catalogue.loc[row, ["label_phenomenon", "label_hs", "label_tag_rain"]].tolist()
        assert labels == list(item.labels.values())
        assert archive.catalogue.loc[row, "group"] == item.metadata.group


def test_bad_items_are_set_aside_with_a_reason(tmp_path: Path) -> None:
    bad = {1: "unreadable", 4: "nan", 6: "constant", 8: "small", 10: "twin"}
    report = ingest(FakeSource(count=12, bad=bad), tmp_path / "a", shard_rows=5)
    reasons = {item.id: item.reason for item in report.rejected}
    assert list(reasons) == [f"item-{index:05d}" for index in (1, 4, 6, 8)]
    assert reasons["item-00001"] == "truncated file"
    assert "no valid pixel" in reasons["item-00004"]
    assert reasons["item-00006"] == "constant: every pixel of intensity is 7"
    assert "2 x 16 pixels where the archive has 12 x 16" in reasons["item-00008"]
    assert [(d.id, d.reason) for d in report.duplicates] == [("item-00010", "same content as item-00009")]
    assert report.written == len(open_archive(tmp_path / "a")) == 7
    again = ingest(FakeSource(count=12, bad=bad), tmp_path / "a", shard_rows=5)
    assert again == replace(report, resumed_shards=3)


def test_a_duplicate_is_found_across_shards_and_sources(tmp_path: Path) -> None:
    # Item 5 opens the second shard and repeats item 4 of the first.
    report = ingest(FakeSource(count=10, bad={5: "twin"}), tmp_path / "a", shard_rows=5)
    assert [d.reason for d in report.duplicates] == ["same content as item-00004"]

    class Renamed(FakeSource):
        def item(self, index: int) -> Imagette | Rejected:
            item = super().item(index)
            assert isinstance(item, Imagette)
            twin = FakeSource().item(index)
            assert isinstance(twin, Imagette)
            return replace(item, metadata=replace(item.metadata, source_hash=twin.metadata.source_hash))

    report = ingest(Renamed(count=12, prefix="copy"), tmp_path / "a", shard_rows=5)
    # Items 0 to 9 but for 5 (itself a duplicate then) are there under other names.
    assert (report.written, len(report.duplicates)) == (3, 9)


def test_a_shard_in_which_everything_fails(tmp_path: Path) -> None:
    bad = dict.fromkeys(range(3, 6), "unreadable")
    ingest(FakeSource(count=9, bad=bad), tmp_path / "a", shard_rows=3)
    archive = open_archive(tmp_path / "a")
    assert archive.shard_sizes == [3, 3]
    assert archive.catalogue["shard"].tolist() == [0, 0, 0, 2, 2, 2]
    np.testing.assert_array_equal(archive.read([4])[0], FakeSource().values(7))
    assert archive.verify() == []


def test_nothing_usable_leaves_an_empty_archive_and_a_full_list(tmp_path: Path) -> None:
    report = ingest(FakeSource(count=3, bad=dict.fromkeys(range(3), "nan")), tmp_path / "a", size=(12, 16))
    assert (report.written, len(report.rejected)) == (0, 3)
    archive = open_archive(tmp_path / "a")
    assert len(archive) == 0
    assert archive.read([]).shape == (0, 1, 12, 16)
    with pytest.raises(DataError, match="no size is known"):
        ingest(FakeSource(count=3, bad=dict.fromkeys(range(3), "unreadable")), tmp_path / "b")
    with pytest.raises(DataError, match="no images"):
        ingest(FakeSource(count=0), tmp_path / "c")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"shard_rows": 5}, "shard_rows"),
        ({"size": (8, 8)}, "height"),
        ({"dtype": "uint16"}, "dtype"),
        ({"dtype": "float32"}, "dtype"),
        ({"spacing_m": 10.0}, "spacing_m"),
    ],
)
def test_the_same_source_with_other_settings_is_refused(tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    settings = {"shard_rows": 4}
    ingest(FakeSource(count=6), tmp_path / "a", **settings)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="other settings") as error:
        ingest(FakeSource(count=6), tmp_path / "a", **settings | changed)  # type: ignore[arg-type]
    assert named in str(error.value.why)


def test_a_source_of_the_same_ids_read_otherwise_is_refused(tmp_path: Path) -> None:
    ingest(FakeSource(count=6), tmp_path / "a")
    with pytest.raises(UsageError, match="read with other settings") as error:
        ingest(FakeSource(count=6, seed=1), tmp_path / "a")
    assert error.value.why == "seed: 0 in the archive, 1 now"
    with pytest.raises(UsageError, match="another image of the same id"):
        ingest(FakeSource(count=9, seed=1), tmp_path / "a")


def test_growing_a_source_adds_shards_and_touches_no_old_file(tmp_path: Path) -> None:
    ingest(FakeSource(count=6), tmp_path / "a", shard_rows=4)
    before = {p: p.read_bytes() for p in sorted((tmp_path / "a").glob("*/*"))}
    report = ingest(FakeSource(count=11), tmp_path / "a", shard_rows=4)
    assert (report.written, report.known) == (5, 6)
    assert all(path.read_bytes() == content for path, content in before.items())
    archive = open_archive(tmp_path / "a")
    assert archive.catalogue["id"].tolist() == list(FakeSource(count=11).ids())
    assert archive.shard_sizes == [4, 2, 4, 1]
    assert [source.first_shard for source in archive.schema.sources] == [0, 2]
    assert archive.statistics["duplicates"] == 6
    assert archive.verify() == []


def test_an_unfinished_source_must_be_finished_before_another_is_added(tmp_path: Path) -> None:
    ingest(FakeSource(count=6), tmp_path / "a", shard_rows=4)
    (tmp_path / "a" / "catalogue" / "000001.parquet").unlink()
    assert not open_archive(tmp_path / "a").complete
    with pytest.raises(UsageError, match="not finished with another source"):
        ingest(FakeSource(count=3, prefix="more", seed=1), tmp_path / "a", shard_rows=4)


def test_a_damaged_shard_is_named_and_written_anew_on_request(tmp_path: Path) -> None:
    path = tmp_path / "a"
    ingest(FakeSource(count=9), path, shard_rows=3)
    whole = {p: p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
    shard = path / "shards" / "000001.npy"
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(ArchiveError, match="damaged") as error:
        ingest(FakeSource(count=9), path, shard_rows=3)
    assert error.value.where == str(shard)
    assert "catalogue/000001.parquet" in str(error.value.fix)
    (path / "catalogue" / "000001.parquet").unlink()
    ingest(FakeSource(count=9), path, shard_rows=3)
    assert {p: p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()} == whole


def test_only_one_process_writes(tmp_path: Path) -> None:
    class Nested(FakeSource):
        def read(self, ids: Any) -> list[Imagette | Rejected]:
            with pytest.raises(UsageError, match="another process"):
                ingest(FakeSource(count=3), tmp_path / "a")
            return super().read(ids)

    assert ingest(Nested(count=3), tmp_path / "a").written == 3


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="not an archive") as error:
        ingest(FakeSource(count=3), tmp_path)
    assert "thesis.tex" in str(error.value.why)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UsageError, match="must be a folder"):
        ingest(FakeSource(count=3), tmp_path / "thesis.tex")


def schema(quantity: Quantity, dtype: Any, size: tuple[int, int], fit: Any = "crop") -> ArchiveSchema:
    return ArchiveSchema(
        schema_version=1,
        channels=(channel_schema(Channel("VV", quantity), dtype),),
        height=size[0],
        width=size[1],
        dtype=dtype,
        spacing_m=None,
        fit=fit,
        masks=(),
        shard_rows=1,
        sources=(),
    )


def imagette(pixels: np.ndarray, quantity: Quantity, **metadata: Any) -> Imagette:
    return Imagette(pixels.astype(np.float32)[None], (Channel("VV", quantity),), Metadata(id="x", **metadata))


def test_linear_sigma0_becomes_decibels_with_its_floor_counted() -> None:
    sigma0 = np.array([[0.1, 1e-5, -0.002, 10**-4.5], [0.01, 1.0, np.nan, 0.5]])
    prepared = prepare(imagette(sigma0, Quantity.SIGMA0), schema(Quantity.SIGMA0_DB, "uint16", (2, 4)))
    assert not isinstance(prepared, Rejected)
    assert prepared.row.valid_fraction == 7 / 8
    assert prepared.row.floored_fraction == 3 / 7  # 1e-5 (-50 dB), the negative, and the floor itself
    # -10, -45, -45, -45, -20, 0, none, -3.0103 dB in steps of 0.002 above -45
    assert prepared.codes.ravel().tolist() == [17500, 0, 0, 0, 12500, 22500, 65535, 20995]


def test_the_floor_of_roughness_is_that_of_sigma0() -> None:
    from groundswell.physics.quantities import roughness_reference_db

    sigma0 = np.array([[0.1, -0.01], [0.2, 0.3]])
    item = imagette(sigma0, Quantity.SIGMA0, incidence_near_deg=23.0, incidence_far_deg=24.0)
    prepared = prepare(item, schema(Quantity.ROUGHNESS_DB, "uint16", (2, 2)))
    assert not isinstance(prepared, Rejected)
    assert prepared.row.floored_fraction == 0.25
    values = prepared.codes[0] * 0.002 - 45
    reference = roughness_reference_db(np.array([23.0, 24.0]))
    np.testing.assert_allclose(values, 10 * np.log10(np.maximum(sigma0, 10**-4.5)) - reference, atol=0.00101)


def test_roughness_of_a_cropped_image_uses_the_incidence_of_its_own_columns() -> None:
    generator = np.random.default_rng(0)
    sigma0 = generator.gamma(4.0, 0.02, (8, 40))
    item = imagette(sigma0, Quantity.SIGMA0, incidence_near_deg=22.0, incidence_far_deg=24.0)
    whole = prepare(item, schema(Quantity.ROUGHNESS_DB, "uint16", (8, 40)))
    part = prepare(item, schema(Quantity.ROUGHNESS_DB, "uint16", (8, 20)))
    assert not isinstance(whole, Rejected)
    assert not isinstance(part, Rejected)
    np.testing.assert_array_equal(part.codes, whole.codes[:, :, 10:30])
    blind = prepare(imagette(sigma0, Quantity.SIGMA0), schema(Quantity.ROUGHNESS_DB, "uint16", (8, 40)))
    assert isinstance(blind, Rejected)
    assert "incidence" in blind.reason


def test_a_quicklook_is_stretched_before_it_is_cut() -> None:
    sigma0 = np.linspace(0.0, 1.0, 100).reshape(10, 10)
    prepared = prepare(imagette(sigma0, Quantity.SIGMA0), schema(Quantity.QUICKLOOK, "uint8", (2, 10)))
    assert not isinstance(prepared, Rejected)
    # Rows 4 and 5 span 0.40 to 0.60 of a stretch from 0.01 to 0.99; stretched by themselves they would span 0 to 255.
    assert prepared.codes.min() == round(255 * (40 / 99 - 0.01) / 0.98)
    assert prepared.codes.max() == round(255 * (59 / 99 - 0.01) / 0.98)


def test_defaults_of_quantity_and_type(tmp_path: Path) -> None:
    for name, options, expected in (
        ("default", {}, (Quantity.SIGMA0_DB, "uint16")),
        ("float", {"dtype": "float32"}, (Quantity.SIGMA0, "float32")),
        ("asked", {"quantity": Quantity.SIGMA0}, (Quantity.SIGMA0, "float32")),
        ("quicklook", {"quantity": Quantity.QUICKLOOK}, (Quantity.QUICKLOOK, "uint8")),
    ):
        ingest(FakeSource(count=2, quantity=Quantity.SIGMA0), tmp_path / name, **options)  # type: ignore[arg-type]
        stored = read_schema(tmp_path / name)
        assert (stored.channels[0].quantity, stored.dtype) == expected
    values = open_archive(tmp_path / "float").read([0, 1])
    np.testing.assert_array_equal(values, np.stack([FakeSource(quantity=Quantity.SIGMA0).values(i) for i in (0, 1)]))
    with pytest.raises(QuantityError, match="cannot become"):
        ingest(FakeSource(count=2), tmp_path / "no", quantity=Quantity.SIGMA0)


def test_nan_needs_a_type_that_can_hold_it() -> None:
    pixels = np.arange(16.0).reshape(4, 4)
    pixels[0, 0] = np.nan
    refused = prepare(imagette(pixels, Quantity.QUICKLOOK), schema(Quantity.QUICKLOOK, "uint8", (4, 4)))
    assert isinstance(refused, Rejected)
    assert "--dtype uint16" in refused.reason
    kept = prepare(imagette(pixels, Quantity.QUICKLOOK), schema(Quantity.QUICKLOOK, "uint16", (4, 4)))
    assert not isinstance(kept, Rejected)
    assert kept.codes[0, 0, 0] == 65535


def test_wrong_channels_and_missing_masks() -> None:
    item = Imagette(np.ones((1, 4, 4), np.float32), (Channel("HH", Quantity.SIGMA0),), Metadata(id="x"))
    refused = prepare(item, schema(Quantity.SIGMA0_DB, "uint16", (4, 4)))
    assert isinstance(refused, Rejected)
    assert refused.reason == "wrong channels: it has HH, and no VV"
    masked = schema(Quantity.QUICKLOOK, "uint8", (4, 4)).model_copy(update={"masks": ("ice",)})
    prepared = prepare(imagette(np.arange(16.0).reshape(4, 4), Quantity.QUICKLOOK), masked)
    assert not isinstance(prepared, Rejected)
    assert (prepared.masks == 255).all()


def test_padding_is_not_measured_and_spacing_and_group_are_completed() -> None:
    item = imagette(np.arange(16.0).reshape(4, 4), Quantity.QUICKLOOK, product_id="p", datatake="d")
    item.boxes.append(Box("ship", 1, 1, 2, 2))
    prepared = prepare(item, schema(Quantity.QUICKLOOK, "uint8", (8, 8), "pad"), spacing_m=10.0)
    assert not isinstance(prepared, Rejected)
    assert prepared.row.valid_fraction == 16 / 64
    assert prepared.boxes == [Box("ship", 3, 3, 2, 2)]
    metadata = prepared.row.metadata
    assert (metadata.azimuth_spacing_m, metadata.range_spacing_m, metadata.group) == (10.0, 10.0, "d")


def test_one_channel_may_be_missing_as_a_whole_but_not_all() -> None:
    pixels = np.stack([np.linspace(-20, -5, 16).reshape(4, 4), np.full((4, 4), np.nan)]).astype(np.float32)
    channels = tuple(Channel(name, Quantity.SIGMA0_DB) for name in ("VV", "VH"))
    two = schema(Quantity.SIGMA0_DB, "uint16", (4, 4))
    two = two.model_copy(update={"channels": tuple(channel_schema(channel, "uint16") for channel in channels)})
    prepared = prepare(Imagette(pixels, channels, Metadata(id="x")), two)
    assert not isinstance(prepared, Rejected)
    assert prepared.row.valid_fraction == 0.5
    assert (prepared.codes[1] == 65535).all()
    refused = prepare(Imagette(np.full_like(pixels, np.nan), channels, Metadata(id="x")), two)
    assert isinstance(refused, Rejected)
    assert "no valid pixel" in refused.reason
