"""The one exception family: every message says what, where, why and how to fix it.

Exit codes of the command line: 0 done, 1 failed, 2 usage, 3 data, 4 partial, 75 stopped by a signal with a
checkpoint (run again with ``--resume``).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GroundswellError(Exception):
    """Base of every error that groundswell raises on purpose.

    Parameters
    ----------
    what : str
        What failed, in one sentence.
    where : object, optional
        The file, key, image or option it failed at.
    why : str, optional
        The cause, as far as it is known.
    fix : str, optional
        What the reader can do about it; a command to paste where there is one.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, why: str | None = None, fix: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.why = why
        self.fix = fix
        super().__init__(self.__str__())

    def __str__(self) -> str:
        parts = [self.what]
        parts += [f"{name}: {value}" for name, value in self.details()]
        return "\n".join(parts)

    def details(self) -> list[tuple[str, str]]:
        """The parts after the first sentence, in the order in which they are shown."""
        pairs = (("where", self.where), ("why", self.why), ("fix", self.fix))
        return [(name, value) for name, value in pairs if value]

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.why, self.fix)


def _rebuild(
    kind: type[GroundswellError], what: str, where: str | None, why: str | None, fix: str | None
) -> GroundswellError:
    """Unpickle an error sent from another process (its arguments are keywords, which pickle drops)."""
    return kind(what, where=where, why=why, fix=fix)


class UsageError(GroundswellError):
    """The command, option or argument does not make sense, whatever the data."""

    exit_code = 2


class BusyError(UsageError):
    """Another process works on what is to be written."""


class ConfigError(UsageError):
    """A setting is unknown, missing or out of range."""


class DataError(GroundswellError):
    """A file or an array is not what it claims to be."""

    exit_code = 3


class QuantityError(DataError):
    """Pixels of one quantity where another is needed, or a conversion that physics does not allow."""


class ProductError(DataError):
    """A satellite product, or one item of it, is missing, incomplete, damaged or hostile."""


class ArchiveError(DataError):
    """An archive is missing, damaged, of another version, or does not match what was asked of it."""


class ModelError(DataError):
    """A model directory or checkpoint is missing, damaged or does not fit."""


class TableError(DataError):
    """An embedding table is missing, damaged, or made by another encoder."""


class TrainingError(GroundswellError):
    """A training run cannot go on."""


class CollapsedError(TrainingError):
    """The representation has collapsed; the reason and the last good checkpoint are named."""


class DivergedError(TrainingError):
    """The loss is NaN, infinite or exploding; the reason and the last good checkpoint are named."""


class LostProcess(TrainingError):
    """Another process of the same run is gone, or does not answer."""


class StoppedBySignal(GroundswellError):
    """A signal asked to stop; a checkpoint was written first, or the work goes on from what is there."""

    exit_code = 75


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion for a mistyped ``word`` out of ``known``, or the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known: " + ", ".join(known) if known else "nothing is known by that name"
