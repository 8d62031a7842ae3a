"""How near simulated imagettes come to real ones: band-power fractions and contrast, class by class.

    python benchmarks/realism.py /path/to/wv-quicklooks [--count 24]

Real and simulated images go through the same steps: 50 m pixels, crops of 256 x 256, stretch between the 1st and the
99th percentile to 8 bits. Band power is that of the Hann-windowed crop, by wavelength. The real quick-looks show no
trend with incidence, so the simulated ones are rendered from roughness. Of the 15 real quick-looks most carry several
tags, and most classes rest on one to six images: these are targets to come near, not statistics.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from groundswell.physics.imagette import Quantity
from groundswell.physics.quantities import convert
from groundswell.simulator.phenomena import PHENOMENA
from groundswell.simulator.source import SimulatorSettings, simulate

SIZE, SPACING = 256, 50.0
BANDS_KM = ((np.inf, 3.0), (3.0, 0.8), (0.8, 0.3), (0.3, 0.15), (0.15, 0.085))
COLUMNS = (">3km", "3-.8", ".8-.3", ".3-.15", ".15-.085", "cv", "skew")
# Class to tag of the sample table. No tag means waves alone: NV, no atmospheric variability, comes nearest.
TAGS = {
    "pure_ocean_waves": "NV",
    "wind_streaks": "WS",
    "micro_convective_cells": "MC",
    "rain_cells": "RC",
    "sea_ice": "SI",
    "oceanic_front": "OF",
}
SILENT_TAGS = {"UN"}  # goes with other tags and names no phenomenon
# Quick-looks are the single-look grid taken down ten times in both directions: metres per pixel (range, azimuth).
QUICKLOOK_SPACING = {"WV1": (37.7, 41.0), "WV2": (45.5, 41.0)}


def measure(crop: NDArray[np.float64]) -> NDArray[np.float64]:
    """Five band-power fractions, cv and skew ``[7]`` of an image ``[SIZE, SIZE]`` after the percentile stretch."""
    low, high = np.percentile(crop, [1.0, 99.0])
    image = np.rint(255.0 * np.clip((crop - low) / (high - low), 0.0, 1.0))
    mean, std = image.mean(), image.std()
    window = np.hanning(SIZE)[:, None] * np.hanning(SIZE)
    power = np.abs(np.fft.fft2((image - mean) * window)) ** 2
    frequency = np.fft.fftfreq(SIZE, SPACING / 1000.0)
    k = np.hypot(frequency[:, None], frequency)
    power[0, 0] = 0.0
    edges = [(1.0 / longest, 1.0 / shortest) for longest, shortest in BANDS_KM]
    bands = [power[(k > low_k) & (k <= high_k)].sum() / power.sum() for low_k, high_k in edges]
    return np.array([*bands, std / mean, ((image - mean) ** 3).mean() / std**3])


def crops(image: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The four corner crops of an image larger than `SIZE`, the image itself when it is that size."""
    rows, columns = (sorted({0, length - SIZE}) for length in image.shape)
    return [image[r : r + SIZE, c : c + SIZE] for r in rows for c in columns]


def read_quicklook(path: Path) -> NDArray[np.float64]:
    """A real quick-look without its black border, area-averaged to 50 m."""
    pixels = np.asarray(Image.open(path).convert("L"), dtype=np.float64)
    valid = pixels > 0
    pixels = pixels[valid.mean(1) > 0.5][:, valid.mean(0) > 0.5]
    beam = path.name.split("-")[1].upper()
    weights = [_area_weights(n, s) for n, s in zip(pixels.shape, QUICKLOOK_SPACING[beam][::-1], strict=True)]
    return weights[0] @ pixels @ weights[1].T


def _area_weights(count: int, spacing: float) -> NDArray[np.float64]:
    """Matrix that averages ``count`` cells of ``spacing`` metres over cells of 50 m, by shared length."""
    edges = np.arange(count + 1) * spacing
    out = np.arange(int(edges[-1] // SPACING) + 1) * SPACING
    shared = np.minimum(out[1:, None], edges[1:]) - np.maximum(out[:-1, None], edges[:-1])
    return np.clip(shared, 0.0, None) / SPACING


def real_images(folder: Path, tag: str) -> list[tuple[Path, list[str]]]:
    """The real quick-looks that carry ``tag``, each with all its tags."""
    with (folder / "sample_data.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = []
    for row in rows:
        tags = [name for name, value in row.items() if name != "filename" and value == "1"]
        if tag in tags:
            found.append((folder / row["filename"], tags))
    return found


def real_row(folder: Path, tag: str) -> tuple[NDArray[np.float64], int, int]:
    """The mean ``[7]`` over images (each the mean over its crops), their number, and how many carry this tag alone."""
    images = real_images(folder, tag)
    each = [np.mean([measure(c) for c in crops(read_quicklook(path))], axis=0) for path, _ in images]
    alone = sum(not set(tags) - {tag} - SILENT_TAGS for _, tags in images)
    return np.mean(each, axis=0), len(images), alone


def simulated_rows(name: str, count: int, seed: int = 20) -> NDArray[np.float64]:
    """One row ``[count, 7]`` per simulated image of the class, weak and strong, companions included."""
    start = PHENOMENA.index(name)
    settings = SimulatorSettings(seed=seed, size=SIZE, spacing_m=SPACING, quantity=Quantity.ROUGHNESS_DB)
    rows = []
    for first in range(0, count, 8):
        indices = [start + len(PHENOMENA) * i for i in range(first, min(first + 8, count))]
        pixels = np.concatenate([image.pixels for image in simulate(settings, indices)])
        linear = convert(pixels, Quantity.ROUGHNESS_DB, Quantity.QUICKLOOK)
        rows += [measure(image.astype(np.float64)) for image in linear]
    return np.array(rows)


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=24, help="simulated images per class")
    options = parser.parse_args(arguments)
    print(f"{'class':24s} {'images':>16s} " + " ".join(f"{c:>8s}" for c in COLUMNS))
    for name, tag in TAGS.items():
        mean, count, alone = real_row(options.folder, tag)
        print(f"{name:24s} {f'real {count} ({alone} alone)':>16s} " + " ".join(f"{v:8.3f}" for v in mean))
        simulated = simulated_rows(name, options.count)
        for label, row in (
            (f"simulated {options.count}", simulated.mean(0)),
            ("10 %", np.quantile(simulated, 0.1, axis=0)),
            ("90 %", np.quantile(simulated, 0.9, axis=0)),
        ):
            print(f"{'':24s} {label:>16s} " + " ".join(f"{v:8.3f}" for v in row))


if __name__ == "__main__":
    main()
