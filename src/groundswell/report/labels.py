"""Which label column holds the classes, and how names are shown to people."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import pandas as pd

_MOST = 100


def class_column(frame: pd.DataFrame, probed: Sequence[str] = ()) -> str | None:
    """The column of classes to sort and colour by, or None.

    The first of ``probed`` (targets that were probed as classes) that is there, else ``label_phenomenon`` or
    ``label_class``, else the first text label with 2 to 100 values.
    """
    names = [str(c) for c in frame.columns if str(c).startswith("label_")]
    for name in probed:
        if name in frame:
            return name
    for name in ("label_phenomenon", "label_class"):
        if name in names and _is_classes(frame[name]):
            return name
    return next((name for name in names if _is_classes(frame[name])), None)


def tag_columns(frame: pd.DataFrame) -> list[str]:
    """Label columns that hold nothing but 0 and 1; none where there is only one of them."""
    names = [str(c) for c in frame.columns if str(c).startswith("label_") and pd.api.types.is_numeric_dtype(frame[c])]
    tags = [n for n in names if frame[n].notna().any() and frame[n].dropna().isin((0, 1)).all()]
    return tags if len(tags) > 1 else []


def _is_classes(column: pd.Series) -> bool:
    is_text = not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)
    return is_text and 2 <= column.nunique() <= _MOST


def spaced(name: Hashable) -> str:
    """A label name for people: without its prefix, underscores as spaces; a pattern of columns as their plural."""
    text = str(name).removeprefix("label_")
    if text.endswith("_*"):
        text = text.removesuffix("_*") + "s"
    return text.replace("_", " ")


_UNITS = {"hs": "m", "hs_swell": "m", "hs_wind_sea": "m", "tp": "s", "wind_speed": "m/s", "length": "m", "width": "m"}


def unit(name: str) -> str:
    """The unit of a label where its name says it, else nothing."""
    short = name.removeprefix("label_")
    return _UNITS.get(short, "m" if short.endswith("_m") else "degrees" if short.endswith("_deg") else "")


_PROTOCOLS = {"knn": "kNN", "linear": "linear"}
_METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "macro_auroc": "macro AUROC",
    "macro_ap": "macro average precision",
    "micro_auroc": "micro AUROC",
    "micro_ap": "micro average precision",
    "rmse": "RMSE",
    "bias": "bias",
    "scatter_index": "scatter index",
    "unbiased_scatter_index": "unbiased scatter index",
    "r2": "R²",
}
_SHARES = ("accuracy", "f1", "auroc", "ap", "scatter_index")


def protocol_name(name: str) -> str:
    """A protocol for people."""
    return _PROTOCOLS.get(name, name)


def metric_name(name: str) -> str:
    """A metric for people; ``auroc:tag`` is the AUROC of a tag."""
    return _METRICS.get(name, name)


def is_share(metric: str) -> bool:
    """Whether a metric is shown in per cent."""
    return metric.split(":")[0].endswith(_SHARES)


def number(value: float | None, metric: str, *, signed: bool = False) -> str:
    """A score for people: shares in per cent with one decimal, others with two (signed: three); ``?`` if undefined."""
    if value is None or value != value:
        return "?"
    scaled, digits = (100 * value, 1) if is_share(metric) else (value, 3 if signed else 2)
    scaled = round(scaled, digits) + 0.0  # no negative zero
    text = f"{scaled:+.{digits}f}" if signed and scaled else f"{scaled:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")
