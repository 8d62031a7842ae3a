"""Level-2 products among the sources of an ingest: which imagette they label, and which they call ice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ocn_files import contents, write_classic, write_ocn_product
from safe_products import wave_mode
from typer.testing import CliRunner

import crash
import groundswell.cli.verbs  # noqa: F401 - registers the verbs
from groundswell.archive.reader import open_archive
from groundswell.cli.app import application

# The times of a level-2 file differ from those of its level-1 product by what processing cuts off.
NAME = "{mission}-wv{beam}-ocn-vv-20210403t083026-20210403t083029-{orbit:06d}-{datatake:06x}-{number:03d}.nc"


def name(number: int, mission: str = "s1b", orbit: int = 26300, datatake: int = 0x32390) -> str:
    """File name of the level-2 product of an imagette of `wave_mode`, unless told otherwise."""
    return NAME.format(mission=mission, beam=2 - number % 2, orbit=orbit, datatake=datatake, number=number)


def icy(cells: int, **changes: object) -> dict[str, Any]:
    """`contents` with ice in the first ``cells`` of its 12 wind cells."""
    variables = contents(**changes)
    dimensions, mask, fill = variables["owiMask"]
    mask = np.zeros_like(mask)
    mask.flat[:cells] = 2
    return variables | {"owiMask": (dimensions, mask, fill)}


def ingest(*arguments: object, exit_code: int = 0) -> dict[str, Any]:
    words = ["ingest", *map(str, arguments), "--size", "24", "--json", "--workers", "1"]
    result = CliRunner().invoke(application, words)
    assert result.exit_code == exit_code, result.output
    return dict(json.loads(result.stdout)) if result.stdout else {"error": result.stderr}


def catalogue(path: Path) -> pd.DataFrame:
    """By image number."""
    return open_archive(path).catalogue.set_index("image_number").sort_index()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one level-1 product of four imagettes."""
    wave_mode(tmp_path / "in", 4)
    return tmp_path / "in"


def test_labels_go_to_the_imagette_of_the_same_mission_orbit_datatake_and_number(folder: Path, tmp_path: Path) -> None:
    heights = {1: 1.25, 2: 2.5, 4: 5.0}
    files = {name(number): contents(oswTotalHs=height) for number, height in heights.items()}
    # Each differs from imagette 3 in one thing, and calls all of it ice.
    others = [name(3, mission="s1a"), name(3, orbit=26301), name(3, datatake=0x32391), name(5)]
    write_ocn_product(folder, files | {other: icy(12, oswTotalHs=9.0) for other in others})
    data = ingest(folder, "-o", tmp_path / "out")
    assert (data["written"], data["screened"]["counts"]) == (4, {})
    assert data["found"]["level2"] == {"files": 7, "imagettes": 3}
    frame = catalogue(tmp_path / "out")
    assert frame["label_hs_total"].drop(3).to_dict() == heights
    assert frame["label_ocn_id"].drop(3).to_dict() == {number: name(number)[:-3] for number in heights}
    labels = [column for column in frame if column.startswith("label_")]
    assert len(labels) > 30
    assert frame.loc[3, labels].isna().all()
    # and what the user is told of those that label nothing
    (note,) = [note for note in data["notes"] if "level-2" in note]
    assert note.startswith("4 level-2 files are of no imagette among these")
    assert others[0][:-3] in note


def test_no_level2_product_no_labels(folder: Path, tmp_path: Path) -> None:
    data = ingest(folder, "-o", tmp_path / "out")
    assert not [column for column in catalogue(tmp_path / "out") if column.startswith("label_")]
    assert not [note for note in data["notes"] if "level-2" in note]


@pytest.mark.parametrize(
    ("options", "kept"), [((), [1]), (("--ice", 0.25), [1, 2, 3]), (("--ice", 1), [1, 2, 3, 4]), (("--ice", 0), [])]
)
def test_what_a_level2_product_calls_ice_is_screened(
    folder: Path, tmp_path: Path, options: tuple[object, ...], kept: list[int]
) -> None:
    """Ice in 1, 2, 3 and 12 of 12 cells; what has more than the limit goes, what has just as much stays."""
    cells = {1: 1, 2: 2, 3: 3, 4: 12}
    write_ocn_product(folder, {name(number): icy(count) for number, count in cells.items()})
    data = ingest(folder, "-o", tmp_path / "out", *options, exit_code=0 if kept else 3)
    assert catalogue(tmp_path / "out").index.tolist() == kept
    assert data["rejected"] == []
    gone = [number for number in cells if number not in kept]
    assert data["screened"]["counts"] == ({"ice": len(gone)} if gone else {})
    told = {int(item["id"][-3:]): item["reason"] for item in data["screened"]["items"]}
    assert told == {n: f"screened, ice: {round(100 * cells[n] / 12)}% of it, by {name(n)[:-3]}" for n in gone}
    fractions = catalogue(tmp_path / "out").get("label_ice_fraction", pd.Series(dtype=float))
    assert fractions.to_dict() == {number: pytest.approx(cells[number] / 12) for number in kept}


