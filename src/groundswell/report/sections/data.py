"""Which data: the first line of the report, what the archives hold, and what it looks like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from groundswell.encoder.provenance import DataUsed, attribution, describe
from groundswell.physics.imagette import Quantity
from groundswell.report.blocks import Block, Details, Figure, Gallery, Section, Table, Text, Tile, cells
from groundswell.report.figures import draw_histograms
from groundswell.report.html import picture
from groundswell.report.inputs import Inputs
from groundswell.report.labels import class_column, spaced, tag_columns
from groundswell.report.sheets import grey

if TYPE_CHECKING:
    from groundswell.archive.reader import Archive

PER_CLASS = 8
MOST_CLASSES = 24
MOST_TAGS = 40
_DECIBELS = {Quantity.SIGMA0_DB, Quantity.ROUGHNESS_DB}
_MEASURED = {
    "label_wind_speed": "wind speed U10 (m/s)",
    "label_hs": "significant wave height Hs (m)",
    "incidence_deg": "incidence (degrees)",
}


def data_used(inputs: Inputs) -> list[DataUsed]:
    """What stands behind the archives and tables given, each archive once."""
    found = {d.hash: d for d in map(describe, inputs.archives)}
    whole = set(found)
    for file in inputs.tables:
        for d in file.table.header.data:
            if not any(d.archive == found[h].archive for h in whole):  # a selection of an archive that is given
                found.setdefault(d.hash, d)
    return list(found.values())


def first_line(data: Sequence[DataUsed]) -> tuple[str, bool | None]:
    """What the head says of the data, and whether all of it is simulated (None where nothing is known)."""
    total, simulated = sum(d.imagettes for d in data), sum(d.simulated for d in data)
    if not total:
        return "The data is not recorded in what this report was made from.", None
    names = ", ".join(dict.fromkeys(d.archive for d in data))
    if simulated == total:
        return (
            f"All {total:,} images are simulated, none is real. Skill measured on them is not skill on the ocean.",
            True,
        )
    notice = f" {attribution(data)}" if attribution(data) else ""
    if not simulated:
        return f"{total:,} real images: {names}.{notice}", False
    return f"{total:,} images, {total - simulated:,} real and {simulated:,} simulated: {names}.{notice}", False


def banner(inputs: Inputs) -> list[Tile]:
    """One image of each class (ten at most), or ten of any."""
    if not inputs.archives:
        return []
    archive = inputs.archives[0]
    column = class_column(archive.catalogue, inputs.probed)
    if column is None:
        return tiles(archive, _spread(len(archive), 10, seed=1), captions=[""] * 10)
    classes = archive.catalogue[column].dropna().astype(str)
    names = sorted(classes.unique())[:10]
    rows = np.array(
        [_pick(np.flatnonzero(archive.catalogue[column].astype(str) == name), 1, seed=1)[0] for name in names]
    )
    return tiles(archive, rows, captions=[spaced(name) for name in names])


def data_section(inputs: Inputs) -> Section | None:
    """Counts, quantities and ranges of each archive, and a contact sheet by class."""
    if not inputs.archives:
        return None
    blocks: list[Block] = []
    for number, archive in enumerate(inputs.archives):
        blocks += _archive(archive, number, inputs.probed)
    lead = (
        "Images are shown as quick-looks: grey from the 1st to the 99th percentile of each, so brightness cannot be "
        "compared between them. They are drawn at random, not chosen."
    )
    return Section("data", "Data", blocks, lead)


def _archive(archive: Archive, number: int, probed: Sequence[str]) -> list[Block]:
    schema, frame = archive.schema, archive.catalogue
    channels = ", ".join(f"{c.name} ({c.quantity.value})" for c in archive.channels)
    spacing = f"{schema.spacing_m:g} m" if schema.spacing_m else "unknown spacing"
    size = f"{archive.height} x {archive.width} px"
    blocks: list[Block] = [Text(f"{archive.path.name}: {len(archive):,} images of {size} at {spacing}; {channels}.")]
    column = class_column(frame, probed)
    if column is not None:
        blocks.append(counts(frame, column))
    if tags := tag_columns(frame)[:MOST_TAGS]:
        blocks.append(tag_counts(frame, tags))
    measured = [_histogram(frame, name, title) for name, title in _MEASURED.items() if _varies(frame, name)]
    if measured:
        alt = "Histograms of " + ", ".join(title for title, _, _ in measured)
        blocks.append(Figure(draw_histograms(measured, f"range{number}"), alt, "Share of images, by split."))
    blocks.append(contact_sheet(archive, column))
    blocks.append(Details("What it was made from", code="\n".join(str(s.description) for s in schema.sources)))
    return blocks


def counts(frame: pd.DataFrame, column: str) -> Table:
    """Images of each class in each split."""
    split = frame["split"].astype("string").fillna("no split")
    table = pd.crosstab(frame[column].astype(str), split)
    rows = [cells(spaced(str(name)), *(f"{n:,}" for n in row), f"{row.sum():,}") for name, row in table.iterrows()]
    rows.append(cells("all", *(f"{n:,}" for n in table.sum()), f"{int(table.to_numpy().sum()):,}"))
    return Table((spaced(column), *map(str, table.columns), "all"), rows, "Images of each class")


def tag_counts(frame: pd.DataFrame, tags: Sequence[str]) -> Table:
    """Images that carry each tag, in each split; several tags can hold at once."""
    split = frame["split"].astype("string").fillna("no split")
    parts = sorted(split.unique())
    rows = []
    for tag in tags:
        carried = frame[tag] == 1
        rows.append(
            cells(
                spaced(tag.removeprefix("label_tag_")),
                *(f"{int((carried & (split == p)).sum()):,}" for p in parts),
                f"{carried.sum():,}",
            )
        )
    return Table(("tag", *map(str, parts), "all"), rows, "Images that carry each tag; several can hold at once")


def _varies(frame: pd.DataFrame, name: str) -> bool:
    return name in frame and pd.to_numeric(frame[name], errors="coerce").nunique() > 10


def _histogram(frame: pd.DataFrame, name: str, title: str) -> tuple[str, Any, list[tuple[str, Any]]]:
    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64)
    known = np.isfinite(values)
    edges = np.histogram_bin_edges(values[known], bins=30)
    split = frame["split"].astype("string").fillna("all").to_numpy()
    parts = []
    for part in sorted(set(split)):
        some = np.histogram(values[known & (split == part)], edges)[0]
        parts.append((str(part), some / max(some.sum(), 1)))
    return title, edges, parts


def contact_sheet(archive: Archive, column: str | None) -> Gallery:
    """Images of each class drawn at random (seeded), eight a row; without classes, 24 of all."""
    if column is None:
        return Gallery([("", tiles(archive, _spread(len(archive), 24, seed=2)))])
    labels = archive.catalogue[column].astype("string")
    names = sorted(labels.dropna().unique())
    rows = []
    for name in names[:MOST_CLASSES]:
        chosen = _pick(np.flatnonzero((labels == name).fillna(False).to_numpy(dtype=bool)), PER_CLASS, seed=2)
        rows.append((spaced(str(name)), tiles(archive, chosen)))
    more = f"{len(names) - MOST_CLASSES} more classes are not shown." if len(names) > MOST_CLASSES else ""
    return Gallery(rows, caption=more)


def tiles(archive: Archive, rows: Any, captions: Sequence[str] | None = None, **style: Any) -> list[Tile]:
    """Small pictures of archive rows; the caption is the incidence beam or the id where none is given."""
    if not len(rows):
        return []
    frame = archive.catalogue.iloc[rows]
    images: Any = archive.read(np.asarray(rows))[:, 0]
    if archive.channels[0].quantity in _DECIBELS:
        images = 10 ** (images / 10)  # a quick-look shows power
    if captions is None:
        captions = [str(beam) if pd.notna(beam) else "" for beam in frame["beam"]]
    return [
        Tile(picture(grey(image)), alt=str(name), caption=caption, **style)
        for image, name, caption in zip(images, frame["id"], captions, strict=False)
    ]


def _spread(count: int, wanted: int, seed: int) -> Any:
    return _pick(np.arange(count), wanted, seed)


def _pick(rows: Any, wanted: int, seed: int) -> Any:
    return np.sort(np.random.default_rng(seed).choice(rows, min(wanted, len(rows)), replace=False))
