"""`ingest --fit cut`: chips are parts of their images, with what the masks say of them, and nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import crash
import groundswell.cli.verbs  # noqa: F401 - registers the verbs
from groundswell.archive.reader import open_archive
from groundswell.cli.app import application
from groundswell.products.source import chip_starts

ROWS, COLUMNS = 20, 26


def ingest(*arguments: object, exit_code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(application, ["ingest", *map(str, arguments), "--json"])
    assert result.exit_code == exit_code, result.output
    return dict(json.loads(result.stdout)) if result.stdout else {"error": result.stderr}


@pytest.fixture
def slicks(tmp_path: Path) -> Path:
    """Two images with masks and boxes, one too small for a chip, one broken."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name, shape in (("a", (ROWS, COLUMNS)), ("b", (ROWS, COLUMNS)), ("small", (6, 30))):
        pixels = rng.integers(1, 255, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
        mask = np.zeros(shape, np.uint8)
        mask[:8, :5], mask[8:, 18:] = 255, 255  # of chips of 8 px: five eighths of the first, all of the last
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    rows = [f"images/{n}.png,masks/{n}.png,{s},20,30" for n, s in (("a", "train"), ("b", "test"), ("small", "test"))]
    (tmp_path / "labels.csv").write_text(
        "file,oil,split,incidence_near_deg,incidence_far_deg\n" + "\n".join(rows) + "\n"
    )
    boxes = {
        "images": [{"id": 1, "file_name": "a.png", "width": COLUMNS, "height": ROWS}],
        "categories": [{"id": 1, "name": "ship"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [21, 15, 3, 2]}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    return tmp_path


def words(place: Path, out: str, *options: object) -> list[object]:
    table = ("--labels", place / "labels.csv", "--mask", "oil", "--boxes", place / "boxes.json")
    how = ("--quantity", "amplitude", "--size", 8, "--fit", "cut", "--overlap", 2)
    return [place / "images", "-o", place / out, *how, *table, *options]


def test_chips_are_parts_of_their_images(slicks: Path) -> None:
    plan = ingest(*words(slicks, "archive", "--dry-run"))
    assert plan["archive"]["images"] == 2 * 12 + 1  # the broken one is no image, the small one gives no chip
    data = ingest(*words(slicks, "archive"), exit_code=4)
    assert data["written"] == 2 * 12
    reasons = {item["id"]: item["reason"] for item in data["rejected"]}
    assert reasons.keys() == {"small.png", "broken.png"}
    assert reasons["small.png"] == "6 x 30 pixels is smaller than a chip of 8 x 8"

    archive = open_archive(slicks / "archive")
    catalogue = archive.catalogue.set_index("id", drop=False)
    image = np.asarray(Image.open(slicks / "images" / "a.png"))
    mask = np.asarray(Image.open(slicks / "masks" / "a.png")) > 0
    places = {(r, c): (top, left) for r, top in enumerate((0, 6, 12)) for c, left in enumerate((0, 6, 12, 18))}
    for (r, c), (top, left) in places.items():
        part = np.s_[top : top + 8, left : left + 8]
        row = catalogue.index.get_loc(f"a.png#r{r:03d}c{c:03d}")
        facts = catalogue.iloc[row]
        np.testing.assert_array_equal(archive.read([row])[0, 0], image[part])
        np.testing.assert_array_equal(archive.masks([row])["oil"][0] > 0, mask[part])
        assert facts["label_oil_share"] == pytest.approx(mask[part].mean())
        assert facts["label_oil"] == (mask[part].mean() > 0.5)
        # Incidence belongs to column centres: 20 degrees in the first, 30 in the last.
        assert facts["incidence_near_deg"] == pytest.approx(20 + 10 * left / (COLUMNS - 1))
        assert facts["incidence_far_deg"] == pytest.approx(20 + 10 * (left + 7) / (COLUMNS - 1))
        assert facts["incidence_deg"] == pytest.approx(20 + 10 * (left + 3.5) / (COLUMNS - 1))
        assert (facts["group"], facts["split"]) == ("a.png", "train")
        assert facts[["lon", "lat", "footprint"]].isna().all()
    assert catalogue["source_hash"].is_unique
    boxes = archive.boxes(slice(None))
    assert boxes["id"].tolist() == ["a.png#r002c003"]
    assert boxes[["x", "y", "width", "height"]].to_numpy().tolist() == [[3.0, 3.0, 3.0, 2.0]]


def test_the_same_bytes_from_two_processes_and_in_small_shards(slicks: Path) -> None:
    for out, workers in (("one", 1), ("two", 2)):
        ingest(*words(slicks, out, "--shard-mb", 0.001, "--workers", workers), exit_code=4)
    assert crash.tree(slicks / "one") == crash.tree(slicks / "two")


def test_the_same_image_twice_gives_its_chips_once(slicks: Path) -> None:
    (slicks / "images" / "copy.png").write_bytes((slicks / "images" / "b.png").read_bytes())
    data = ingest(*words(slicks, "archive"), exit_code=4)
    assert data["written"] == 2 * 12
    assert {item["id"].partition("#")[0] for item in data["duplicates"]} == {"copy.png"}


def test_what_cannot_be_cut_is_refused(slicks: Path) -> None:
    error = ingest(*words(slicks, "archive", "--overlap", 8), exit_code=2)["error"]
    assert "cannot share 8 pixels" in error
    error = ingest(slicks / "images", "-o", slicks / "x", "--quantity", "amplitude", "--overlap", 2, exit_code=2)[
        "error"
    ]
    assert "--overlap is for SAFE products" in error


@settings(max_examples=200, deadline=None)
@given(length=st.integers(1, 300), size=st.integers(1, 100), data=st.data())
def test_chips_cover_the_axis_and_share_at_least_what_was_asked(length: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    starts = chip_starts(length, size, overlap)
    if length < size:
        assert starts == []
        return
    assert (starts[0], starts[-1] + size) == (0, length)
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= size - overlap).all()
