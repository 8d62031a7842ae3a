"""Simulated imagettes as wave-mode SAFE products, with a table of their truth: the way of real data, from its start."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from groundswell import progress
from groundswell.physics.imagette import Imagette, Quantity
from groundswell.products.safe.sentinel1 import open_product
from groundswell.products.safe_writer.laws import Track, cells
from groundswell.products.safe_writer.model import Image, Settings, Signal, truth_of
from groundswell.products.safe_writer.writer import write_wv
from groundswell.simulator.source import SimulatorSettings, simulate

TRUTH = "truth.parquet"
PER_PRODUCT = 60  # as in real ones
_LOOKS = 2  # samples along each side of a cell: coarser than real ones by an order, to keep the files small
_FIRST = datetime(2021, 1, 1, tzinfo=UTC)


def write_products(settings: SimulatorSettings, folder: str | Path) -> Path:
    """Write the imagettes of ``settings`` (whose quantity must be ``sigma0``) as products of 60, and `TRUTH`.

    The products hold sigma0 plus thermal noise as digital numbers, without speckle beyond that of the simulation, so
    that reading them back to the same spacing gives the imagettes again. They lie along tracks over the Pacific.

    Returns
    -------
    Path
        The table: ``id`` (of the imagette in an archive), ``split``, ``group`` and every label.
    """
    assert settings.quantity is Quantity.SIGMA0
    folder = Path(folder)
    rows: list[dict[str, object]] = []
    with progress.bar("write products", total=settings.count, unit="images") as bar:
        for number, first in enumerate(range(0, settings.count, PER_PRODUCT)):
            indices = range(first, min(first + PER_PRODUCT, settings.count))
            items = simulate(settings, indices)
            images = [_image(item, k + 1, settings.spacing_m) for k, item in enumerate(items)]
            path = write_wv(folder, images, _settings(number))
            product = open_product(path)
            for k, item in enumerate(items):
                id_ = f"sim-{product.names(k + 1)[0].stem}"
                rows.append({"id": id_, "group": id_, "split": item.metadata.split, **item.labels})
            bar.advance(len(items))
    pq.write_table(pa.Table.from_pylist(rows), folder / TRUTH)
    return folder / TRUTH


def _settings(number: int) -> Settings:
    """A product of its own datatake, on one of ten tracks from 25 N over the open Pacific, clear of every island."""
    return Settings(
        start=_FIRST + timedelta(minutes=100 * number),
        orbit=25_000 + number,
        datatake=0x30000 + number,
        track=Track(lon_deg=-124.0 + 1.0 * (number % 10), lat_deg=25.0),
        speckle=False,
    )


def _image(item: Imagette, number: int, spacing_m: float) -> Image:
    """An imagette as the image of a product, in samples a `_LOOKS`-th of its cells."""
    m = item.metadata
    assert m.beam is not None
    assert m.nesz_db is not None
    assert m.incidence_near_deg is not None
    assert m.incidence_deg is not None
    floor = -(10.0 ** (m.nesz_db / 10.0))  # no power is below zero, so none below minus the noise
    field = cells(np.maximum(item.pixels[0], floor), spacing_m)
    rows, columns = item.pixels.shape[1:]
    image = Image(
        shape=(rows * _LOOKS, 2 * columns * _LOOKS),
        beam=m.beam,
        number=number,
        # Half a decibel more: the level of the noise holds in the middle of the swath, and falls off to one side.
        signals=(Signal(sigma0=field, nesz_db=m.nesz_db + 0.5),),
        near_deg=m.incidence_near_deg,
        range_spacing_m=spacing_m / _LOOKS * math.sin(math.radians(m.incidence_deg)),
        azimuth_spacing_m=spacing_m / _LOOKS,
        grid=(3, 9),
    )
    # Just as many samples, which grow narrower on the ground with incidence, as cover the cells.
    far_edges = truth_of(image).geometry.ground_range(np.arange(image.shape[1]) + 0.5)
    return replace(image, shape=(image.shape[0], int(np.searchsorted(far_edges, columns * spacing_m + 1.0)) + 1))
