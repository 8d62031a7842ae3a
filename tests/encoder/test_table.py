"""Embedding tables: GeoParquet others can read, the same bytes after a kill, joins that cannot mix rows."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from small_encoder import small_encoder
from typer.testing import CliRunner

from groundswell.archive.ingest import ingest
from groundswell.archive.reader import Archive, open_archive
from groundswell.encoder import geoparquet
from groundswell.encoder.encoder import Encoder
from groundswell.encoder.table import EmbeddingTable, Header, concat, embed, join
from groundswell.errors import QuantityError, TableError, UsageError
from groundswell.simulator.source import SimulatedSource, SimulatorSettings


def test_a_table_holds_vectors_catalogue_and_header(archive: Archive, encoder: Encoder, tmp_path: Path) -> None:
    header = embed(encoder, [archive], tmp_path / "t.parquet", batch_size=5)
    table = EmbeddingTable.read(tmp_path / "t.parquet")
    np.testing.assert_allclose(table.vectors, encoder.encode(archive), atol=1e-5)
    assert table.header == header
    assert (header.model, header.preprocessing_hash, header.dimension) == (encoder.id, encoder.preprocessing.hash, 32)
    assert header.data[0].hash == archive.hash
    assert (tmp_path / header.archives[0]).resolve() == archive.path.resolve()
    for column in archive.catalogue.columns.drop("footprint"):
        pd.testing.assert_series_equal(
            table.frame[column], archive.catalogue[column], check_dtype=False, check_names=False
        )
    file = pq.ParquetFile(tmp_path / "t.parquet")
    assert file.schema_arrow.field("embedding").type == pa.list_(pa.float32(), 32)
    stated = json.loads(file.schema_arrow.metadata[b"groundswell"])
    assert stated["data"][0]["simulated"] == stated["data"][0]["imagettes"] == 23
    assert not (tmp_path / "t.parquet.parts").exists()


def test_geopandas_reads_it(tmp_path: Path) -> None:
    geopandas = pytest.importorskip("geopandas")
    polygon = shapely.box(10.0, -40.0, 10.2, -39.8)
    columns = pa.table(
        {
            "id": ["a", "b", "c", "d"],
            "lon": [10.1, -170.5, None, 4.0],
            "lat": [-39.9, 60.0, None, None],
            "footprint": pa.array([shapely.to_wkb(polygon), None, None, None], pa.binary()),
            "label_hs": [1.5, 2.0, None, 3.0],
        }
    )
    header = Header("m", "p" * 64, 2, "float32", (), ())
    geoparquet.write(tmp_path / "t.parquet", header, columns, [np.arange(8, dtype=np.float32).reshape(4, 2)])
    frame = geopandas.read_parquet(tmp_path / "t.parquet")
    assert frame.crs == "OGC:CRS84"
    assert frame.geometry[0].equals(polygon)
    assert frame.geometry[1].equals(shapely.Point(-170.5, 60.0))
    assert frame.geometry[2] is None
    assert frame.geometry[3] is None
    assert list(frame["embedding"][3]) == [6.0, 7.0]
    geo = json.loads(pq.ParquetFile(tmp_path / "t.parquet").schema_arrow.metadata[b"geo"])
    assert geo == {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "geometry_types": []}},
    }


def test_float16_halves_the_embeddings(archive: Archive, encoder: Encoder, tmp_path: Path) -> None:
    embed(encoder, [archive], tmp_path / "t.parquet", dtype="float16")
    table = EmbeddingTable.read(tmp_path / "t.parquet")
    assert pq.ParquetFile(tmp_path / "t.parquet").schema_arrow.field("embedding").type == pa.list_(pa.float16(), 32)
    assert table.vectors.dtype == np.float32
    np.testing.assert_allclose(table.vectors, encoder.encode(archive), rtol=2**-11, atol=1e-6)  # 11 bits of mantissa


def test_a_kill_costs_at_most_the_shard_in_hand(archive: Archive, encoder: Encoder, tmp_path: Path) -> None:
    """SIGKILL around each rename of the job in turn; run again, the table has the bytes of an undisturbed run."""
    embed(encoder, [archive], tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    for point in range(2 * 4):  # three shards and the table, before and after their renames
        output = tmp_path / f"{point}.parquet"
        pid = os.fork()
        if pid == 0:
            die_at_rename(point // 2, after=bool(point % 2))
            embed(encoder, [archive], output)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status)
        assert output.exists() == (point == 7)
        parts = len(list(tmp_path.glob(f"{point}.parquet.parts/*/*.npy")))
        assert parts == min(point // 2 + point % 2, 3)
        counted = Counted(encoder)
        embed(counted, [archive], output)
        assert output.read_bytes() == whole
        # One imagette to learn the width, then the shards that were not whole (9, 9 and 5 imagettes), no more.
        assert counted.images == 1 + sum((9, 9, 5)[parts:]) * (point != 7)


class Counted:
    """An encoder that counts what it is asked to embed."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.images = encoder, 0
        self.id, self.preprocessing_hash = encoder.id, encoder.preprocessing_hash

    def embed_batch(self, pixels: np.ndarray, *rest: object) -> np.ndarray:
        self.images += len(pixels)
        return self.encoder.embed_batch(pixels, *rest)


