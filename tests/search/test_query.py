"""Search through a table: rows, images and crops find what they must, and the sheet shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from groundswell.archive.ingest import ingest
from groundswell.archive.reader import Archive, open_archive
from groundswell.backbones import BackboneSettings, build_backbone
from groundswell.encoder.directory import save_model
from groundswell.encoder.encoder import Encoder
from groundswell.encoder.images import open_image
from groundswell.encoder.preprocessing import PreprocessingSettings
from groundswell.encoder.table import EmbeddingTable, embed
from groundswell.errors import DataError, TableError, UsageError
from groundswell.physics.imagette import FarRange, Quantity, turn
from groundswell.products.folder.images import FolderSettings, ImageFolder
from groundswell.report.neighbours import require_few
from groundswell.search.query import search_image, search_row, search_table, thumbnails
from groundswell.simulator.source import SimulatedSource, SimulatorSettings

SIZE = 32


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    path = tmp_path_factory.mktemp("search") / "sea"
    ingest(SimulatedSource(SimulatorSettings(count=20, size=SIZE, quantity="quicklook")), path, shard_rows=8)
    return open_archive(path)


def encoder_for(archive: Archive, seed: int = 0, size: int = SIZE) -> Encoder:
    preprocessing = PreprocessingSettings(size=size).resolve(archive.channels, SIZE, SIZE, 50.0)
    settings = BackboneSettings(name="resnet18", width=4, stem="small")
    return Encoder(build_backbone(settings, 1, seed), preprocessing, "small", settings)


@pytest.fixture(scope="module")
def table(archive: Archive) -> Path:
    path = archive.path.parent / "table.parquet"
    embed(encoder_for(archive), [archive], path)
    return path


def picture(archive: Archive, row: int, path: Path, margin: int = 0) -> Path:
    """An imagette as a PNG, with a frame of noise around it."""
    generator = np.random.default_rng(0)
    canvas = generator.integers(0, 256, (SIZE + 2 * margin, SIZE + 2 * margin), dtype=np.uint8)
    canvas[margin : margin + SIZE, margin : margin + SIZE] = archive.read([row])[0, 0].astype(np.uint8)
    Image.fromarray(canvas).save(path)
    return path


def test_a_row_finds_its_neighbours_without_itself(table: Path) -> None:
    read = EmbeddingTable.read(table)
    unit = read.vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit[4]
    cosines[4] = -2
    expected = np.argsort(-cosines)[:5]
    hits = search_row(table, read.frame["id"][4], 5)
    assert list(hits.frame["id"]) == list(read.frame["id"][expected])
    np.testing.assert_allclose(hits.scores, cosines[expected], atol=1e-6)
    assert hits.query is not None
    assert list(hits.query["id"]) == [read.frame["id"][4]]


def test_a_group_can_be_left_out(table: Path, tmp_path: Path) -> None:
    read = EmbeddingTable.read(table)
    frame = read.frame.assign(group=["one"] * 10 + ["two"] * 9 + [None])
    EmbeddingTable(read.vectors, frame, read.header).write(tmp_path / "t.parquet")
    hits = search_row(tmp_path / "t.parquet", frame["id"][4], 20, exclude_group=True)
    assert set(hits.frame["id"]) == set(frame["id"][10:])
    alone = search_row(tmp_path / "t.parquet", frame["id"][19], 20, exclude_group=True)
    assert set(alone.frame["id"]) == set(frame["id"][:19])  # an unknown group is nobody's


def test_an_image_and_a_crop_find_themselves(archive: Archive, table: Path, tmp_path: Path) -> None:
    encoder = encoder_for(archive)
    whole = open_image(picture(archive, 7, tmp_path / "whole.png"), quantity="quicklook")
    larger = picture(archive, 7, tmp_path / "larger.png", margin=9)
    crop = open_image(larger, quantity="quicklook", crop=(9, 9, SIZE, SIZE))
    assert np.array_equal(crop.pixels, whole.pixels)
    for image in (whole, crop):
        hits = search_image(table, encoder, image, 3)
        assert hits.frame["id"][0] == archive.catalogue["id"][7]
        assert hits.scores[0] == pytest.approx(1.0, abs=1e-6)
    elsewhere = open_image(larger, quantity="quicklook", crop=(0, 0, 12, 20))  # smaller than the encoder sees: filled
    assert elsewhere.pixels.shape == (1, 20, 12)
    assert search_image(table, encoder, elsewhere, 3).scores[0] < 1 - 1e-6


@pytest.mark.parametrize("side", ["up", "left", "down"])
def test_a_crop_is_cut_before_the_image_is_turned(archive: Archive, tmp_path: Path, side: FarRange) -> None:
    larger = picture(archive, 7, tmp_path / "larger.png", margin=9)
    crop = open_image(larger, quantity="quicklook", crop=(3, 9, 12, 20))
    turned = open_image(larger, quantity="quicklook", crop=(3, 9, 12, 20), far_range=side)
    assert np.array_equal(turned.pixels, turn(crop.pixels, side))


@pytest.mark.parametrize("crop", [(-1, 0, 5, 5), (0, 0, 33, 5), (30, 30, 3, 2), (0, 0, 0, 5)])
def test_a_crop_outside_is_refused(archive: Archive, tmp_path: Path, crop: tuple[int, int, int, int]) -> None:
    with pytest.raises(UsageError, match="does not lie in the image"):
        open_image(picture(archive, 0, tmp_path / "p.png"), quantity="quicklook", crop=crop)


def test_the_model_must_have_made_the_table(archive: Archive, table: Path, tmp_path: Path) -> None:
    image = open_image(picture(archive, 0, tmp_path / "p.png"), quantity="quicklook")
    with pytest.raises(TableError, match=r"did not make this table[\s\S]*preprocessing"):
        search_image(table, encoder_for(archive, size=24), image, 3)
    with pytest.raises(TableError, match=r"did not make this table[\s\S]*small@"):
        search_image(table, encoder_for(archive, seed=1), image, 3)


def test_an_unknown_row_gets_a_suggestion(table: Path) -> None:
    with pytest.raises(TableError, match=r"did you mean .*'sim-0-000000003'"):
        search_row(table, "sim-0-00000003", 3)


def test_thumbnails_come_from_the_archive_of_the_row(archive: Archive, table: Path, tmp_path: Path) -> None:
    read = EmbeddingTable.read(table)
    chosen = read.frame.iloc[[13, 2]]
    pictures = thumbnails(read.header, table, chosen)
    assert np.array_equal(np.stack(pictures), archive.read([13, 2])[:, 0])
    moved = tmp_path / "t.parquet"
    read.write(moved)
    with pytest.raises(DataError, match="no such archive"):
        thumbnails(read.header, moved, chosen)
    assert np.array_equal(np.stack(thumbnails(read.header, moved, chosen, [archive.path])), np.stack(pictures))
    with pytest.raises(UsageError, match="made from 1 archives, and 2 are given"):
        thumbnails(read.header, moved, chosen, [archive.path, archive.path])


@pytest.fixture(scope="module")
def real(archive: Archive) -> Archive:
    """Five images of another archive with a table of 0/1 tags, one of them without any."""
    folder = archive.path.parent / "pictures"
    folder.mkdir()
    for row in range(5):
        picture(archive, row, folder / f"p{row}.png")
    lines = ["file,WS,RC,NO", "p0.png,1,1,0", "p1.png,0,1,0", "p2.png,0,0,0", "p3.png,1,0,0"]
    (folder / "tags.csv").write_text("\n".join(lines) + "\n")
    path = archive.path.parent / "real"
    settings = FolderSettings(quantity=Quantity.QUICKLOOK, bands=(("VV",),), labels=folder / "tags.csv")
    ingest(ImageFolder([folder], settings), path, size=(SIZE, SIZE), spacing_m=50.0)
    return open_archive(path)


@pytest.fixture(scope="module")
def queries(archive: Archive, real: Archive) -> Path:
    path = archive.path.parent / "queries.parquet"
    embed(encoder_for(archive), [real], path)
    return path


def test_every_row_of_another_table_asks(archive: Archive, table: Path, queries: Path) -> None:
    read, asking = EmbeddingTable.read(table), EmbeddingTable.read(queries)
    a, b = (t.vectors / np.linalg.norm(t.vectors, axis=1, keepdims=True) for t in (asking, read))
    found = search_table(table, queries, 4)
    for row, hits in enumerate(found):
        assert hits.query is not None
        assert list(hits.query["id"]) == [asking.frame["id"][row]]
        assert hits.frame["id"][0] == archive.catalogue["id"][row]  # the same pixels, under another name
        np.testing.assert_allclose(hits.scores, np.sort(a[row] @ b.T)[::-1][:4], atol=1e-6)  # float32 products


def test_a_table_that_asks_itself_leaves_out_each_row_and_its_group(table: Path, tmp_path: Path) -> None:
    read = EmbeddingTable.read(table)
    for row, hits in enumerate(search_table(table, table, 3)):
        alone = search_row(table, read.frame["id"][row], 3)
        assert list(hits.frame["id"]) == list(alone.frame["id"])
        assert np.array_equal(hits.scores, alone.scores)
    frame = read.frame.assign(group=["one"] * 10 + ["two"] * 9 + [None])
    EmbeddingTable(read.vectors, frame, read.header).write(tmp_path / "t.parquet")
    found = search_table(tmp_path / "t.parquet", tmp_path / "t.parquet", 20, exclude_group=True)
    assert set(found[0].frame["id"]) == set(frame["id"][10:])
    assert set(found[12].frame["id"]) == {*frame["id"][:10], frame["id"][19]}
    assert set(found[19].frame["id"]) == set(frame["id"][:19])  # an unknown group is nobody's, not even its own twin's


def test_tables_of_other_encoders_cannot_ask(archive: Archive, real: Archive, table: Path, tmp_path: Path) -> None:
    for other in (encoder_for(archive, seed=1), encoder_for(archive, size=24)):
        embed(other, [real], tmp_path / "other.parquet")
        with pytest.raises(TableError, match="made by different encoders"):
            search_table(table, tmp_path / "other.parquet", 3)
    empty = EmbeddingTable.read(table).where("id == 'nobody'")
    empty.write(tmp_path / "empty.parquet")
    with pytest.raises(TableError, match="no rows"):
        search_table(table, tmp_path / "empty.parquet", 3)


def test_the_verb_with_a_table_of_queries(archive: Archive, table: Path, queries: Path, tmp_path: Path) -> None:
    from groundswell.cli import verbs  # noqa: F401 - registers them
    from groundswell.cli.app import application

    def run(*words: object) -> object:
        return CliRunner().invoke(application, ["search", str(table), *map(str, words)])

    sheet = tmp_path / "sheet.png"
    result = run("--queries", queries, "-k", 3, "-o", sheet, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    truth = archive.catalogue.set_index("id")["label_phenomenon"]
    assert said["class_column"] == "label_phenomenon"
    assert said["classes"] == truth.value_counts().to_dict()
    tags = [entry["query"].get("tags") for entry in said["results"]]
    assert tags == [["RC", "WS"], ["RC"], [], ["WS"], None]  # columns are sorted; p4 is not in the label table
    for hits, entry in zip(search_table(table, queries, 3), said["results"], strict=True):
        assert [h["id"] for h in entry["hits"]] == list(hits.frame["id"])
        assert [h["label_phenomenon"] for h in entry["hits"]] == list(truth[hits.frame["id"]])
        np.testing.assert_allclose([h["score"] for h in entry["hits"]], hits.scores, rtol=1e-6)
        assert entry["hits"][0]["rank"] == 1
        assert entry["hits"][0]["label_hs"] == pytest.approx(
            archive.catalogue.set_index("id")["label_hs"][entry["hits"][0]["id"]]
        )

    page = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    height = 180 + 2 * 15 + 12
    assert page.shape[:2] == (27 + 5 * height, 4 * 186 + 6)  # one row a query: itself and three neighbours
    red = (page[..., 0] > 200) & (page[..., 1] < 60)
    assert set(np.flatnonzero(red.any(axis=0))) <= set(range(4, 4 + 187))  # the first column is framed
    assert [bool(red[27 + i * height : 27 + i * height + 180].any()) for i in range(5)] == [True] * 5
    for row in range(5):  # a query and its nearest are the same pixels
        top = 27 + row * height
        assert np.array_equal(page[top + 5 : top + 175, 11:181], page[top + 5 : top + 175, 197:367])

    text = run("--queries", queries, "-k", 2).stdout.splitlines()
    assert text[0] == "p0.png   RC, WS"
    nearest = said["results"][0]["hits"][0]
    assert text[1].startswith(f"    {nearest['score']:.3f} {nearest['label_phenomenon']}")
    assert text[4] == "p2.png   no tag"

    for words, code, message in (
        (("--queries", queries, "--query", "sim-0-000000001"), 2, "only one"),
        ((), 2, "one kind of query"),
        (("--queries", queries, "--crop", "1,2,3,4"), 2, "--crop is for an image file"),
        (("--queries", queries, "-o", sheet, "--archive", archive.path), 2, "1 and 1 archives, and 1 are given"),
        (("--queries", tmp_path / "none.parquet"), 3, "no embedding table"),
    ):
        result = run(*words)
        assert result.exit_code == code, result.output
        assert message in result.output


def test_archives_that_have_moved_are_given_for_both_tables(
    archive: Archive, real: Archive, table: Path, queries: Path, tmp_path: Path
) -> None:
    from groundswell.cli import verbs  # noqa: F401 - registers them
    from groundswell.cli.app import application

    for path in (table, queries):
        EmbeddingTable.read(path).write(tmp_path / path.name)
    words = ["search", tmp_path / table.name, "--queries", tmp_path / queries.name, "-o", tmp_path / "s.png"]
    moved = CliRunner().invoke(application, [*map(str, words)])
    assert (moved.exit_code, "no such archive" in moved.output) == (3, True)
    assert str(tmp_path) in moved.output
    assert "if it has moved, add --archive PATH" in " ".join(moved.output.split())
    words += ["--archive", archive.path, "--archive", real.path]
    assert CliRunner().invoke(application, [*map(str, words)]).exit_code == 0


def test_an_image_of_sigma0_is_found_by_its_roughness_once_its_incidence_is_told(tmp_path: Path) -> None:
    """The image lies in a wider one, whose columns have their own incidence; the archive keeps steps of 0.002 dB."""
    from groundswell.cli import verbs  # noqa: F401 - registers them
    from groundswell.cli.app import application

    ingest(SimulatedSource(SimulatorSettings(count=8, size=SIZE)), tmp_path / "sea")
    sea = open_archive(tmp_path / "sea")
    assert sea.channels[0].quantity is Quantity.SIGMA0_DB
    wanted = PreprocessingSettings(size=SIZE, quantity=Quantity.ROUGHNESS_DB).resolve(sea.channels, SIZE, SIZE, 50.0)
    settings = BackboneSettings(name="resnet18", width=4, stem="small")
    encoder = Encoder(build_backbone(settings, 1, 0), wanted, "rough", settings)
    table, model = tmp_path / "table.parquet", save_model(encoder, tmp_path / "model")
    embed(encoder, [sea], table)

    row = sea.catalogue.iloc[5]
    near, far = row["incidence_near_deg"], row["incidence_far_deg"]
    margin, step = 4, (far - near) / (SIZE - 1)
    canvas = np.full((SIZE + 2 * margin, SIZE + 2 * margin), 0.01, np.float32)
    canvas[margin:-margin, margin:-margin] = 10 ** (sea.read([5])[0, 0] / 10)
    np.save(tmp_path / "query.npy", canvas)
    words = ["search", table, "--query", tmp_path / "query.npy", "--model", model, "--quantity", "sigma0", "--json"]
    words += ["--crop", f"{margin},{margin},{SIZE},{SIZE}"]

    def best(*incidence: object) -> dict[str, Any]:
        result = CliRunner().invoke(application, [*map(str, words), *map(str, incidence)])
        assert result.exit_code == 0, result.output
        return dict(json.loads(result.stdout)["hits"][0])

    found = best("--incidence", f"{near - margin * step},{far + margin * step}")
    assert found["id"] == row["id"]
    assert found["score"] > 1 - 1e-6  # float32
    one_for_all = best("--incidence", (near + far) / 2)["score"]
    assert 1 - one_for_all > 10 * (1 - found["score"])
    unknown = CliRunner().invoke(application, [*map(str, words)])
    assert unknown.exit_code == 3
    assert "--incidence of `groundswell search`" in " ".join(unknown.output.split())


def test_one_query_shows_its_tags(queries: Path) -> None:
    from groundswell.cli import verbs  # noqa: F401 - registers them
    from groundswell.cli.app import application

    result = CliRunner().invoke(application, ["search", str(queries), "--query", "p3.png", "-k", "4", "--json"])
    shown = {hit["id"]: hit.get("tags") for hit in json.loads(result.stdout)["hits"]}
    assert shown == {"p0.png": ["RC", "WS"], "p1.png": ["RC"], "p2.png": [], "p4.png": None}


def test_a_sheet_of_very_many_queries_is_refused() -> None:
    require_few(200)
    with pytest.raises(UsageError, match="one row a query"):
        require_few(201)


def test_the_verb(archive: Archive, table: Path, tmp_path: Path) -> None:
    from groundswell.cli import verbs  # noqa: F401 - registers them
    from groundswell.cli.app import application

    def run(*words: object) -> object:
        return CliRunner().invoke(application, ["search", str(table), *map(str, words)])

    model = save_model(encoder_for(archive), tmp_path / "model")
    sheet = tmp_path / "sheet.png"
    result = run("--query", archive.catalogue["id"][4], "-k", 5, "-o", sheet, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    hits = search_row(table, archive.catalogue["id"][4], 5)
    assert [h["id"] for h in said["hits"]] == list(hits.frame["id"])
    np.testing.assert_allclose([h["score"] for h in said["hits"]], hits.scores, rtol=1e-6)
    assert Image.open(sheet).size == (6 * 186 + 6, 27 + 180 + 2 * 15 + 12)  # six tiles of 180 px in one row

    image = picture(archive, 7, tmp_path / "p.png", margin=4)
    found = run("--query", image, "--model", model, "--crop", f"4,4,{SIZE},{SIZE}", "--quantity", "quicklook", "--json")
    assert json.loads(found.stdout)["hits"][0]["id"] == archive.catalogue["id"][7]
    assert archive.catalogue["id"][7] in run("--query", archive.catalogue["id"][6], "-k", 19).stdout

    for words, code, message in (
        (("--query", image), 2, "--model"),
        (("--query", image, "--model", model), 3, "does not say what its pixels are"),
        (("--query", image, "--model", model, "--crop", "1,2,3"), 2, "x,y,width,height"),
        (("--query", image, "--model", model, "--incidence", "1,2,3"), 2, "is no incidence"),
        (("--query", image, "--model", model, "--incidence", "nan", "--quantity", "quicklook"), 2, "0 and 90 degrees"),
        (("--query", image, "--model", model, "--incidence", "23,95", "--quantity", "quicklook"), 2, "23 and 95 are"),
        (("--query", "sim-0-000000001", "--incidence", "23"), 2, "there is no file"),
        (("--query", image, "--model", model, "--quantity", "sigma"), 2, "no quantity is called 'sigma'"),
        (("--query", "sim-0-000000001", "--crop", "1,2,3,4"), 2, "there is no file"),
        (("--query", "sim-0-000000001", "-o", tmp_path / "sheet.pdf"), 2, ".png"),
        (("--query", "nobody"), 3, "no imagette 'nobody'"),
    ):
        result = run(*words)
        assert result.exit_code == code, result.output
        assert message in result.output
