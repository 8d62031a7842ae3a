"""What a run leaves behind: settings, metrics, logs, checkpoints and the model, in one folder.

recipe.yaml       the recipe as given
resolved.yaml     every setting with its origin as a comment; itself a recipe
metrics.jsonl     one JSON object a look; everything but ``timing`` is the same for an undisturbed and a resumed run
events.*          the same for TensorBoard
checkpoints/      see checkpoint.py
model/            a model directory, written anew at each checkpoint
model-best/       that of the best monitor score, where the run is monitored
pruning/          see pruning.py
run.log           what happened, with tracebacks
.lock             held by the process that works on the run
environment.json  machine, versions and data, one entry for the start and each resumption; a damaged one is set aside
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
import yaml

from groundswell import distributed, files
from groundswell.config import Origins
from groundswell.errors import DataError, GroundswellError, StoppedBySignal, UsageError
from groundswell.locks import LOCK_FILE, held, patience
from groundswell.training.checkpoint import Score
from groundswell.training.precision import cpu_instructions

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)

Row = dict[str, Any]

# What `clear` deletes. Models go before checkpoints: a run that has none begins anew, beside no model of another. The
# hidden ones are what a kill leaves of `files.replacing_folder`, each gone before that whose place it could take.
_FOLDERS = (
    *(".model.new", ".model.previous", "model"),
    *(".model-best.new", ".model-best.previous", "model-best"),
    *("pruning", "checkpoints"),
)
_EVENTS = "events.out.tfevents.*"
_FILES = ("metrics.jsonl*", "environment.json*", _EVENTS, "recipe.yaml*")


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def best_model(self) -> Path:
        return self.path / "model-best"

    def best_score(self) -> Score | None:
        """The score of the model in ``model-best``; None where there is none, or none can be read."""
        with suppress(GroundswellError, KeyError, TypeError, ValueError):
            figures = files.read_json(self.best_model / "metrics.json")
            return Score(str(figures["monitored"]), float(figures["monitor"]))
        return None

    def prepare(self, *, resume: bool, overwrite: bool) -> None:
        """Make the folder, or make sure that what it holds is a run to go on with or to write over (`clear`).

        Raises
        ------
        UsageError
            When it is not empty and neither ``resume`` nor ``overwrite`` was asked for, or both were.
        GroundswellError
            When the disk refuses.
        """
        if resume and overwrite:
            raise UsageError("--resume and --overwrite exclude each other", fix="choose one")
        if self.path.exists() and not self.path.is_dir():
            raise UsageError("the output is a file", where=self.path, fix="choose a folder for the run")
        if self.path.exists() and any(self.path.iterdir()):
            # Refused, or killed, before its first whole file.
            begun = {file.name for file in self.path.iterdir()} <= {"run.log", LOCK_FILE}
            if not begun and not any(self.path.glob("resolved.yaml*")):  # or its torn beginning
                raise UsageError(
                    "the output folder is not empty and is not a run directory",
                    where=self.path,
                    fix="choose another folder: nothing is deleted that this program did not write",
                )
            if not (resume or overwrite or begun):
                raise UsageError(
                    "the output folder already holds a run",
                    where=self.path,
                    fix="--resume continues it, --overwrite starts again",
                )
        with files.refusing("could not make the folder of the run", self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other runs out, which would write the same files; of several processes the first does.

        Raises
        ------
        UsageError
            When another process works here.
        """
        if not distributed.is_first():
            yield
            return
        with held(self.path / LOCK_FILE, "another process works on this run", patience=patience()):
            yield

    def clear(self) -> None:
        """Delete what an earlier run has left here, but for its log and ``resolved.yaml``; files of others stay.

        By ``resolved.yaml`` a folder is known for a run's, and a kill may come before `write_settings` replaces it.
        """
        for name in _FOLDERS:
            if (self.path / name).exists():
                shutil.rmtree(self.path / name)
        for pattern in _FILES:
            for path in self.path.glob(pattern):
                path.unlink()

    def write_settings(self, given: str, resolved: str) -> None:
        """Keep the recipe as given and as resolved."""
        files.write_bytes(self.path / "resolved.yaml", resolved.encode())
        files.write_bytes(self.path / "recipe.yaml", given.encode())

    def write_environment(self, details: Mapping[str, Any]) -> None:
        """Append an entry for this process to ``environment.json``; a damaged one stops no run."""
        path = self.path / "environment.json"
        entries: Any = []
        try:
            entries = files.read_json(path) if path.exists() else []
            if not isinstance(entries, list):
                raise DataError("a file is no list", where=path)
        except DataError as error:
            aside, entries = path.with_name("environment.json.damaged"), []
            log.warning("%s is damaged (%s): set aside as %s and begun anew", path, error.why or error.what, aside.name)
            files.move(path, aside)
        files.write_json(path, [*entries, environment() | dict(details)])

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Send log lines of the package to ``run.log``, and what ends the block; a fault of ours with its traceback.

        Of several processes only the first does; the others are silent.
        """
        package = logging.getLogger("groundswell")
        handler: logging.Handler = logging.NullHandler()
        if distributed.is_first():
            path = self.path / "run.log"
            with files.refusing("could not write the log of a run", path):
                handler = logging.FileHandler(path, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        before = package.level
        package.addHandler(handler)
        package.setLevel(logging.INFO)
        try:
            yield
        except StoppedBySignal as stopped:
            log.info("the run ended here: %s", stopped)
            raise
        except GroundswellError as error:
            log.error("the run ended here: %s: %s", type(error).__name__, error)
            raise
        except BaseException:
            log.exception("the run ended here")
            raise
        finally:
            package.setLevel(before)
            package.removeHandler(handler)
            with suppress(OSError):  # a full disk must not hide the error that ended the run
                handler.close()


class MetricsLog:
    """``metrics.jsonl`` and TensorBoard events, continued after ``step`` as if nothing had happened.

    Lines later than the checkpoint that a run resumes from, and a line torn by a kill, are dropped: the resumed run
    writes them again. Events, which TensorBoard drops only after a step, are deleted where a run begins again.
    """

    def __init__(self, run: RunDirectory, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        rows = [row for row in read_metrics(run.metrics) if row["step"] <= step] if run.metrics.exists() else []
        files.write_bytes(run.metrics, "".join(json.dumps(row) + "\n" for row in rows).encode())
        self._path = run.metrics
        with self._telling():
            if not step:
                for path in run.path.glob(_EVENTS):
                    path.unlink()
            self._file = run.metrics.open("ab")
            self._events: SummaryWriter = SummaryWriter(str(run.path), purge_step=step + 1 if step else None)

    def write(self, row: Row) -> None:
        """Append a row; it survives a kill of the process from here on."""
        with self._telling():
            self._file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
            self._file.flush()
            for name, value in {**row, **row.get("timing", {})}.items():
                if isinstance(value, int | float) and name != "step":
                    self._events.add_scalar(name, value, row["step"])

    def sync(self) -> None:
        """Make the rows so far survive a power cut (before the checkpoint that counts on them)."""
        with self._telling():
            os.fsync(self._file.fileno())
            self._events.flush()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say what to do about a disk that refuses."""
        try:
            yield
        except OSError as error:
            raise GroundswellError(
                "could not write the metrics of a run",
                where=self._path,
                why=error.strerror or str(error),
                fix="see that the folder can be written to and has space left, then run the same command with --resume",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for log_file in (self._file, self._events):
            with suppress(OSError):  # each row was flushed when it was written
                log_file.close()


def read_metrics(path: str | Path) -> list[Row]:
    """The rows of a ``metrics.jsonl``; a last line torn by a kill is left out.

    Raises
    ------
    DataError
        When another line is damaged.
    """
    *lines, _ = Path(path).read_bytes().split(b"\n")
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line.decode())
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError("it is no row of a step")
        except ValueError as error:
            raise DataError(
                "the metrics of a run are damaged",
                where=f"{path}, line {number}",
                why=str(error),
                fix="delete this line: only its row is lost, and the run can be resumed",
            ) from error
        rows.append(row)
    return rows


