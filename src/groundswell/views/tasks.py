"""Which label columns of an archive a policy makes unanswerable."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# The kinds of label that operations name in ``unphysical_for``, and the words (regular expressions) that a column of
# each kind is called by. Numbers are regression targets besides, temperature and shares nothing else; classes are not.
# Texture is what the moments of the pixels tell, looks included; sigma_v is read from the azimuth cut-off.
NUMBERS = {
    "wind speed": ("wind_speed", "windspeed", "u10", "wspd"),
    "wave height": ("hs", "hsalt", "swh", "wave_height"),
    "wave period": ("tp", "period", "wavelength", "wl"),
    "direction": ("direction", "dir", "wdir", "heading", "cog"),
    "sizes": ("length", "width", "(?<!wave_)height"),
    "the azimuth cut-off": ("cutoff", "cut_off", "sigma_v"),
    "texture": ("nv", "normali[sz]ed_?variance", "skewness", "kurtosis", "looks", "enl"),
    "the level": ("nrcs", "sigma_?0"),
    "noise level": ("nesz", "noise"),
    "temperature": ("temperature", "sst"),
    "shares": ("concentration", "thickness", "share", "fraction"),
}
CLASSES = {
    "small targets": ("icebergs?", "ib", "ships?", "vessels?"),
    "slicks against bright ice": ("slicks?", "bs", "oil", "low_wind", "ice", "si"),
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
        if not column.startswith("label_"):
            continue
        called = column.removeprefix("label_").lower()
        kinds = [kind for kind, words in (NUMBERS | CLASSES).items() if _has(called, words)]
        if not NUMBERS.keys().isdisjoint(kinds):
            kinds.append("regression targets")
        guilty = [name for name, labels in notes.items() if any(label.startswith(tuple(kinds)) for label in labels)]
        if guilty:
            broken[column] = tuple(guilty)
    return broken


def _has(name: str, words: tuple[str, ...]) -> bool:
    return any(re.search(rf"(^|_){word}(_|$)", name) for word in words)
