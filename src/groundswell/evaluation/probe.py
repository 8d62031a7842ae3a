"""Probe embedding tables: one model and its controls, judged alike, with intervals of every score and difference.

What is claimed of a model rests on the interval of its paired difference to a control over the same rows, never on
its own score. Random networks come in several seeds: their mean and the best of them are both compared with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from groundswell import progress
from groundswell.encoder.geoparquet import Header
from groundswell.encoder.provenance import attribution, in_words
from groundswell.encoder.table import EmbeddingTable, join
from groundswell.errors import DataError, TableError, UsageError, did_you_mean
from groundswell.evaluation import compare
from groundswell.evaluation.cases import Case, ProbeSettings, Rows, headline, make_case
from groundswell.evaluation.fitted import FittedProbe
from groundswell.evaluation.knn import KNNClassifier, KNNMultiLabel, KNNRegressor
from groundswell.evaluation.linear import LinearClassifier, LinearMultiLabel, RidgeRegression
from groundswell.evaluation.results import FORMAT, Results
from groundswell.evaluation.targets import Target, Task, read_target

_RANDOM = re.compile(r"random:(?P<model>.+):(?P<seed>\d+)(@.*)?")


def estimator(task: Task, protocol: str, settings: ProbeSettings, balance: bool = False) -> Any:
    """A fresh estimator for a task and a protocol.

    Neighbours are looked for among raw and among standardised features, whichever serves held-out training rows
    better: the same choice for model and controls, so that no control suffers from its units.
    """
    k = settings.k[0] if len(settings.k) == 1 else settings.k
    makers: dict[tuple[str, str], Callable[[], Any]] = {
        ("classification", "knn"): lambda: KNNClassifier(k, scaling="auto", seed=settings.seed, balance=balance),
        ("multi-label", "knn"): lambda: KNNMultiLabel(k, scaling="auto", seed=settings.seed),
        ("regression", "knn"): lambda: KNNRegressor(k, scaling="auto", seed=settings.seed),
        ("classification", "linear"): lambda: LinearClassifier(seed=settings.seed, balance=balance),
        ("multi-label", "linear"): lambda: LinearMultiLabel(seed=settings.seed),
        ("regression", "linear"): lambda: RidgeRegression(seed=settings.seed),
    }
    return makers[task, protocol]()


def baseline(table: EmbeddingTable, columns: Sequence[str], where: str | None = None) -> EmbeddingTable:
    """Catalogue or label columns of the selected rows as features: what can be told without looking at the image.

    Raises
    ------
    UsageError, DataError
        For an unknown column, or one that is not all numbers.
    """
    features = []
    table = table.where(where)
    for given in columns:
        name = given if given in table.frame else f"label_{given}"
        if name not in table.frame:
            raise UsageError(f"no column is called {given!r}", fix=did_you_mean(given, map(str, table.frame.columns)))
        values = pd.to_numeric(table.frame[name], errors="coerce").to_numpy(dtype=np.float32, na_value=np.nan)
        if not np.isfinite(values).all():
            raise DataError(
                f"{int((~np.isfinite(values)).sum())} values of the column {name} are no numbers",
                fix='leave those rows out with --where "column == column", or choose another column',
            )
        features.append(values)
    name = "columns:" + ",".join(columns)
    header = Header(
        name, "columns", len(columns), "float32", table.header.archives, table.header.data, table.header.where
    )
    return EmbeddingTable(np.stack(features, axis=1), table.frame, header)


def run_probe(tables: Mapping[str, EmbeddingTable], settings: ProbeSettings) -> Results:
    """Fit and judge probes of every table, for every target and protocol.

    Parameters
    ----------
    tables : mapping of name to EmbeddingTable
        The model first, then its controls. Rows are matched by id; labels, splits and groups are the model's.
        Controls whose encoder is ``random:MODEL:SEED`` are seeds of one.
    settings : ProbeSettings

    Returns
    -------
    Results

    Raises
    ------
    UsageError, DataError, TableError
        When the tables do not match, a column is missing, or training and evaluated rows share groups.
    """
    aligned = _align(tables, settings.where)
    frame = next(iter(aligned.values())).frame
    families = _families(aligned)
    record: dict[str, Any] = {
        "format": FORMAT,
        "settings": settings.model_dump(mode="json"),
        "data": _facts(aligned),
        "tables": _describe(aligned, families),
        "families": {name: list(members) for name, members in families.items()},
    }
    record |= {key: [] for key in ("targets", "scores", "differences", "confusion", "decomposition", "probes")}
    predictions: list[pd.DataFrame] = []
    probes: dict[str, FittedProbe] = {}
    for name in settings.targets:
        target = read_target(frame, name, settings.task)
        case = make_case(frame, target, settings)
        metric = check(case, settings)
        used = _with_both(aligned, target, settings)
        model = next(iter(used))
        statistics = next((t for t in used if _is_statistics(used[t])), None)
        both = next((t for t in used if t not in aligned), None)
        record["targets"].append({**case.describe(), "metric": metric, "balance": _balance(case, settings)})
        with progress.bar(f"probe {name}", total=len(used) * len(settings.protocols), unit="probes") as bar:
            for protocol in settings.protocols:
                scores: dict[str, dict[str, NDArray[np.float64]]] = {}
                for table, content in used.items():
                    bar.note(f"{protocol}, {table}")
                    scores[table], fitted = _judge(case, content, protocol, settings)
                    path = _folder_name(table, target.name, protocol)
                    probes[path] = fitted
                    record["probes"].append(
                        {"path": f"probes/{path}", "table": table, "target": name, "protocol": protocol}
                        | {"chosen": fitted.settings()}
                    )
                    bar.advance()
                pairs = compare.pairs(model, [t for t in aligned if t != model], families, both, statistics)
                compared = compare.compare(case.target, case.parts, case.codes, scores, pairs, families, settings)
                for key, rows in compared.items():
                    record[key] += [{"target": name, "protocol": protocol, **row} for row in rows]
                predictions.append(_predictions(frame, case, protocol, scores))
    return Results(record, pd.concat(predictions, ignore_index=True), probes)


def check(case: Case, settings: ProbeSettings) -> str:
    """The metric to show, once nothing bars this probe, whatever the vectors.

    Raises
    ------
    UsageError, DataError
        For a metric of another task, or training rows of one class.
    """
    target = case.target
    metric, known = settings.metric or headline(case), compare.metric_names(target)
    if metric not in known:
        raise UsageError(
            f"there is no metric {metric!r} for {target.task}", where=target.name, fix=did_you_mean(metric, known)
        )
    if target.task == "classification" and any(len(np.unique(target.observed[f.train])) < 2 for f in case.split.folds):
        raise DataError(
            "the training rows of a fold have one class only",
            where=target.name,
            fix="use fewer --folds, or another --group",
        )
    return metric


def probe(
    vectors: NDArray[np.floating],
    y: ArrayLike | pd.Series | pd.DataFrame,
    protocol: Literal["knn", "linear"] = "linear",
    groups: ArrayLike | pd.Series | None = None,
    split: ArrayLike | pd.Series | None = None,
    task: Task | None = None,
) -> Results:
    """Judge vectors by how well they tell ``y``.

    Parameters
    ----------
    vectors : float [N, D]
    y : [N] classes or values, or DataFrame of 0/1 tags [N, T]
    protocol : {"linear", "knn"}
    groups : [N], optional
        What must never straddle a split and what intervals resample; each row is its own group by default.
    split : [N], optional
        ``train``, ``val`` or the name of a part; five folds of whole groups by default.
    task : {"classification", "multi-label", "regression"}, optional
        Told by the values of ``y`` by default.

    Returns
    -------
    Results
        ``print(results)`` shows the scores; ``results.scores`` is a DataFrame of them.
    """
    for what, values in (("targets", y), ("groups", groups), ("split values", split)):
        if values is not None and len(np.asarray(values)) != len(vectors):
            raise DataError(f"{len(vectors)} vectors and {len(np.asarray(values))} {what} do not match")
    name = str(y.name) if isinstance(y, pd.Series) and y.name is not None else "y"
    frame = pd.DataFrame({"id": [str(i) for i in range(len(vectors))]})
    if isinstance(y, pd.DataFrame):
        name = "label_tag_*"
        tags = y.reset_index(drop=True).rename(columns=lambda c: f"label_tag_{str(c).removeprefix('label_tag_')}")
        frame = pd.concat([frame, tags], axis=1)
    else:
        frame[name] = np.asarray(y)
    for column, values in (("group", groups), ("split", split)):
        if values is not None:
            frame[column] = np.asarray(values, dtype=object)
    header = Header("vectors", "unknown", vectors.shape[1], "float32", (), ())
    table = EmbeddingTable(np.asarray(vectors, np.float32), frame, header)
    settings = ProbeSettings(
        targets=(name,),
        protocols=(protocol,),
        task=task,
        split=None if split is None else "split",
        cv="group" if split is None else None,
    )
    return run_probe({"vectors": table}, settings)


def _align(tables: Mapping[str, EmbeddingTable], where: str | None) -> dict[str, EmbeddingTable]:
    """Every table with the rows of the first (the model), in its order, after the selection."""
    if not tables:
        raise UsageError("there is no table to probe")
    first = next(iter(tables.values())).where(where)
    if not len(first):
        raise DataError("no row is left to probe", where=where)
    ids = pd.Index(first.frame["id"])
    aligned = {}
    for name, table in tables.items():
        positions = pd.Index(table.frame["id"])
        if not ids.is_unique or not positions.is_unique:
            raise TableError("an id comes twice in a table", where=name, fix="embed the archive again")
        order = positions.get_indexer(ids)
        if (order < 0).any():
            raise TableError(
                f"{int((order < 0).sum())} imagettes of the model's table are not in the table {name}",
                where=f"for example {ids[order < 0][0]}",
                fix="embed the same archives with the same --where",
            )
        aligned[name] = EmbeddingTable(table.vectors[order], first.frame, table.header)
    return aligned


def _families(tables: Mapping[str, EmbeddingTable]) -> dict[str, tuple[str, ...]]:
    """Controls that are seeds of one random encoder, by a common name; only where there are several."""
    found: dict[str, list[str]] = {}
    for name, table in list(tables.items())[1:]:
        match = _RANDOM.fullmatch(table.header.model)
        if match:
            found.setdefault(match["model"], []).append(name)
    several = {model: names for model, names in found.items() if len(names) > 1}
    return {("random" if len(several) == 1 else f"random:{m}"): tuple(names) for m, names in several.items()}


def _is_statistics(table: EmbeddingTable) -> bool:
    return table.header.model.split("@")[0].split(":")[0] == "statistics"


def _with_both(
    tables: Mapping[str, EmbeddingTable], target: Target, settings: ProbeSettings
) -> dict[str, EmbeddingTable]:
    """The tables, and the model and the statistics side by side where that is asked for."""
    model = next(iter(tables))
    statistics = [name for name, t in tables.items() if _is_statistics(t) and name != model]
    wanted = target.task == "regression" if settings.both is None else settings.both
    if settings.both and not statistics:
        raise UsageError("both together needs a table of statistics", fix="groundswell embed statistics ARCHIVE -o T")
    if not wanted or not statistics:
        return dict(tables)
    return {**tables, f"{model}+{statistics[0]}": join([tables[model], tables[statistics[0]]])}


def _judge(
    case: Case, table: EmbeddingTable, protocol: str, settings: ProbeSettings
) -> tuple[dict[str, NDArray[np.float64]], FittedProbe]:
    """Scores of each part ([n, classes] or [n, 1]), and the probe to keep.

    The probe that is kept is the one that was judged; after a cross-validation, one fitted on all rows.
    """
    parts: dict[str, list[NDArray[np.float64]]] = {}
    for fold in case.split.folds:
        fitted = _fit(case, table, protocol, settings, fold.train, fold.validation, "the training rows of the split")
        for name, rows in fold.parts.items():
            parts.setdefault(name, []).append(fitted.scores(table.vectors[rows]))
    if len(case.split.folds) > 1:
        rows = np.flatnonzero(case.target.known)
        fitted = _fit(case, table, protocol, settings, rows, np.empty(0, np.int64), "all rows, after cross-validation")
    return {name: np.concatenate(scores) for name, scores in parts.items()}, fitted


def _fit(
    case: Case,
    table: EmbeddingTable,
    protocol: str,
    settings: ProbeSettings,
    train: Rows,
    validation: Rows,
    fitted_on: str,
) -> FittedProbe:
    target = case.target
    observed = target.observed
    if target.task == "classification":
        observed = np.array(target.classes)[observed]
    model = estimator(target.task, protocol, settings, _balance(case, settings))
    held = (table.vectors[validation], observed[validation]) if len(validation) else None
    model.fit(table.vectors[train], observed[train], groups=case.codes[train], validation=held)
    header = table.header
    return FittedProbe(
        model,
        target.name.replace("*", "").rstrip("_"),
        target.task,
        protocol,
        target.classes,
        header.model,
        header.preprocessing_hash,
        header.dimension,
        fitted_on,
    )


def _balance(case: Case, settings: ProbeSettings) -> bool:
    """Whether classes are weighted alike: as asked, else where balanced accuracy is what is shown."""
    if case.target.task != "classification":
        return False
    return (
        settings.balance if settings.balance is not None else (settings.metric or headline(case)) == "balanced_accuracy"
    )


def _predictions(
    frame: pd.DataFrame, case: Case, protocol: str, scores: Mapping[str, Mapping[str, NDArray[np.float64]]]
) -> pd.DataFrame:
    """One row per imagette, table and part (and tag): what was observed and what was predicted."""
    target = case.target
    blocks = []
    for table, parts in scores.items():
        for part, score in parts.items():
            rows = case.parts[part]
            block = pd.DataFrame({"id": frame["id"].iloc[rows].to_numpy(), "table": table, "part": part})
            block.insert(1, "protocol", protocol)
            if target.task == "classification":
                classes = np.array(target.classes, dtype=object)
                block["observed_class"] = classes[target.observed[rows]]
                block["predicted_class"] = classes[score.argmax(axis=1)]
                block["scores"] = list(score.astype(np.float32))
                block.insert(1, "target", target.name)
                blocks.append(block)
                continue
            for t, column in enumerate(target.columns):
                values = target.observed[rows].reshape(len(rows), -1)[:, t]
                one = block.assign(observed=values, predicted=score[:, t])
                one.insert(1, "target", column)
                blocks.append(one)
    return pd.concat(blocks, ignore_index=True)


def _folder_name(table: str, target: str, protocol: str) -> str:
    clean = [re.sub(r"[^A-Za-z0-9_.+-]+", "_", part).strip("_.") for part in (table, target, protocol)]
    return "--".join(clean)


def _facts(tables: Mapping[str, EmbeddingTable]) -> dict[str, Any]:
    model = next(iter(tables.values()))
    data = model.header.data
    return {
        "text": in_words(data),
        "attribution": attribution(data),
        "archives": [d.to_json() for d in data],
        "rows": len(model),
        "where": model.header.where,
    }


def _describe(tables: Mapping[str, EmbeddingTable], families: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    family = {member: name for name, members in families.items() for member in members}
    return [
        {
            "name": name,
            "role": "control" if i else "model",
            "family": family.get(name),
            "encoder": table.header.model,
            "preprocessing_hash": table.header.preprocessing_hash,
            "dimension": table.header.dimension,
        }
        for i, (name, table) in enumerate(tables.items())
    ]