def test_land_and_missing_cells_are_not_ice(folder: Path, tmp_path: Path) -> None:
    """The mask has bits: 1 land, 2 ice, 4 no data."""
    variables = {}
    for number, value in ((1, 1), (2, 4), (3, 3), (4, 6)):
        variables[name(number)] = contents(owiMask=value)
    write_ocn_product(folder, variables)
    assert ingest(folder, "-o", tmp_path / "out")["screened"]["counts"] == {"ice": 2}
    assert catalogue(tmp_path / "out").index.tolist() == [1, 2]


@pytest.mark.parametrize("container", ["zip", "tar", "loose"])
def test_a_packed_level2_product_is_as_good_as_a_folder(folder: Path, tmp_path: Path, container: str) -> None:
    files = {name(1): contents(oswTotalHs=1.25), name(2): icy(9), name(4): contents(oswTotalHs=5.0)}
    for kind in ("folder", container):
        place = tmp_path / kind
        if kind == "loose":
            place.mkdir()
            for file, variables in files.items():
                write_classic(place / file, variables)
        else:
            write_ocn_product(place, files, kind)  # type: ignore[arg-type]
        data = ingest(folder, place, "-o", tmp_path / f"{kind}-archive")
        assert (data["written"], data["screened"]["counts"]) == (3, {"ice": 1})
    assert catalogue(tmp_path / "folder-archive")["label_hs_total"].dropna().to_dict() == {1: 1.25, 4: 5.0}
    assert crash.tree(tmp_path / f"{container}-archive") == crash.tree(tmp_path / "folder-archive")


def test_a_level2_product_named_outright_needs_no_name_of_its_own(folder: Path, tmp_path: Path) -> None:
    packed = write_ocn_product(tmp_path, {name(1): contents(oswTotalHs=1.25)}, "zip")
    data = ingest(folder, packed.rename(tmp_path / "waves.zip"), "-o", tmp_path / "out")
    assert (data["written"], data["found"]["products"]) == (4, 1)
    assert catalogue(tmp_path / "out")["label_hs_total"].dropna().to_dict() == {1: 1.25}


@pytest.mark.parametrize("container", ["folder", "zip"])
def test_a_damaged_level2_file_is_named_and_the_imagette_kept(folder: Path, tmp_path: Path, container: str) -> None:
    good = write_ocn_product(tmp_path, {name(1): contents(oswTotalHs=1.25), name(2): icy(12)})
    victim = good / "measurement" / name(2)
    victim.write_bytes(victim.read_bytes()[:-500])
    if container == "zip":
        shutil.make_archive(str(folder / good.stem), "zip", tmp_path, good.name)
    else:
        good.rename(folder / good.name)
    data = ingest(folder, "-o", tmp_path / "out", exit_code=4)
    assert (data["written"], data["screened"]["counts"]) == (4, {})  # what cannot be read does not say ice
    frame = catalogue(tmp_path / "out")
    assert frame["label_hs_total"].dropna().to_dict() == {1: 1.25}
    assert frame["label_ocn_problem"].notna().to_dict() == {1: False, 2: True, 3: False, 4: False}
    assert data["unlabelled"] == [{"id": frame.loc[2, "id"], "reason": frame.loc[2, "label_ocn_problem"]}]
    assert name(2) in data["unlabelled"][0]["reason"]
    assert data["rejected"] == []


def test_a_packed_level2_product_that_cannot_be_opened_is_noted(folder: Path, tmp_path: Path) -> None:
    packed = write_ocn_product(folder, {name(1): contents()}, "zip")
    packed.write_bytes(packed.read_bytes()[:200])
    data = ingest(folder, "-o", tmp_path / "out", exit_code=4)
    assert data["written"] == 4
    assert any(packed.name in note for note in data["notes"])


def test_the_last_processed_version_labels_and_screens(folder: Path, tmp_path: Path) -> None:
    for text, crc, hs, cells in (("2021-04-05T00:00:00Z", "AAAA", 2.0, 12), ("2021-06-05T00:00:00Z", "0001", 3.0, 0)):
        other = f"S1B_WV_OCN__2SSV_20210403T083025_20210403T083058_026300_032390_{crc}"
        files = {name(1): icy(cells, oswTotalHs=hs), name(2): icy(12 - cells, oswTotalHs=hs)}
        write_ocn_product(folder, files, "zip", name=other, processed=text)
    data = ingest(folder, "-o", tmp_path / "out")
    assert [item["id"][-3:] for item in data["screened"]["items"]] == ["002"]
    assert catalogue(tmp_path / "out").loc[1, "label_hs_total"] == 3.0


def test_level2_products_that_come_later_are_other_settings(folder: Path, tmp_path: Path) -> None:
    ingest(folder, "-o", tmp_path / "out")
    before = crash.tree(tmp_path / "out")
    write_ocn_product(folder, {name(1): contents()})
    error = ingest(folder, "-o", tmp_path / "out", exit_code=2)["error"]
    assert "level2: False in the archive, True now" in error
    assert crash.tree(tmp_path / "out") == before


def test_level2_products_alone_are_no_images(tmp_path: Path) -> None:
    product = write_ocn_product(tmp_path / "in", {name(1): contents()})
    for source in (product, tmp_path / "in"):
        error = ingest(source, "-o", tmp_path / "out", exit_code=3)["error"]
        assert "level-2" in error
        assert "groundswell collocate" in error
    assert not (tmp_path / "out").exists()
