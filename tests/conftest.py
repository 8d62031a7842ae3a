"""Fixtures that every room's tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from groundswell import progress

torch.set_num_threads(1)  # tests run two processes side by side; results must not depend on the machine


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is not at hand."""
    folder = os.environ.get("GROUNDSWELL_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("GROUNDSWELL_REAL_DATA is not set to the folder of real data sets")
    return Path(folder)


@pytest.fixture(autouse=True)
def _quiet_again() -> Iterator[None]:
    """A verb run in this process chooses how progress is shown; the next test must not write to its closed stream."""
    yield
    progress.use(progress.SilentReporter())
