"""A fitted probe: estimator, target and the encoder whose vectors it takes; saved as JSON and safetensors.

    probe.json          kind, parameters, target, classes, encoder, hash of the tensors, digest of all this
    probe.safetensors   what was fitted

Nothing in it is executed on loading (no pickle), and an altered file is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from groundswell.encoder.table import EmbeddingTable
from groundswell.errors import DataError, ModelError, TableError
from groundswell.evaluation.knn import KNNClassifier, KNNMultiLabel, KNNRegressor
from groundswell.evaluation.linear import LinearClassifier, LinearMultiLabel, RidgeRegression
from groundswell.evaluation.targets import Task
from groundswell.files import digest, read_json, sha256_file, write_bytes, write_json

FORMAT = 1
RECORD, TENSORS = "probe.json", "probe.safetensors"
_KINDS = {
    kind.__name__: kind
    for kind in (KNNClassifier, KNNRegressor, KNNMultiLabel, LinearClassifier, LinearMultiLabel, RidgeRegression)
}
_AGAIN = "run groundswell probe again, or copy the folder again from where it came"


@dataclass(frozen=True)
class FittedProbe:
    """A fitted estimator with all that is needed to use it on new vectors.

    ``classes`` are the classes, or the tags, or empty for regression; ``embedder`` and ``preprocessing_hash`` name
    whose vectors it was fitted on; ``fitted_on`` says which rows.
    """

    estimator: Any
    target: str
    task: Task
    protocol: str
    classes: tuple[str, ...]
    embedder: str
    preprocessing_hash: str
    dim: int
    fitted_on: str

    def require(self, embedder: str, preprocessing_hash: str, dim: int) -> None:
        """Refuse vectors of another encoder or preprocessing.

        Raises
        ------
        TableError
        """
        mine = {"encoder": self.embedder, "preprocessing": self.preprocessing_hash, "dimension": self.dim}
        theirs = {"encoder": embedder, "preprocessing": preprocessing_hash, "dimension": dim}
        for what, expected in mine.items():
            if theirs[what] != expected:
                raise TableError(
                    f"this probe takes vectors of another {what}",
                    why=f"fitted on {expected}, given {theirs[what]}",
                    fix=f"embed the images with {self.embedder}, or fit a probe on the table's own encoder",
                )

    def scores(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """What the estimator says of float ``[N, D]``: probabilities ``[N, classes]`` or values ``[N, 1]``."""
        if self.task == "regression":
            return np.asarray(self.estimator.predict(vectors), np.float64)[:, None]
        given = np.asarray(self.estimator.predict_proba(vectors), np.float64)
        if self.task == "multi-label":
            return given
        scores = np.zeros((len(vectors), len(self.classes)))  # a class without training rows scores 0
        scores[:, [self.classes.index(str(c)) for c in self.estimator.classes_]] = given
        return scores

    def columns(self, vectors: NDArray[np.floating]) -> pd.DataFrame:
        """Predictions for float ``[N, D]`` as ``pred_`` columns.

        A class: ``pred_<target>`` and the probability of each class; tags: the probability of each; regression: the
        value in the unit of the target.
        """
        name = "pred_" + self.target.removeprefix("label_")
        scores = self.scores(vectors)
        if self.task == "regression":
            return pd.DataFrame({name: scores[:, 0]})
        if self.task == "multi-label":
            return pd.DataFrame({f"pred_{tag}": scores[:, t] for t, tag in enumerate(self.classes)})
        best = np.array(self.classes, dtype=object)[scores.argmax(axis=1)]
        each = {f"{name}_{c}": scores[:, i] for i, c in enumerate(self.classes)}
        return pd.DataFrame({name: pd.array(best, dtype="string"), **each})

    def column_names(self) -> list[str]:
        """The names of the ``pred_`` columns."""
        return list(self.columns(np.zeros((1, self.dim), np.float32)).columns)

    def settings(self) -> dict[str, Any]:
        """The hyper-parameters that were chosen, and whether the solver converged."""
        names = ("k_", "scaling_", "C_", "alpha_", "converged_")
        chosen = {n.rstrip("_"): getattr(self.estimator, n) for n in names if hasattr(self.estimator, n)}
        return {n: _plain(v) for n, v in chosen.items()}

    def save(self, folder: str | Path) -> None:
        """Write ``probe.json`` and ``probe.safetensors`` into ``folder``."""
        folder = Path(folder)
        tensors: dict[str, NDArray[Any]] = {}
        values: dict[str, Any] = {}
        for name, value in vars(self.estimator).items():
            if not name.endswith("_") or isinstance(value, list):
                continue
            if isinstance(value, np.ndarray) and value.dtype.kind in "fib":
                tensors[name] = np.ascontiguousarray(value)
            elif not isinstance(value, np.ndarray) or value.ndim == 1:
                values[name] = _plain(value)
        write_bytes(folder / TENSORS, safetensors.numpy.save(tensors))
        record = {
            "format": FORMAT,
            "kind": type(self.estimator).__name__,
            "parameters": {k: _plain(v) for k, v in self.estimator.get_params().items()},
            "fitted": values,
            **{k: v for k, v in vars(self).items() if k not in ("estimator", "classes")},
            "classes": list(self.classes),
            "tensors": sha256_file(folder / TENSORS),
        }
        write_json(folder / RECORD, {**record, "digest": digest(record)})


def add_predictions(probe: FittedProbe, table: EmbeddingTable) -> EmbeddingTable:
    """An embedding table with the ``pred_`` columns of a probe; columns of these names are replaced.

    Raises
    ------
    TableError
        When the table was made by another encoder or preprocessing than the probe takes.
    """
    header = table.header
    probe.require(header.model, header.preprocessing_hash, header.dimension)
    columns = probe.columns(table.vectors)
    kept = table.frame.drop(columns=[c for c in columns if c in table.frame]).reset_index(drop=True)
    return EmbeddingTable(table.vectors, pd.concat([kept, columns], axis=1), header)


def _plain(value: Any) -> Any:
    """Numbers, texts and lists of them as JSON knows them; NaN as null."""
    if isinstance(value, np.ndarray | tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def load_probe(path: str | Path) -> FittedProbe:
    """Read a saved probe.

    Raises
    ------
    ModelError
        When there is no probe, it is of an unknown version, or a file in it was altered.
    """
    folder = Path(path)
    if not (folder / RECORD).is_file():
        inside = sorted(str(p.parent) for p in folder.glob(f"probes/*/{RECORD}"))
        raise ModelError(
            "there is no probe here",
            where=folder,
            why="this is a RESULTS folder with several probes" if inside else f"the folder has no {RECORD}",
            fix="give one of\n" + "\n".join(inside) if inside else "give RESULTS/probes/NAME of groundswell probe",
        )
    try:
        record = read_json(folder / RECORD)
        claimed = record.pop("digest")
        if digest(record) != claimed:
            raise ModelError("a probe was altered after it was written", where=folder / RECORD, fix=_AGAIN)
        if record["format"] != FORMAT:
            raise ModelError(
                f"a probe of the unknown version {record['format']!r}", where=folder, fix="update groundswell"
            )
        if sha256_file(folder / TENSORS) != record["tensors"]:
            raise ModelError("the numbers of a probe are not those that were saved", where=folder / TENSORS, fix=_AGAIN)
        estimator = _KINDS[record["kind"]](**record["parameters"])
        tensors = safetensors.numpy.load((folder / TENSORS).read_bytes())
        _restore(estimator, record["fitted"], tensors)
    except (DataError, KeyError, TypeError, AttributeError, OSError, SafetensorError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError("a probe is damaged", where=folder, why=str(error), fix=_AGAIN) from error
    names = ("target", "task", "protocol", "embedder", "preprocessing_hash", "dim", "fitted_on")
    return FittedProbe(estimator, classes=tuple(record["classes"]), **{n: record[n] for n in names})


def _restore(estimator: Any, values: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    for name, value in {**values, **tensors}.items():
        setattr(estimator, name, np.array(value) if isinstance(value, list) else value)
