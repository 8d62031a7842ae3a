"""Which label column holds the classes, and how names are shown to people."""

from __future__ import annotations

from collections.abc import Hashable

import pandas as pd

_MOST = 100


def class_column(frame: pd.DataFrame, wanted: str | None = None) -> str | None:
    """The column of classes: ``wanted`` where it is there, else ``label_phenomenon``, ``label_class``, or the first text label with 2 to 100 values."""
    names = [str(c) for c in frame.columns if str(c).startswith("label_")]
    for name in (wanted, "label_phenomenon", "label_class"):
        if name is not None and name in names and _is_classes(frame[name]):
            return name
    return next((name for name in names if _is_classes(frame[name])), None)


def _is_classes(column: pd.Series) -> bool:
    is_text = not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)
    return is_text and 2 <= column.nunique() <= _MOST


def spaced(name: Hashable) -> str:
    """A label name for people: without its prefix, underscores as spaces."""
    return str(name).removeprefix("label_").replace("_", " ")
