"""Does attention find what is there? Maps of attention as detectors of masks and boxes, image by image.

Nothing is trained, so nothing can be fitted to the masks but the choice of a head, and that is made on one half of the
groups and scored on the other, both ways. Beside the model stand the same architecture with fresh weights, the plain
distance of a pixel from the median, and the best that any map on the grid of the patches could reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundswell import progress
from groundswell.archive.reader import Archive
from groundswell.encoder.attention import look
from groundswell.encoder.encoder import Encoder, random_encoder
from groundswell.errors import UsageError
from groundswell.evaluation.compare import favours
from groundswell.evaluation.intervals import Statistic, bootstrap_t
from groundswell.evaluation.splits import group_codes
from groundswell.evaluation.truths import Truth, patch_counts, read_truths
from groundswell.rng import permutation

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
Record = dict[str, Any]

METRICS = ("auroc", "ap")
MEAN, BEST, MAGNITUDE, CEILING = "mean of heads", "best head", "pixel magnitude", "best of this grid"
ATTENTION, RANDOM = "attention", "random weights"
_FEWEST = 2
"""Groups that a score needs: one has no spread, and leaves no half to choose a head on."""


def detection(score: NDArray[Any], inside: Floats, outside: Floats) -> tuple[float, float]:
    """AUROC and average precision over the pixels of one image, all pixels of a patch having its score.

    Parameters
    ----------
    score, inside, outside : float [h, w]
        Of each patch: how sure the detector is, and its pixels with and without the thing (both somewhere above 0).
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    twice = np.concatenate([score.ravel(), score.ravel()]).astype(np.float64)
    label = np.repeat([1, 0], score.size)
    weight = np.concatenate([inside.ravel(), outside.ravel()])
    used = weight > 0
    arguments = (label[used], twice[used])
    area = roc_auc_score(*arguments, sample_weight=weight[used])
    return float(area), float(average_precision_score(*arguments, sample_weight=weight[used]))


