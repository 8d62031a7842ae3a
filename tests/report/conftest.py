"""One folder of material for all tests of the report."""

from pathlib import Path

import pytest
import report_material as material


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with archive/, tables/, results/ and run/."""
    folder = tmp_path_factory.mktemp("material")
    (folder / "tables").mkdir()
    archive = material.make_archive(folder / "archive")
    tables = material.make_tables(archive, folder / "tables")
    material.make_results(tables, folder / "results")
    material.make_run(folder / "run")
    return folder
