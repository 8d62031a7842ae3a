"""Which label columns of an archive a policy makes unanswerable."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# The kinds of label that operations name in ``unphysical_for`` (temperature among regression targets alone), and the
# words that a column of each kind is called by.
WORDS = {
    "wind speed": ("wind_speed", "windspeed", "u10", "wspd"),
    "wave height": ("hs", "hsalt", "swh", "wave_height"),
    "wave period": ("tp", "period", "wavelength"),
    "direction": ("direction", "dir", "wdir", "heading", "cog"),
    "sizes": ("length", "width"),
    "temperature": ("temperature", "sst"),
}


def broken_labels(notes: Mapping[str, tuple[str, ...]], columns: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Of each label column that a policy breaks, what in the policy does so.

    Parameters
    ----------
    notes : mapping
        As `ViewPolicy.unphysical_for` gives them.
    columns : iterable of str
        Columns of a catalogue; only those that begin with ``label_`` count, by the words in their names, in either
        case.

    Returns
    -------
    dict of column to the names of operations, or of parts of the cut
    """
    broken: dict[str, tuple[str, ...]] = {}
    for column in columns:
        kinds = [
            kind for kind, words in WORDS.items() if column.startswith("label_") and _has(column[6:].lower(), words)
        ]
        guilty = [
            name
            for name, labels in notes.items()
            if any(label.startswith((*kinds, "regression targets")) for label in labels if kinds)
        ]
        if guilty:
            broken[column] = tuple(guilty)
    return broken


def _has(name: str, words: tuple[str, ...]) -> bool:
    return any(re.search(rf"(^|_){word}(_|$)", name) for word in words)
