"""What is odd about an archive: signs, in its statistics and catalogue, of data that is not what it claims to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from groundswell.archive.catalogue import LABEL
from groundswell.archive.statistics import ChannelTally
from groundswell.physics.imagette import Quantity

if TYPE_CHECKING:
    from groundswell.archive.reader import Archive

SATURATED = 0.25
"""Share of pixels at one end of the range from which a channel counts as near-saturated (a stretch leaves 1 %)."""


def oddities(archive: Archive) -> list[str]:
    """What a careful reader would ask about, one sentence each; an empty list where nothing stands out."""
    found: list[str] = []
    if not archive.complete:
        missing = archive.schema.shard_count - len(archive.records)
        found.append(
            f"not finished: {missing} of {archive.schema.shard_count} shards are missing; run the ingest again"
        )
    if len(archive) == 0:
        return [*found, "it holds no imagette"]
    for name, tally in archive.tallies.items():
        if tally.moments.count:
            found += [f"{name}: {reason}" for reason in _values(tally)]
    return found + _catalogue(archive.catalogue)


def _values(tally: ChannelTally) -> list[str]:
    """Signs that a channel's values are not of its quantity, or pile up at an end."""
    m, quantity = tally.moments, tally.quantity
    median = tally.quantile(0.5)
    found = []
    if quantity is Quantity.SIGMA0 and median > 10.0:
        found.append(f"declared sigma0, but its median is {median:.4g} (+10 dB is 10): digital numbers or amplitude?")
    if quantity is Quantity.SIGMA0 and median < -1.0:
        found.append(f"declared sigma0, but its median is {median:.4g}: decibels?")
    if quantity is Quantity.SIGMA0_DB and (m.minimum >= 0.0 or median > 10.0):
        found.append(f"declared sigma0_db, but it spans {m.minimum:.4g} to {m.maximum:.4g} dB: linear values or DN?")
    if quantity is Quantity.ROUGHNESS_DB and abs(median) > 12.0:
        found.append(f"declared roughness_db, but its median is {median:.4g} dB; the sea lies within +-12: sigma0_db?")
    if quantity is Quantity.AMPLITUDE and m.minimum < 0.0:
        found.append(f"declared amplitude, but its smallest value is {m.minimum:.4g}: an amplitude is not negative")
    if quantity is Quantity.QUICKLOOK:
        if m.minimum < 0.0 or m.maximum > 255.0:
            found.append(f"declared quicklook, but it spans {m.minimum:.4g} to {m.maximum:.4g}, not 0 to 255")
        for index, level in ((1, "0 (black)"), (256, "255 (white)")):
            share = tally.histogram[index] / m.count
            if share > SATURATED:
                found.append(f"near-saturated: {share:.0%} of the pixels are {level}")
    if m.std == 0.0:
        found.append(f"every pixel of every imagette is {m.mean:.4g}")
    return found


def _catalogue(catalogue: pd.DataFrame) -> list[str]:
    found = []
    gaps = int((catalogue["valid_fraction"] < 1.0).sum())
    if gaps:
        least = catalogue["valid_fraction"].min()
        found.append(f"{gaps} of {len(catalogue)} imagettes have padding or missing pixels (least valid: {least:.1%})")
    floored = int((catalogue["floored_fraction"] > 0.5).sum())
    if floored:
        found.append(f"{floored} imagettes lie at the floor in more than half of their pixels")
    if catalogue["split"].notna().any():
        unknown = int(catalogue["split"].isna().sum())
        if unknown:
            found.append(f"{unknown} imagettes have no split")
        parts = catalogue.dropna(subset=["group", "split"]).groupby("group")["split"].nunique()
        straddling = parts[parts > 1].index.tolist()
        if straddling:
            examples = ", ".join(str(group) for group in straddling[:3])
            found.append(
                f"{len(straddling)} groups straddle splits (such as {examples}): scores across them will flatter"
            )
    for name in catalogue.columns[catalogue.columns.str.startswith(LABEL)]:
        missing = int(catalogue[name].isna().sum())
        if missing == len(catalogue):
            found.append(f"{name} is empty")
        elif missing:
            found.append(f"{name} is unknown for {missing} of {len(catalogue)} imagettes")
        values = catalogue[name].dropna().unique()
        if len(values) == 1:
            found.append(f"{name} has only one value: {values[0]}")
    return found
