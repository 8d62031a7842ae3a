"""What the figures show, as plain arrays (tested), and their drawing, as SVG that follows the page's ink and paper.

Colours: the ten of Petroff (2021, "Accessible color sequences for data visualization", arXiv 2107.02270), each with
its own marker, so that no class is told by colour alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
OTHER = "other classes"

_INK = "#010203"  # stands for the page's text colour, which CSS knows and matplotlib does not
_WIDTH = 10.75  # inches at 96 per inch: the width of the page

Floats = NDArray[np.float64]


# ---- what is shown ----------------------------------------------------------------------------------------------


def curves(records: Sequence[Mapping[str, Any]], x: str, names: Sequence[str]) -> dict[str, tuple[Floats, Floats]]:
    """The lines of a training log: for each name that occurs, its x and y where both are finite numbers."""
    found = {}
    for name in names:
        pairs = [(r[x], r[name]) for r in records if _number(r.get(x)) and _number(r.get(name))]
        if pairs:
            values = np.array(pairs, dtype=np.float64)
            found[name] = (values[:, 0], values[:, 1])
    return found


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def smooth(y: Floats, window: int) -> Floats:
    """``[N]``: the mean of the last ``window`` values (fewer at the start), which never looks ahead."""
    total = np.concatenate([[0.0], np.cumsum(y)])
    stop = np.arange(1, len(y) + 1)
    start = np.maximum(stop - window, 0)
    return np.asarray((total[stop] - total[start]) / (stop - start))


@dataclass(frozen=True, slots=True)
class EmbeddingMap:
    """A flat map of embeddings.

    Attributes
    ----------
    rows : int64 [n]
        Which rows of the table are on it, ascending.
    positions : float64 [n, 2]
    """

    rows: NDArray[np.int64]
    positions: Floats


def embedding_map(vectors: NDArray[np.float32], limit: int = 1500, seed: int = 0) -> EmbeddingMap:
    """A t-SNE map (van der Maaten and Hinton 2008) of at most ``limit`` rows of vectors ``[N, D]``.

    Vectors are centred and set to unit length (cosine distance, as kNN and search use), brought to 50 principal
    components, then to two dimensions, started from the first two components.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    count = len(vectors)
    rows = np.arange(count)
    if count > limit:
        rows = np.sort(np.random.default_rng(seed).choice(count, limit, replace=False))
    chosen = np.asarray(vectors[rows], dtype=np.float64)
    chosen = chosen - chosen.mean(axis=0)
    chosen /= np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-12)
    if len(rows) < 5 or chosen.shape[1] < 2:  # too few for t-SNE: the first two principal components
        u, size, _ = np.linalg.svd(chosen, full_matrices=False)
        flat = np.zeros((len(rows), 2))
        flat[:, : len(size[:2])] = (u * size)[:, :2]
        return EmbeddingMap(rows, flat)
    chosen = PCA(min(50, *chosen.shape), svd_solver="full").fit_transform(chosen)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    map_ = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(chosen)
    return EmbeddingMap(rows, np.asarray(map_, dtype=np.float64))


def shown_classes(labels: Sequence[Any]) -> list[str]:
    """Class names by name; where there are more than the palette tells apart, the most frequent and the rest as one."""
    names, counts = np.unique(np.array([str(label) for label in labels]), return_counts=True)
    if len(names) <= len(PALETTE):
        return [str(name) for name in names]
    frequent = names[np.argsort(-counts, kind="stable")][: len(PALETTE) - 1]
    return [*sorted(str(name) for name in frequent), OTHER]


# ---- how it is drawn --------------------------------------------------------------------------------------------


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib as mpl

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        "text.parse_math": False,  # a label may hold a dollar sign
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.alpha": 0.13,
        "grid.linewidth": 0.8,
        "axes.linewidth": 0.8,
        "axes.titlesize": 10.5,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
    }
    for name in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"):
        settings[name] = _INK
    with mpl.rc_context(settings):
        yield


