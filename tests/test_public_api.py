"""``import groundswell``: light, and every name it offers is there."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import groundswell as gs
from groundswell.archive.ingest import ingest
from groundswell.backbones import BackboneSettings, build_backbone
from groundswell.encoder.preprocessing import PreprocessingSettings
from groundswell.simulator.source import SimulatedSource, SimulatorSettings


def test_every_name_resolves_and_types_agree() -> None:
    tree = ast.parse(Path(gs.__file__).read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        name.asname: f"{node.module}.{name.name}"
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert {*typed, "__version__"} == set(gs.__all__)
    for name, home in typed.items():
        value = getattr(gs, name)
        assert f"{value.__module__}.{value.__qualname__}" == home
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        gs.lode  # noqa: B018
    assert set(gs.__all__) <= set(dir(gs))
    assert gs.__version__ == version("groundswell")


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, groundswell; print(*sorted({'torch','pandas','numpy','pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_the_five_lines(tmp_path: Path) -> None:
    """The example of the README: an archive, a model, vectors, scores."""
    ingest(SimulatedSource(SimulatorSettings(count=40, size=24)), tmp_path / "archive")
    archive = gs.open_archive(tmp_path / "archive")
    preprocessing = PreprocessingSettings(quantity=gs.Quantity.ROUGHNESS_DB).resolve(archive.channels, 24, 24, 50.0)
    settings = BackboneSettings(name="resnet18", width=4, stem="small")
    gs.save_model(gs.Encoder(build_backbone(settings, 1, 0), preprocessing, "m", settings), tmp_path / "model")

    encoder = gs.load(tmp_path / "model")
    vectors = encoder.encode(archive)
    scores = gs.probe(vectors, archive.catalogue["label_wind_speed"], protocol="linear")
    assert vectors.shape == (40, 32)
    assert set(scores.scores["metric"]) >= {"rmse", "bias"}
    assert np.isfinite(scores.scores["value"]).all()


def test_a_worker_that_ingests_products_starts_without_torch() -> None:
    """Each of many processes would spend more than a second on it."""
    rooms = "groundswell.archive.ingest, groundswell.products.folder.images, groundswell.products.safe.source"
    code = f"import sys, {rooms}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
