"""Images per second of the simulator, and the ratio to the same scene mathematics in plain NumPy.

    python benchmarks/simulate.py [--count 32] [--threads 2] [--size 256] [--device cpu]

Three lines: the simulator on its balanced mix; the simulator on pure ocean waves; a NumPy path for pure ocean waves
(complex FFTs, float64, one image at a time, `numpy.add.at` for the bunching, a gamma generator for the speckle).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from groundswell.physics.gmf import cmod5n
from groundswell.simulator.source import BATCH, SimulatorSettings, simulate

G = 9.81


def numpy_image(seed: int, size: int = 256, spacing: float = 50.0) -> NDArray[np.float64]:
    """One pure-ocean-waves imagette ``[size, size]`` (sigma0) in plain NumPy, two grid points per pixel."""
    rng = np.random.default_rng(seed)
    n, step = 2 * (math.ceil(size * 1.1 / 16) * 16), spacing / 2
    wind, incidence, beta = rng.uniform(4, 12), rng.uniform(22.4, 24.3), 100.3
    k1 = 2 * np.pi * np.fft.fftfreq(n, step)
    kx, ky = np.meshgrid(k1, k1)
    k = np.hypot(kx, ky)
    k[0, 0] = 1e-9
    w, direction = np.sqrt(G * k), np.arctan2(ky, kx)
    density = np.zeros((n, n))
    systems = ((0.7 * 0.0246 * wind**2, 0.728 * wind * 0.9, 4.0), (rng.uniform(1, 4), rng.uniform(9, 17), 40.0))
    beyond = 0.0
    for hs, tp, s in systems:
        omega = np.geomspace(0.15, 12, 1024)

        def shape(x: NDArray[np.float64], peak: float = 2 * np.pi / tp) -> NDArray[np.float64]:
            bump = np.exp(-0.5 * ((x / peak - 1) / np.where(x <= peak, 0.07, 0.09)) ** 2)
            return x**-5.0 * np.exp(-1.25 * (x / peak) ** -4.0) * 3.3**bump

        scale = hs**2 / 16 / np.trapezoid(shape(omega), omega)
        towards = rng.uniform(0, 2 * np.pi)
        norm = math.exp(math.lgamma(s + 1) - math.lgamma(s + 0.5)) / (2 * math.sqrt(math.pi))
        spread = norm * (np.cos((direction - towards) / 2) ** 2) ** s
        density += scale * shape(np.maximum(w, 0.15)) * (w > 0.15) * spread * G / (2 * w) / k
        tail = omega**2 / G > np.pi / step
        beyond += scale * np.trapezoid(shape(omega) * omega**2 * tail, omega)
    density *= k <= np.pi / step
    cell = 2 * np.pi / (n * step)
    noise = rng.standard_normal((n, n)) + 1j * rng.standard_normal((n, n))
    a = noise * np.sqrt(density) * cell
    theta = math.radians(incidence)
    gain = 4 / math.tan(theta) / (1 + math.sin(theta) ** 2) + 1 / math.tan(theta)
    hydro = 4.5 * k * w * (w - 0.5j) / (w**2 + 0.25) * (kx / k) ** 2
    m = np.fft.ifft2(a * (1j * kx * gain + hydro)).real * n * n
    u = np.fft.ifft2(a * -w * (math.sin(theta) * kx / k + 1j * math.cos(theta))).real * n * n
    gust_shape = (k**2 + (2 * np.pi / 5000) ** 2) ** (-2 / 3)
    gust = np.fft.ifft2(np.fft.fft2(rng.standard_normal((n, n))) * gust_shape).real
    speed = wind * (1 + 0.03 * gust / gust.std())
    across = incidence + 1.54 / 20e3 * (np.arange(n) - n / 2) * step
    sea = cmod5n(torch.from_numpy(speed[::4, ::4]), 30.0, torch.from_numpy(across[::4])).numpy()
    sea = np.kron(sea, np.ones((4, 4)))
    intensity = sea * np.exp(m - m.var() / 2)
    target = np.arange(n)[:, None] + u * beta / step
    low = np.floor(target).astype(int)
    share = target - low
    columns = np.broadcast_to(np.arange(n), (n, n))
    bunched = np.zeros((n, n))
    np.add.at(bunched, (low % n, columns), intensity * (1 - share))
    np.add.at(bunched, ((low + 1) % n, columns), intensity * share)
    width = math.sqrt(beyond + (0.0022 * wind**2) ** 2) * beta
    blur = np.exp(-0.5 * (ky * width) ** 2)
    seen = np.fft.ifft2(np.fft.fft2(bunched) * blur).real
    start = (n - 2 * size) // 2
    seen = seen[start : start + 2 * size, start : start + 2 * size]
    nesz = 10**-2.2
    measured = (seen + nesz) * rng.gamma(20.0, 1 / 20.0, seen.shape) - nesz
    return measured.reshape(size, 2, size, 2).mean((1, 3))


def rate(work: Callable[[], int]) -> float:
    """Images per second: the better of two runs after a warm-up."""
    work()
    best = 0.0
    for _ in range(2):
        start = time.perf_counter()
        done = work()
        best = max(best, done / (time.perf_counter() - start))
    return best


def main() -> None:
    """Print the three rates and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = SimulatorSettings(size=options.size)
    mixed = list(range(options.count))
    waves = [10 * i for i in range(options.count)]
    all_classes = rate(lambda: len(simulate(settings, mixed, options.device)))
    ours = rate(lambda: len(simulate(settings, waves, options.device)))
    peer_count = max(options.count // 8, 2)
    peer = rate(lambda: len([numpy_image(i, options.size) for i in range(peer_count)]))
    batch = BATCH[options.device == "cpu"]
    print(f"{options.size} x {options.size}, two grid points per pixel, {options.threads} threads, batches of {batch}")
    print(f"simulator, ten classes:       {all_classes:7.1f} images/s")
    print(f"simulator, pure ocean waves:  {ours:7.1f} images/s")
    print(f"plain NumPy, the same scene:  {peer:7.1f} images/s")
    print(f"ratio, pure ocean waves:      {ours / peer:7.1f} x")


if __name__ == "__main__":
    main()