def die_at_rename(number: int, after: bool) -> None:
    """In a child: kill this process just before or after the ``number``-th `os.replace`."""
    count, real = 0, os.replace

    def hooked(*args: object, **kwargs: object) -> None:
        nonlocal count
        if count == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*args, **kwargs)
        if count == number and after:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    os.replace = hooked


def test_parts_of_another_encoder_are_not_taken(archive: Archive, tmp_path: Path) -> None:
    output = tmp_path / "t.parquet"
    pid = os.fork()
    if pid == 0:
        die_at_rename(1, after=True)
        embed(small_encoder(archive, 0), [archive], output)
        os._exit(0)
    os.waitpid(pid, 0)
    other = small_encoder(archive, 1)
    embed(other, [archive], output)
    np.testing.assert_allclose(EmbeddingTable.read(output).vectors, other.encode(archive), atol=1e-5)


def test_an_equal_table_is_kept_another_replaced_a_stranger_refused(archive: Archive, tmp_path: Path) -> None:
    output = tmp_path / "t.parquet"
    embed(small_encoder(archive, 0), [archive], output)
    before = output.stat().st_mtime_ns
    counted = Counted(small_encoder(archive, 0))
    embed(counted, [archive], output)
    assert (output.stat().st_mtime_ns, counted.images) == (before, 1)
    embed(small_encoder(archive, 1), [archive], output)
    assert EmbeddingTable.read_header(output).model == small_encoder(archive, 1).id
    output.write_text("my notes")
    with pytest.raises(TableError, match="could not be read"):
        embed(small_encoder(archive, 1), [archive], output)
    assert output.read_text() == "my notes"


def test_selection_and_several_archives(archive: Archive, encoder: Encoder, tmp_path: Path) -> None:
    ingest(SimulatedSource(SimulatorSettings(count=8, size=32, seed=5)), tmp_path / "other", shard_rows=5)
    other = open_archive(tmp_path / "other")
    embed(encoder, [archive, other], tmp_path / "t.parquet", where="split == 'train'")
    table = EmbeddingTable.read(tmp_path / "t.parquet")
    views = [a.where("split == 'train'") for a in (archive, other)]
    assert list(table.frame["id"]) == [i for v in views for i in v.catalogue["id"]]
    assert list(table.frame["archive"]) == [0] * len(views[0]) + [1] * len(views[1])
    np.testing.assert_allclose(table.vectors, np.concatenate([encoder.encode(v) for v in views]), atol=1e-5)
    assert [d.imagettes for d in table.header.data] == [len(v) for v in views]
    windy = table.where("label_wind_speed > 8")
    assert (windy.frame["label_wind_speed"] > 8).all()
    assert 0 < len(windy) < len(table)
    assert windy.header.where == "(split == 'train') and (label_wind_speed > 8)"
    with pytest.raises(UsageError, match="does not make sense"):
        table.where("label_wind_sped > 8")
    with pytest.raises(UsageError, match="comes twice"):
        embed(encoder, [archive, archive], tmp_path / "twice.parquet")


def test_a_misfit_fails_before_the_first_shard(archive: Archive, encoder: Encoder, tmp_path: Path) -> None:
    settings = SimulatorSettings(count=4, size=32, seed=9, quantity="quicklook")
    ingest(SimulatedSource(settings), tmp_path / "quick")
    counted = Counted(encoder)
    with pytest.raises(QuantityError, match="quicklook cannot become roughness_db"):
        embed(counted, [archive, open_archive(tmp_path / "quick")], tmp_path / "t.parquet")
    assert counted.images == 2
    assert not (tmp_path / "t.parquet").exists()


def table_of(ids: list[str], vectors: np.ndarray, model: str = "m") -> EmbeddingTable:
    header = Header(model, model[0] * 64, vectors.shape[1], "float32", ("a",), ())
    return EmbeddingTable(vectors.astype(np.float32), pd.DataFrame({"id": ids, "archive": 0}), header)


@given(st.permutations(list("abcdef")))
def test_join_matches_rows_by_id(order: list[str]) -> None:
    first = table_of(list("abcdef"), np.arange(6)[:, None])
    second = table_of(order, np.array([[ord(i), -ord(i)] for i in order]), "n")
    both = join([first, second])
    assert both.vectors.tolist() == [[i, ord(c), -ord(c)] for i, c in enumerate("abcdef")]
    assert (both.header.model, both.header.dimension) == ("m + n", 3)
    assert both.header.preprocessing_hash not in {first.header.preprocessing_hash, second.header.preprocessing_hash}


@pytest.mark.parametrize("ids", [["a", "b"], ["a", "b", "d"], ["a", "b", "b"], ["a", "b", "c", "d"]])
def test_join_refuses_other_ids(ids: list[str]) -> None:
    with pytest.raises(TableError, match="joined on equal ids"):
        join([table_of(list("abc"), np.ones((3, 1))), table_of(ids, np.ones((len(ids), 1)))])


