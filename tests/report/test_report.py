"""The HTML file: self-contained, safe, and with the numbers of the files it was made from."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_material as material
from typer.testing import CliRunner

from groundswell.archive.reader import open_archive
from groundswell.cli import verbs  # noqa: F401
from groundswell.cli.app import application
from groundswell.encoder.provenance import DataUsed
from groundswell.encoder.table import EmbeddingTable
from groundswell.errors import DataError, UsageError
from groundswell.report.build import write_report
from groundswell.report.inputs import ResultsFolder, Run, find
from groundswell.report.labels import class_column, metric_name, number, spaced, tag_columns
from groundswell.report.sections.data import contact_sheet, counts, first_line, tag_counts
from groundswell.report.sections.embeddings import choose_queries, neighbours
from groundswell.report.sections.verdict import verdict


class Page(HTMLParser):
    """Tags, attributes, text, and the cells of each table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.text: list[str] = []
        self._cell: list[str] | None = None
        self._caption: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append(("", []))
        elif tag == "tr" and self.tables:
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self._cell = []
        elif tag == "caption":
            self._caption = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.tables[-1][1][-1].append(" ".join("".join(self._cell).split()))
            self._cell = None
        elif tag == "caption" and self._caption is not None:
            self.tables[-1] = ("".join(self._caption), self.tables[-1][1])
            self._caption = None

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        for part in (self._cell, self._caption):
            if part is not None:
                part.append(data)

    def table(self, caption: str) -> list[list[str]]:
        return next(rows for title, rows in self.tables if title.startswith(caption))