def annotated_yaml(settings: Mapping[str, Any], origins: Origins) -> str:
    """Settings as YAML with the origin of every value as a comment; reads back as the same settings."""
    lines: list[tuple[str, str]] = []

    def walk(values: Mapping[str, Any], path: str, indent: str) -> None:
        for key, value in values.items():
            name = f"{path}{key}"
            if isinstance(value, Mapping) and value:
                lines.append((f"{indent}{key}:", ""))
                walk(value, name + ".", indent + "  ")
            else:
                text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
                text = text.removesuffix("\n").removesuffix("\n...")
                lines.append((f"{indent}{key}: {text}", origins.get(name, "default")))

    walk(settings, "", "")
    width = min(max(len(text) for text, _ in lines), 60)
    return "".join(f"{text:<{width}}  # {origin}\n" if origin else f"{text}\n" for text, origin in lines)


def environment() -> dict[str, Any]:
    """The machine and the versions that a result depends on."""
    packages = ("groundswell", "torch", "numpy", "pandas", "pyarrow", "safetensors", "pydantic")
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in packages},
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_bfloat16": cpu_instructions(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def plain(value: Any) -> Any:
    """Tensors, NumPy scalars and floats as plain JSON numbers; a number that is not finite as None."""
    if isinstance(value, torch.Tensor | np.generic):
        value = value.item()
    if isinstance(value, float):
        return round(value, 8) if np.isfinite(value) else None
    return value
