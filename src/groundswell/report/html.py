"""Blocks to one HTML file that needs nothing but itself: no script, no network, no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from groundswell.report.blocks import Section, Tile, Tone

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True, slots=True)
class Page:
    """What the head of a report says.

    Attributes
    ----------
    title : str
    data : str
        The first line: simulated, or the name of the real set, and how many images.
    simulated : bool or None
        None where no archive or table says.
    banner : sequence of Tile
        A strip of images under the title.
    sections : sequence of Section
    made : str
        When and by which version.
    """

    title: str
    data: str
    simulated: bool | None
    banner: Sequence[Tile]
    sections: Sequence[Section]
    made: str


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["svg"] = _trusted
    text = (resources.files("groundswell.report") / "template.html").read_text(encoding="utf-8")
    return environment.from_string(text)


def _trusted(markup: str) -> str:
    from markupsafe import Markup

    return Markup(markup)


def render(page: Page) -> str:
    """The whole HTML text of a report; every text of every block is escaped."""
    return _template().render(page=page)


def picture(image: NDArray[np.uint8], size: int = 128) -> str:
    """A uint8 grey ``[H, W]`` image as a data URI (JPEG), its long side brought down to ``size`` pixels."""
    from PIL import Image

    drawn = Image.fromarray(image)
    if max(drawn.size) > size:
        scale = size / max(drawn.size)
        new = (max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale)))
        drawn = drawn.resize(new, Image.Resampling.BOX)
    buffer = io.BytesIO()
    drawn.save(buffer, format="JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def tone_of(low: float, high: float, higher_is_better: bool = True) -> Tone:
    """``win`` where the whole interval lies on the good side of zero, ``loss`` on the bad side, else ``tie``."""
    if not higher_is_better:
        low, high = -high, -low
    return "win" if low > 0 else "loss" if high < 0 else "tie"
