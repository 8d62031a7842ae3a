"""What the sea, the air and the radar were like when an imagette was taken: drawn once per scene, the truth of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from groundswell import rng
from groundswell.physics import geometry
from groundswell.simulator.phenomena import PHENOMENA
from groundswell.simulator.spectra import WaveSystems

Mix = Literal["balanced", "ocean"]

OCEAN_MIX = (0.43, 0.18, 0.15, 0.06, 0.03, 0.05, 0.01, 0.04, 0.03, 0.02)
"""Share of each phenomenon on the open ocean, roughly as global wave-mode classifications find it (ours)."""

_WIND = {  # m/s, wide and overlapping: the level of an image must not give its class away
    "pure_ocean_waves": (3.5, 12.5),
    "wind_streaks": (5.5, 15.0),
    "micro_convective_cells": (3.0, 11.5),
    "rain_cells": (3.0, 12.5),
    "biological_slicks": (2.0, 6.5),
    "sea_ice": (2.0, 14.0),
    "icebergs": (2.5, 13.0),
    "low_wind": (1.5, 3.8),
    "atmospheric_front": (2.5, 10.0),
    "oceanic_front": (2.5, 10.0),
}
_COMPANIONS = {  # what may be seen with it, at other places in the same imagette
    "pure_ocean_waves": (),
    "wind_streaks": ("atmospheric_front", "oceanic_front", "rain_cells", "icebergs"),
    "micro_convective_cells": ("atmospheric_front", "oceanic_front", "rain_cells", "icebergs"),
    "rain_cells": ("wind_streaks", "micro_convective_cells", "atmospheric_front"),
    "biological_slicks": ("oceanic_front", "low_wind"),
    "sea_ice": ("icebergs",),
    "icebergs": ("wind_streaks", "micro_convective_cells", "oceanic_front"),
    "low_wind": ("biological_slicks", "oceanic_front"),
    "atmospheric_front": ("wind_streaks", "micro_convective_cells", "rain_cells"),
    "oceanic_front": ("wind_streaks", "micro_convective_cells", "biological_slicks"),
}
COMPANION_CHANCE = 0.3
COHERENCE = 0.0022
"""Velocity spread (m/s) per squared wind speed: finite scene coherence and breaking, beyond the orbital motion of the
spectrum. Tuned on the azimuth cut-off of one real product (342 m at 13.5 m/s); grows faster than wind, as breaking."""
LOOKS = {"WV1": 80.0, "WV2": 77.0}
"""At 50 m, from the impulse response of each beam (Hamming 0.75 on both axes) and a 50 m box."""


@dataclass(frozen=True)
class Conditions:
    """B scenes; every tensor is ``[B]`` unless it says otherwise.

    Attributes
    ----------
    keys : int64
        From which all else of a scene follows.
    wv2 : bool
        Beam WV2 rather than WV1.
    heading_deg, incidence_deg, nesz_db, beta_s, looks : float32
        Platform heading; incidence at the centre; noise; R/V (s); looks at 50 m.
    wind_speed, wind_from_deg : float32
        Background wind, m/s, and the direction it comes from, degrees from north.
    waves : WaveSystems
    coherence : float32
        Velocity spread (m/s) beyond the orbital motion.
    main : int64
        Index of the class in `PHENOMENA`.
    tags : bool [B, 10]
        What is in the scene.
    strength : float32 [B, 10]
        From 0 (hardly visible) to 1 (textbook).
    """

    keys: Tensor
    wv2: Tensor
    heading_deg: Tensor
    incidence_deg: Tensor
    nesz_db: Tensor
    beta_s: Tensor
    looks: Tensor
    wind_speed: Tensor
    wind_from_deg: Tensor
    waves: WaveSystems
    coherence: Tensor
    main: Tensor
    tags: Tensor
    strength: Tensor

    @property
    def incidence_slope(self) -> Tensor:
        """float32 [B]: change of incidence with ground range, degrees per metre."""
        wide = torch.tensor([geometry.WV1.width_deg, geometry.WV2.width_deg], device=self.wv2.device)
        return wide[self.wv2.long()] / 20e3

    def to_image(self, from_deg: Tensor) -> Tensor:
        """Where things that come from ``from_deg`` (degrees from north) go to: radians in the image frame."""
        return image_angle(from_deg, self.heading_deg)

    def from_north(self, angle: Tensor) -> Tensor:
        """The inverse of `to_image`: degrees from north, 0..360."""
        return (180.0 - torch.rad2deg(angle) + self.heading_deg + 90.0) % 360.0


def image_angle(from_deg: Tensor, heading_deg: Tensor) -> Tensor:
    """Direction of travel (rad) in the image frame of what comes from ``from_deg`` (degrees from north).

    x points along the look azimuth (heading + 90), y along the heading: a bearing that is ``phi`` to the right of the
    look azimuth is (cos phi, -sin phi).
    """
    phi = torch.deg2rad(from_deg - heading_deg - 90.0)
    return math.pi - phi


def _uniform(keys: Tensor, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
    return rng.uniform(keys, name, 1, low, high)[:, 0]


def draw_main(keys: Tensor, mix: Mix, indices: Tensor) -> Tensor:
    """int64 [B]: the class of each scene.

    ``balanced``: the classes take turns, so that any ten consecutive indices hold each once. ``ocean``: drawn from
    `OCEAN_MIX`.
    """
    if mix == "balanced":
        return indices.to(keys.device) % len(PHENOMENA)
    edges = torch.tensor(OCEAN_MIX, device=keys.device).cumsum(0)
    return torch.bucketize(_uniform(keys, "class"), edges[:-1], right=True)


def _draw_tags(keys: Tensor, main: Tensor) -> Tensor:
    tags = torch.nn.functional.one_hot(main, len(PHENOMENA)).bool()
    second = _uniform(keys, "companion") < COMPANION_CHANCE
    pick = _uniform(keys, "companion/which")
    for i, name in enumerate(PHENOMENA):
        others = _COMPANIONS[name]
        if others:
            rows = (main == i) & second
            chosen = torch.tensor([PHENOMENA.index(o) for o in others], device=keys.device)
            which = chosen[(pick[rows] * len(others)).long()]
            tags[rows.nonzero()[:, 0], which] = True
    return tags


def _draw_waves(keys: Tensor, wind_speed: Tensor, wind_angle: Tensor, swelling: Tensor) -> WaveSystems:
    """A wind sea at some stage of growth under the wind, one swell, and sometimes a second."""
    growth = _uniform(keys, "sea/growth", 0.45, 1.0)
    effective = wind_speed.clamp(min=1.5)
    sea_hs = growth * 0.0246 * effective.square()
    sea_tp = 2.0 * math.pi * effective / (0.88 * 9.81) * growth.pow(0.3)  # Pierson-Moskowitz peak, shorter when young
    normal = rng.normal(keys, "swell/height", 2)
    first = (1.5 * torch.exp(0.5 * normal[:, 0])).clamp(0.3, 5.5)
    # Scenes that are about waves show them: a third more swell.
    first = torch.where(swelling, (first * 1.35).clamp(min=1.0), first)
    second = torch.where(
        _uniform(keys, "swell/two") < 0.35, (0.8 * torch.exp(0.4 * normal[:, 1])).clamp(0.2, 2.0), torch.zeros(())
    )
    turn = 2.0 * math.pi
    peaked = torch.full_like(growth, 4.0)
    periods = rng.uniform(keys, "swell/tp", 4).view(-1, 2, 2).mean(2)  # peaked in the middle of 8 to 17 s
    return WaveSystems(
        hs=torch.stack([sea_hs, first, second], 1),
        tp=torch.cat([sea_tp[:, None], 8.0 + 9.0 * periods], 1),
        gamma=torch.stack([1.0 + 2.3 * (1.0 - growth) / 0.55, peaked, peaked], 1),  # a young sea has a sharper peak
        direction=torch.cat(
            [
                (wind_angle + _uniform(keys, "sea/turn", -0.35, 0.35))[:, None],
                rng.uniform(keys, "swell/direction", 2, 0.0, turn),
            ],
            1,
        ),
        spreading=torch.cat(
            [rng.uniform(keys, "sea/spread", 1, 2.0, 6.0), rng.uniform(keys, "swell/spread", 2, 15.0, 70.0)], 1
        ),
    )


def draw_conditions(keys: Tensor, main: Tensor) -> Conditions:
    """The conditions of B scenes from their keys and classes, both int64 ``[B]``: a pure function, scene by scene."""
    device = keys.device
    wv2 = _uniform(keys, "beam") < 0.5
    low, high = (
        torch.tensor([geometry.WV1.incidence_deg[i], geometry.WV2.incidence_deg[i]], device=device)[wv2.long()]
        for i in (0, 1)
    )
    incidence = low + (high - low) * _uniform(keys, "incidence")
    ascending = _uniform(keys, "pass") < 0.5
    heading = torch.where(ascending, 347.0, 193.0) + _uniform(keys, "heading", -5.0, 5.0)
    tags = _draw_tags(keys, main)
    winds = torch.tensor([_WIND[name] for name in PHENOMENA], device=device)[main]
    peaked = 0.5 * (_uniform(keys, "wind") + _uniform(keys, "wind/b"))
    wind_speed = winds[:, 0] + (winds[:, 1] - winds[:, 0]) * peaked
    wind_from = _uniform(keys, "wind/from", 0.0, 360.0)
    strength = rng.uniform(keys, "strength", len(PHENOMENA)).pow(0.8)
    own = torch.nn.functional.one_hot(main, len(PHENOMENA)).bool()
    strength = torch.where(own, strength, 0.45 * strength)  # a companion does not steal the scene
    waves = _draw_waves(keys, wind_speed, image_angle(wind_from, heading), main == PHENOMENA.index("pure_ocean_waves"))
    looks = torch.tensor([LOOKS["WV1"], LOOKS["WV2"]], device=device)[wv2.long()]
    return Conditions(
        keys=keys,
        wv2=wv2,
        heading_deg=heading,
        incidence_deg=incidence,
        nesz_db=_uniform(keys, "nesz", -23.5, -21.0),
        beta_s=geometry.beta(incidence),
        looks=looks,
        wind_speed=wind_speed,
        wind_from_deg=wind_from,
        waves=waves,
        coherence=COHERENCE * wind_speed.square(),
        main=main,
        tags=tags,
        strength=strength,
    )
