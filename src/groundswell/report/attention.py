"""The sheet of what a network looks at: image, what is there, attention of each head, patch vectors as colours, scores.

Attention is shown as a multiple of what every token would get if all were looked at alike, so that a head that looks at
everything is flat in the picture, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from groundswell.archive.reader import Archive
from groundswell.encoder.attention import Looked, look, patch_colours
from groundswell.encoder.encoder import Encoder
from groundswell.encoder.provenance import describe, in_words
from groundswell.errors import UsageError
from groundswell.evaluation.attention import AttentionScores
from groundswell.evaluation.truths import read_truths
from groundswell.files import write_with
from groundswell.report.figures import PALETTE
from groundswell.report.labels import class_column, spaced
from groundswell.report.sheets import grey

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".jpg", ".pdf", ".svg")
_TILE, _TITLE, _HEAD, _LABELS = 1.35, 0.42, 0.75, 1.05  # inches
_LABEL = 0.075  # of a letter
_MOST_HEADS = 16
_RED, _GREY = "#bd1f01", "#717581"

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class AttentionSheet:
    """A sheet that was written.

    Attributes
    ----------
    ids : list of str
    heads : int
        0 for a ResNet.
    grid : (int, int)
        Rows and columns of patches.
    explained : list of float
        The part of the variance of the patch vectors in each of the three colours.
    truths : list of str
        What is outlined.
    """

    ids: list[str]
    heads: int
    grid: tuple[int, int]
    explained: list[float]
    truths: list[str]


def choose_rows(archive: Archive, count: int, given: Sequence[str] = ()) -> Rows:
    """Positions to show: those ``given`` (ids, or positions), else ``count`` of them, evenly spread over the classes.

    Raises
    ------
    UsageError
        For an id or a position that is not there.
    """
    if not given:
        column = class_column(archive.catalogue)
        order = np.arange(len(archive))
        if column is not None:
            order = np.argsort(archive.catalogue[column].astype("string").fillna("").to_numpy(), kind="stable")
        middle = (np.arange(min(count, len(order))) + 0.5) * len(order) / min(count, len(order))
        return np.asarray(order[middle.astype(np.int64)], dtype=np.int64)
    place = {str(name): i for i, name in enumerate(archive.catalogue["id"])}
    rows = []
    for text in given:
        position = place.get(text, int(text) if text.isdecimal() else -1)
        if not 0 <= position < len(archive):
            raise UsageError(
                f"there is no imagette {text!r} in the selection",
                where=archive.path,
                fix=f"give ids, or positions from 0 to {len(archive) - 1}",
            )
        rows.append(position)
    return np.array(rows, dtype=np.int64)


def attention_sheet(
    encoder: Encoder,
    archive: Archive,
    rows: Rows,
    path: str | Path,
    *,
    block: int = -1,
    scores: AttentionScores | None = None,
) -> AttentionSheet:
    """Write the sheet of some imagettes, one a row; the patch colours are fitted over all of them together.

    Raises
    ------
    UsageError
        When the ending of ``path`` names no picture format.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    target = check_format(path)
    parts = list(look(encoder, archive, rows, block))
    tokens = np.concatenate([part.tokens for part in parts])
    colours, explained = patch_colours(tokens)
    truths = read_truths(archive, encoder.preprocessing.size, np.unique(rows))
    outlines = {t.name: {int(r): m == 1 for r, m in zip(t.rows, t.masks, strict=True)} for t in truths}
    heads = 0 if parts[0].weights is None else parts[0].weights.shape[1]
    maps = attention_maps(parts)
    settings: dict[Any, Any] = {"font.size": 8, "axes.titlesize": 8.5, "axes.linewidth": 0.6, "text.parse_math": False}
    columns = 1 + len(maps) + 1
    labels = _labels(archive, rows)
    margin = max(_LABEL * max(len(line) for text in labels for line in text.split("\n")), _LABELS)
    wide = max(margin + _TILE * columns + 0.05, 5.6 if scores is None else 7.2)
    lower = 0.0 if scores is None else _height_of_scores(scores)
    tall = _HEAD + _TITLE + _TILE * len(rows)
    with mpl.rc_context(settings):
        figure = Figure(figsize=(wide, tall + lower), dpi=130)
        upper: Any = figure
        if scores is not None:
            both: Any = figure.subfigures(2, 1, height_ratios=[tall, lower])
            upper = both[0]
            _scores(both[1], scores)
        _tiles(upper, parts, maps, colours, labels, rows, outlines, tall, wide, margin)
        _headline(upper, encoder, archive, len(rows), block, heads, tall)
        write_with(
            target, lambda handle: figure.savefig(handle, format=target.suffix.lower()[1:].replace("jpg", "jpeg"))
        )
    ids = [str(name) for name in archive.catalogue["id"].iloc[rows]]
    grid = (tokens.shape[2], tokens.shape[3])
    return AttentionSheet(ids, heads, grid, explained, list(outlines))


