"""The ten phenomena of the TenGeoP wave-mode classes (Wang et al. 2019), each as what it does to a scene's fields.

Every function takes the fields of b scenes and their keys, and adds to the wind, the log-sigma offset, the damping of
waves, the ice cover and the masks. ``strength`` ``[b, 1, 1]`` runs from 0 (hardly visible) to 1 (textbook).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from groundswell import rng
from groundswell.simulator.fields import (
    Fields,
    cells,
    draw,
    power_law,
    resample,
    rotate,
    sample,
    shaped_noise,
    wavenumbers,
)

PHENOMENA: tuple[str, ...] = (
    "pure_ocean_waves",
    "wind_streaks",
    "micro_convective_cells",
    "rain_cells",
    "biological_slicks",
    "sea_ice",
    "icebergs",
    "low_wind",
    "atmospheric_front",
    "oceanic_front",
)


def _gain_wind(fields: Fields, factor: Tensor) -> None:
    """Multiply the wind, coarse ``[b, n, n]``."""
    fields.wind_x = fields.wind_x * factor
    fields.wind_y = fields.wind_y * factor


def wind_streaks(fields: Fields, keys: Tensor, strength: Tensor) -> None:
    """Boundary-layer rolls: a ring of wavelengths of 0.9 to 2.2 km across the wind, long along it."""
    spacing = draw(keys, "streaks/wavelength", 850.0, 2000.0)
    turn = rng.uniform(keys, "streaks/turn", 1, -20.0, 20.0)[:, 0] * (math.pi / 180.0)
    kx, ky = wavenumbers(fields.coarse)
    angle = (fields.wind_angle + turn)[:, None, None]
    along = torch.cos(angle) * kx + torch.sin(angle) * ky
    across = torch.cos(angle) * ky - torch.sin(angle) * kx
    k0 = 2.0 * math.pi / spacing
    ring = torch.exp(-0.5 * ((across.abs() - k0) / (0.45 * k0)).square())
    length = draw(keys, "streaks/narrow", 0.10, 0.22)
    roll = shaped_noise(keys, "streaks/field", fields.coarse, ring * torch.exp(-0.5 * (along / (length * k0)).square()))
    roll = roll + 0.15 * (roll.square() - 1.0)  # gusts are sharper than lulls
    # Rolls wax and wane over several kilometres.
    envelope = torch.sigmoid(1.2 + power_law(keys, "streaks/envelope", fields.coarse, -4.0, 8000.0, 1500.0))
    _gain_wind(fields, 1.0 + (0.016 + 0.032 * strength) * roll * envelope)


def micro_convective_cells(fields: Fields, keys: Tensor, strength: Tensor) -> None:
    """Convection: cells of 0.5 to 1 km radius whose air flows outward over the sea, bright downwind, dark upwind."""
    cell = draw(keys, "cells/size", 900.0, 2000.0)
    mesh = fields.coarse
    bend = 0.35 * cell
    x = mesh.x + bend * power_law(keys, "cells/warp-x", mesh, -3.0, 3000.0, 500.0)
    y = mesh.y + bend * power_law(keys, "cells/warp-y", mesh, -3.0, 3000.0, 500.0)
    # Cells stretch along the wind as it freshens.
    stretch = 1.0 + 0.06 * (fields.wind_speed[:, None, None] - 5.0).clamp(0.0, 6.0)
    cos, sin = torch.cos(fields.wind_angle)[:, None, None], torch.sin(fields.wind_angle)[:, None, None]
    along, across = cos * x + sin * y, cos * y - sin * x
    found = cells(keys, "cells", along / stretch, across * stretch, cell)
    radius = 0.55 * cell
    inside = torch.sigmoid((radius - found.nearest) / (0.18 * radius))
    size = 0.5 + found.identity  # cells differ in vigour
    outflow = size * (found.nearest / radius) * inside / found.nearest.clamp(min=1.0)
    patchy = torch.sigmoid(1.0 + 1.5 * power_law(keys, "cells/patches", mesh, -4.0, 9000.0, 2000.0))
    amplitude = (0.14 + 0.17 * strength) * fields.wind_speed[:, None, None] * patchy
    flow_along, flow_across = amplitude * outflow * found.dx, amplitude * outflow * found.dy
    fields.wind_x = fields.wind_x + cos * flow_along - sin * flow_across
    fields.wind_y = fields.wind_y + sin * flow_along + cos * flow_across
    gusts = power_law(keys, "cells/turbulence", mesh, -8.0 / 3.0, 1500.0, 250.0)
    _gain_wind(fields, 1.0 + (0.022 + 0.026 * strength) * gusts * patchy)


def rain_cells(fields: Fields, keys: Tensor, strength: Tensor) -> None:
    """Rain: a downdraft that spreads to a gust front, sea damped by drops, a smooth bright core; Atlas (1994)."""
    mesh, fine = fields.coarse, fields.fine
    warp_x = power_law(keys, "rain/warp-x", mesh, -3.8, 6000.0, 600.0)
    warp_y = power_law(keys, "rain/warp-y", mesh, -3.8, 6000.0, 600.0)
    patches = power_law(keys, "rain/patches", mesh, -3.8, 7000.0, 500.0)
    offset = torch.zeros_like(fields.wind_x)
    calm = torch.zeros_like(offset)
    heading = fields.wind_angle[:, None, None]
    for cell in range(3):
        present = draw(keys, f"rain/{cell}/present", 0.0, 1.0) < (1.0, 0.5, 0.25)[cell]
        vigour = present * (0.3 + 0.7 * strength) * draw(keys, f"rain/{cell}/vigour", 0.7, 1.0)
        radius = draw(keys, f"rain/{cell}/radius", 2000.0, 5500.0)
        x = mesh.x - draw(keys, f"rain/{cell}/x", -4000.0, 4000.0) + 0.35 * radius * warp_x
        y = mesh.y - draw(keys, f"rain/{cell}/y", -4000.0, 4000.0) + 0.35 * radius * warp_y
        # The outflow is carried downwind of the rain that feeds it.
        drift = draw(keys, f"rain/{cell}/drift", 0.15, 0.6) * radius
        ox, oy = x - drift * torch.cos(heading), y - drift * torch.sin(heading)
        r = torch.hypot(ox, oy)
        front = torch.sigmoid((radius - r) / (draw(keys, f"rain/{cell}/front", 0.06, 0.2) * radius))
        speed = vigour * draw(keys, f"rain/{cell}/outflow", 0.35, 0.85) * fields.wind_speed[:, None, None]
        push = speed * (r / radius) * front / r.clamp(min=1.0)
        fields.wind_x = fields.wind_x + push * ox
        fields.wind_y = fields.wind_y + push * oy
        away = torch.hypot(x, y)
        rain = torch.sigmoid((0.6 * radius * (1.0 + 0.35 * patches) - away) / (0.16 * radius))
        core = torch.exp(-(away / (0.22 * radius)).square())
        damped = draw(keys, f"rain/{cell}/damping", 2.5, 7.0) * vigour * rain
        ringing = draw(keys, f"rain/{cell}/splash", 0.5, 6.0) * vigour * core
        offset = offset - damped * (0.8 + 0.3 * patches).clamp(0.0, 1.5) + ringing
        calm = torch.maximum(calm, 0.35 * vigour * rain)
    fields.offset_db = fields.offset_db + resample(offset, fine.size)
    fields.damping = fields.damping * (1.0 - resample(calm, fine.size))


def biological_slicks(fields: Fields, keys: Tensor, strength: Tensor) -> None:
    """Surface films: filaments of a tracer that eddies have wound up; they damp the short waves (Marangoni)."""
    mesh, fine = fields.coarse, fields.fine
    # Backward trajectories through a frozen field of eddies: where did the water of each point come from?
    stream = power_law(keys, "slicks/stream", mesh, -5.0, 5000.0, 1300.0)
    step = 2.0 * mesh.spacing
    flow_x = (stream.roll(-1, 1) - stream.roll(1, 1)) / step
    flow_y = -(stream.roll(-1, 2) - stream.roll(1, 2)) / step
    flow = torch.stack([flow_x, flow_y], dim=1)
    flow = flow / flow.square().mean((1, 2, 3), keepdim=True).sqrt()
    half = 0.5 * mesh.size * mesh.spacing
    x, y = torch.broadcast_tensors(mesh.x, mesh.y)  # type: ignore[no-untyped-call]
    x, y = x.expand_as(stream), y.expand_as(stream)
    stride = draw(keys, "slicks/stirring", 250.0, 600.0)
    for _ in range(10):
        moved = sample(flow, x, y, mesh)
        x = (x - stride * moved[:, 0]).clamp(-2 * half, 2 * half)
        y = (y - stride * moved[:, 1]).clamp(-2 * half, 2 * half)
    tracers = torch.stack(
        [
            power_law(keys, "slicks/tracer", mesh, -4.5, 6000.0, 1800.0),
            power_law(keys, "slicks/supply", mesh, -4.5, 6000.0, 1500.0),
        ],
        dim=1,
    )
    x, y = resample(x, fine.size), resample(y, fine.size)
    carried = sample(tracers, x, y, mesh)
    tracer, supply = carried[:, 0], carried[:, 1]
    film = torch.zeros_like(tracer)
    for band in range(5):
        level = draw(keys, f"slicks/{band}/level", -1.6, 1.6)
        width = draw(keys, f"slicks/{band}/width", 0.02, 0.09)
        film = torch.maximum(film, torch.exp(-((tracer - level) / width).square()))
    film = film * torch.sigmoid((supply + 0.2) / 0.3)
    patch = torch.sigmoid((supply * 0.7 + 0.7 * tracer - draw(keys, "slicks/patch", 0.9, 2.2)) / 0.12)
    film = torch.maximum(film, patch).clamp(0.0, 1.0)
    contrast = draw(keys, "slicks/contrast", 2.0, 3.5) + 5.5 * strength
    fields.offset_db = fields.offset_db - contrast * film
    fields.damping = fields.damping * (1.0 - 0.35 * film)
    fields.slick = fields.slick | (film > 0.5)


def sea_ice(fields: Fields, keys: Tensor, strength: Tensor) -> None:
    """Ice: dark smooth floes with a connected net of thin bright ridges and rubble, at two scales."""
    mesh, fine = fields.coarse, fields.fine
    big = draw(keys, "ice/floe", 1800.0, 4500.0)
    small = big * draw(keys, "ice/fracture", 0.2, 0.36)

    def bent(name: str, reach: float, scale: float) -> tuple[Tensor, Tensor]:
        bend = [
            power_law(keys, f"ice/{name}-{a}", mesh, -4.0, scale, 700.0)
            + 0.10 * power_law(keys, f"ice/{name}-rough-{a}", mesh, -2.6, 1200.0, 250.0)
            for a in "xy"
        ]
        return fine.x + reach * resample(bend[0], fine.size), fine.y + reach * resample(bend[1], fine.size)

    floes = cells(keys, "ice/floes", *bent("warp", 330.0, 6000.0), big)
    cracks = cells(keys, "ice/cracks", *bent("crack", 130.0, 3000.0), small)
    stress = resample(power_law(keys, "ice/stress", mesh, -3.2, 5000.0, 400.0), fine.size)
    grey = resample(power_law(keys, "ice/grey", mesh, -3.0, 4000.0, 250.0), fine.size)
    texture = power_law(keys, "ice/texture", fine, -1.8, 600.0, 80.0)

    # Ridges pile up where ice has been pushed: a connected net along floe borders, brighter on some than on others.
    width = draw(keys, "ice/ridge-width", 28.0, 50.0) * (1.0 + 0.45 * stress).clamp(0.6, 2.5)
    ridge = torch.exp(-(floes.edge / width).square()) * (0.55 + 0.45 * floes.pair + 0.2 * stress).clamp(0.3, 1.2)
    broken = torch.sigmoid((stress - draw(keys, "ice/whole", -1.2, 0.4)) / 0.4)
    crack = torch.exp(-(cracks.edge / 28.0).square()) * broken * (0.25 + 0.65 * cracks.pair)
    band = 150.0 + 350.0 * (floes.pair - 0.55)
    rubble = torch.sigmoid((band + 130.0 * stress - floes.edge) / 45.0) * torch.sigmoid((floes.pair - 0.6) / 0.05)
    rubble = torch.maximum(rubble, torch.sigmoid((grey - draw(keys, "ice/rubble", 0.8, 1.6)) / 0.2))
    lift = draw(keys, "ice/contrast", 3.8, 5.2) + 3.0 * strength
    bright = torch.maximum(torch.maximum(ridge, crack), (0.5 + 0.14 * texture) * rubble).clamp(min=0.0)

    base = draw(keys, "ice/base", -17.5, -12.5) - 0.25 * (fields.incidence_deg[:, None, None] - 30.0)
    floe = 3.4 * (floes.identity - 0.5) + 3.0 * (cracks.identity - 0.5) * broken + 0.7 * grey
    fields.cover_db = base + floe + 0.8 * texture + lift * bright
    # Most scenes are closed pack; some show the edge of the ice or open leads.
    opening = draw(keys, "ice/opening", 0.0, 1.0)
    water = power_law(keys, "ice/edge", mesh, -3.6, 9000.0, 500.0)
    threshold = torch.where(opening < 0.6, 6.0, 2.6 - 2.9 * opening)
    fields.cover = torch.sigmoid((threshold - resample(water, fine.size)) / 0.05)
    fields.damping = fields.damping * (1.0 - 0.95 * fields.cover)
    fields.ice = fields.ice | (fields.cover > 0.5)


def low_wind(fields: Fields, keys: Tensor, strength: Tensor) -> None:
    """Calm: the wind dips below about 2 m/s, where the short waves die (Donelan and Pierson 1987)."""
    mesh = fields.coarse
    lull = power_law(keys, "calm/wind", mesh, -3.8, 8000.0, 400.0)
    wander = power_law(keys, "calm/turn", mesh, -3.8, 8000.0, 400.0)
    cos, sin = torch.cos(fields.wind_angle)[:, None, None], torch.sin(fields.wind_angle)[:, None, None]
    depth = 0.5 + 0.8 * strength
    fields.wind_x = fields.wind_x + depth * (lull * cos - 0.6 * wander * sin)
    fields.wind_y = fields.wind_y + depth * (lull * sin + 0.6 * wander * cos)
    critical = draw(keys, "calm/threshold", 1.6, 2.3)
    short = torch.sigmoid((critical - torch.hypot(fields.wind_x, fields.wind_y)) / 0.18)
    fields.offset_db = fields.offset_db - resample(draw(keys, "calm/drop", 9.0, 15.0) * short, fields.fine.size)


def _meander(fields: Fields, keys: Tensor, name: str, reach: float, scale: float) -> tuple[Tensor, Tensor]:
    """Distance (m) across and position along a wandering line through the scene, fine ``[b, N, N]``."""
    angle = rng.uniform(keys, f"{name}/angle", 1, 0.0, 2.0 * math.pi)[:, 0]
    along, across = rotate(fields.fine, angle)
    bend = resample(power_law(keys, f"{name}/bend", fields.coarse, -4.4, scale, 900.0), fields.fine.size)
    place = draw(keys, f"{name}/place", -3800.0, 3800.0)
    return across - place + reach * bend, along


def atmospheric_front(fields: Fields, keys: Tensor, strength: Tensor) -> None:
    """Two air masses: a step of 2 to 5 m/s and a turn across a lobed line, with an overshoot at its edge."""
    size = fields.coarse.size
    reach = 350.0
    distance, _ = _meander(fields, keys, "air-front", reach, 7000.0)
    lobes = power_law(keys, "air-front/lobes", fields.coarse, -3.6, 2000.0, 450.0)
    lobe_size = draw(keys, "air-front/lobe-size", 40.0, 200.0)
    near = resample(distance, size)
    near = near + lobe_size * lobes * torch.exp(-(near / 2500.0).square())
    width = draw(keys, "air-front/width", 180.0, 1100.0)
    side = 0.5 * (1.0 + torch.tanh(near / width))
    speed = fields.wind_speed[:, None, None]
    rise = (0.8 + 3.6 * strength) * draw(keys, "air-front/share", 0.75, 1.25)
    overshoot = draw(keys, "air-front/overshoot", 0.0, 1.2) * strength * torch.exp(-((near - width) / width).square())
    _gain_wind(fields, 1.0 + (rise * side + overshoot) / speed.clamp(min=1.0))
    turn = draw(keys, "air-front/turn", -50.0, 50.0) * (math.pi / 180.0) * side
    cos, sin = torch.cos(turn), torch.sin(turn)
    fields.wind_x, fields.wind_y = (
        cos * fields.wind_x - sin * fields.wind_y,
        sin * fields.wind_x + cos * fields.wind_y,
    )
    fields.front = fields.front | (resample(near, fields.fine.size).abs() < width.clamp(min=200.0))


def oceanic_front(fields: Fields, keys: Tensor, strength: Tensor) -> None:
    """Water masses: a thin meandering line of current strain (Alpers and Hennings 1984) and a weak step of stress."""
    distance, along = _meander(fields, keys, "sea-front", 420.0, 6000.0)
    width = draw(keys, "sea-front/width", 90.0, 220.0)
    sign = torch.where(draw(keys, "sea-front/sign", 0.0, 1.0) < 0.6, 1.0, -1.0)
    level = 0.9 + 2.6 * strength
    wax = 0.75 + 0.25 * torch.cos(
        2 * math.pi * along / draw(keys, "sea-front/wax", 4000.0, 16000.0) + draw(keys, "sea-front/phase", 0.0, 6.28)
    )
    line = sign * level * wax * torch.exp(-0.5 * (distance / width).square())
    step = draw(keys, "sea-front/step", -1.0, 1.0) * (0.35 + 0.5 * strength) * torch.tanh(distance / 400.0)
    fields.offset_db = fields.offset_db + line + step
    for stripe in range(2):  # films gather in lines beside the front
        present = draw(keys, f"sea-front/{stripe}/present", 0.0, 1.0) < 0.4
        apart = draw(keys, f"sea-front/{stripe}/apart", 350.0, 1800.0) * (1.0 - 2.0 * stripe)
        thin = draw(keys, f"sea-front/{stripe}/width", 50.0, 110.0)
        depth = present * draw(keys, f"sea-front/{stripe}/depth", 0.5, 3.0) * strength
        fields.offset_db = fields.offset_db - depth * torch.exp(-0.5 * ((distance - apart) / thin).square())
    fields.front = fields.front | (distance.abs() < 1.5 * width)


EFFECTS: dict[str, Callable[[Fields, Tensor, Tensor], None]] = {
    "low_wind": low_wind,
    "atmospheric_front": atmospheric_front,
    "wind_streaks": wind_streaks,
    "micro_convective_cells": micro_convective_cells,
    "rain_cells": rain_cells,
    "oceanic_front": oceanic_front,
    "biological_slicks": biological_slicks,
    "sea_ice": sea_ice,
}
"""What changes the fields, in the order in which it is applied: wind first, then the surface, ice over all. Pure ocean
waves change nothing; icebergs are points (see `scene.icebergs`)."""
