"""Small material of known content: an archive, tables, results and a run, with labels that try to break out of HTML."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from groundswell.archive.ingest import ingest
from groundswell.archive.reader import open_archive
from groundswell.encoder.embedding import embed
from groundswell.encoder.table import EmbeddingTable
from groundswell.evaluation.cases import ProbeSettings
from groundswell.evaluation.controls import StatisticsEmbedder
from groundswell.evaluation.probe import run_probe
from groundswell.physics.imagette import Channel, Imagette, Metadata, Quantity
from groundswell.products.source import Rejected

HOSTILE = "<script>alert('x')</script> $\\frac{1}{0}$ & \"quoted\""
CLASSES = (HOSTILE, "wind_streaks", "sea_ice")
PER_CLASS = 20


class ThreeTextures:
    """60 images of three classes: noise, stripes and blocks; two images a group, groups whole in a split."""

    channels = (Channel("VV", Quantity.SIGMA0_DB),)
    mask_names: tuple[str, ...] = ()
    eight_bit = False

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.description = {"kind": "test", "note": HOSTILE}

    def ids(self) -> Sequence[str]:
        return [f"{self.prefix}-0-{i:03d}" for i in range(PER_CLASS * len(CLASSES))]

    def read(self, ids: Sequence[str]) -> list[Imagette | Rejected]:
        return [self._one(name) for name in ids]

    def _one(self, name: str) -> Imagette:
        i = int(name.rsplit("-", 1)[1])
        kind = i // 2 % len(CLASSES)
        generator = np.random.default_rng(i)
        pixels = generator.normal(-12, 0.5, (32, 32))
        if kind == 1:
            pixels += 2 * np.sin(np.arange(32) * generator.uniform(0.5, 1.5))[None]
        if kind == 2:
            pixels += 3 * np.kron(generator.integers(0, 2, (4, 4)), np.ones((8, 8)))
        group = i // 2
        split = "test" if group // 3 % 3 == 0 else "train"
        metadata = Metadata(
            id=name, beam="WV1", incidence_deg=23.5, incidence_near_deg=23.0, incidence_far_deg=24.0,
            range_spacing_m=50.0, azimuth_spacing_m=50.0, group=f"g{group}", split=split,
        )  # fmt: skip
        labels = {"phenomenon": CLASSES[kind], "wind_speed": 5 + 0.1 * i, "tag_a": kind % 2, "tag_b": i % 2}
        return Imagette(pixels[None].astype(np.float32), self.channels, metadata, labels)


def make_archive(folder: Path, prefix: str = "sim") -> Path:
    """The archive at ``folder``; ids that start with ``sim-`` are simulated."""
    ingest(ThreeTextures(prefix), folder, shard_rows=32)
    return folder


def make_tables(archive: Path, folder: Path) -> dict[str, Path]:
    """Image statistics; the same with noise, as an encoder's; and hardly more than noise, as those of two controls."""
    path = folder / "statistics.parquet"
    embed(StatisticsEmbedder(), [open_archive(archive)], path)
    statistics = EmbeddingTable.read(path)
    paths = {"statistics": path}
    for seed, (name, model, share) in enumerate(
        [("model", f"{HOSTILE}@1", 1.0), ("random-0", "random:m:0@1", 0.0), ("random-1", "random:m:1@2", 0.1)]
    ):
        generator = np.random.default_rng(seed)
        scaled = statistics.vectors / (np.abs(statistics.vectors).max(axis=0) + 1e-9)
        vectors = share * scaled + generator.normal(0, 0.3, scaled.shape)
        header = type(statistics.header)(
            **{**{f: getattr(statistics.header, f) for f in statistics.header.__slots__}, "model": model}
        )
        paths[name] = folder / f"{name}.parquet"
        EmbeddingTable(vectors.astype(np.float32), statistics.frame, header).write(paths[name])
    return paths


def make_results(tables: dict[str, Path], folder: Path) -> Path:
    """Results of every task over those tables."""
    opened = {name: EmbeddingTable.read(tables[name]) for name in ("model", "statistics", "random-0", "random-1")}
    settings = ProbeSettings(targets=("label_phenomenon", "label_wind_speed", "label_tag_*"), draws=100)
    run_probe(opened, settings).save(folder)
    return folder


def make_run(folder: Path) -> Path:
    """A run directory of 30 rows with a gap, a score that is not finite, and a last line torn by a kill."""
    folder.mkdir()
    (folder / "resolved.yaml").write_text(f"name: tiny\ndescription: {json.dumps(HOSTILE)}\n")
    rows = [
        {"step": s, "loss": 5 - s / 10, "effective_rank": 1.0 + s, "feature_spread": 0.5, "images": 4 * s}
        for s in range(1, 31)
    ]
    rows[3]["loss"] = None
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text + '{"step": 31, "lo')
    return folder