def check_format(path: str | Path) -> Path:
    """``path``, or `UsageError` where its ending names no picture format."""
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise UsageError("attend writes a picture", where=target, fix=f"end its name in {', '.join(FORMATS)}")
    return target


def attention_maps(parts: Sequence[Looked]) -> dict[str, NDArray[np.float32]]:
    """Of each column of the sheet float32 ``[N, h, w]``: attention times the number of patches; none for a ResNet."""
    if parts[0].weights is None:
        return {}
    weights = np.concatenate([part.weights for part in parts if part.weights is not None])
    ratio = weights * (weights.shape[2] * weights.shape[3])
    columns = {"mean of heads": ratio.mean(axis=1)}
    columns |= {f"head {head}": ratio[:, head] for head in range(min(ratio.shape[1], _MOST_HEADS))}
    return columns


def _tiles(
    figure: Any,
    parts: Sequence[Looked],
    maps: Mapping[str, NDArray[np.float32]],
    colours: NDArray[np.float32],
    labels: Sequence[str],
    rows: Rows,
    outlines: Mapping[str, Mapping[int, NDArray[np.bool_]]],
    tall: float,
    wide: float,
    margin: float,
) -> None:
    images = np.concatenate([part.images[:, 0] for part in parts])
    top = 1 - (_HEAD + _TITLE) / tall
    grid = figure.add_gridspec(
        len(rows),
        2 + len(maps),
        left=margin / wide,
        right=(margin + _TILE * (2 + len(maps))) / wide,
        top=top,
        bottom=0.05 / tall,
        wspace=0.04,
        hspace=0.04,
    )
    limits = {name: max(float(np.percentile(values, 99.5)), 1.0) for name, values in maps.items()}
    for i, row in enumerate(rows):
        first = figure.add_subplot(grid[i, 0])
        first.imshow(grey(images[i]), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        for colour, there in zip(PALETTE, outlines.values(), strict=False):
            if int(row) in there:
                _outline(first, there[int(row)], colour)
        first.set_ylabel(labels[i], rotation=0, ha="right", va="center", labelpad=4, fontsize=7.5)
        shown = [first]
        for column, (name, values) in enumerate(maps.items(), start=1):
            axes = figure.add_subplot(grid[i, column])
            axes.imshow(values[i], cmap="magma", vmin=0, vmax=limits[name], interpolation="nearest")
            shown.append(axes)
            if i == 0:
                axes.set_title(f"{name}\n0 to {limits[name]:.2g}×")
        last = figure.add_subplot(grid[i, len(maps) + 1])
        last.imshow(colours[i], interpolation="nearest")
        shown.append(last)
        if i == 0:
            first.set_title("image")
            last.set_title("patch vectors\n(3 components)")
        for axes in shown:
            axes.set_xticks([])
            axes.set_yticks([])
    for number, (colour, name) in enumerate(zip(PALETTE, outlines, strict=False)):
        x = 1 - (0.1 + 1.15 * (len(outlines) - 1 - number)) / wide
        figure.text(x, 1 - 0.18 / tall, f"□ {name}", color=colour, ha="right", va="center", fontsize=8.5)


def _outline(axes: Axes, there: NDArray[np.bool_], colour: str) -> None:
    """A line around what is there; around a spot of a few pixels a ring that can be seen."""
    side = there.shape[0]
    axes.contour(np.pad(there, 1).astype(float)[1:-1, 1:-1], levels=[0.5], colors=[colour], linewidths=0.9)
    if there.sum() < 0.004 * side**2:
        from scipy.ndimage import center_of_mass, label

        spots, count = label(there)
        for y, x in center_of_mass(there, spots, range(1, count + 1)):
            axes.plot(x, y, "o", markersize=9, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=0.9)


def _labels(archive: Archive, rows: Rows) -> list[str]:
    """The class of each image where there is one, broken into short lines, and its id."""
    column = class_column(archive.catalogue)
    lines = []
    for _, item in archive.catalogue.iloc[rows].iterrows():
        words = "" if column is None else spaced(str(item[column])).replace(" ", "\n")
        name = str(item["id"])
        lines.append(f"{words}\n{name if len(name) <= 16 else '…' + name[-15:]}".strip())
    return lines


def _headline(figure: Any, encoder: Encoder, archive: Archive, shown: int, block: int, heads: int, tall: float) -> None:
    if heads:
        depth = len(encoder.backbone.blocks)  # type: ignore[arg-type]
        what = f"attention of the class token, block {block % depth + 1} of {depth} (1× is: at all patches alike)"
    else:
        what = f"vectors of the last stage; {encoder.settings.name} has no attention"
    figure.text(0.01, 1 - 0.18 / tall, encoder.id, ha="left", va="center", fontsize=10.5, weight="bold")
    figure.text(0.01, 1 - 0.38 / tall, what, ha="left", va="center", fontsize=8.5)
    data = f"{shown} of {in_words([describe(archive)])}"
    figure.text(0.01, 1 - 0.56 / tall, data, ha="left", va="center", fontsize=8, color="0.35")


def _height_of_scores(scores: AttentionScores) -> float:
    return 0.9 + 0.19 * len({row["detector"] for row in scores.scores})


def _scores(figure: Any, scores: AttentionScores) -> None:
    """One panel a truth: AUROC of every detector with its interval; chance is dotted."""
    truths = list(dict.fromkeys(row["truth"] for row in scores.scores))
    detectors = list(dict.fromkeys(row["detector"] for row in scores.scores))
    panels = figure.subplots(1, max(len(truths), 1), sharey=True, squeeze=False)[0]
    figure.subplots_adjust(left=0.31, right=0.98, top=0.78, bottom=0.2, wspace=0.12)
    for axes, truth in zip(panels, truths, strict=False):
        rows = [r for r in scores.scores if r["truth"] == truth and r["metric"] == "auroc"]
        for row in rows:
            y = detectors.index(row["detector"])
            colour = _RED if row["detector"].startswith("attention") else _GREY
            axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2, alpha=0.55, solid_capstyle="butt")
            axes.plot(row["value"], y, "o", color=colour, markersize=4.5)
        axes.axvline(0.5, color="0.5", linewidth=0.8, linestyle=":")
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        axes.set_title(f"{truth} ({rows[0]['images']} images)", loc="left")
        axes.grid(axis="x", alpha=0.2, linewidth=0.6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("AUROC in an image, mean")
    panels[0].set_yticks(range(len(detectors)), detectors)
    panels[0].set_ylim(len(detectors) - 0.5, -0.5)
    figure.text(
        0.01,
        0.93,
        "Does it find what is there? Means over images, 95 % intervals over groups; dotted: chance.",
        fontsize=9,
        weight="bold",
        va="center",
    )
