"""The demo end to end at a tiny size, and when its stages are reused."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from groundswell import demo, progress
from groundswell.archive.reader import open_archive
from groundswell.cli import verbs  # noqa: F401
from groundswell.cli.app import application
from groundswell.demo import DemoSettings, Stages
from groundswell.errors import ConfigError, StoppedBySignal, UsageError
from groundswell.signals import listening
from groundswell.simulator.source import SimulatorSettings, simulate

ROOT = Path(__file__).parents[1]
NAMES = ["simulate", "pretrain", "embed", "probe", "search", "report"]


def run_python(page: Path) -> dict[str, Any]:
    """What the one Python block of a page leaves behind."""
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(page), "exec"), names)
    return names


def test_demo_end_to_end_then_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "demo"
    arguments = ["demo", "-o", str(folder), "--count", "480", "--minutes", "0.2", "--seed", "3", "--json"]
    first = CliRunner().invoke(application, arguments)
    assert first.exit_code == 0, first.output
    said = json.loads(first.stdout)
    assert said["ran"] == NAMES
    assert said["reused"] == []
    assert said["verdict"]
    assert said["peak_memory_bytes"] < 4 * 2**30
    assert "monitor" in json.loads((folder / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    report = folder / "report.html"
    text = report.read_text(encoding="utf-8")
    assert "All 480 images are simulated, none is real." in text
    for chapter in ("verdict", "data", "training", "map", "search", "made"):
        assert f'<section id="{chapter}">' in text
    assert (folder / "search" / "neighbours.png").stat().st_size > 0
    # six tables of the same 480 images were probed; three seeds are one family
    record = json.loads((folder / "results" / "phenomenon" / "results.json").read_text())
    assert record["families"] == {"random": ["random-0", "random-1", "random-2"]}
    assert record["data"]["rows"] == 480

    # the Python of the documentation runs in the folder that it talks of
    progress.use(progress.SilentReporter())  # the verb left one that writes to the runner's closed stream
    monkeypatch.chdir(tmp_path)
    read_me = run_python(ROOT / "README.md")
    assert read_me["vectors"].shape == (480, 896)
    assert set(read_me["scores"].scores["metric"]) >= {"accuracy", "macro_f1"}
    monkeypatch.chdir(folder)
    by_hand = run_python(ROOT / "docs" / "archive.md")
    # the reader decodes in float32: rounding of values near 20
    np.testing.assert_allclose(by_hand["values"], read_me["archive"].read(range(8))[:, 0], atol=1e-5)
    assert by_hand["labels"]["id"].iloc[0] == "sim-3-000000000"

    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    second = CliRunner().invoke(application, arguments)
    assert second.exit_code == 0, second.output
    assert json.loads(second.stdout)["reused"] == NAMES
    assert json.loads(second.stdout)["verdict"] == said["verdict"]
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before


def test_the_demo_from_products_ends_in_the_same_report(tmp_path: Path) -> None:
    """What is simulated, written as SAFE products and read again is what is simulated, within what files lose."""
    folder = tmp_path / "demo"
    arguments = [
        "demo",
        "-o",
        str(folder),
        "--count",
        "480",
        "--minutes",
        "0.05",
        "--seed",
        "3",
        "--from-safe",
        "--json",
    ]
    result = CliRunner().invoke(application, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["ran"] == ["simulate", "ingest", *NAMES[1:]]
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "All 480 images are simulated, none is real." in text
    assert "Copernicus" not in text
    assert len(list((folder / "products").glob("*.SAFE"))) == 8
    archive = open_archive(folder / "archive")
    frame = archive.catalogue
    simulator = SimulatorSettings(count=480, seed=3, size=128, spacing_m=100.0)
    # ids sort by beam, time: of each product's number and image number follows the index of the simulator
    index = (frame["orbit"] - 25_000) * 60 + frame["image_number"] - 1
    some = list(range(0, 480, 60))
    truth = simulate(simulator, index.iloc[some].tolist())
    for pixels, item, row in zip(archive.read(some), truth, frame.iloc[some].itertuples(), strict=True):
        assert row.label_phenomenon == item.labels["phenomenon"]
        assert row.label_hs == pytest.approx(item.labels["hs"], nan_ok=True) or item.labels["hs"] is None
        assert row.split == item.metadata.split
        assert row.incidence_deg == pytest.approx(item.metadata.incidence_deg, abs=0.05)
        # Cells that straddle samples mix a little with their neighbours, digital numbers are whole, and sigma0 below
        # the noise is lost in part: sea of more than -25 dB agrees to a few percent.
        simulated, read = item.pixels[0], 10 ** (pixels[0] / 10)
        bright = (simulated > 0.003) & np.isfinite(read)
        assert float(np.corrcoef(np.log(simulated[bright]), np.log(read[bright]))[0, 1]) > 0.95
        assert float(np.median(read[bright] / simulated[bright])) == pytest.approx(1.0, abs=0.02)


class Recorder:
    """Two stages that write a file each and remember when they worked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.worked: list[tuple[str, bool]] = []
        self.fail = False

    def run(self, first: int = 1, second: int = 1) -> None:
        stages = Stages(self.folder, say=lambda _: None, total=2)
        key = self._one(stages, "one", first, [])
        self._one(stages, "two", second, [key])

    def _one(self, stages: Stages, name: str, value: int, upstream: list[str]) -> str:
        output = self.folder / name

        def work(resume: bool) -> None:
            self.worked.append((name, resume))
            if not resume:
                assert not output.exists()  # what another key made is gone
            output.write_text(str(value))
            if self.fail:
                raise RuntimeError("stopped")

        return stages.run(name, {"value": value}, upstream, [output], "command", work)


def test_a_stage_runs_again_when_it_or_one_before_it_changes(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.run()
    recorder.run()
    assert recorder.worked == [("one", False), ("two", False)]
    recorder.run(second=2)
    assert recorder.worked[2:] == [("two", False)]
    recorder.run(first=2, second=2)
    assert recorder.worked[3:] == [("one", False), ("two", False)]
    (tmp_path / "one").unlink()
    recorder.run(first=2, second=2)
    assert recorder.worked[5:] == [("one", False)]


def test_a_stopped_stage_goes_on_and_is_not_taken_for_finished(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.fail = True
    with pytest.raises(RuntimeError):
        recorder.run()
    recorder.fail = False
    recorder.run()
    assert recorder.worked == [("one", False), ("one", True), ("two", False)]


def test_a_signal_in_the_last_step_of_pretraining_stops_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def whole(*_: object) -> str:
        with listening():
            signal.raise_signal(signal.SIGTERM)  # too late for the loop to answer: its work is done
        return "key"

    monkeypatch.setattr(demo, "simulate", lambda *_: "key")
    monkeypatch.setattr(demo, "train", whole)
    monkeypatch.setattr(demo, "embed_all", lambda *_: pytest.fail("it went on"))
    with pytest.raises(StoppedBySignal, match="SIGTERM") as caught:
        demo.run_demo(tmp_path, DemoSettings())
    assert "same command" in str(caught.value)


def test_nothing_is_deleted_that_no_stage_made(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("mine")
    with pytest.raises(UsageError):
        Recorder(tmp_path).run()
    assert (tmp_path / "one").read_text() == "mine"


def test_too_few_images_are_refused_before_anything_starts(tmp_path: Path) -> None:
    result = CliRunner().invoke(application, ["demo", "-o", str(tmp_path / "d"), "--count", "10"])
    assert result.exit_code == ConfigError.exit_code
    assert "480" in result.output
    assert not (tmp_path / "d").exists()
    assert DemoSettings().count >= 480
