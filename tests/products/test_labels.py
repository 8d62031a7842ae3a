"""Label tables: types, keys, hostile files, and that every row and image is accounted for."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundswell.errors import DataError, UsageError
from groundswell.products.folder.boxes import read_boxes
from groundswell.products.folder.labels import Columns, join, label_name
from groundswell.products.folder.matching import Matcher
from groundswell.products.folder.tables import read_table

FILES = [(f"{split}/{i:03d}.png", f"/data/set/{split}/{i:03d}.png") for split in ("test", "train") for i in range(3)]


def written(tmp_path: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_types_of_columns(tmp_path: Path) -> None:
    table = read_table(
        written(
            tmp_path,
            "file,n,x,code,flag,class,gap\na.png,1,1.5,007,true,ship,\nb.png,-2,1e-3,012,False,,nan\nc.png,,inf,1,TRUE,oil,NA\n",
        )
    )
    assert table.values("n") == [1, -2, None]
    assert table.values("x") == [1.5, 0.001, None]  # no finite number is no label
    assert table.values("code") == ["007", "012", "1"]  # leading zeros are names
    assert table.values("flag") == [True, False, True]
    assert table.values("class") == ["ship", None, "oil"]
    assert table.values("gap") == [None, None, None]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_dialects(tmp_path: Path, encoding: str, delimiter: str, end: str) -> None:
    text = end.join(delimiter.join(row) for row in (["file", "größe"], ["a.png", "1"], [], ["b.png", "2"])) + end
    table = read_table(written(tmp_path, text.encode(encoding)))
    assert list(table.columns) == ["file", "größe"]
    assert table.values("größe") == [1, 2]
    assert table.lines == [2, 4]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"file,a\n", "no rows"),
        (b"file,a\nx.png,1,2\n", "line 2"),
        (b"file,a\nx.png,1\ny.png\n", "line 3"),
        (b"file,a,a\nx.png,1,2\n", "two columns"),
        (b"file,a\nx.png,\xff\n", "not UTF-8"),
        (b'file,a\nx.png,"open\n', "damaged"),
        (b"file\x00,a\nx.png,1\n", "zero bytes"),
        (b"PAR1 not really", "no readable Parquet"),
    ],
)
def test_damaged_tables_name_the_line(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        read_table(written(tmp_path, content))
    assert "labels.csv" in str(caught.value.where)


cells = st.one_of(
    st.text(alphabet=st.characters(blacklist_categories=("Cs",), blacklist_characters="\x00"), max_size=12),
    st.integers(-(10**20), 10**20).map(str),
    st.floats().map(str),
    st.sampled_from(["", "NaN", "inf", "-inf", "1e999", "0x10", "1_000", "٣", '"', "a,b", "a\nb", "None", "true"]),
)


@given(
    rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=8),
    names=st.lists(cells.filter(lambda t: t.strip() != ""), min_size=2, max_size=2, unique_by=str.strip),
    bom=st.booleans(),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_cells_are_kept_or_refused_by_name(
    tmp_path: Path, rows: list[tuple[str, str]], names: list[str], bom: bool
) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerow(["file", *names])
    writer.writerows([f"{i:03d}.png", *row] for i, row in enumerate(rows))
    path = written(tmp_path, ("\ufeff" if bom else "").encode() + buffer.getvalue().encode())
    try:
        table = read_table(path)
    except DataError:  # such as a column that is called like another, or a delimiter that the header hides
        return
    if "file" not in table.columns or len(table.columns) != 3:
        return  # another delimiter was more frequent in the header
    assert len(table) == len(rows)
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        values = table.values(name.strip())
        assert len(values) == len(rows)
        for value, cell in zip(values, column, strict=True):
            assert not isinstance(value, float) or math.isfinite(value)
            if isinstance(value, bool):
                assert cell.strip().lower() == str(value).lower()
            elif isinstance(value, int | float):
                assert float(cell) == pytest.approx(value, nan_ok=False)
            elif value is not None:
                assert value == cell.strip()
        assert len({type(v) for v in values if v is not None}) <= 1  # one column, one type


def test_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "file": ["000.png", "001.png"],
            "time": pd.to_datetime(["2019-01-27T03:48:10", "2019-01-28T00:00:00"], utc=True),
            "hs": np.array([1.5, np.nan], np.float32),
            "n": pd.array([1, None], dtype="Int64"),
            "class": pd.Categorical(["a", "b"]),
            "vector": [[1, 2], [3]],
        }
    )
    frame.to_parquet(tmp_path / "labels.parquet")
    table = read_table(tmp_path / "labels.parquet")
    assert table.values("hs") == [1.5, None]
    assert table.values("n") == [1, None]
    assert table.values("class") == ["a", "b"]
    assert "vector" not in table.columns
    assert "vector" in table.notes[0]
    joined = join(table, Columns(), FILES[:3], {})
    assert joined.key == "file"
    assert joined.rows["test/000.png"].metadata["time"].isoformat() == "2019-01-27T03:48:10+00:00"


@pytest.mark.parametrize(
    ("key", "rule", "id_"),
    [
        ("train/001.png", "path", "train/001.png"),
        ("set/test/001.png", "path", "test/001.png"),
        ("/another/machine/train/001.png", "name", "train/001.png"),
        (r"train\001.png", "path", "train/001.png"),
        ("./test/002.png", "path", "test/002.png"),
        ("test/002", "stem", "test/002.png"),
        ("train/002.jpeg", "stem", "train/002.png"),
        ("001.png", "name", None),  # in both folders
        ("valid/001.png", "name", None),
        ("001", "stem", None),
        ("009.png", "name", None),
        ("", "name", None),
        ("/", "name", None),
    ],
)
def test_matching(key: str, rule: str, id_: str | None) -> None:
    found = Matcher(FILES).find(key)
    assert (found.rule, found.id) == (rule, id_)


def test_dots_belong_to_a_stem() -> None:
    assert Matcher([("HB15269.000.jpeg", "/a/HB15269.000.jpeg")]).find("HB15269.000").id == "HB15269.000.jpeg"
    assert Matcher([("HB15269.000.jpeg", "/a/HB15269.000.jpeg")]).find("HB15269").id is None


@given(
    st.lists(st.text("ab/.", min_size=1, max_size=8), min_size=1, max_size=8, unique=True), st.text("ab/.", max_size=8)
)
@settings(max_examples=200, deadline=None)
def test_a_match_always_ends_as_its_key(paths: list[str], key: str) -> None:
    files = [(path, "/root/" + path) for path in paths if path.split("/")[-1]]
    found = Matcher(files).find(key)
    if found.id is not None:
        assert found.id.split("/")[-1] == key.replace("\\", "/").rstrip("/.").split("/")[-1] or found.rule != "path"
        assert found.candidates == 1


def test_every_row_and_image_is_accounted_for(tmp_path: Path) -> None:
    text = (
        "id,file,label,split,lat\n1,train/000.png,a,fit,1\n2,train/001.png,b,fit,2\n"
        "3,train/01.png,b,fit,\n4,001.png,b,fit,\n5,,b,fit,\n"
    )
    joined = join(read_table(written(tmp_path, text)), Columns(), FILES, {})
    assert joined.key == "file"
    assert sorted(joined.rows) == ["train/000.png", "train/001.png"]
    assert joined.rows["train/000.png"].labels == {"id": 1, "label": "a"}
    assert joined.rows["train/000.png"].metadata == {"split": "fit", "lat": 1.0}
    near, ambiguous, empty = joined.unmatched_rows
    assert "line 4" in near
    assert "like 001.png" in near
    assert "line 5" in ambiguous
    assert "2 files" in ambiguous
    assert "line 6" in empty


def test_columns_that_only_look_like_metadata_stay_labels(tmp_path: Path) -> None:
    text = "file,mode,lon,look\ntrain/000.png,L,300,left\ntrain/001.png,L,12,RIGHT\n"
    joined = join(read_table(written(tmp_path, text)), Columns(), FILES, {})
    assert joined.rows["train/001.png"].metadata == {"lon": 12.0, "look": "right"}
    assert joined.rows["train/001.png"].labels == {"mode": "L"}
    assert "line 2" in joined.notes[0]


def test_chosen_columns(tmp_path: Path) -> None:
    text = "file,split,group,theta,class,hs\ntrain/000.png,a,b,23.5,ship,2\ntrain/001.png,a,c,,oil,3\n"
    table = read_table(written(tmp_path, text))
    columns = Columns(key="file", labels=("class",), split="class", group="split", incidence="theta")
    row = join(table, columns, FILES, {}).rows["train/000.png"]
    assert row.metadata == {"split": "ship", "group": "a", "incidence_deg": 23.5}
    assert row.labels == {"class": "ship"}
    with pytest.raises(UsageError, match="did you mean 'class'"):
        join(table, Columns(labels=("clas",)), FILES, {})
    with pytest.raises(DataError, match="is no incidence_deg"):
        join(table, Columns(incidence="class"), FILES, {})


def test_contradictions_and_repetitions(tmp_path: Path) -> None:
    same = "file,a\ntrain/000.png,1\n/x/train/000.png,1\n"
    joined = join(read_table(written(tmp_path, same)), Columns(key="file"), FILES, {})
    assert len(joined.rows) == 1
    assert "1 rows repeat" in joined.notes[0]
    with pytest.raises(DataError, match="lines 2 and 3"):
        join(read_table(written(tmp_path, same.replace("png,1\n/", "png,2\n/"))), Columns(key="file"), FILES, {})


def test_no_match_at_all_shows_both_sides(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column") as caught:
        join(read_table(written(tmp_path, "picture,a\nxyz.tif,1\n")), Columns(), FILES, {})
    assert "xyz.tif" in str(caught.value.why)
    assert "000.png" in str(caught.value.why)
    assert "--labels-key" in str(caught.value.fix)


def test_label_names() -> None:
    assert label_name("label_hs") == "hs"
    assert label_name("label") == "label"
    assert label_name(" Wind speed (m/s) ") == "Wind_speed_m_s"


COCO = {
    "images": [
        {"id": 7, "file_name": "set/train/000.png", "width": 20, "height": 10},
        {"id": 8, "file_name": "none.png"},
    ],
    "categories": [{"id": 1, "name": "ship"}],
    "annotations": [
        {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4.5]},
        {"image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        {"image_id": 8, "category_id": 1, "bbox": [1, 1, 1, 1]},
    ],
}


def test_coco(tmp_path: Path) -> None:
    import copy
    import json

    path = written(tmp_path, json.dumps(COCO), "coco.json")
    boxes = read_boxes(path, FILES)
    (box,) = boxes.rows["train/000.png"]
    assert (box.class_name, box.x, box.y, box.width, box.height) == ("ship", 1.0, 2.0, 3.0, 4.5)
    assert boxes.sizes == {"train/000.png": (20, 10)}
    assert len(boxes.unmatched) == 1
    assert "1 crowd" in boxes.notes[0]
    for where, value in (
        (("annotations", 0, "bbox"), [1, 2, 0, 4]),
        (("annotations", 0, "bbox"), [1, 2, 3]),
        (("annotations", 0, "bbox"), "abcd"),
        (("annotations", 0, "bbox"), [1, 2, 3, math.inf]),
        (("annotations", 0, "image_id"), 99),
        (("annotations", 0, "category_id"), 99),
        (("images", 0, "file_name"), "nothing.png"),
        (("images", 0, "width"), "wide"),
        (("categories",), 3),
        (("images",), None),
    ):
        broken = copy.deepcopy(COCO)
        place = broken
        for step in where[:-1]:
            place = place[step]  # type: ignore[index]
        place[where[-1]] = value  # type: ignore[index]
        with pytest.raises(DataError):
            read_boxes(written(tmp_path, json.dumps(broken), "broken.json"), FILES)
    for text in ("[]", "{}", "{", "\xff"):
        with pytest.raises(DataError):
            read_boxes(written(tmp_path, text, "broken.json"), FILES)
