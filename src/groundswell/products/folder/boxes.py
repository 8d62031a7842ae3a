"""Boxes from a COCO JSON file, joined to images by file name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundswell.errors import DataError
from groundswell.files import read_json
from groundswell.physics.imagette import Box
from groundswell.products.folder.matching import Matcher


@dataclass(frozen=True, slots=True)
class Boxes:
    """Boxes by image id, in pixels of that image: left, top edge (0-based) and size, as COCO has them.

    ``sizes`` is the (width, height) that the file gives for an image; ``unmatched`` one line per image entry that
    means no file; ``notes`` what was left out.
    """

    rows: dict[str, list[Box]]
    sizes: dict[str, tuple[int, int]]
    unmatched: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_boxes(path: str | Path, files: Iterable[tuple[str, str]]) -> Boxes:
    """Read a COCO JSON file and join it to images given as (id, absolute path).

    Crowd annotations outline many objects at once and are left out.

    Raises
    ------
    DataError
        When the file is not COCO JSON, a box is not four finite numbers with a size, or no image is named.
    """
    path = Path(path)
    content = read_json(path)
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= set(content):
        raise DataError(
            "the box file is no COCO JSON", where=path, why="it needs the keys images, annotations and categories"
        )
    matcher = Matcher(files)
    rows: dict[str, list[Box]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    ids: dict[Any, str | None] = {}
    unmatched: list[str] = []
    try:
        classes = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        for entry in content["images"]:
            found = matcher.find(str(entry["file_name"]))
            ids[entry["id"]] = found.id
            if found.id is None:
                near = matcher.near(str(entry["file_name"])) if len(unmatched) < 5 else []
                unmatched.append(
                    f"no file for {entry['file_name']!r}" + (f" (like {', '.join(near)}?)" if near else "")
                )
                continue
            rows[found.id] = []
            if "width" in entry and "height" in entry:
                sizes[found.id] = (int(entry["width"]), int(entry["height"]))
        crowds = 0
        for number, entry in enumerate(content["annotations"]):
            crowds += bool(entry.get("iscrowd"))
            id_ = ids[entry["image_id"]]
            if id_ is not None and not entry.get("iscrowd"):
                rows[id_].append(_box(classes[entry["category_id"]], entry["bbox"], path, number))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            "the box file is damaged", where=path, why=f"{type(error).__name__}: {error}", fix="check it against COCO"
        ) from error
    if not rows:
        raise DataError("the box file names no image", where=path, why="; ".join(unmatched[:2]))
    return Boxes(rows, sizes, unmatched, [f"{crowds} crowd annotations were left out"] if crowds else [])


def _box(name: str, values: Any, path: Path, number: int) -> Box:
    x, y, width, height = (float(value) for value in values)
    if not all(math.isfinite(v) for v in (x, y, width, height)) or width <= 0 or height <= 0:
        raise DataError("a box is no box", where=f"{path}, annotation {number}", why=f"bbox {values}")
    return Box(name, x, y, width, height)