def test_concat_is_for_one_encoder(tmp_path: Path) -> None:
    first, second = table_of(["a"], np.ones((1, 2))), table_of(["b", "c"], np.zeros((2, 2)))
    both = concat([first, second])
    assert list(both.frame["id"]) == ["a", "b", "c"]
    assert list(both.frame["archive"]) == [0, 1, 1]
    both.write(tmp_path / "t.parquet")
    again = EmbeddingTable.read(tmp_path / "t.parquet")
    assert np.array_equal(again.vectors, both.vectors)
    assert again.header == both.header
    other = replace(second, header=replace(second.header, preprocessing_hash="q" * 64))
    with pytest.raises(TableError, match="different encoders"):
        concat([first, other])


@settings(deadline=None)
@given(st.lists(st.integers(0, 7), max_size=6), st.integers(1, 9), st.integers(1, 6))
def test_blocks_do_not_show_in_the_file(sizes: list[int], group: int, read: int) -> None:
    import tempfile

    total = sum(sizes)
    vectors = np.random.default_rng(0).normal(size=(total, 3)).astype(np.float32)
    blocks = np.split(vectors, np.cumsum(sizes)) if sizes else []
    columns = pa.table({"id": [str(i) for i in range(total)]})
    header = Header("m", "p" * 64, 3, "float32", (), ())
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(geoparquet, "ROW_GROUP_BYTES", 12 * group)
        paths = [Path(folder) / name for name in ("cut.parquet", "whole.parquet")]
        geoparquet.write(paths[0], header, columns, blocks)
        geoparquet.write(paths[1], header, columns, [vectors])
        assert paths[0].read_bytes() == paths[1].read_bytes()
        assert np.array_equal(EmbeddingTable.read(paths[0]).vectors, vectors)
        streamed = list(geoparquet.vector_blocks(paths[0], read))
        assert all(len(b) <= read for b in streamed)
        assert np.array_equal(np.concatenate([np.empty((0, 3), np.float32), *streamed]), vectors)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: p.unlink(), "no embedding table here"),
    "truncated": (lambda p: os.truncate(p, p.stat().st_size // 2), "could not be read"),
    "empty": (lambda p: os.truncate(p, 0), "could not be read"),
    "plain parquet": (lambda p: pq.write_table(pa.table({"id": ["a"]}), p), "no embedding table of groundswell"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "t.parquet"
    table_of(["a", "b"], np.ones((2, 2))).write(path)
    assert len(EmbeddingTable.read(path)) == 2
    harm, message = DAMAGES[damage]
    harm(path)
    with pytest.raises(TableError, match=message) as caught:
        EmbeddingTable.read(path)
    assert caught.value.fix


def test_unknown_columns_versions_and_infinities_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table_of(["a"], np.ones((1, 2))).write(path)
    with pytest.raises(TableError, match=r"no column 'archiv'[\s\S]*did you mean 'archive'"):
        EmbeddingTable.read(path, columns=["id", "archiv"])
    assert list(EmbeddingTable.read(path, columns=["id"]).frame) == ["id"]
    table_of(["a", "b"], np.array([[1.0, 2.0], [np.inf, 0.0]])).write(path)
    with pytest.raises(TableError, match=r"not finite[\s\S]*1 of 2 rows"):
        EmbeddingTable.read(path)
    table = pq.read_table(path)
    header = json.loads(table.schema.metadata[b"groundswell"]) | {"format": 9}
    pq.write_table(table.replace_schema_metadata({b"groundswell": json.dumps(header)}), path)
    with pytest.raises(TableError, match="unknown version 9"):
        EmbeddingTable.read_header(path)


def test_the_verb_embeds_models_and_controls(archive: Archive, model: Path, tmp_path: Path) -> None:
    from groundswell.cli import verbs  # noqa: F401 - registers them
    from groundswell.cli.app import application

    def run(*words: object) -> object:
        return CliRunner().invoke(application, ["embed", *map(str, words)])

    expected = {str(model): (32, "small@"), f"random:{model}:2": (32, "random:small:2@"), "statistics": (53, "stat")}
    for name, (dimension, start) in expected.items():
        result = run(name, archive.path, "-o", tmp_path / "t.parquet", "--json")
        assert result.exit_code == 0, result.output
        said = json.loads(result.stdout)
        header = EmbeddingTable.read_header(tmp_path / "t.parquet")
        assert (said["rows"], said["dimension"], header.dimension) == (23, dimension, dimension)
        assert said["model"] == header.model
        assert header.model.startswith(start)
    assert run(tmp_path / "nothing", archive.path, "-o", tmp_path / "u.parquet").exit_code == 3
    assert run("statistics", archive.path, "-o", tmp_path / "u.parquet", "--where", "lat >").exit_code == 2
    assert run(f"random:{model}:x", archive.path, "-o", tmp_path / "u.parquet").exit_code == 2
    assert not (tmp_path / "u.parquet").exists()
