"""A small deterministic source: every item is a function of its id alone, with a few bad ones among them.

``FAKE_SOURCE_DIES=INDEX:FILE`` in the environment kills the process that reads item INDEX, unless FILE exists; FILE is
made first, so the process that reads the item next lives.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from groundswell.physics.imagette import Box, Channel, Imagette, Metadata, Quantity
from groundswell.products.source import Rejected


@dataclass
class FakeSource:
    """``count`` imagettes of ``size``; ids in ``bad`` map to what is wrong: unreadable, nan, constant, small, twin.

    An index in ``same`` has the content of the index that it maps to; a twin has that of the one before it.
    """

    count: int = 20
    size: tuple[int, int] = (12, 16)
    seed: int = 0
    quantity: Quantity = Quantity.QUICKLOOK
    names: tuple[str, ...] = ("intensity",)
    mask_names: tuple[str, ...] = ("slick",)
    eight_bit: bool = False
    bad: dict[int, str] = field(default_factory=dict)
    same: dict[int, int] = field(default_factory=dict)
    prefix: str = "item"

    @property
    def channels(self) -> tuple[Channel, ...]:
        return tuple(Channel(name, self.quantity) for name in self.names)

    @property
    def description(self) -> dict[str, Any]:
        bad = {str(index): what for index, what in self.bad.items()}
        same = {"same": {str(index): other for index, other in self.same.items()}} if self.same else {}
        return {"kind": "fake", "seed": self.seed, "count": self.count, "size": list(self.size), "bad": bad} | same

    def id(self, index: int) -> str:
        return f"{self.prefix}-{index:05d}"

    def ids(self) -> Sequence[str]:
        return [self.id(index) for index in range(self.count)]

    def read(self, ids: Sequence[str]) -> list[Imagette | Rejected]:
        return [self.item(int(id_.rsplit("-", 1)[1])) for id_ in ids]

    def values(self, index: int) -> np.ndarray:
        """float32 [C, H, W] in the source's quantity."""
        generator = np.random.default_rng([self.seed, index])
        size = (len(self.names), *self.size)
        if self.quantity is Quantity.QUICKLOOK:
            return generator.integers(0, 256, size).astype(np.float32)
        sigma0 = 0.05 * generator.gamma(4.0, 0.25, size)
        return (10 * np.log10(sigma0) if self.quantity is Quantity.SIGMA0_DB else sigma0).astype(np.float32)

    def item(self, index: int) -> Imagette | Rejected:
        _perhaps_die(index)
        what = self.bad.get(index, "")
        if what == "unreadable":
            return Rejected(self.id(index), "truncated file")
        same_as = index - 1 if what == "twin" else self.same.get(index, index)
        pixels = self.values(same_as)
        if what == "small":
            pixels = pixels[:, :2]
        if what == "constant":
            pixels[...] = 7.0
        if what == "nan":
            pixels[...] = np.nan
        metadata = Metadata(
            id=self.id(index),
            image_number=index,
            beam="WV1" if index % 2 else "WV2",
            split="test" if index % 4 == 0 else "train",
            group=f"group-{index // 3}",
            incidence_deg=23.0,
            incidence_near_deg=22.0,
            incidence_far_deg=24.0,
            azimuth_spacing_m=50.0,
            range_spacing_m=50.0,
            source_hash=hashlib.sha256(f"{self.seed} {self.prefix} {same_as}".encode()).hexdigest(),
        )
        return Imagette(
            pixels=pixels,
            channels=self.channels,
            metadata=metadata,
            labels={"phenomenon": ["rain", "waves"][index % 2], "hs": index / 10, "tag_rain": index % 2 == 0},
            masks={name: (pixels[0] > np.median(pixels[0])).astype(np.uint8) for name in self.mask_names},
            boxes=[Box("iceberg", 1.0 + index % 3, 0.5, 3.0, 2.0)] if index % 2 else [],
        )


def _perhaps_die(index: int) -> None:
    doomed, _, marker = os.environ.get("FAKE_SOURCE_DIES", "").partition(":")
    if doomed == str(index) and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def job(output: str, shard_rows: int = 6, workers: int = 0, **source: Any) -> None:
    """Ingest a fake source in a child process, by ``workers`` processes of its own or by none."""
    from groundswell.archive.ingest import ingest
    from groundswell.executors.local import Local

    for name in ("bad", "same"):
        source[name] = {int(index): what for index, what in source.get(name, {}).items()}
    executor = Local(workers, patience_s=0) if workers else None
    ingest(FakeSource(**source), output, shard_rows=shard_rows, batch=4, executor=executor)
