"""Fixtures of the training tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from groundswell import backbones
from groundswell.archive.reader import Archive
from training.tiny import make_archive


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return make_archive(tmp_path_factory.mktemp("data") / "archive")


@pytest.fixture(scope="module")
def shallow() -> Iterator[None]:
    """Transformers of two narrow blocks for twelve: the same code, a fraction of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.VIT_SIZES, "ti", (48, 2, 3))
        yield


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "run"
