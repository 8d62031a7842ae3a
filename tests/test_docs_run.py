"""The documentation does what it says: the commands of the tutorial in their order, and every Python block, are run."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from groundswell import progress
from groundswell.archive.ingest import ingest
from groundswell.archive.reader import open_archive
from groundswell.cli import verbs  # noqa: F401 - registers them
from groundswell.cli.app import application
from groundswell.encoder.table import EmbeddingTable
from groundswell.products.safe_writer.model import Image, Signal
from groundswell.products.safe_writer.writer import write_grd, write_wv
from groundswell.simulator.source import SimulatedSource, SimulatorSettings

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TINY = ["length.steps=2", "batch_size=4", "backbone.width=4", "view_size=32"]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [body for found, body in FENCE.findall(text) if found == language]


def images(folder: Path) -> None:
    """``images/`` and ``labels.csv`` as the tutorial has them, and ``picture.tif``: two textures of sigma0."""
    import tifffile

    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(30):
        size = (264, 64)[i % 2]  # 64 blocks of 4 x 4, or single pixels
        power = rng.gamma(4.0, 0.0125, (264 // (1 + 3 * (i % 2)),) * 2).repeat(264 // size, 0).repeat(264 // size, 1)
        np.save(folder / "images" / f"{i:02d}.npy", power[:264, :264].astype(np.float32))
        rows.append((f"{i:02d}.npy", "fine" if i % 2 == 0 else "coarse", f"p{i // 3}", "train" if i < 18 else "test"))
    table = pd.DataFrame(rows, columns=["file", "class", "pass", "part"])
    table.assign(incidence_deg=23.0 + table.index / 10).to_csv(folder / "labels.csv", index=False)
    tifffile.imwrite(folder / "picture.tif", np.load(folder / "images" / "04.npy")[:200, :200])


def words_of(command: str, known: str) -> list[str]:
    """A command as the shell gives it to groundswell, with a real id for ID, and pretraining cut to two steps."""
    words = shlex.split(command)[1:]
    words = [known if word == "ID" else word for word in words]
    expanded = [sorted(map(str, Path().glob(w))) if "*" in w else [w] for w in words]
    words = [word for part in expanded for word in part]
    if words[0] == "pretrain":
        words = [word for word in words if not word.startswith("length.")] + TINY
    return words


def test_the_tutorial_from_its_first_command_to_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images(tmp_path)
    commands = [line for body in blocks("docs/tutorial.md", "bash") for line in body.replace("\\\n", " ").splitlines()]
    done = []
    for command in filter(None, commands):
        words = words_of(command, "29.npy")
        if words[0] == "pretrain" and Path("run").exists():
            shutil.rmtree("run")  # the second way to pretrain, for archives without incidence; then the first again
        if words[0] in ("predict", "search") and not Path("tables/new.parquet").exists():
            EmbeddingTable.read("tables/encoder.parquet").where("split == 'test'").write(Path("tables/new.parquet"))
        result = CliRunner().invoke(application, words)
        assert result.exit_code == 0, f"{command}\n{result.output}"
        done.append(words[0])
    assert set(done) == {"ingest", "stats", "pretrain", "embed", "probe", "predict", "search", "report"}
    assert Path("report.html").stat().st_size > 10_000
    assert list(pd.read_parquet("predicted.parquet")["id"]) == [f"{i}.npy" for i in range(18, 30)]

    (body,) = blocks("docs/tutorial.md", "python")
    names = run(body)
    assert names["vectors"].shape == (12, 32)
    assert set(names["archive"].catalogue["split"]) == {"test"}
    assert "accuracy" in set(names["scores"].scores["metric"])
    assert names["scores"].scores["value"].between(0, 1).all()


def run(body: str) -> dict[str, Any]:
    """The names that a block leaves."""
    progress.use(progress.SilentReporter())  # a verb that ran before wrote to a stream that is closed
    names: dict[str, Any] = {}
    exec(compile(body, "<documentation>", "exec"), names)
    return names


def readme(folder: Path, names: Callable[[], dict[str, Any]]) -> None:
    """``demo/`` as the demo leaves it: an archive of the simulator and a model."""
    ingest(SimulatedSource(SimulatorSettings(count=40, size=32)), folder / "demo" / "archive")
    words = ["pretrain", "demo/archive", "--recipe", "demo", "-o", "demo/run", *TINY]
    result = CliRunner().invoke(application, words)
    assert result.exit_code == 0, result.output
    found = names()
    assert found["vectors"].shape == (40, found["encoder"].dim)
    assert "accuracy" in set(found["scores"].scores["metric"])


def archive_page(folder: Path, names: Callable[[], dict[str, Any]]) -> None:
    """Its lines read what groundswell itself reads."""
    ingest(SimulatedSource(SimulatorSettings(count=9, size=16)), folder / "archive")
    path = folder / "archive" / "shards" / "000000.npy"
    archive = open_archive(folder / "archive")
    codes = np.load(path)
    codes[3, 0, 2, 5] = archive.schema.channels[0].fill
    np.save(path, codes)
    found = names()
    assert int(np.isnan(found["values"]).sum()) == 1
    np.testing.assert_allclose(found["values"], archive.read(range(8))[:, 0], atol=1e-5)  # float32
    assert found["labels"]["id"].tolist() == archive.catalogue["id"].tolist()


def products_page(folder: Path, names: Callable[[], dict[str, Any]]) -> None:
    """Two products of the names that the page has, whose sigma0 is known."""
    signals = (Signal(sigma0=0.05),)
    wave = write_wv(folder, [Image(shape=(300, 420), beam="WV1", number=3, signals=signals)])
    both = (*signals, Signal(polarisation="VH", sigma0=0.05))
    ground = write_grd(folder, Image(shape=(400, 520), beam="IW", signals=both))
    named = [re.findall(r'open_product\("(.*?)"\)', body) for body in blocks("docs/products.md", "python")]
    for product, (name,) in zip((wave, ground), named, strict=True):
        product.rename(folder / name)
    found = names()
    assert found["overview"].shape == (2, 20, 26)
    # With the noise (-22 dB), which an IW scene without azimuth vectors keeps; speckle leaves 0.1 % (one sigma).
    assert float(found["mean"]) == pytest.approx(0.05 + 10**-2.2, rel=0.01)
    dataset = found["dataset"]
    assert set(dataset.data_vars) == {"sigma0", "nesz", "valid"}
    assert dataset["sigma0"].dims == ("azimuth", "range")
    assert {"incidence", "lon", "lat"} <= set(dataset.coords)
    # speckle of one look in 700 cells of some 160 samples: the mean lies within 0.3 % (one sigma), noise and all
    assert float(dataset["sigma0"].mean()) == pytest.approx(0.05, rel=0.02)


PAGES = {"README.md": readme, "docs/archive.md": archive_page, "docs/products.md": products_page}


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PAGES[page](tmp_path, lambda: run("\n".join(blocks(page, "python"))))


def test_no_python_of_the_documentation_is_left_out() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = {str(page.relative_to(ROOT)) for page in pages if blocks(str(page.relative_to(ROOT)), "python")}
    assert found == {*PAGES, "docs/tutorial.md"}
