"""``groundswell stats``: figures that agree with the pixels, oddities that are there, damage by file."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "archive"))
from fake_source import FakeSource

from groundswell.archive.ingest import ingest
from groundswell.archive.oddities import oddities
from groundswell.archive.reader import open_archive
from groundswell.cli import verbs  # noqa: F401 - importing the verbs registers them
from groundswell.cli.app import application
from groundswell.physics.imagette import Imagette, Quantity
from groundswell.products.source import Rejected


def stats(*arguments: object) -> Any:
    return CliRunner().invoke(application, ["stats", *map(str, arguments)])


class Shaped(FakeSource):
    """A fake source whose values pass through a function, labelled and grouped so that nothing is odd."""

    shape: Any = staticmethod(lambda values: values)

    def item(self, index: int) -> Imagette | Rejected:
        item = super().item(index)
        if isinstance(item, Rejected):
            return item
        metadata = replace(item.metadata, group=f"group-{index}")
        return replace(item, pixels=self.shape(item.pixels).astype(np.float32), metadata=metadata)


def archive_of(tmp_path: Path, quantity: Quantity, shape: Any = lambda x: x, **options: Any) -> Path:
    source = Shaped(count=8, quantity=quantity)
    source.shape = shape
    ingest(source, tmp_path / "a", **options)
    return tmp_path / "a"


def test_the_figures_are_those_of_the_archive(tmp_path: Path) -> None:
    ingest(FakeSource(count=20, bad={2: "unreadable", 3: "small", 4: "small", 7: "twin"}), tmp_path / "a", shard_rows=6)
    result = stats(tmp_path / "a", "--json", "--verify")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    archive = open_archive(tmp_path / "a")
    values = archive.read(slice(None))
    assert (data["images"], data["shards"], data["rejected"], data["duplicates"]) == (16, 4, 3, 1)
    assert data["set_aside"]["duplicate"] == 1
    assert sorted(data["set_aside"].values()) == [1, 1, 2]  # the two small ones differ in nothing but numbers
    assert data["boxes"] == len(archive.boxes(slice(None)))
    assert data["splits"] == archive.catalogue["split"].value_counts().to_dict()
    assert (
        data["labels"]["label_phenomenon"]["values"] == archive.catalogue["label_phenomenon"].value_counts().to_dict()
    )
    assert data["labels"]["label_hs"]["max"] == archive.catalogue["label_hs"].max()
    channel = data["channels"]["intensity"]
    assert channel["mean"] == pytest.approx(values.mean(dtype=np.float64), rel=1e-9)
    assert sum(channel["histogram"]["counts"]) == values.size
    assert data["verified"] is True


def test_the_histogram_of_decibels_counts_every_value_between_its_ends(tmp_path: Path) -> None:
    path = archive_of(tmp_path, Quantity.SIGMA0_DB)
    histogram = json.loads(stats(path, "--json").stdout)["channels"]["intensity"]["histogram"]
    values = open_archive(path).read(slice(None))
    assert histogram["counts"] == np.histogram(values, histogram["edges"])[0].tolist()


def test_the_text_names_what_matters(tmp_path: Path) -> None:
    path = archive_of(tmp_path, Quantity.SIGMA0_DB)
    text = stats(path, "--verify").output
    for part in (
        "8 imagettes",
        "intensity (sigma0_db)",
        "label_phenomenon: rain 4, waves 4",
        "every file is as it was",
    ):
        assert part in text
    assert "what is odd" not in text


@pytest.mark.parametrize(
    ("quantity", "shape", "options", "sentence"),
    [
        (Quantity.SIGMA0, lambda x: x * 20000, {"dtype": "float32"}, "declared sigma0, but its median"),
        (Quantity.SIGMA0, lambda x: 10 * np.log10(x), {"dtype": "float32"}, "decibels?"),
        (Quantity.SIGMA0_DB, lambda x: 10 ** (x / 10), {}, "declared sigma0_db, but it spans"),
        (Quantity.ROUGHNESS_DB, lambda x: x - 20, {}, "declared roughness_db"),
        (Quantity.AMPLITUDE, lambda x: x - 0.05, {}, "an amplitude is not negative"),
        (Quantity.QUICKLOOK, lambda x: np.where(x > 150, 255, x), {}, "near-saturated: 4"),
        (Quantity.QUICKLOOK, lambda x: x * 2, {"dtype": "float32"}, "declared quicklook, but it spans"),
        (Quantity.SIGMA0_DB, lambda x: np.where(np.arange(16) < 9, -60, x), {}, "8 imagettes lie at the floor"),
        (Quantity.SIGMA0_DB, lambda x: np.where(np.arange(16) < 2, np.nan, x), {}, "8 of 8 imagettes have padding or"),
    ],
)
def test_values_that_are_not_what_they_claim_are_said_to_be_odd(
    tmp_path: Path, quantity: Quantity, shape: Any, options: dict[str, Any], sentence: str
) -> None:
    found = oddities(open_archive(archive_of(tmp_path, quantity, shape, **options)))
    assert any(sentence in line for line in found), found


@pytest.mark.parametrize("quantity", [Quantity.SIGMA0, Quantity.SIGMA0_DB, Quantity.QUICKLOOK, Quantity.AMPLITUDE])
def test_values_that_are_what_they_claim_are_not_odd(tmp_path: Path, quantity: Quantity) -> None:
    assert oddities(open_archive(archive_of(tmp_path, quantity))) == []


def test_groups_across_splits_and_gaps_in_labels_are_odd(tmp_path: Path) -> None:
    class Gaps(FakeSource):
        def item(self, index: int) -> Imagette | Rejected:
            item = super().item(index)
            assert isinstance(item, Imagette)
            item.labels["hs"] = None if index < 3 else 1.0
            item.labels["void"] = None
            return item

    ingest(Gaps(count=9), tmp_path / "a")
    found = oddities(open_archive(tmp_path / "a"))
    # Groups are three in a row, every fourth image is test: each of the three groups holds one.
    assert "3 groups straddle splits (such as group-0, group-1, group-2): scores across them will flatter" in found
    assert "label_hs is unknown for 3 of 9 imagettes" in found
    assert "label_hs has only one value: 1.0" in found
    assert "label_void is empty" in found


def test_an_unfinished_archive_is_said_to_be_so(tmp_path: Path) -> None:
    ingest(FakeSource(count=9), tmp_path / "a", shard_rows=3)
    (tmp_path / "a" / "catalogue" / "000002.parquet").unlink()
    (tmp_path / "a" / "statistics.json").unlink()
    result = stats(tmp_path / "a", "--verify")
    assert result.exit_code == 0
    assert "not finished" in result.output
    assert "1 of 3 shards are missing" in result.output


def test_damage_is_named_by_file_with_exit_code_3(tmp_path: Path) -> None:
    ingest(FakeSource(count=9), tmp_path / "a", shard_rows=3)
    shard, masks = tmp_path / "a" / "shards" / "000001.npy", tmp_path / "a" / "masks" / "000002.npy"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 4
    shard.write_bytes(content)
    masks.unlink()
    assert stats(tmp_path / "a").exit_code == 0  # a quick look reads no pixels
    result = stats(tmp_path / "a", "--verify")
    assert result.exit_code == 3
    assert "damaged files in the archive: 2" in result.stderr
    assert "shards/000001.npy: its content has changed" in result.stderr
    assert "masks/000002.npy: missing" in result.stderr


def test_an_archive_of_nothing_can_be_looked_at(tmp_path: Path) -> None:
    ingest(FakeSource(count=2, bad={0: "nan", 1: "nan"}), tmp_path / "a")
    result = stats(tmp_path / "a")
    assert result.exit_code == 0
    assert "it holds no imagette" in result.output


def test_labels_with_many_texts_are_counted_not_listed(tmp_path: Path) -> None:
    class Named(FakeSource):
        def item(self, index: int) -> Imagette | Rejected:
            item = super().item(index)
            assert isinstance(item, Imagette)
            item.labels["ship"] = f"ship {max(index, 5)}"
            return item

    ingest(Named(count=40), tmp_path / "a")
    label = json.loads(stats(tmp_path / "a", "--json").stdout)["labels"]["label_ship"]
    assert (label["known"], label["different"]) == (40, 35)
    assert next(iter(label["most"].items())) == ("ship 5", 6)
    assert "label_ship: 35 different values, most often ship 5 6, " in stats(tmp_path / "a").output
