"""A wave-mode product file to a calibrated, denoised 50 m imagette: beside the bare read, and beside xarray-safe-s1.

    python benchmarks/safe.py [--lines 4930] [--samples 5680] [--repeats 5] [--folder DIR]

The peer needs `pip install groundswell[oracle]` and is left out without. A full-size imagette with speckle is written
first. The cache is warm; each time is the best of several. "full" takes the peer to the very same result (its tables at
every pixel, our own mean over cells, which favours it); "coarse" is its own short cut, root mean square on an even grid
by GDAL before calibration, which is another grid. Peak memory is that of a fresh process.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import groundswell as gs
from groundswell.physics.multilook import Multilook, ground_edges, weights
from groundswell.products.safe_writer.model import Image
from groundswell.products.safe_writer.writer import write_wv

SPACING_M = 50.0


def best(read: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Seconds of the fastest of several calls, after one that warms the cache, and what was read."""
    result, times = read(), []
    for _ in range(repeats):
        start = time.perf_counter()
        result = read()
        times.append(time.perf_counter() - start)
    return min(times), result


def ours(path: Path) -> Any:
    """The imagette by this package."""
    return gs.open_product(path)[1].to_dataset(spacing_m=SPACING_M)


def bare(tiff: Path) -> Any:
    """The complex64 pixels by rasterio, and nothing else."""
    import rasterio

    with rasterio.open(tiff) as file:
        return file.read(1)


def peer(path: Path) -> Any:
    """The imagette by xarray-safe-s1: pixels, tables and calibration are its own, the mean over cells is ours."""
    import safe_s1

    reader = safe_s1.Sentinel1Reader(f"SENTINEL1_DS:{path}:WV_001")
    _, data = reader.load_digital_number(chunks={"line": 5000, "sample": 6000})
    number = data.digital_number.isel(pol=0)
    sigma0_lut = reader.get_calibration_luts.sigma0_lut.isel(pol=0).interp(line=number.line, sample=number.sample)
    noise = reader.get_noise_range_raw.noise_lut.isel(pol=0).interp(line=number.line, sample=number.sample)
    sigma0 = ((np.abs(number) ** 2 - noise) / sigma0_lut**2).astype(np.float32).values
    scene = gs.open_product(path)[1].annotation  # the cells are ours: only pixels and their calibration are compared
    incidence = scene.geolocation.profile(np.arange(scene.samples))
    edges = (
        np.arange(scene.lines + 1) * scene.azimuth_spacing_m,
        ground_edges(incidence, scene.range_spacing_m),
    )
    look = Multilook(*(weights(e, SPACING_M) for e in edges))
    look.add(0, sigma0, np.ones(sigma0.shape, np.bool_))  # there are no borders in the file
    return look.result()[0]


def peer_coarse(path: Path) -> Any:
    """Its short cut: DN resampled by GDAL to cells of about 50 m, then calibrated there."""
    import safe_s1

    reader = safe_s1.Sentinel1Reader(f"SENTINEL1_DS:{path}:WV_001")
    _, data = reader.load_digital_number(resolution=f"{SPACING_M:g}m", chunks={"line": 5000, "sample": 6000})
    number = data.digital_number.isel(pol=0)
    sigma0_lut = reader.get_calibration_luts.sigma0_lut.isel(pol=0).interp(line=number.line, sample=number.sample)
    noise = reader.get_noise_range_raw.noise_lut.isel(pol=0).interp(line=number.line, sample=number.sample)
    return ((np.abs(number) ** 2 - noise) / sigma0_lut**2).astype(np.float32).values


def peak_mb(path: Path, use: str) -> float:
    """Largest memory of a fresh process that does something with a scene, MB (of it, about 110 are the imports)."""
    code = (
        f"import pathlib, sys, groundswell as gs; scene = gs.open_product(sys.argv[1])[1]; {use}; "
        "print(pathlib.Path('/proc/self/status').read_text())"
    )
    status = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True).stdout
    return float(status.partition("VmHWM:")[2].split()[0]) / 1e3


USES = {
    "spacing_m=50": "scene.to_dataset(spacing_m=50)",
    "spacing_m=None, sigma0 in parts": "data = scene.to_dataset(spacing_m=None); "
    "[data.sigma0[k : k + 500].mean().values for k in range(0, data.sizes['azimuth'], 500)]",
    "spacing_m=None, all of sigma0": "scene.to_dataset(spacing_m=None).sigma0.values",
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=4930)
    parser.add_argument("--samples", type=int, default=5680)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the product is written; a temporary folder by default")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # rasterio: no georeference
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = write_wv(folder, [Image(shape=(options.lines, options.samples))])
        tiff = next(path.glob("measurement/*.tiff"))
        read_s, _ = best(lambda: bare(tiff), options.repeats)
        own_s, dataset = best(lambda: ours(path), options.repeats)
        print(f"{tiff.stat().st_size / 1e6:.0f} MB, {options.lines} x {options.samples} to {dataset.sigma0.shape}")
        print(f"bare read (rasterio, complex64)   {read_s:7.3f} s")
        print(f"groundswell                       {own_s:7.3f} s   {own_s / read_s:5.2f} x the bare read")
        for name, use in USES.items():
            print(f"peak memory, {name}: {peak_mb(path, use):.0f} MB")
        if importlib.util.find_spec("safe_s1") is None:
            print("xarray-safe-s1 is not installed: no comparison")
            return
        coarse_s, _ = best(lambda: peer_coarse(path), 2)
        full_s, expected = best(lambda: peer(path), 2)
        away = float(np.nanmax(np.abs(dataset.sigma0.values / expected - 1.0)))
        print(f"xarray-safe-s1, full              {full_s:7.3f} s   groundswell is {full_s / own_s:5.1f} x faster")
        print(f"xarray-safe-s1, coarse            {coarse_s:7.3f} s   groundswell is {coarse_s / own_s:5.1f} x faster")
        print(f"largest relative difference of sigma0 to the peer's (full): {away:.1e}")


if __name__ == "__main__":
    main()