def _figure(height: float, width: float = _WIDTH) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure, name: str) -> str:
    """Inline SVG: ink follows the page, ids carry ``name`` so that two figures never share one."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)


def draw_curves(panels: Sequence[tuple[str, Mapping[str, tuple[Floats, Floats]]]], x_label: str, name: str) -> str:
    """SVG: one small panel for each title with its lines (raw faint, running mean strong where there are many)."""
    with _style():
        columns = min(3, len(panels))
        rows = -(-len(panels) // columns)
        figure = _figure(2.5 * rows, _WIDTH if columns > 1 else _WIDTH / 2)
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis, (title, lines) in zip(axes.flat, panels, strict=False):
            _draw_lines(axis, title, lines)
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_axis_off()
        for axis in axes[-1]:
            axis.set_xlabel(x_label)
        return _svg(figure, name)


def _draw_lines(axis: Axes, title: str, lines: Mapping[str, tuple[Floats, Floats]]) -> None:
    axis.set_title(title)
    for colour, (label, (x, y)) in zip(PALETTE, lines.items(), strict=False):
        if len(y) > 60:
            axis.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
            axis.plot(x, smooth(y, max(5, len(y) // 40)), color=colour, label=_short(label))
        else:
            axis.plot(x, y, color=colour, label=_short(label), marker="o", markersize=3)
    if len(lines) > 1:
        axis.legend(fontsize=8)


def draw_map(panels: Sequence[tuple[str, Floats, Sequence[Any]]], name: str) -> str:
    """SVG: maps side by side (title, positions ``[n, 2]``, label of each), one colour and marker for each class."""
    with _style():
        figure = _figure(_WIDTH / len(panels) * (0.92 if len(panels) > 1 else 0.62) + 0.55)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        classes = shown_classes([label for _, _, labels in panels for label in labels])
        for axis, (title, positions, labels) in zip(axes, panels, strict=True):
            shown = np.array([str(v) if str(v) in classes else OTHER for v in labels], dtype=object)
            for i, class_name in enumerate(classes):
                at = positions[shown == class_name]
                axis.scatter(
                    at[:, 0], at[:, 1], s=15, c=PALETTE[i % 10], marker=MARKERS[i % 10], linewidths=0, alpha=0.85,
                    label=_short(class_name), rasterized=len(positions) > 2500,
                )  # fmt: skip
            axis.set_title(title)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.grid(False)
            for side in ("left", "bottom"):
                axis.spines[side].set_visible(False)
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(5, len(names)), markerscale=1.6, fontsize=9)
        return _svg(figure, name)


def draw_scatter(panels: Sequence[tuple[str, str, Floats, Floats]], x_label: str, y_label: str, name: str) -> str:
    """SVG: observed against predicted, panels side by side (title, text, observed ``[n]``, predicted ``[n]``)."""
    with _style():
        columns = min(4, len(panels))
        rows = -(-len(panels) // columns)
        figure = _figure((_WIDTH / columns + 0.45) * rows if columns > 2 else 4.2 * rows)
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        everything = np.concatenate([np.concatenate([o, p]) for _, _, o, p in panels])
        low, high = np.percentile(everything, [0.2, 99.8])
        margin = 0.05 * (high - low)
        for axis, (title, text, observed, predicted) in zip(axes.flat, panels, strict=False):
            axis.plot([low, high], [low, high], color=_INK, linewidth=0.9, alpha=0.6)
            axis.scatter(
                observed, predicted, s=9, c=PALETTE[0], alpha=0.5, linewidths=0, rasterized=len(observed) > 3000
            )
            axis.set_title(title)
            axis.text(0.03, 0.97, text, transform=axis.transAxes, va="top", fontsize=8.5, linespacing=1.45)
            axis.set_xlim(low - margin, high + margin)
            axis.set_ylim(low - margin, high + margin)
            axis.set_aspect("equal")
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_axis_off()
        for axis in axes[-1]:
            axis.set_xlabel(x_label)
        for axis in axes[:, 0]:
            axis.set_ylabel(y_label)
        return _svg(figure, name)


def draw_histograms(panels: Sequence[tuple[str, Floats, Sequence[tuple[str, Floats]]]], name: str) -> str:
    """SVG: outlined histograms (title, bin edges ``[K + 1]``, the shares ``[K]`` of each named part)."""
    with _style():
        figure = _figure(2.4)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (title, edges, parts) in zip(axes, panels, strict=True):
            for colour, (label, shares) in zip(PALETTE, parts, strict=False):
                axis.stairs(shares, edges, color=colour, label=label, linewidth=1.6)
            axis.set_title(title)
            axis.set_yticks([])
            axis.spines["left"].set_visible(False)
            if len(parts) > 1:
                axis.legend(fontsize=8)
        return _svg(figure, name)


def _short(text: str, length: int = 28) -> str:
    text = text.replace("_", " ")
    return text if len(text) <= length else text[: length - 1] + "…"