def magnitude(images: NDArray[np.float32], known: NDArray[np.bool_], grid: tuple[int, int]) -> Floats:
    """The trivial detector: how far the pixels of a patch are from the image's median, in the mean.

    float64 ``[N, h, w]`` of normalised images ``[N, C, S, S]``; only known pixels count, and a patch without any is 0.
    """
    count, channels, height, width = images.shape
    values = np.where(known[:, None], images, np.nan).astype(np.float64)
    blank = ~known.any(axis=(1, 2))
    values[blank] = 0.0  # nothing to take a median of
    far = np.abs(values - np.nanmedian(values, axis=(2, 3), keepdims=True))
    cells = (count, channels, grid[0], height // grid[0], grid[1], width // grid[1])
    sums = np.nansum(far.reshape(cells), axis=(1, 3, 5))
    return np.asarray(sums / np.maximum(np.isfinite(far).reshape(cells).sum(axis=(1, 3, 5)), 1))


def halves(codes: Rows, seed: int = 0) -> NDArray[np.bool_]:
    """bool ``[N]``: a seeded half of the groups (int64 codes ``[N]``)."""
    names = np.unique(codes)
    order = permutation(seed, len(names), "halves").numpy()
    return np.asarray(np.isin(codes, names[order[: len(names) // 2]]))


def best_head(scores: Floats, codes: Rows, seed: int = 0) -> tuple[Floats, list[int]]:
    """Scores of the best head, which is chosen on the other half of the groups by its mean AUROC.

    Parameters
    ----------
    scores : float64 [N, heads, 2]
        AUROC and average precision of each head in each image.
    codes : int64 [N]
        The group of each image; at least two.

    Returns
    -------
    scores : float64 [N, 2]
    heads : list of two int
        Chosen for the first half (on the second), and for the second.
    """
    first = halves(codes, seed)
    out, heads = np.empty((len(scores), 2)), []
    for part in (first, ~first):
        head = int(scores[~part][:, :, 0].mean(axis=0).argmax())
        out[part] = scores[part, head]
        heads.append(head)
    return out, heads


def mean_statistic(values: Floats, codes: Rows, groups: int) -> Statistic:
    """The mean over images of float64 ``[N, 2]`` (AUROC, average precision)."""
    sums = torch.zeros(groups, 3, dtype=torch.float64)
    rows = np.concatenate([values, np.ones((len(values), 1))], axis=1)
    sums.index_add_(0, torch.from_numpy(codes), torch.from_numpy(rows))

    def evaluate(weights: Tensor) -> list[Tensor]:
        area, precision, count = (weights @ sums).unbind(1)
        return [area / count, precision / count]

    return Statistic(METRICS, ((0.0, 1.0),) * 2, evaluate)


@dataclass(frozen=True)
class AttentionScores:
    """How well attention finds things.

    Attributes
    ----------
    scores : list of dict
        truth, detector, metric, images, value, low, high, standard_error, groups, indicative.
    differences : list of dict
        The same of detector minus control over the same images; ``favours`` says which side of zero it lies on.
    heads : dict
        ``[truth][detector]``: the heads chosen, for either half.
    left_out : dict
        Truths that too few images have, and in how many groups they are.
    """

    scores: list[Record]
    differences: list[Record]
    heads: dict[str, dict[str, list[int]]]
    left_out: dict[str, int]


def score_attention(
    encoder: Encoder,
    archive: Archive,
    *,
    block: int = -1,
    most: int = 1000,
    seeds: Sequence[int] = (0, 1, 2),
    draws: int = 1000,
    seed: int = 0,
) -> AttentionScores | None:
    """Score the attention of a vision transformer against the masks and boxes of an archive.

    Per image the area under the ROC curve and the average precision of attention as a detector of the pixels of the
    mask; the mean over the images that have both; intervals that resample groups.

    Parameters
    ----------
    encoder : Encoder
        Of a vision transformer.
    archive : Archive
        A selection of one, where not all images are to count.
    block : int
    most : int
        Images a truth, evenly spaced among those that have it.
    seeds : sequence of int
        Of the controls with fresh weights.
    draws, seed : int
        Resamples behind an interval; seed of these, and of the halves that heads are chosen on.

    Returns
    -------
    AttentionScores, or None where no image has a mask or box with both sides.
    """
    if not seeds:
        raise UsageError("the control needs at least one seed")
    truths = read_truths(archive, encoder.preprocessing.size, most=most)
    if not truths:
        return None
    rows = np.unique(np.concatenate([truth.rows for truth in truths]))
    networks = {ATTENTION: encoder} | {f"{RANDOM} {s}": random_encoder(encoder, s).on(encoder.device) for s in seeds}
    per_image = _score_images(networks, archive, rows, truths, block)
    column = archive.catalogue["group"] if archive.catalogue["group"].notna().any() else None
    codes = group_codes(column, len(archive))
    result = AttentionScores([], [], {}, {})
    for truth in truths:
        groups, of_image = np.unique(codes[truth.rows], return_inverse=True)
        if len(groups) < _FEWEST:
            result.left_out[truth.name] = len(groups)
            continue
        tables = {name: per_image[truth.name][name] for name in (MAGNITUDE, CEILING)}
        heads: dict[str, list[int]] = {}
        for name in networks:
            scores = per_image[truth.name][name]  # [n, 1 + heads, 2]
            tables[f"{name}, {MEAN}"] = scores[:, 0]
            tables[f"{name}, {BEST}"], heads[name] = best_head(scores[:, 1:], of_image, seed)
        result.heads[truth.name] = heads
        _compare(result, truth.name, tables, seeds, of_image, draws, seed)
    return result


def _score_images(
    networks: Mapping[str, Encoder], archive: Archive, rows: Rows, truths: Sequence[Truth], block: int
) -> dict[str, dict[str, Floats]]:
    """``[truth][detector]``: float64 ``[n, 2]``, or ``[n, 1 + heads, 2]`` (their mean first) of a network."""
    found: dict[str, dict[str, list[Floats]]] = {t.name: {} for t in truths}
    with progress.bar("attention", total=len(networks) * len(rows), unit="images") as bar:
        for network, encoder in networks.items():
            done = 0
            for seen in look(encoder, archive, rows, block):
                assert seen.weights is not None
                maps = np.concatenate([seen.weights.mean(axis=1, keepdims=True), seen.weights], axis=1)
                grid = (maps.shape[2], maps.shape[3])
                plain = magnitude(seen.images, seen.known, grid)
                for i, row in enumerate(rows[done : done + len(maps)]):
                    for truth in truths:
                        at = int(np.searchsorted(truth.rows, row))
                        if at == len(truth.rows) or truth.rows[at] != row:
                            continue
                        inside, outside = (part[0] for part in patch_counts(truth.masks[at : at + 1], grid))
                        lists = found[truth.name]
                        lists.setdefault(network, []).append(np.array([detection(m, inside, outside) for m in maps[i]]))
                        if network == ATTENTION:
                            share = inside / np.maximum(inside + outside, 1)
                            lists.setdefault(MAGNITUDE, []).append(np.array(detection(plain[i], inside, outside)))
                            lists.setdefault(CEILING, []).append(np.array(detection(share, inside, outside)))
                done += len(maps)
                bar.advance(len(maps))
    return {truth: {name: np.stack(values) for name, values in lists.items()} for truth, lists in found.items()}


def _compare(
    result: AttentionScores,
    truth: str,
    tables: Mapping[str, Floats],
    seeds: Sequence[int],
    codes: Rows,
    draws: int,
    seed: int,
) -> None:
    """Add the scores of every detector of a truth, and their paired differences, over the same resamples."""
    statistics = {name: mean_statistic(values, codes, int(codes.max()) + 1) for name, values in tables.items()}
    detectors: dict[str, dict[str, float]] = {}
    compared = []
    for kind in (MEAN, BEST):
        model, control, luckiest = f"{ATTENTION}, {kind}", f"{RANDOM}, {kind}", f"{RANDOM} (best seed), {kind}"
        fresh = [f"{RANDOM} {s}, {kind}" for s in seeds]
        best = max(fresh, key=lambda name: float(tables[name][:, 0].mean()))
        detectors |= {model: {model: 1.0}, control: dict.fromkeys(fresh, 1 / len(fresh)), luckiest: {best: 1.0}}
        compared += [(model, control), (model, luckiest), (model, MAGNITUDE)]
    detectors |= {name: {name: 1.0} for name in (MAGNITUDE, CEILING)}
    contrasts = {(name, ""): terms for name, terms in detectors.items()}
    for detector, control in compared:
        minus = {name: -part for name, part in detectors[control].items()}
        contrasts[detector, control] = detectors[detector] | minus
    names = {str(i): key for i, key in enumerate(contrasts)}
    intervals = bootstrap_t(
        statistics, {i: contrasts[key] for i, key in names.items()}, int(codes.max()) + 1, draws, seed=seed
    )
    for i, (detector, control) in names.items():
        for metric in METRICS:
            interval = intervals[i][metric]
            row: Record = {"truth": truth, "detector": detector, "metric": metric, "images": len(codes)}
            if control:
                row |= {"control": control, "favours": favours(metric, interval)}
            (result.differences if control else result.scores).append(row | vars(interval))