@pytest.fixture(scope="module")
def html(made: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = tmp_path_factory.mktemp("report") / "report.html"
    result = CliRunner().invoke(application, ["report", str(made), "-o", str(output), "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["sections"] == [
        "verdict",
        "scores-1",
        "scores-2",
        "scores-3",
        "data",
        "training",
        "map",
        "search",
        "made",
    ]
    assert said["bytes"] == output.stat().st_size
    return output.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture(scope="module")
def record(made: Path) -> dict[str, Any]:
    return json.loads((made / "results" / "results.json").read_text())


def test_nothing_is_fetched_and_nothing_runs(html: str, page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "link", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "srcset", "poster", "action", "data"):
                assert value is not None
                assert value.startswith(("data:image/", "#"))
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert [
        value for tag, a in page.tags if tag == "meta" for value in [a.get("content") or ""] if "default-src" in value
    ]


def test_hostile_labels_are_text(html: str, page: Page) -> None:
    assert "<script" not in html.lower()
    assert "<script>alert('x')</script>" in "".join(page.text)


def test_first_lines_say_that_the_data_is_simulated(page: Page) -> None:
    body = "".join(page.text)
    body = body[body.index("@media print") :]
    assert 0 < body.index("All 60 images are simulated, none is real.") < body.index("Verdict")


def test_first_line_of_real_and_mixed_data() -> None:
    real = DataUsed("gulf-2019", "a", 40, 0, (2019,), {"VV": "sigma0"})
    made_up = DataUsed("sim", "b", 60, 60, (), {"VV": "sigma0"})
    line, simulated = first_line([real])
    assert simulated is False
    assert line == "40 real images: gulf-2019. Contains modified Copernicus Sentinel data 2019."
    line, simulated = first_line([real, made_up])
    assert simulated is False
    assert line.startswith("100 images, 40 real and 60 simulated: gulf-2019, sim.")
    assert first_line([]) == ("The data is not recorded in what this report was made from.", None)


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_scores_are_those_of_results_json(page: Page, record: dict[str, Any], protocol: str) -> None:
    shown_as = {"knn": "kNN", "linear": "linear"}[protocol]
    metrics = ("accuracy", "balanced_accuracy", "macro_f1")
    expected: dict[str, list[str]] = {}
    for row in record["scores"]:
        mine = (row["target"], row["protocol"], row["part"]) == ("label_phenomenon", protocol, "test")
        if mine and row["family"] is None and row["metric"] in metrics:
            expected.setdefault(row["table"], []).append(f"{100 * row['value']:.1f}")
    body = page.table(f"{shown_as}, test: 24 images in 12 groups")[1:]
    assert {row[0].split(",")[0]: [row[1], *row[4:]] for row in body} == expected
    assert set(expected) == {"model", "statistics", "random (mean of seeds)"}


def test_differences_are_those_of_results_json(page: Page, record: dict[str, Any]) -> None:
    body = page.table("Paired differences, kNN, test")[1:]
    shown = {row[0]: (row[1], row[2]) for row in body}
    rows = [
        r
        for r in record["differences"]
        if (r["target"], r["protocol"], r["metric"]) == ("label_phenomenon", "knn", "accuracy")
    ]
    best = next(r for r in rows if r["best_seed"])
    minus = "\N{MINUS SIGN}"
    value, interval = shown[f"model {minus} random (best seed)"]
    assert value.replace(minus, "-") == f"{100 * best['value']:+.1f}"
    assert interval.replace(minus, "-") == f"{100 * best['low']:+.1f} to {100 * best['high']:+.1f}"
    assert len(shown) == len([r for r in rows if r["family"] is None or r["best_seed"]])


def test_verdict_follows_the_intervals(made: Path, record: dict[str, Any]) -> None:
    items = verdict([ResultsFolder(made / "results")])
    tones = {"win": "table", "loss": "control", "tie": None}
    seen = 0
    for tone, sentence in items:
        for row in record["differences"]:
            target = next(t for t in record["targets"] if t["name"] == row["target"])
            head = f"{row['table']} {'is better than' if tone == 'win' else 'cannot be told apart from'} "
            control = "random (best seed)" if row["best_seed"] else row["control"]
            about = f"{control} on {spaced(row['target'])} (test"
            protocol = {"knn": "kNN", "linear": "linear"}[row["protocol"]]
            value = f"{protocol} {metric_name(row['metric'])} {number(row['value'], row['metric'], signed=True)}"
            if row["metric"] == target["metric"] and sentence.startswith(head + about) and value in sentence:
                assert row["favours"] == tones[tone]
                if tone == "win":  # the interval itself, whatever the record says of it
                    assert row["low"] > 0
                seen += 1
    assert seen == 10  # two protocols; three tasks against statistics, two of them also against the best random seed


def test_only_the_gain_of_both_is_claimed_of_a_regression_on_simulated_images(page: Page) -> None:
    sentences = [s for s in "".join(page.text).split("\n") if "on wind speed" in s]
    assert sentences
    assert all("model+statistics" in s and "statistics on wind speed" in s for s in sentences)


def test_confusion_matrix_holds_the_counts_of_the_predictions(page: Page, made: Path, record: dict[str, Any]) -> None:
    from groundswell.evaluation.results import Results

    frame = Results.read(made / "results").predictions_of("label_phenomenon", "linear", "model", "test")
    classes = next(t for t in record["targets"] if t["name"] == "label_phenomenon")["classes"]
    body = page.table("Confusion of model, linear, test")[1:]
    assert [row[0] for row in body] == [spaced(c) for c in classes]
    for i, truth in enumerate(classes):
        for j, guess in enumerate(classes):
            count = int(((frame["observed"] == truth) & (frame["predicted"] == guess)).sum())
            assert (body[i][1 + j] or "0") == str(count)


def test_scatter_says_what_its_points_say(html: str, made: Path) -> None:
    from groundswell.evaluation.results import Results

    frame = Results.read(made / "results").predictions_of("label_wind_speed", "linear", "statistics", "test")
    error = frame["predicted"] - frame["observed"]
    rmse = float(np.sqrt(np.mean(error**2)))
    skill = 1 - float(np.mean(error**2)) / float(np.var(frame["observed"]))
    index = rmse / float(frame["observed"].mean())
    texts = [f"RMSE {rmse:.2f} m/s", f"scatter index {100 * index:.1f} %", f"R² {number(skill, 'r2')}"]
    for text in texts:
        assert f">{text}</text>" in html


def test_counts_are_those_of_the_catalogue(made: Path) -> None:
    frame = open_archive(made / "archive").catalogue
    table = counts(frame, "label_phenomenon")
    assert list(table.head) == ["phenomenon", "test", "train", "all"]
    for row in table.rows[:-1]:
        mine = frame[frame["label_phenomenon"].map(spaced) == row[0].text]
        assert [c.text for c in row[1:]] == [str((mine["split"] == s).sum()) for s in ("test", "train")] + [
            str(len(mine))
        ]
    assert table.rows[-1][-1].text == "60"


def test_tags_are_counted_whether_or_not_they_exclude_each_other(made: Path) -> None:
    frame = open_archive(made / "archive").catalogue
    assert tag_columns(frame) == ["label_tag_a", "label_tag_b"]
    table = tag_counts(frame, ["label_tag_a", "label_tag_b"])
    for row, tag in zip(table.rows, ("label_tag_a", "label_tag_b"), strict=True):
        by_split = frame.groupby("split")[tag].sum()
        assert [c.text for c in row[1:]] == [str(by_split["test"]), str(by_split["train"]), str(frame[tag].sum())]


def test_what_was_probed_colours_the_map(made: Path) -> None:
    frame = open_archive(made / "archive").catalogue.assign(label_other="b")
    assert class_column(frame) == "label_phenomenon"
    assert class_column(frame, ["label_absent", "label_other"]) == "label_other"
    assert class_column(frame.drop(columns="label_phenomenon")) is None  # one value tells nothing apart
    assert find([made]).probed == ["label_phenomenon"]


def test_contact_sheet_shows_images_of_the_class(made: Path) -> None:
    archive = open_archive(made / "archive")
    labels = archive.catalogue.set_index("id")["label_phenomenon"]
    for name, tiles in contact_sheet(archive, "label_phenomenon").rows:
        assert len({t.alt for t in tiles}) == 8
        assert {spaced(labels[t.alt]) for t in tiles} == {name}


def test_neighbours_are_the_nearest_outside_the_group(made: Path) -> None:
    table = EmbeddingTable.read(made / "tables" / "model.parquet")
    queries = choose_queries(table.frame, "label_phenomenon")
    assert (table.frame["split"].iloc[queries] == "test").all()
    assert sorted(table.frame["label_phenomenon"].iloc[queries]) == sorted(material.CLASSES)
    scores, rows = neighbours(table.vectors, table.frame, queries, k=5)
    unit = table.vectors / np.linalg.norm(table.vectors, axis=1, keepdims=True)
    group = table.frame["group"].to_numpy()
    for query, score, row in zip(queries, scores, rows, strict=True):
        cosine = unit @ unit[query]
        cosine[group == group[query]] = -2
        best = np.sort(cosine)[::-1][:5]
        np.testing.assert_allclose(score, best, atol=1e-6)  # float32 products of unit vectors
        np.testing.assert_allclose(cosine[row], best, atol=1e-6)


def test_parts_that_were_not_given_are_left_out(made: Path, tmp_path: Path) -> None:
    for given, expected in (
        ("run", ("training", "made")),
        ("archive", ("data", "made")),
        ("tables/random-0.parquet", ("map", "made")),
        ("results", ("verdict", "scores-1", "scores-2", "scores-3", "made")),
    ):
        assert write_report([made / given], tmp_path / "r.html").sections == expected


def test_real_images_are_not_called_simulated(tmp_path: Path) -> None:
    archive = material.make_archive(tmp_path / "my-images", prefix="chip")
    written = write_report([archive], tmp_path / "r.html")
    assert written.data == "60 real images: my-images."


def test_what_cannot_be_reported_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    for name in ("empty", "note.txt", "broken.parquet", "absent"):
        with pytest.raises(UsageError):
            find([tmp_path / name])


def test_a_run_is_read_to_its_last_whole_line(made: Path) -> None:
    run = Run(made / "run")
    assert len(run.rows) == 30
    assert run.settings["name"] == "tiny"
    assert run.environment == []


@pytest.mark.parametrize("text", ["[{", '{"python": "3.11"}', "\udcff"])
def test_a_damaged_environment_names_its_file_and_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "environment.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"environment\.json[\s\S]*why: [\s\S]*fix: move it away"):
        _ = Run(tmp_path).environment
    (tmp_path / "environment.json").write_text('[{"python": "3.11"}]')
    assert Run(tmp_path).environment == [{"python": "3.11"}]


@pytest.mark.parametrize(
    ("value", "metric", "signed", "text"),
    [
        (0.8614, "accuracy", False, "86.1"),
        (-0.0501, "balanced_accuracy", True, "\N{MINUS SIGN}5.0"),
        (0.0304, "auroc:sea_ice", True, "+3.0"),
        (-0.0001, "rmse", True, "0.000"),
        (0.0436, "rmse", True, "+0.044"),
        (1.234, "rmse", False, "1.23"),
        (None, "rmse", False, "?"),
        (float("nan"), "accuracy", False, "?"),
    ],
)
def test_numbers_for_people(value: float | None, metric: str, signed: bool, text: str) -> None:
    assert number(value, metric, signed=signed) == text
