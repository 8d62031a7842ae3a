"""From conditions to pixels: compose the fields of a scene, then look at it with the radar."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from groundswell import rng
from groundswell.physics.gmf import cmod5n
from groundswell.physics.imagette import Box
from groundswell.simulator import imaging, spectra
from groundswell.simulator.conditions import Conditions
from groundswell.simulator.fields import Fields, Mesh, power_law, resample, white
from groundswell.simulator.phenomena import EFFECTS, PHENOMENA

MARGIN = 1.1
"""The simulated domain over the image: fields wrap around, images must not."""


@dataclass(frozen=True)
class Layout:
    """Grids of an image of ``size`` pixels of ``spacing`` metres; waves run on ``oversampling`` times as many."""

    size: int
    spacing: float
    oversampling: int

    @property
    def domain(self) -> int:
        """Pixels of the simulated domain: at least `MARGIN` times the image, with factors 2, 3 and 5 only."""
        count = math.ceil(self.size * MARGIN / 4) * 4
        while _largest_factor(count) > 5:
            count += 4
        return count

    @property
    def start(self) -> int:
        """First row and column of the image in the domain."""
        return (self.domain - self.size) // 2

    @property
    def crop(self) -> slice:
        """Rows or columns of the image in the domain."""
        return slice(self.start, self.start + self.size)


def _largest_factor(number: int) -> int:
    for prime in (2, 3, 5):
        while number % prime == 0:
            number //= prime
    return number if number > 1 else 1


@dataclass(frozen=True)
class Iceberg:
    """One iceberg: centre (m from the scene's centre), half axes (m), angle (rad), contrast to the scene (dB)."""

    x: float
    y: float
    a: float
    b: float
    angle: float
    contrast_db: float

    def extent(self) -> tuple[float, float]:
        """Half width and half height (m) of its bounding box."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return math.hypot(self.a * cos, self.b * sin), math.hypot(self.a * sin, self.b * cos)

    def box(self, layout: Layout) -> Box:
        """Its bounding box in pixels of the image, at least one pixel wide and high."""
        half_x, half_y = (max(h / layout.spacing, 0.5) for h in self.extent())
        cx, cy = (v / layout.spacing + 0.5 * layout.size for v in (self.x, self.y))
        return Box("iceberg", cx - half_x, cy - half_y, 2 * half_x, 2 * half_y)


def icebergs(keys: Tensor, present: Tensor, strength: Tensor, layout: Layout) -> list[list[Iceberg]]:
    """The icebergs of each scene, none where ``present`` (bool ``[B]``) is false; all lie wholly inside the image."""
    out: list[list[Iceberg]] = []
    numbers = rng.uniform(keys, "icebergs", 8 * 6).view(-1, 8, 6).cpu()
    counts = (1 + rng.uniform(keys, "icebergs/count")[:, 0].square() * 8).long().cpu()
    for i in range(len(keys)):
        bergs = []
        for k in range(int(counts[i]) if bool(present[i]) else 0):
            u = numbers[i, k].tolist()
            a = 25.0 * 10.0 ** u[2]  # 25 to 250 m, small ones as common per octave as large ones
            aspect = 0.5 + 0.5 * u[3]
            room = 0.5 * layout.size * layout.spacing - a - 2 * layout.spacing
            if room <= 0:
                continue
            contrast = 4.0 + 6.0 * float(strength[i]) + 6.0 * u[4]
            bergs.append(Iceberg((2 * u[0] - 1) * room, (2 * u[1] - 1) * room, a, a * aspect, math.pi * u[5], contrast))
        out.append(bergs)
    return out


def compose(conditions: Conditions, layout: Layout) -> Fields:
    """The fields of B scenes: background wind with gusts, then every phenomenon that is present."""
    device = conditions.keys.device
    count = len(conditions.keys)
    fine = Mesh(layout.domain, layout.spacing, device)
    coarse = Mesh(layout.domain // 2, 2.0 * layout.spacing, device)
    angle = conditions.to_image(conditions.wind_from_deg)
    amount = rng.uniform(conditions.keys, "gusts", 1, 0.015, 0.045)[:, :, None]
    gust = 1.0 + amount * power_law(conditions.keys, "gusts", coarse, -8.0 / 3.0, 5000.0, 250.0)
    speed = conditions.wind_speed[:, None, None] * gust
    zeros = torch.zeros(count, fine.size, fine.size, device=device)
    fields = Fields(
        coarse=coarse,
        fine=fine,
        incidence_deg=conditions.incidence_deg,
        wind_speed=conditions.wind_speed,
        wind_angle=angle,
        wind_x=speed * torch.cos(angle)[:, None, None],
        wind_y=speed * torch.sin(angle)[:, None, None],
        offset_db=zeros.clone(),
        damping=torch.ones_like(zeros),
        cover=zeros.clone(),
        cover_db=torch.full_like(zeros, -20.0),
        slick=zeros.bool(),
        ice=zeros.bool(),
        front=zeros.bool(),
    )
    for name, effect in EFFECTS.items():
        column = PHENOMENA.index(name)
        rows = conditions.tags[:, column].nonzero()[:, 0]
        if len(rows):
            part = fields.take(rows)
            effect(part, conditions.keys[rows], conditions.strength[rows, column][:, None, None])
            fields.put(rows, part)
    return fields


def backscatter(fields: Fields, conditions: Conditions) -> Tensor:
    """sigma0 (linear) without waves, speckle or noise, float32 ``[B, N, N]`` on the fine grid."""
    coarse, fine = fields.coarse, fields.fine
    speed = torch.hypot(fields.wind_x, fields.wind_y)
    # Of the bearing the wind comes from, seen from the look direction; CMOD5.N is even in it.
    phi = torch.rad2deg(torch.atan2(fields.wind_y, -fields.wind_x))
    incidence = conditions.incidence_deg[:, None, None] + conditions.incidence_slope[:, None, None] * coarse.x
    sea_db = 10.0 * torch.log10(cmod5n(speed, phi, incidence))
    sea = torch.exp((math.log(10.0) / 10.0) * (resample(sea_db, fine.size) + fields.offset_db))
    ice = torch.exp((math.log(10.0) / 10.0) * fields.cover_db)
    return torch.lerp(sea, ice, fields.cover)


def velocity_spread(conditions: Conditions, k_max: float) -> Tensor:
    """Velocity (m/s) ``[B]`` that blurs azimuth: waves the grid does not resolve, and scene coherence."""
    beyond = spectra.radial_velocity_variance(conditions.waves, conditions.incidence_deg, k_max)
    return (beyond + conditions.coherence.square()).sqrt()


def observe_waves(sigma0: Tensor, damping: Tensor, conditions: Conditions, layout: Layout) -> Tensor:
    """What the radar makes of ``sigma0`` when waves run through it: modulated, bunched and blurred.

    ``sigma0`` and ``damping`` are ``[B, n, n]`` on the wave grid (`Layout.domain` times `Layout.oversampling`).
    """
    step = layout.spacing / layout.oversampling
    size = sigma0.shape[-1]
    grid = spectra.wave_grid(size, step, sigma0.device)
    noise = white(conditions.keys, "waves", 2, 2, size, size // 2 + 1, device=sigma0.device)
    total, difference = spectra.amplitudes(conditions.waves, grid, noise)
    m = imaging.modulation(total, difference, grid, conditions.incidence_deg)
    velocity = imaging.approach_velocity(difference, grid, conditions.incidence_deg)
    # Log-normal: intensity stays positive in any sea and keeps its mean.
    half_variance = 0.5 * m.square().mean((1, 2), keepdim=True)
    intensity = sigma0 * torch.exp(damping * (m - damping * half_variance))
    rows_per_speed = (conditions.beta_s / step)[:, None, None]
    bunched = imaging.splat(intensity, velocity * damping * rows_per_speed)
    # Ice does not move with the short waves: it stays sharp where waves are damped.
    moving = damping.square()
    width = velocity_spread(conditions, grid.k_max) * conditions.beta_s / step
    # Sharing between two rows has blurred already, by 1/6 of a row squared on average.
    width = (width.square() - 1.0 / 6.0).clamp(min=0.0).sqrt()
    return imaging.azimuth_blur(moving * bunched, width) + (1.0 - moving) * bunched


def add_icebergs(intensity: Tensor, bergs: list[list[Iceberg]], layout: Layout) -> None:
    """Draw icebergs into ``intensity`` ``[B, n, n]`` (wave grid), in place: super-Gaussian blobs up to +8 dB."""
    step = layout.spacing / layout.oversampling
    size = intensity.shape[-1]
    for image, found in zip(intensity, bergs, strict=True):
        level = float(image.mean()) if found else 0.0
        for berg in found:
            reach = math.ceil(1.6 * berg.a / step) + 1
            column, row = (round(v / step + 0.5 * (size - 1)) for v in (berg.x, berg.y))
            rows = slice(max(row - reach, 0), min(row + reach + 1, size))
            columns = slice(max(column - reach, 0), min(column + reach + 1, size))
            y = (torch.arange(rows.start, rows.stop, device=image.device) - 0.5 * (size - 1)) * step - berg.y
            x = (torch.arange(columns.start, columns.stop, device=image.device) - 0.5 * (size - 1)) * step - berg.x
            cos, sin = math.cos(berg.angle), math.sin(berg.angle)
            u = (cos * x[None] + sin * y[:, None]) / berg.a
            v = (cos * y[:, None] - sin * x[None]) / berg.b
            peak = min(level * 10.0 ** (berg.contrast_db / 10.0), 10.0**0.8)
            image[rows, columns] += peak * torch.exp(-(u.square() + v.square()).square())


def observe(conditions: Conditions, fields: Fields, bergs: list[list[Iceberg]], layout: Layout) -> Tensor:
    """sigma0 (linear, noise removed: may be negative) as measured, float32 ``[B, size, size]``."""
    fine_size = layout.domain * layout.oversampling
    sigma0 = resample(backscatter(fields, conditions), fine_size)
    intensity = observe_waves(sigma0, resample(fields.damping, fine_size), conditions, layout)
    add_icebergs(intensity, bergs, layout)
    nesz = (10.0 ** (conditions.nesz_db / 10.0))[:, None, None]
    looks = conditions.looks * (layout.spacing / 50.0) ** 2
    if layout.oversampling == 1:
        cells = intensity[:, layout.crop, layout.crop]
    else:
        edge = slice(2 * layout.start - 1, 2 * (layout.start + layout.size) + 1)
        cells = intensity[:, edge, edge]
        looks = imaging.looks_before_halving(looks)
    grain = imaging.speckle(white(conditions.keys, "speckle", *cells.shape[1:], device=cells.device), looks)
    measured = (cells + nesz) * grain - nesz
    return measured if layout.oversampling == 1 else imaging.halve(measured)
