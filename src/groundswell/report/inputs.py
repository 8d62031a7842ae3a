"""What a report is made from, recognised by content, not by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundswell import files
from groundswell.errors import DataError, UsageError

if TYPE_CHECKING:
    from groundswell.archive.reader import Archive
    from groundswell.encoder.table import EmbeddingTable
    from groundswell.evaluation.results import Results
    from groundswell.training.run_directory import Row

STAGES = "stages"
CONTROLS = ("random:", "statistics", "cmod5n")
_KINDS = "an archive (archive.json), a run directory (resolved.yaml, metrics.jsonl), a RESULTS folder (results.json), "
_KINDS += "an embedding table (.parquet), or a folder that holds some of these"


@dataclass(frozen=True)
class Run:
    """A run directory."""

    path: Path

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of metrics.jsonl."""
        from groundswell.training.run_directory import read_metrics

        return read_metrics(self.path / "metrics.jsonl")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved settings."""
        from groundswell.config import parse_yaml

        return parse_yaml(self.resolved, where=str(self.path / "resolved.yaml"))

    @cached_property
    def resolved(self) -> str:
        """resolved.yaml as text, with the origin of each value as a comment."""
        return (self.path / "resolved.yaml").read_text(encoding="utf-8")

    @cached_property
    def environment(self) -> list[dict[str, Any]]:
        """One entry for the start and each resumption; empty where it was not kept.

        Raises
        ------
        DataError
            When environment.json is damaged.
        """
        path = self.path / "environment.json"
        try:
            entries = files.read_json(path) if path.exists() else []
            if not isinstance(entries, list):
                raise DataError("a file is no list", where=path)
        except DataError as error:
            why = error.why or error.what
            fix = "move it away: the report then does without the machine, the versions and the data of the run"
            raise DataError("what a run was made on cannot be told", where=path, why=why, fix=fix) from error
        return entries


@dataclass(frozen=True)
class ResultsFolder:
    """The answers of one probe run."""

    path: Path

    @cached_property
    def record(self) -> dict[str, Any]:
        """results.json."""
        return dict(files.read_json(self.path / "results.json"))

    @cached_property
    def results(self) -> Results:
        """The same with every prediction."""
        from groundswell.evaluation.results import Results

        return Results.read(self.path)


@dataclass(frozen=True)
class TableFile:
    """An embedding table and where it lies; its name for people is the name of the file."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def table(self) -> EmbeddingTable:
        """The table, read once."""
        from groundswell.encoder.table import EmbeddingTable

        return EmbeddingTable.read(self.path)

    @property
    def is_control(self) -> bool:
        """Whether its encoder has learned nothing."""
        model = self.table.header.model
        return model.startswith(CONTROLS)

    def archive_paths(self) -> list[Path]:
        """Where the imagettes of the table are."""
        return [(self.path.parent / a).resolve() for a in self.table.header.archives]


@dataclass(frozen=True)
class Inputs:
    """Everything found at the paths of a report.

    Attributes
    ----------
    archives, runs, results, tables
        In the order in which they were found.
    stages : sequence of dict
        The records that ``groundswell demo`` leaves of what it did.
    """

    archives: Sequence[Archive] = ()
    runs: Sequence[Run] = ()
    results: Sequence[ResultsFolder] = ()
    tables: Sequence[TableFile] = ()
    stages: Sequence[Mapping[str, Any]] = field(default=())

    @property
    def probed(self) -> list[str]:
        """The columns that were probed as classes."""
        targets = (t for r in self.results for t in r.record["targets"])
        return [t["columns"][0] for t in targets if t["task"] == "classification"]


def find(paths: Sequence[str | Path]) -> Inputs:
    """Recognise what lies at the paths; a folder that is none of the kinds is searched two levels deep.

    Raises
    ------
    UsageError
        When a path does not exist, or nothing in it can be reported.
    DataError
        When something is recognised but damaged.
    """
    from groundswell.archive.reader import open_archive

    found: dict[Path, str] = {}
    for given in map(Path, paths):
        if not given.exists():
            raise UsageError("there is nothing at this path", where=given, fix=f"give {_KINDS}")
        here = dict(_search(given, depth=2))
        if not here:
            raise UsageError("nothing here can be reported", where=given, fix=f"give {_KINDS}")
        found |= here
    of_kind = {kind: [p for p, k in found.items() if k == kind] for kind in set(found.values())}
    return Inputs(
        archives=tuple(open_archive(p) for p in of_kind.get("archive", ())),
        runs=tuple(Run(p) for p in of_kind.get("run", ())),
        results=tuple(ResultsFolder(p) for p in of_kind.get("results", ())),
        tables=tuple(TableFile(p) for p in of_kind.get("table", ())),
        stages=tuple(files.read_json(p) for p in of_kind.get("stage", ())),
    )


def _search(path: Path, depth: int) -> Iterator[tuple[Path, str]]:
    kind = recognise(path)
    if kind:
        yield path.resolve(), kind
    elif path.is_dir() and depth >= 0 and not path.name.startswith("."):
        for child in sorted(path.iterdir()):
            yield from _search(child, depth - 1)


def recognise(path: Path) -> str | None:
    """``archive``, ``run``, ``results``, ``table``, ``stage``, or None."""
    if path.is_dir():
        if (path / "archive.json").is_file():
            return "archive"
        if (path / "results.json").is_file():
            return "results"
        if (path / "resolved.yaml").is_file() and (path / "metrics.jsonl").is_file():
            return "run"
        return None
    if path.suffix == ".json" and path.parent.name == STAGES:
        return "stage"
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return "table" if "embedding" in pq.read_schema(path).names else None
        except (pa.ArrowInvalid, OSError):
            return None
    return None
