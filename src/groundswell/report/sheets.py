"""Contact sheets: many small images on one page, each with its title."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from groundswell.errors import UsageError
from groundswell.files import write_with

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_LINE, _GAP = 15, 6


def grey(image: NDArray[np.floating[Any]], limits: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """An image ``[H, W]`` as 8-bit grey, linear between ``limits``, or its 1st and 99th percentile; NaN is black."""
    valid = image[np.isfinite(image)]
    if not valid.size:
        return np.zeros(image.shape, np.uint8)
    low, high = limits or np.percentile(valid, [1, 99])
    scaled = (image - low) / max(float(high - low), 1e-12)
    return np.asarray(np.nan_to_num(np.clip(scaled, 0, 1)) * 255 + 0.5, dtype=np.uint8)


def contact_sheet(
    images: Sequence[NDArray[np.floating[Any]] | None],
    titles: Sequence[str],
    path: str | Path,
    *,
    columns: int = 6,
    tile: int = 180,
    heading: str = "",
    marked: Sequence[int] = (),
    limits: Sequence[tuple[float, float]] | None = None,
) -> None:
    """Write a page of images, row by row.

    Parameters
    ----------
    images : sequence of float [H, W] or None
        Each is stretched by its own percentiles (`grey`) and scaled to fit its tile; None leaves its place empty.
    titles : sequence of str
        Below each image; lines are separated by newlines, and cut to the width.
    path : path
        ``.png``, ``.jpg`` or ``.webp``.
    columns, tile : int
        Images a row; side of a tile in px.
    heading : str
        Above all.
    marked : sequence of int
        Images to frame, such as the query of a search.
    limits : sequence of (low, high), optional
        The values that are black and white in each image, in place of its own percentiles.

    Raises
    ------
    UsageError
        When the ending of ``path`` names no picture format.
    """
    target = Path(path)
    if target.suffix.lower() not in _FORMATS:
        raise UsageError("a contact sheet is a picture", where=target, fix=f"end its name in {', '.join(_FORMATS)}")
    font = ImageFont.load_default(12)
    lines = max((t.count("\n") + 1 for t in titles), default=1)
    top = _LINE + 2 * _GAP if heading else _GAP
    across = max(1, min(columns, len(images)))
    width = across * (tile + _GAP) + _GAP
    height = top + math.ceil(len(images) / across) * (tile + lines * _LINE + 2 * _GAP)
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    draw.text((_GAP, _GAP), _cut(heading, width - 2 * _GAP, font), fill="black", font=font)
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        if image is None:
            continue
        x = _GAP + (i % across) * (tile + _GAP)
        y = top + (i // across) * (tile + lines * _LINE + 2 * _GAP)
        picture = Image.fromarray(grey(image, limits[i] if limits else None))
        scale = tile / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        smaller = scale < 1
        picture = picture.resize(size, Image.Resampling.BOX if smaller else Image.Resampling.NEAREST)
        page.paste(picture.convert("RGB"), (x + (tile - size[0]) // 2, y + (tile - size[1]) // 2))
        if i in marked:
            draw.rectangle((x - 2, y - 2, x + tile + 1, y + tile + 1), outline="crimson", width=3)
        for number, line in enumerate(title.split("\n")):
            draw.text((x, y + tile + 2 + number * _LINE), _cut(line, tile, font), fill="black", font=font)
    write_with(target, lambda handle: page.save(handle, format=_FORMATS[target.suffix.lower()]))


def _cut(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """``text``, its middle left out where it is wider than ``width`` px: ids differ at their ends."""
    if font.getlength(text) <= width:
        return text
    keep = len(text)
    while keep > 2 and font.getlength(f"{text[: keep // 2]}…{text[-(keep - keep // 2) :]}") > width:
        keep -= 1
    return f"{text[: keep // 2]}…{text[-(keep - keep // 2) :]}"
