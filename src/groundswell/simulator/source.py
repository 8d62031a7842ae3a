"""The simulator as a source of imagettes: settings in, imagettes with their truth out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from groundswell import rng
from groundswell.config import Settings
from groundswell.errors import DataError
from groundswell.physics.geometry import incidence_profile
from groundswell.physics.imagette import Channel, Imagette, Label, Metadata, Quantity
from groundswell.physics.quantities import convert
from groundswell.products.source import Rejected
from groundswell.simulator.conditions import Conditions, Mix, draw_conditions, draw_main
from groundswell.simulator.fields import Fields
from groundswell.simulator.phenomena import PHENOMENA
from groundswell.simulator.scene import Layout, compose, icebergs, observe
from groundswell.simulator.spectra import radial_velocity_variance

QUANTITIES = (Quantity.SIGMA0, Quantity.SIGMA0_DB, Quantity.ROUGHNESS_DB, Quantity.QUICKLOOK)
MASKS = ("slick", "ice", "front")
BATCH = {True: 8, False: 64}
"""Images in one go on a CPU (what stays near its caches) and on a GPU; 40 MB each at 256 pixels, oversampled twice."""
VERSION = 1
"""Raised whenever a seed gives another image: archives of two versions are not the same data."""


class SimulatorSettings(Settings):
    """What to simulate; together with the version of the simulator it determines every pixel."""

    count: int = Field(default=1000, ge=1, lt=10**9, description="number of imagettes")
    seed: int = Field(default=0, ge=0, lt=2**63, description="the same seed gives the same imagettes")
    size: int = Field(default=256, ge=16, le=2048, description="rows and columns")
    spacing_m: float = Field(default=50.0, ge=20.0, le=100.0, description="ground spacing of pixels, m")
    oversampling: Literal[1, 2] = Field(default=2, description="wave grid points per pixel")
    mix: Mix = Field(default="balanced", description="class frequencies: equal, or those of the open ocean")
    quantity: Quantity = Field(default=Quantity.SIGMA0, description="what the pixels are")
    test_share: float = Field(default=0.3, ge=0.0, le=1.0, description="share of imagettes in the split 'test'")

    @field_validator("quantity")
    @classmethod
    def _can_be_made(cls, value: Quantity) -> Quantity:
        if value not in QUANTITIES:
            raise ValueError("the simulator makes " + ", ".join(QUANTITIES))
        return value

    @property
    def layout(self) -> Layout:
        """The grids of one image."""
        return Layout(self.size, self.spacing_m, self.oversampling)


def imagette_id(seed: int, index: int) -> str:
    """``sim-<seed>-<index>``, the index padded with zeros so that ids sort as they are counted."""
    return f"sim-{seed}-{index:09d}"


def split_of(seed: int, index: int, test_share: float) -> str:
    """``train`` or ``test``: a pure function of seed and index, whatever the number of imagettes."""
    digest = hashlib.blake2b(imagette_id(seed, index).encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") / 2**64 < test_share else "train"


def simulate(settings: SimulatorSettings, indices: Sequence[int], device: torch.device | str = "cpu") -> list[Imagette]:
    """The imagettes at ``indices`` (each 0 or more), with labels, masks and boxes.

    Pixels are float32 ``[1, size, size]`` of ``settings.quantity``. An imagette depends on the settings and its index
    alone: the random numbers are the same bits in any batch and on any device, the pixels agree to rounding.
    """
    place = torch.device(device)
    step = BATCH[place.type == "cpu"]
    out: list[Imagette] = []
    for first in range(0, len(indices), step):
        out += _simulate_batch(settings, indices[first : first + step], place)
    return out


def _simulate_batch(settings: SimulatorSettings, indices: Sequence[int], place: torch.device) -> list[Imagette]:
    index = torch.tensor(list(indices), dtype=torch.int64)
    keys = rng.keys(settings.seed, index, "simulator").to(place)
    layout = settings.layout
    with torch.no_grad():
        conditions = draw_conditions(keys, draw_main(keys, settings.mix, index))
        fields = compose(conditions, layout)
        berg_column = PHENOMENA.index("icebergs")
        bergs = icebergs(keys, conditions.tags[:, berg_column], conditions.strength[:, berg_column], layout)
        sigma0 = observe(conditions, fields, bergs, layout).cpu().numpy().astype(np.float32, copy=False)
        near, far = _incidence_ends(conditions, layout)
        pixels = convert(
            sigma0, Quantity.SIGMA0, settings.quantity, incidence_profile(near, far, settings.size)
        ).astype(np.float32, copy=False)
        labels = _labels(conditions, fields, layout)
        masks = {
            name: getattr(fields, name)[:, layout.crop, layout.crop].to(torch.uint8).cpu().numpy() for name in MASKS
        }
    metadata = _metadata(settings, index.tolist(), conditions, near, far)
    channel = (Channel("VV", settings.quantity),)
    return [
        Imagette(
            pixels=pixels[i][None],
            channels=channel,
            metadata=metadata[i],
            labels=labels[i],
            masks={name: mask[i] for name, mask in masks.items()},
            boxes=[berg.box(layout) for berg in bergs[i]],
        )
        for i in range(len(indices))
    ]


def _incidence_ends(conditions: Conditions, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Incidence (degrees) ``[B]`` at the centres of the first and the last column."""
    half = 0.5 * (layout.size - 1) * layout.spacing
    centre, slope = conditions.incidence_deg.double(), conditions.incidence_slope.double()
    return (centre - half * slope).cpu().numpy(), (centre + half * slope).cpu().numpy()


