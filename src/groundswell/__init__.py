"""Foundation models for ocean SAR images: simulate, ingest, pretrain, embed, probe, search.

    import groundswell as gs

    archive = gs.open_archive("archive")
    encoder = gs.load("run/model")
    vectors = encoder.encode(archive)  # float32 [N, D]
    scores = gs.probe(vectors, archive.catalogue["label_phenomenon"], protocol="linear")

Names are imported when they are first used: ``import groundswell`` itself loads neither torch nor pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from groundswell.archive.ingest import ingest as ingest
    from groundswell.archive.reader import Archive as Archive
    from groundswell.archive.reader import open_archive as open_archive
    from groundswell.encoder.directory import load as load
    from groundswell.encoder.directory import save_model as save_model
    from groundswell.encoder.embedding import embed as embed
    from groundswell.encoder.encoder import Encoder as Encoder
    from groundswell.encoder.table import EmbeddingTable as EmbeddingTable
    from groundswell.evaluation.probe import probe as probe
    from groundswell.physics.imagette import Imagette as Imagette
    from groundswell.physics.imagette import Metadata as Metadata
    from groundswell.physics.imagette import Quantity as Quantity
    from groundswell.products.safe.sentinel1 import open_product as open_product
    from groundswell.search.index import top_k as top_k
    from groundswell.simulator.source import simulate as simulate
    from groundswell.training.loop import pretrain as pretrain
    from groundswell.training.session import Monitor as Monitor

__version__ = "0.1.0"

_HOMES = {
    "Archive": "archive.reader",
    "open_archive": "archive.reader",
    "ingest": "archive.ingest",
    "load": "encoder.directory",
    "save_model": "encoder.directory",
    "Encoder": "encoder.encoder",
    "EmbeddingTable": "encoder.table",
    "embed": "encoder.embedding",
    "Imagette": "physics.imagette",
    "Metadata": "physics.imagette",
    "Quantity": "physics.imagette",
    "open_product": "products.safe.sentinel1",
    "pretrain": "training.loop",
    "Monitor": "training.session",
    "probe": "evaluation.probe",
    "simulate": "simulator.source",
    "top_k": "search.index",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
