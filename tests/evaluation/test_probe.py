"""Probes end to end: planted signals, honest controls, saved probes, refused ones, and the command line."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from groundswell.cli import verbs  # noqa: F401 - registers the verbs
from groundswell.cli.app import application
from groundswell.encoder.geoparquet import Header
from groundswell.encoder.table import EmbeddingTable, join
from groundswell.errors import DataError, ModelError, TableError, UsageError
from groundswell.evaluation.cases import ProbeSettings
from groundswell.evaluation.fitted import add_predictions, load_probe
from groundswell.evaluation.probe import baseline, probe, run_probe
from groundswell.evaluation.results import Results

ROWS, GROUPS = 600, 60


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    group, code = rng.integers(0, GROUPS, ROWS), rng.integers(0, 3, ROWS)
    return pd.DataFrame(
        {
            "id": [f"i{i}" for i in range(ROWS)],
            "group": [f"g{g:02d}" for g in group],
            "split": np.select([group < 24, group < 30], ["train", "val"], np.where(group < 48, "test", "other")),
            "label_type": np.array(["Cargo", "Tanker", "Tug"])[code],
            "label_hs": rng.gamma(3.0, 1.0, ROWS),
            "label_tag_slick": (code == 0).astype(int),
            "label_tag_rain": (code > 0).astype(int),
            "label_tag_never": 0,
            "width": rng.integers(13, 185, ROWS),
            "geometry": pd.array([None] * ROWS, dtype=object),
            "archive": 0,
        }
    )


def _table(frame, model, seed, signal, width=8):
    """Noise, with the class in the first three features and the wave height in the fourth."""
    vectors = np.random.default_rng(seed).normal(size=(len(frame), width))
    vectors[:, :3] += signal * np.eye(3)[pd.Categorical(frame["label_type"]).codes]
    vectors[:, 3] += signal * frame["label_hs"]
    header = Header(model, f"hash of {model}", width, "float32", ("archive",), ())
    return EmbeddingTable(vectors.astype(np.float32), frame, header)


@pytest.fixture(scope="module")
def tables(frame):
    return {
        "model": _table(frame, "enc@1", 1, 3.0),
        "random-0": _table(frame, "random:enc:0@2", 2, 0.0),
        "random-1": _table(frame, "random:enc:1@3", 3, 0.5),
        "statistics": _table(frame, "statistics", 4, 1.0),
    }


TARGETS = ("type", "label_hs", "label_tag_*")


@pytest.fixture(scope="module")
def results(tables):
    return run_probe(tables, ProbeSettings(targets=TARGETS, split="split", draws=300))


def _one(rows, **wanted):
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1
    return rows.iloc[0]


def test_a_planted_signal_beats_every_control_with_an_interval_above_zero(results):
    shown = results.differences[results.differences["metric"].isin(["accuracy", "macro_auroc", "r2"])]
    against = shown[shown["table"] == "model"]
    assert len(against) == 3 * 2 * 2 * 4  # targets, protocols, parts, controls (two seeds, their mean, statistics)
    assert (against["low"] > 0).all()
    assert (against["favours"] == "table").all()


def test_noise_against_noise_covers_zero(frame):
    noise = {"model": _table(frame, "enc@1", 11, 0.0), "statistics": _table(frame, "statistics", 12, 0.0)}
    got = run_probe(noise, ProbeSettings(targets=("type",), split="split", draws=300)).differences
    got = got[got["metric"] == "accuracy"]
    assert ((got["low"] < 0) & (got["high"] > 0)).all()
    assert got["favours"].isna().all()


def test_the_worse_table_is_named_also_where_less_is_better(tables):
    turned = {"model": tables["random-0"], "strong": tables["model"]}
    got = run_probe(turned, ProbeSettings(targets=("label_hs",), protocols=("linear",), split="split", draws=300))
    assert set(got.differences[got.differences["metric"] == "rmse"]["favours"]) == {"control"}
    assert (got.differences[got.differences["metric"] == "rmse"]["low"] > 0).all()


def test_scores_are_those_of_the_estimator_alone(results, tables, frame):
    from groundswell.evaluation.knn import KNNClassifier

    rows = {name: (frame["split"] == name).to_numpy() for name in ("train", "val", "test")}
    X, y = tables["statistics"].vectors, frame["label_type"].to_numpy(dtype=str)
    model = KNNClassifier(scaling="auto").fit(
        X[rows["train"]], y[rows["train"]], validation=(X[rows["val"]], y[rows["val"]])
    )
    expected = (model.predict(X[rows["test"]]) == y[rows["test"]]).mean()
    got = _one(results.scores, target="type", protocol="knn", table="statistics", part="test", metric="accuracy")
    assert got["value"] == pytest.approx(expected)
    assert got["groups"] == 18
    assert got["rows"] == rows["test"].sum()


def test_seeds_are_reported_one_by_one_as_a_mean_and_as_the_best(results):
    wanted = {"target": "type", "protocol": "linear", "part": "test", "metric": "accuracy"}
    seeds = [_one(results.scores, table=f"random-{i}", **wanted)["value"] for i in (0, 1)]
    mean = _one(results.scores, table="random (mean of seeds)", **wanted)
    assert mean["value"] == pytest.approx(np.mean(seeds))
    assert mean["seed_standard_deviation"] == pytest.approx(np.std(seeds, ddof=1))
    model = _one(results.scores, table="model", **wanted)["value"]
    against = _one(results.differences, table="model", control="random (mean of seeds)", **wanted)
    assert against["value"] == pytest.approx(model - np.mean(seeds))
    best = _one(results.differences, family="random", best_seed=True, **wanted)
    assert best["value"] == pytest.approx(model - max(seeds))


def test_both_together_is_made_for_regressions_only(results, tables, frame):
    made = results.scores[results.scores["table"] == "model+statistics"]
    assert set(made["target"]) == {"label_hs"}
    rows = results.differences[results.differences["table"] == "model+statistics"]
    assert set(rows["control"]) == {"model", "statistics"}
    from groundswell.evaluation.linear import RidgeRegression

    X = np.concatenate([tables["model"].vectors, tables["statistics"].vectors], axis=1)
    y, split = frame["label_hs"].to_numpy(), frame["split"].to_numpy()
    pick = {name: split == name for name in ("train", "val", "test")}
    model = RidgeRegression().fit(X[pick["train"]], y[pick["train"]], validation=(X[pick["val"]], y[pick["val"]]))
    error = model.predict(X[pick["test"]]) - y[pick["test"]]
    got = _one(made, protocol="linear", part="test", metric="rmse")
    assert got["value"] == pytest.approx(np.sqrt(np.mean(error**2)))


def test_a_tag_that_never_occurs_is_undefined_not_zero(results):
    rows = results.scores[results.scores["metric"].isin(["auroc:never", "ap:never"])]
    assert len(rows)
    assert rows["value"].isna().all()
    assert results.scores.query("metric == 'macro_auroc' and table == 'model'")["value"].min() > 0.8


def test_unknown_targets_are_left_out_and_counted(tables, frame):
    values = frame["label_hs"].where(frame.index % 10 != 0)
    table = EmbeddingTable(tables["model"].vectors, frame.assign(label_hs=values), tables["model"].header)
    got = run_probe({"model": table}, ProbeSettings(targets=("label_hs",), protocols=("linear",), split="split"))
    facts = got.record["targets"][0]
    assert facts["unknown"] == 60
    counted = facts["train"]["rows"] + facts["validation"]["rows"] + sum(p["rows"] for p in facts["parts"])
    assert counted == ROWS - 60
    assert not got.predictions["id"].isin(frame["id"][::10]).any()


def test_cross_validation_predicts_every_row_once_and_says_what_a_group_is(tables, frame):
    settings = ProbeSettings(targets=("type",), protocols=("linear",), cv="group", folds=3, draws=100)
    got = run_probe({"model": tables["model"]}, settings)
    assert sorted(got.predictions["id"]) == sorted(frame["id"])
    assert got.record["targets"][0]["group"] == "group"
    assert set(got.scores["groups"]) == {GROUPS}
    alone = run_probe({"model": tables["model"]}, settings.model_copy(update={"group": "none"}))
    assert alone.record["targets"][0]["group"] is None
    assert set(alone.scores["groups"]) == {ROWS}
    assert "no group column: every row is its own group" in " ".join(alone.text().split())


def test_training_and_judged_rows_that_share_groups_are_refused(tables, frame):
    leaky = EmbeddingTable(
        tables["model"].vectors,
        frame.assign(split=np.where(frame.index % 2, "train", "test")),
        tables["model"].header,
    )
    settings = ProbeSettings(targets=("type",), protocols=("linear",), split="split", draws=100)
    shared = len(set(frame["group"][::2]) & set(frame["group"][1::2]))
    with pytest.raises(DataError, match=f"{shared} groups are in both"):
        run_probe({"model": leaky}, settings)
    allowed = run_probe({"model": leaky}, settings.model_copy(update={"allow_overlap": True}))
    assert {"kind": "groups", "shared": shared} in allowed.record["targets"][0]["overlap"]
    assert f"{shared} groups" in allowed.text()


def test_rows_are_matched_by_id_not_by_place(results, tables):
    order = np.random.default_rng(5).permutation(ROWS)
    control = tables["statistics"]
    shuffled = EmbeddingTable(control.vectors[order], control.frame.iloc[order].reset_index(drop=True), control.header)
    settings = ProbeSettings(targets=("type",), protocols=("linear",), split="split", draws=100)
    got = run_probe({"model": tables["model"], "statistics": shuffled}, settings)
    wanted = {"target": "type", "protocol": "linear", "part": "test", "metric": "accuracy", "table": "statistics"}
    assert _one(got.scores, **wanted)["value"] == _one(results.scores, **wanted)["value"]
    shorter = EmbeddingTable(control.vectors[1:], control.frame[1:].reset_index(drop=True), control.header)
    with pytest.raises(TableError, match="1 imagettes"):
        run_probe({"model": tables["model"], "statistics": shorter}, settings)


def test_the_size_only_baseline_sees_the_columns_and_nothing_else(frame, tables):
    told = frame.assign(width=frame["label_type"].map({"Cargo": 10, "Tanker": 20, "Tug": 30}))
    table = EmbeddingTable(tables["random-0"].vectors, told, tables["random-0"].header)
    size = baseline(table, ["width"])
    np.testing.assert_array_equal(size.vectors[:, 0], told["width"])
    settings = ProbeSettings(targets=("type",), protocols=("linear",), split="split", draws=100)
    got = run_probe({"model": table, "baseline": size}, settings)
    assert got.scores.query("table == 'baseline' and metric == 'accuracy'")["value"].min() == 1.0
    with pytest.raises(UsageError, match="did you mean 'width'"):
        baseline(table, ["widht"])
    with pytest.raises(DataError, match="no numbers"):
        baseline(table, ["label_type"])


def test_results_come_back_as_they_were(results, tmp_path):
    path = results.save(tmp_path / "results")
    again = Results.read(path)
    pd.testing.assert_frame_equal(again.scores[results.scores.columns], results.scores)
    pd.testing.assert_frame_equal(again.differences[results.differences.columns], results.differences)
    assert again.text() == results.text()
    one = again.predictions_of("type", "knn", "model", "test")
    got = _one(again.scores, target="type", protocol="knn", table="model", part="test", metric="accuracy")
    assert (one["observed"] == one["predicted"]).mean() == pytest.approx(got["value"])
    two = again.predictions_of("label_hs", "linear", "model+statistics", "other")
    assert two["observed"].dtype == np.float64
    json.loads((path / "results.json").read_text(), parse_constant=lambda text: pytest.fail(f"{text} in JSON"))
    with pytest.raises(UsageError, match="something at the place"):
        results.save(path)
    results.save(path, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results"]


def test_every_saved_probe_predicts_to_the_bit_after_reloading(results, tables, tmp_path):
    path = results.save(tmp_path / "results")
    used = {**tables, "model+statistics": join([tables["model"], tables["statistics"]])}
    for entry in results.record["probes"]:
        table, name = used[entry["table"]], entry["path"].removeprefix("probes/")
        expected = add_predictions(results.probes[name], table).frame
        pd.testing.assert_frame_equal(add_predictions(load_probe(path / entry["path"]), table).frame, expected)
    observed = results.predictions_of("type", "linear", "model", "test").set_index("id")["predicted"]
    again = add_predictions(load_probe(path / "probes/model--type--linear"), tables["model"]).frame.set_index("id")
    assert (again["pred_type"].loc[observed.index] == observed).all()
    probabilities = again[["pred_type_Cargo", "pred_type_Tanker", "pred_type_Tug"]]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)


def test_an_altered_probe_is_refused(results, tmp_path):
    path = results.save(tmp_path / "results") / "probes" / "model--type--linear"
    tensors = bytearray((path / "probe.safetensors").read_bytes())
    record = (path / "probe.json").read_text()
    for place in (len(tensors) - 1, len(tensors) // 2):
        flipped = bytearray(tensors)
        flipped[place] ^= 1
        (path / "probe.safetensors").write_bytes(flipped)
        with pytest.raises(ModelError, match="not those that were saved"):
            load_probe(path)
    (path / "probe.safetensors").write_bytes(tensors)
    (path / "probe.json").write_text(record.replace('"Tanker"', '"Tonker"', 1))
    with pytest.raises(ModelError, match="altered"):
        load_probe(path)
    (path / "probe.json").write_text(record[:-40])
    with pytest.raises(ModelError, match="damaged"):
        load_probe(path)
    with pytest.raises(ModelError, match=r"(?s)several probes.*model--type--knn"):
        load_probe(path.parent.parent)


def test_vectors_of_another_encoder_or_preprocessing_are_refused(results, tables):
    fitted = results.probes["model--type--linear"]
    with pytest.raises(TableError, match="another encoder"):
        add_predictions(fitted, tables["statistics"])
    with pytest.raises(TableError, match="another preprocessing"):
        fitted.require("enc@1", "hash of another", 8)
    with pytest.raises(TableError, match="another dimension"):
        fitted.require("enc@1", "hash of enc@1", 9)


def test_probe_of_arrays(frame, tables):
    vectors = tables["model"].vectors
    named = probe(vectors, frame["label_type"], groups=frame["group"])
    assert _one(named.scores, metric="accuracy")["value"] > 0.8
    assert named.record["targets"][0]["name"] == "label_type"
    split = probe(vectors, frame["label_hs"].to_numpy(), protocol="knn", split=frame["split"])
    assert set(split.scores["part"]) == {"test", "other"}
    assert split.record["targets"][0]["task"] == "regression"
    tags = probe(vectors, frame[["label_tag_slick", "label_tag_rain"]], groups=frame["group"])
    assert tags.record["targets"][0]["task"] == "multi-label"
    with pytest.raises(DataError, match="600 vectors and 10 targets"):
        probe(vectors, frame["label_type"][:10])
    with pytest.raises(DataError, match="600 vectors and 10 groups"):
        probe(vectors, frame["label_type"], groups=frame["group"][:10])


@pytest.fixture
def files(tables, tmp_path):
    for name, table in tables.items():
        table.write(tmp_path / f"{name}.parquet")
    return tmp_path


def _run(*arguments):
    return CliRunner().invoke(application, [str(a) for a in arguments])


def test_the_command_line_probes_and_predicts(files, frame):
    tables = [files / f"{n}.parquet" for n in ("model", "random-0", "random-1", "statistics")]
    options = ["--target", "type", "--split", "split", "--where", "label_type in ['Cargo', 'Tanker']", "--draws", "100"]
    options += ["--baseline-columns", "width", "--protocol", "linear", "-o", files / "results"]
    done = _run("probe", *tables, *options, "--json", "--quiet")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["targets"][0]["classes"] == ["Cargo", "Tanker"]
    assert {row["table"] for row in data["scores"]} == {"model", "statistics", "baseline", "random (mean of seeds)"}
    again = _run("probe", *tables, *options)
    assert again.exit_code == 2
    assert "--overwrite" in again.output
    predicted = _run(
        "predict",
        files / "results/probes/model--type--linear",
        files / "model.parquet",
        "-o",
        files / "out/new.parquet",
    )
    assert predicted.exit_code == 0, predicted.output
    table = EmbeddingTable.read(files / "out/new.parquet")
    assert set(table.frame["pred_type"]) == {"Cargo", "Tanker"}
    assert table.header.archives == ("../archive",)
    known = frame["label_type"] != "Tug"
    assert (table.frame["pred_type"] == frame["label_type"])[known].mean() > 0.9
    refused = _run(
        "predict",
        files / "results/probes/model--type--linear",
        files / "statistics.parquet",
        "-o",
        files / "no.parquet",
    )
    assert refused.exit_code == 3
    assert "another encoder" in refused.output
    assert not (files / "no.parquet").exists()


def test_labels_of_another_table_are_joined_by_id(files, frame):
    labels = pd.DataFrame({"id": frame["id"][::-1], "sea": frame["label_hs"][::-1], "sea_src": "buoy"})
    labels.iloc[:-300].to_parquet(files / "labels.parquet")  # the first 300 imagettes have none
    options = ["--target", "sea", "--split", "split", "--draws", "100", "--protocol", "linear"]
    options += ["--labels", files / "labels.parquet", "--where", "label_sea_src == 'buoy'", "-o", files / "r"]
    done = _run("probe", files / "model.parquet", files / "statistics.parquet", *options, "--json", "--quiet")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["targets"][0]["name"] == "sea"
    # The planted wave height, found through the join: a join in the wrong order would score nothing.
    score = next(r for r in data["scores"] if r["table"] == "model")
    spread = data["targets"][0]["train"]["standard_deviation"]
    assert score["metric"] == "rmse"
    assert score["value"] < 0.5 * spread
    record = json.loads((files / "r" / "results.json").read_text())
    assert record["labels"]["name"] == "labels.parquet"
    target = record["targets"][0]
    assert target["train"]["rows"] + sum(part["rows"] for part in target["parts"]) <= 300


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.rename(columns={"id": "name"}), "no column 'id'"),
        (lambda t: pd.concat([t, t]), "comes twice"),
        (lambda t: t.assign(id="x" + t["id"]), "does not fit"),
        (lambda t: t.assign(type="again"), "two columns label_type"),
    ],
)
def test_label_tables_that_do_not_fit_are_refused(tables, frame, tmp_path, change, says):
    change(frame[["id", "label_hs"]].rename(columns={"label_hs": "sea"})).to_parquet(tmp_path / "l.parquet")
    with pytest.raises((UsageError, TableError), match=says):
        tables["model"].with_labels(tmp_path / "l.parquet")


def test_joined_labels_keep_their_types_and_gaps(tables, frame, tmp_path):
    rows = frame["id"].iloc[[5, 2]]
    pd.DataFrame({"id": rows, "n": [1, 2], "x": [0.5, None], "s": ["a", None], "label_b": [True, False]}).to_csv(
        tmp_path / "l.csv", index=False
    )
    joined = tables["model"].with_labels(tmp_path / "l.csv").frame
    assert joined.loc[[5, 2], "label_n"].tolist() == [1, 2]
    assert joined["label_n"].notna().sum() == 2
    assert joined.loc[5, "label_x"] == 0.5
    assert joined["label_x"].notna().sum() == joined["label_s"].notna().sum() == 1
    assert joined.loc[[5, 2], "label_b"].tolist() == [1, 0]
    assert joined["label_type"].equals(frame["label_type"])


def test_a_probe_of_both_takes_two_tables(files):
    tables = [files / "model.parquet", files / "statistics.parquet"]
    common = ["--split", "split", "--draws", 100, "--protocol", "linear"]
    done = _run("probe", *tables, "--target", "label_hs", *common, "-o", files / "results")
    assert done.exit_code == 0, done.output
    assert "model+statistics is better than statistics" in done.output
    fitted = files / "results/probes/model+statistics--label_hs--linear"
    assert _run("predict", fitted, *tables, "-o", files / "new.parquet").exit_code == 0
    assert _run("predict", fitted, tables[0], "-o", files / "no.parquet").exit_code == 3


def test_mistakes_are_explained(files):
    model = files / "model.parquet"
    for options, code, text in (
        (["--target", "label_typ"], 2, "did you mean 'label_type'"),
        (["--target", "type", "--split", "spilt"], 2, "did you mean 'split'"),
        (["--target", "type", "--group", "gruop"], 2, "did you mean 'group'"),
        (["--target", "type", "--metric", "acuracy"], 2, "did you mean 'accuracy'"),
        (["--target", "type", "--protocol", "mlp"], 2, "'knn' or 'linear'"),
        (["--target", "type", "--cv", "group", "--split", "split"], 2, "exclude each other"),
        (["--target", "type", "--folds", "3"], 2, "give cv (--cv group) too"),
        (["--target", "type", "--metric", "rmse"], 2, "no metric 'rmse' for classification"),
        (["--target", "type", "--k", "0"], 2, "greater than or equal to 1"),
        (["--target", "type", "--k", "20,0"], 2, "setting 'k.1'"),
        (["--target", "type", "--k", ","], 2, "setting 'k'"),
        (["--target", "type", "--protocol", ","], 2, "setting 'protocols'"),
        (["--target", "type", "--seed", "-1"], 2, "greater than or equal to 0"),
        (["--target", "type", "--seed", str(2**63)], 2, "less than"),
        (["--target", "type", "--task", "regression"], 3, "not numbers"),
        (["--target", "label_type", "--where", "label_type == 'Cargo'"], 3, "one class only"),
    ):
        done = _run("probe", model, *options, "-o", files / "results")
        assert done.exit_code == code, done.output
        assert text in done.output
        assert not (files / "results").exists()
    assert "two tables are called 'model'" in _run("probe", model, model, "-t", "type", "-o", files / "r").output


def test_training_rows_of_one_class_are_refused_before_anything_is_fitted(frame, tables, monkeypatch):
    monkeypatch.setattr("groundswell.evaluation.probe.estimator", lambda *_: pytest.fail("fitted"))
    split = frame["split"].where((frame["split"] != "train") | (frame["label_type"] == "Tug"))
    table = EmbeddingTable(tables["model"].vectors, frame.assign(split=split), tables["model"].header)
    with pytest.raises(DataError, match="the training rows of a fold have one class only"):
        run_probe({"model": table}, ProbeSettings(targets=("type",), split="split", draws=100))


def test_unequal_classes_are_judged_by_balanced_accuracy_and_weighted_alike(frame, tables):
    rare = frame["label_type"].where((frame["label_type"] != "Tug") | (frame.index % 4 == 0))
    table = EmbeddingTable(tables["statistics"].vectors, frame.assign(label_type=rare), tables["statistics"].header)
    settings = ProbeSettings(targets=("type",), split="split", draws=100)
    facts = run_probe({"model": table}, settings).record["targets"][0]
    assert (facts["metric"], facts["balance"]) == ("balanced_accuracy", True)
    plain = run_probe({"model": table}, settings.model_copy(update={"balance": False}))
    weighted = run_probe({"model": table}, settings)
    for protocol in ("knn", "linear"):
        wanted = {"protocol": protocol, "part": "test", "metric": "balanced_accuracy"}
        assert _one(weighted.scores, **wanted)["value"] > _one(plain.scores, **wanted)["value"]
    assert run_probe({"model": tables["model"]}, settings).record["targets"][0]["balance"] is False


def test_two_classes_have_an_auroc(tables):
    from sklearn.metrics import roc_auc_score

    settings = ProbeSettings(targets=("type",), split="split", draws=100, where="label_type != 'Tug'")
    got = run_probe({"statistics": tables["statistics"]}, settings)
    rows = got.predictions.query("protocol == 'linear' and part == 'test'")
    expected = roc_auc_score(rows["observed_class"] == "Tanker", np.stack(rows["scores"])[:, 1])
    # the scores on disk are float32: two of them may tie
    assert _one(got.scores, protocol="linear", part="test", metric="auroc")["value"] == pytest.approx(
        expected, abs=1e-4
    )
