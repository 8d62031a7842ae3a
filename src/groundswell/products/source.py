"""Where imagettes come from: what an image folder, a product and the simulator have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from groundswell.errors import DataError
from groundswell.physics.imagette import Channel, Imagette


@dataclass(frozen=True, slots=True)
class Rejected:
    """An item that was set aside, with its reason; it is counted and listed, never dropped silently."""

    id: str
    reason: str


def reason_of(error: DataError) -> str:
    """An error as one line of a list: what, why, and the file where neither names it."""
    text = " ".join((f"{error.what}: {error.why}" if error.why else error.what).split())
    file = (error.where or "").replace(":", "/").rsplit("/", 1)[-1]
    return text if file in text else f"{text} ({file})"


class Source(Protocol):
    """A finite, ordered set of imagettes that can be read in any order, any number of times.

    Attributes
    ----------
    channels : tuple of Channel
        What `read` returns, the same for every item.
    mask_names : tuple of str
        The masks an item may carry.
    description : dict
        JSON-able settings that determine every pixel; two sources with equal descriptions give equal archives.
    eight_bit : bool
        Every pixel is a whole number from 0 to 255, none is NaN: a byte holds it.
    """

    channels: tuple[Channel, ...]
    mask_names: tuple[str, ...]
    description: dict[str, Any]
    eight_bit: bool

    def ids(self) -> Sequence[str]:
        """The id of every item, sorted; known without reading pixels."""

    def read(self, ids: Sequence[str]) -> list[Imagette | Rejected]:
        """The items asked for, in that order; the result does not depend on how a batch was split."""


def chip_starts(length: int, size: int, overlap: int) -> list[int]:
    """Where chips of ``size`` that share ``overlap`` begin along an axis; none on one that is shorter.

    The last one ends where the axis ends, so that it may share more.
    """
    last = length - size
    starts = list(range(0, last + 1, size - overlap))
    return starts if not starts or starts[-1] == last else [*starts, last]
