"""A score of the encoder while it trains: labels steer no gradient, they only choose which checkpoint is the best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from groundswell import rng
from groundswell.archive.reader import Archive
from groundswell.encoder.encoder import Encoder
from groundswell.errors import DataError, did_you_mean
from groundswell.evaluation.knn import KNNClassifier
from groundswell.evaluation.targets import read_target
from groundswell.training.session import Monitor

LIMIT = 400
"""Images embedded for a score: on two CPU cores seconds, and half of them tell accuracy to about 0.03."""
_BATCH = 64


def knn_monitor(archives: Sequence[Archive], label: str, where: str | None, seed: int, limit: int = LIMIT) -> Monitor:
    """kNN accuracy between two halves of at most ``limit`` labelled images of the first archive.

    Parameters
    ----------
    archives : sequence of Archive
        What is trained on.
    label : str
        A label column, with or without ``label_``.
    where : str or None
        The rows trained on, and so watched.
    seed : int
        Of the choice of images and halves; images of one group stay in one half.

    Raises
    ------
    DataError
        When there is no such label, it holds numbers and not (two or more) classes, or fewer than two groups have it.
    """
    archive = archives[0].where(where)
    column = label if label.startswith("label_") else f"label_{label}"
    if column not in archive.catalogue:
        known = [c for c in archive.catalogue.columns if c.startswith("label_")]
        raise DataError(f"the archive has no label {column!r}", where=archive.path, fix=did_you_mean(column, known))
    frame = archive.catalogue
    if read_target(frame, column).task != "classification":
        raise DataError(
            f"the monitor needs classes, and {column!r} holds numbers",
            where=archive.path,
            fix="watch a label of classes; groundswell probe judges numbers when the run is over",
        )
    order = rng.permutation(seed, len(frame), "monitor").numpy()
    rows = np.sort(order[frame[column].notna().to_numpy()[order]][:limit])
    groups = frame["group"].fillna(frame["id"]).iloc[rows]
    names = np.unique(groups)
    chosen = set(names[rng.permutation(seed, len(names), "monitor halves").numpy()[: len(names) // 2]])
    fitted = groups.isin(chosen).to_numpy()
    labels = frame[column].iloc[rows].astype(str).to_numpy()
    if fitted.all() or not fitted.any():
        raise DataError(
            f"the monitor needs labelled images of at least two groups in {column!r}",
            where=archive.path,
            why=f"{len(rows)} labelled images in {len(names)} groups",
        )

    def judge(encoder: Encoder) -> float:
        parts = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
        vectors = np.concatenate(
            [encoder.embed_batch(archive.read(part), archive.channels, frame.iloc[part]) for part in parts]
        )
        classifier = KNNClassifier(k=20, temperature=0.07).fit(vectors[fitted], labels[fitted])
        return float((classifier.predict(vectors[~fitted]) == labels[~fitted]).mean())

    return Monitor(f"kNN accuracy of {column}", judge)
