"""Fixtures of the training tests."""

from pathlib import Path

import pytest

from groundswell.archive.reader import Archive
from training.tiny import make_archive


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return make_archive(tmp_path_factory.mktemp("data") / "archive")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "run"
