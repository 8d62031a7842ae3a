"""A small simulated archive, an encoder for it, and its model directory."""

from pathlib import Path

import pytest
from small_encoder import small_encoder

from groundswell.archive.ingest import ingest
from groundswell.archive.reader import Archive, open_archive
from groundswell.encoder.directory import save_model
from groundswell.encoder.encoder import Encoder
from groundswell.simulator.source import SimulatedSource, SimulatorSettings


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """23 simulated imagettes of 32 px in three shards."""
    path = tmp_path_factory.mktemp("archive") / "sea"
    ingest(SimulatedSource(SimulatorSettings(count=23, size=32)), path, shard_rows=9)
    return open_archive(path)


@pytest.fixture
def encoder(archive: Archive) -> Encoder:
    return small_encoder(archive)


@pytest.fixture
def model(encoder: Encoder, tmp_path: Path) -> Path:
    return save_model(encoder, tmp_path / "model")
