"""The whole path on simulated images, in stages that are reused when neither their settings nor their inputs changed.

    simulate [-> ingest] -> pretrain -> embed -> probe -> search -> report

From SAFE products, what is simulated is written as products first, and the archive is made from those.
Each stage leaves a record in ``stages/``, written last. Its key is the digest of its settings, of the program's
version and of the keys of the stages it builds on; a record with the same key is a stage that need not run again.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import Field

from groundswell import files
from groundswell.archive.ingest import ingest
from groundswell.archive.reader import open_archive
from groundswell.config import Settings, read_recipe
from groundswell.encoder.directory import load
from groundswell.encoder.embedding import embed
from groundswell.encoder.encoder import random_encoder
from groundswell.encoder.table import Embedder, EmbeddingTable
from groundswell.errors import UsageError
from groundswell.evaluation.cases import ProbeSettings
from groundswell.evaluation.controls import Cmod5nEmbedder, StatisticsEmbedder
from groundswell.evaluation.monitor import knn_monitor
from groundswell.evaluation.probe import run_probe
from groundswell.executors.local import Local
from groundswell.physics.imagette import Quantity
from groundswell.products.folder.labels import Columns
from groundswell.products.safe.settings import SafeSettings
from groundswell.products.safe.source import SafeProducts
from groundswell.report.build import write_report
from groundswell.report.inputs import STAGES, ResultsFolder
from groundswell.report.sections.embeddings import choose_queries
from groundswell.report.sections.verdict import verdict
from groundswell.report.sheets import contact_sheet
from groundswell.search.query import search_row, thumbnails
from groundswell.signals import stoppable
from groundswell.simulator.products import TRUTH, write_products
from groundswell.simulator.source import SimulatedSource, SimulatorSettings
from groundswell.training.loop import pretrain
from groundswell.training.recipe import resolve_recipe

SIZE, SPACING_M = 128, 100.0  # 12.8 km, as 256 px of 50 m are, at a quarter of the cost of every stage
RANDOM_SEEDS = (0, 1, 2)
SHARD_ROWS = 250  # small shards: a stopped simulation loses seconds, not minutes
NEIGHBOURS = 7
MONITORED = "phenomenon"
TITLE = "An ocean encoder, from nothing to answers"

_MARKS = {"win": "ahead", "tie": "undecided", "loss": "behind", "none": ""}

Say = Callable[[str], None]


class DemoSettings(Settings):
    """What a demo may be asked for."""

    count: int = Field(default=4000, ge=480, description="images to simulate; their training part must fill a batch")
    minutes: float | None = Field(default=None, gt=0, description="of pretraining; None is what the recipe says")
    seed: int = Field(default=0, ge=0, description="of simulation, pretraining and probes")
    from_safe: bool = Field(default=False, description="write SAFE products, and ingest those")


@dataclass(frozen=True)
class DemoReport:
    """What a demo came to.

    Attributes
    ----------
    report : Path
    reused, ran : tuple of str
        Names of stages.
    seconds : float
        Of this call.
    peak_memory_bytes : int or None
        The most this process has held, None where the system does not say.
    verdict : tuple of str
    """

    report: Path
    reused: tuple[str, ...]
    ran: tuple[str, ...]
    seconds: float
    peak_memory_bytes: int | None
    verdict: tuple[str, ...]


@dataclass
class Stages:
    """The stages of one folder: runs what is new, reuses what is not."""

    folder: Path
    say: Say
    total: int
    reused: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)

    def run(
        self,
        name: str,
        settings: dict[str, Any],
        upstream: Sequence[str],
        outputs: Sequence[Path],
        command: str,
        work: Callable[[bool], None],
    ) -> str:
        """Run ``work(resume)``, or reuse what it once made; returns the key of the stage.

        A stage that was stopped with the same key goes on (``resume``); what a stage made under another key is
        deleted first. Nothing is deleted that no stage has made.
        """
        order = len(self.reused) + len(self.ran) + 1
        record = self.folder / STAGES / f"{order}-{name}.json"
        begun = record.with_suffix(".begun")
        key = files.digest([name, settings, metadata.version("groundswell"), list(upstream)])
        head = f"[{order}/{self.total}] {name}"
        there = all(output.exists() for output in outputs)
        if there and record.exists() and files.read_json(record)["key"] == key:
            self.say(f"{head}: nothing has changed, reused")
            self.reused.append(name)
            return key
        resume = begun.exists() and files.read_json(begun)["key"] == key
        if not resume:
            self._clear(outputs, made=record.exists() or begun.exists())
            files.write_json(begun, {"key": key})
        record.unlink(missing_ok=True)
        self.say(f"{head}: {'goes on where it was stopped' if resume else 'starts'}")
        started = time.monotonic()
        work(resume)
        facts = {"stage": name, "order": order, "key": key, "settings": settings, "upstream": list(upstream)}
        facts |= {"command": command, "seconds": round(time.monotonic() - started, 2), "resumed": resume}
        files.write_json(record, facts)
        begun.unlink()
        self.ran.append(name)
        return key

    def _clear(self, outputs: Sequence[Path], made: bool) -> None:
        for output in outputs:
            if not output.exists():
                continue
            if not made:
                raise UsageError(
                    "the demo would overwrite something it did not make",
                    where=output,
                    fix="choose another folder: -o DIR",
                )
            if output.is_dir():
                shutil.rmtree(output)
            else:
                output.unlink()


def run_demo(folder: str | Path, settings: DemoSettings, say: Say = lambda _: None) -> DemoReport:
    """Run the whole path in ``folder`` and write ``report.html`` there.

    Parameters
    ----------
    folder : path
        New, or that of an earlier demo, whose stages are reused where nothing has changed.
    settings : DemoSettings
    say : callable, optional
        Told of each stage in a line.

    Raises
    ------
    UsageError
        When something is in the way that no demo made.
    StoppedBySignal
        When a signal stopped a stage; the same call goes on.
    """
    started = time.monotonic()
    folder = Path(folder)
    stages = Stages(folder, say, total=7 if settings.from_safe else 6)
    with stoppable(folder, fix="run the same command again to go on"):
        if settings.from_safe:
            images = read_products(stages, folder, write(stages, folder, settings))
        else:
            images = simulate(stages, folder, settings)
        weights = train(stages, folder, settings, images)
        vectors = embed_all(stages, folder, images, weights)
        answers = judge(stages, folder, settings, vectors)
        look_alikes = find(stages, folder, vectors)
        report = tell(stages, folder, [images, weights, vectors, answers, look_alikes])
    found = [ResultsFolder(folder / "results" / name) for name in ("phenomenon", "sea")]
    return DemoReport(
        report=report,
        reused=tuple(stages.reused),
        ran=tuple(stages.ran),
        seconds=time.monotonic() - started,
        peak_memory_bytes=peak_memory(),
        verdict=tuple(f"{_MARKS[tone]}: {sentence}" for tone, sentence in verdict(found)),
    )


def simulate(stages: Stages, folder: Path, settings: DemoSettings) -> str:
    """``archive/``: simulated wave-mode imagettes with their truth."""
    source = SimulatedSource(
        SimulatorSettings(
            count=settings.count, seed=settings.seed, size=SIZE, spacing_m=SPACING_M, quantity=Quantity.SIGMA0_DB
        )
    )
    output = folder / "archive"

    def work(resume: bool) -> None:
        ingest(source, output, quantity=Quantity.SIGMA0_DB, shard_rows=SHARD_ROWS, executor=Local(), label="simulate")

    command = (
        f"groundswell simulate -o {output} --count {settings.count} --seed {settings.seed} "
        f"--size {SIZE} --spacing {SPACING_M:g}"
    )
    described = {**source.description, "shard_rows": SHARD_ROWS}
    return stages.run("simulate", described, [], [output], command, work)


def write(stages: Stages, folder: Path, settings: DemoSettings) -> str:
    """``products/``: simulated wave-mode imagettes as SAFE products, and a table of their truth."""
    simulator = SimulatorSettings(count=settings.count, seed=settings.seed, size=SIZE, spacing_m=SPACING_M)
    output = folder / "products"

    def work(resume: bool) -> None:
        shutil.rmtree(output, ignore_errors=True)  # half-written ones of a run that was stopped
        write_products(simulator, output)

    command = f"groundswell demo --from-safe --count {settings.count} --seed {settings.seed} (products and their truth)"
    described = simulator.model_dump(mode="json") | {"products": True}
    return stages.run("simulate", described, [], [output], command, work)


def read_products(stages: Stages, folder: Path, products: str) -> str:
    """``archive/``: what a user with products would do; labels come from the table beside them."""
    inputs, output = folder / "products", folder / "archive"

    def work(resume: bool) -> None:
        settings = SafeSettings(
            spacing_m=SPACING_M, chip=(SIZE, SIZE), labels=inputs / TRUTH, columns=Columns(key="id")
        )
        source = SafeProducts([inputs], settings)
        done = ingest(
            source, output, size=(SIZE, SIZE), fit="pad", spacing_m=SPACING_M, shard_rows=SHARD_ROWS, batch=16
        )
        if done.rejected:
            stages.say(f"{len(done.rejected)} images set aside, the first: {done.rejected[0].reason}")

    command = f"groundswell ingest {inputs} -o {output} --spacing {SPACING_M:g} --size {SIZE} "
    command += f"--labels {inputs / TRUTH} --labels-key id"
    described = {"spacing_m": SPACING_M, "size": SIZE, "shard_rows": SHARD_ROWS}
    return stages.run("ingest", described, [products], [output], command, work)


def train(stages: Stages, folder: Path, settings: DemoSettings, images: str) -> str:
    """``run/``: SimCLR on the training part, without labels; some of them only watch how it comes on."""
    values, text = read_recipe("demo")
    asked: dict[str, Any] = {"where": "split == 'train'", "seed": settings.seed}
    if settings.minutes is not None:
        asked["length"] = {"minutes": settings.minutes}
    recipe, origins = resolve_recipe([("recipe demo", values), ("demo", asked)])
    output = folder / "run"

    def work(resume: bool) -> None:
        archives = [open_archive(folder / "archive")]
        watch = knn_monitor(archives, MONITORED, recipe.where, settings.seed)
        pretrain(
            archives, recipe, output, resume=resume and output.exists(), origins=origins, given=text, monitor=watch
        )

    command = f'groundswell pretrain {folder / "archive"} --recipe demo -o {output} --where "{recipe.where}"'
    command += f" --monitor {MONITORED} seed={settings.seed}"
    command += "" if settings.minutes is None else f" length.minutes={settings.minutes:g}"
    described = recipe.model_dump(mode="json") | {"monitor": MONITORED}
    return stages.run("pretrain", described, [images], [output], command, work)


def embed_all(stages: Stages, folder: Path, images: str, weights: str) -> str:
    """``tables/``: embeddings of the encoder and of every control."""
    tables, model = folder / "tables", folder / "run" / "model"

    def work(resume: bool) -> None:
        archive = open_archive(folder / "archive")
        encoder = load(model)
        embedders: dict[str, Embedder] = {"encoder": encoder.on(channels_last=True)}
        for seed in RANDOM_SEEDS:
            embedders[f"random-{seed}"] = random_encoder(encoder, seed).on(channels_last=True)
        embedders |= {"statistics": StatisticsEmbedder(), "cmod5n": Cmod5nEmbedder()}
        for name, embedder in embedders.items():
            embed(embedder, [archive], tables / f"{name}.parquet")

    command = f"groundswell embed {model} {folder / 'archive'} -o {tables / 'encoder.parquet'} (the controls alike)"
    settings = {"random_seeds": RANDOM_SEEDS, "channels_last": True}
    return stages.run("embed", settings, [images, weights], [tables], command, work)


def judge(stages: Stages, folder: Path, settings: DemoSettings, vectors: str) -> str:
    """``results/``: the ten phenomena against every control; wave height and wind beside the physical inversion."""
    output = folder / "results"
    controls = ["statistics", *(f"random-{seed}" for seed in RANDOM_SEEDS)]
    cases = {
        "phenomenon": (["encoder", *controls], ProbeSettings(targets=("label_phenomenon",), seed=settings.seed)),
        "sea": (
            ["encoder", "statistics", "cmod5n"],
            ProbeSettings(targets=("label_hs", "label_wind_speed"), protocols=("linear",), seed=settings.seed),
        ),
    }

    def work(resume: bool) -> None:
        for name, (tables, probe) in cases.items():
            opened = {table: EmbeddingTable.read(folder / "tables" / f"{table}.parquet") for table in tables}
            run_probe(opened, probe).save(output / name, overwrite=resume)

    named = " ".join(str(folder / "tables" / f"{t}.parquet") for t in cases["phenomenon"][0])
    command = f"groundswell probe {named} --target label_phenomenon -o {output / 'phenomenon'} (sea alike)"
    described = {name: [tables, probe.model_dump(mode="json")] for name, (tables, probe) in cases.items()}
    return stages.run("probe", described, [vectors], [output], command, work)


def find(stages: Stages, folder: Path, vectors: str) -> str:
    """``search/``: the nearest neighbours of one test image of each class, as a contact sheet and as JSON."""
    output, table = folder / "search", folder / "tables" / "encoder.parquet"

    def work(resume: bool) -> None:
        encoder = EmbeddingTable.read(table)
        queries = choose_queries(encoder.frame, "label_phenomenon")
        pictures, titles, answers = [], [], {}
        for query in encoder.frame["id"].iloc[queries]:
            hits = search_row(table, query, NEIGHBOURS)
            assert hits.query is not None
            pictures += thumbnails(encoder.header, table, hits.query) + thumbnails(encoder.header, table, hits.frame)
            titles.append(str(hits.query["label_phenomenon"].iloc[0]))
            titles += [f"{s:.2f} {p}" for s, p in zip(hits.scores, hits.frame["label_phenomenon"], strict=True)]
            answers[query] = dict(zip(hits.frame["id"], map(float, hits.scores), strict=True))
        files.write_json(output / "neighbours.json", answers)
        marked = range(0, len(pictures), NEIGHBOURS + 1)
        contact_sheet(
            pictures, titles, output / "neighbours.png", columns=NEIGHBOURS + 1, tile=128, marked=marked,
            heading="Queries (framed) and their nearest neighbours; every image is simulated",
        )  # fmt: skip

    command = f"groundswell search {table} --query ID -k {NEIGHBOURS} -o {output / 'neighbours.png'}"
    return stages.run("search", {"neighbours": NEIGHBOURS}, [vectors], [output], command, work)


def tell(stages: Stages, folder: Path, upstream: Sequence[str]) -> Path:
    """``report.html``, over everything in the folder."""
    output = folder / "report.html"
    command = f"groundswell report {folder} -o {output} --title '{TITLE}'"

    def work(resume: bool) -> None:
        write_report([folder], output, title=TITLE, command=command)

    stages.run("report", {"title": TITLE}, upstream, [output], command, work)
    return output


def peak_memory() -> int | None:
    """The most memory this process has held resident, in bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024