def _metadata(
    settings: SimulatorSettings, indices: list[int], conditions: Conditions, near: np.ndarray, far: np.ndarray
) -> list[Metadata]:
    """What is known of each imagette. Mission, time and place stay unknown: there are none."""
    heading, incidence = conditions.heading_deg.tolist(), conditions.incidence_deg.tolist()
    nesz, wv2 = conditions.nesz_db.tolist(), conditions.wv2.tolist()
    out = []
    for i, index in enumerate(indices):
        name = imagette_id(settings.seed, index)
        out.append(
            Metadata(
                id=name,
                image_number=index,
                beam="WV2" if wv2[i] else "WV1",
                mode="WV",
                polarisations="VV",
                heading_deg=heading[i] % 360.0,
                look="right",
                incidence_deg=incidence[i],
                incidence_near_deg=float(near[i]),
                incidence_far_deg=float(far[i]),
                range_spacing_m=settings.spacing_m,
                azimuth_spacing_m=settings.spacing_m,
                nesz_db=nesz[i],
                denoised=True,
                group=name,
                split=split_of(settings.seed, index, settings.test_share),
                source_uri=f"groundswell simulate --seed {settings.seed} (index {index})",
            )
        )
    return out


def _labels(conditions: Conditions, fields: Fields, layout: Layout) -> list[dict[str, Label]]:
    """The truth of each scene. Wind is the mean over the image; wave labels come from the spectrum.

    Under sea ice the open-water spectrum is not what is there: its wave labels are None.
    """
    crop = slice(layout.start // 2, (layout.start + layout.size) // 2)
    wind_x, wind_y = (w[:, crop, crop] for w in (fields.wind_x, fields.wind_y))
    speed = torch.hypot(wind_x, wind_y).mean((1, 2))
    direction = conditions.from_north(torch.atan2(wind_y.mean((1, 2)), wind_x.mean((1, 2))))
    waves = conditions.waves
    peak = waves.dominant()[:, None]
    sigma_v = (radial_velocity_variance(waves, conditions.incidence_deg) + conditions.coherence.square()).sqrt()
    ice_share = fields.ice[:, layout.crop, layout.crop].float().mean((1, 2))
    sea: dict[str, Tensor] = {
        "hs": waves.total_hs(),
        "hs_wind_sea": waves.hs[:, 0],
        "hs_swell": waves.hs[:, 1:].square().sum(1).sqrt(),
        "tp": waves.tp.gather(1, peak)[:, 0],
        "wave_direction_deg": conditions.from_north(waves.direction.gather(1, peak)[:, 0]),
        "sigma_v": sigma_v,
    }
    open_water = (ice_share < 0.05).tolist()
    air = {"wind_speed": speed, "wind_direction_deg": direction, "beta": conditions.beta_s, "ice_fraction": ice_share}
    columns = {name: values.tolist() for name, values in {**air, **sea}.items()}
    main, tags = conditions.main.tolist(), conditions.tags.tolist()
    out: list[dict[str, Label]] = []
    for i in range(len(main)):
        row: dict[str, Label] = {"phenomenon": PHENOMENA[main[i]]}
        row |= {f"tag_{name}": int(tags[i][k]) for k, name in enumerate(PHENOMENA)}
        row |= {name: None if name in sea and not open_water[i] else values[i] for name, values in columns.items()}
        out.append(row)
    return out


class SimulatedSource:
    """The simulator behind the interface that the archive writer reads (`products.source.Source`)."""

    def __init__(self, settings: SimulatorSettings, device: torch.device | str = "cpu") -> None:
        self.settings = settings
        self.device = torch.device(device)
        self.channels: tuple[Channel, ...] = (Channel("VV", settings.quantity),)
        self.mask_names: tuple[str, ...] = MASKS
        self.eight_bit = False
        self.description: dict[str, Any] = {
            "kind": "simulator",
            "simulated": True,
            "version": VERSION,
            "settings": settings.model_dump(mode="json"),
        }
        self._index = {imagette_id(settings.seed, i): i for i in range(settings.count)}

    def ids(self) -> Sequence[str]:
        """The id of every imagette, sorted."""
        return list(self._index)

    def read(self, ids: Sequence[str]) -> list[Imagette | Rejected]:
        """The imagettes asked for, in that order.

        Raises
        ------
        DataError
            For an id this source does not have.
        """
        unknown = [name for name in ids if name not in self._index]
        if unknown:
            raise DataError("the simulator has no imagette of this id", where=unknown[0])
        return list(simulate(self.settings, [self._index[name] for name in ids], self.device))
