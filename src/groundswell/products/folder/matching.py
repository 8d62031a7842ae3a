"""Which file a key of a table means: by path, by file name, by stem; never by guesswork among several."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from groundswell.products.folder.files import EXTENSIONS

_SAMPLE = 500


@dataclass(frozen=True, slots=True)
class Found:
    """What a key means: an id (None for nothing or several), by which rule, and how many files it could mean."""

    id: str | None
    rule: str
    candidates: int


class Matcher:
    """Finds the image that a key means among files given as (id, absolute path with forward slashes)."""

    def __init__(self, files: Iterable[tuple[str, str]]) -> None:
        self._names: dict[str, list[tuple[str, list[str]]]] = defaultdict(list)
        self._stems: dict[str, list[tuple[str, list[str]]]] = defaultdict(list)
        for id_, path in files:
            parts = path.split("/")
            self._names[parts[-1]].append((id_, parts))
            self._stems[stem(parts[-1])].append((id_, parts))

    def find(self, key: str) -> Found:
        """The image whose path ends as the key does; where the key is no path of ours, the one of its name or stem.

        Among images of one name, the one that shares most trailing folders with the key; a tie is no match.
        """
        parts = [part for part in key.replace("\\", "/").split("/") if part not in ("", ".")]
        if not parts:
            return Found(None, "name", 0)
        named = self._names.get(parts[-1], [])
        by_name = bool(named)
        candidates = named or self._stems.get(stem(parts[-1]), [])
        if not candidates:
            return Found(None, "name", 0)
        shared = [_shared_folders(parts, path) for _, path in candidates]
        best = max(shared)
        winners = [id_ for (id_, _), n in zip(candidates, shared, strict=True) if n == best]
        whole = best == len(parts) - 1 > 0
        rule = "path" if by_name and whole else "name" if by_name else "stem"
        return Found(winners[0] if len(winners) == 1 else None, rule, len(winners))

    def near(self, key: str, count: int = 2) -> list[str]:
        """File names that look like a key which means no file."""
        name = key.replace("\\", "/").split("/")[-1]
        return difflib.get_close_matches(name, list(self._names)[:20_000], n=count, cutoff=0.6)

    def example(self, key: str) -> str:
        """The file name most like a key, or the first."""
        return next(iter([*self.near(key, 1), *self._names]), "")


def stem(name: str) -> str:
    """A file name without the extension of an image; other dots belong to the name."""
    lower = name.lower()
    for extension in EXTENSIONS:
        if lower.endswith(extension):
            return name[: -len(extension)]
    return name


def _shared_folders(key: Sequence[str], path: Sequence[str]) -> int:
    count = 0
    for ours, theirs in zip(reversed(key[:-1]), reversed(path[:-1]), strict=False):
        if ours != theirs:
            break
        count += 1
    return count


def find_key(columns: dict[str, list[str | None]], matcher: Matcher) -> tuple[str, float] | None:
    """The column whose cells name most files, and the share that does; None where no column names any.

    Where columns name equally many, whole paths win over names and names over stems, then the first column.
    """
    best: tuple[float, float, str] | None = None
    for name, cells in columns.items():
        step = max(1, len(cells) // _SAMPLE)
        sample = cells[::step]
        found = [matcher.find(cell) for cell in sample if cell is not None]
        matched = [f for f in found if f.id is not None]
        if not matched or len({f.id for f in matched}) < 0.5 * len(matched):  # a key tells rows apart
            continue
        quality = sum({"path": 1.0, "name": 0.5, "stem": 0.25}[f.rule] for f in matched) / len(matched)
        share = len(matched) / len(sample)
        if best is None or (share, quality) > best[:2]:
            best = (share, quality, name)
    return None if best is None else (best[2], best[0])
