"""Checkpoints that are whole or absent, and that know when a disk has bent them.

``checkpoints/step-00000120.pt`` holds the state (``torch.save``, read back with ``weights_only=True``: a damaged or
malicious file cannot run code); ``step-00000120.json`` beside it holds its size and SHA-256 and is written last: it
is the commit record, and a ``.pt`` without one does not exist. Where the step had the best monitor score so far, the
record holds that, too; the last such checkpoint is the best, and is never pruned. Nor is the last good one: the record
says that the steps after it went well. The last checkpoint is the one with the highest step.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from groundswell import distributed, files
from groundswell.errors import DataError, GroundswellError, ModelError

log = logging.getLogger(__name__)

State = dict[str, Any]
DAMAGED = ".damaged"
_EARLIER = "--resume takes the checkpoint before it"


class Score(NamedTuple):
    """What a monitor said of a step; scores of one monitor can be compared."""

    monitor: str
    value: float

    def beats(self, best: Score | None) -> bool:
        """Whether this is the best so far: a tie goes to the later step, another monitor begins anew."""
        if not math.isfinite(self.value):
            return False
        return best is None or self.monitor != best.monitor or self.value >= best.value


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run.

    Attributes
    ----------
    folder : Path
    keep : int
        How many of the newest to keep (the best, and the last good one, are kept besides).
    """

    folder: Path
    keep: int = 2

    def save(self, step: int, state: State, best: Score | None = None) -> Path:
        """Write the state at ``step``, then drop what is older than the newest ``keep``.

        ``best`` is the score of this step where it is the best so far: its checkpoint is then kept besides.

        Raises
        ------
        GroundswellError
            When the disk refuses; what was saved before still stands.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        path = self.path(step)
        # A commit record left by an earlier life of the run must not vouch for new bytes, nor the other way round.
        path.with_suffix(".json").unlink(missing_ok=True)
        files.write_with(path, lambda handle: handle.write(content))
        record: dict[str, Any] = {"step": step, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        if best is not None:  # in the record itself: a kill between two files would lose the best
            record |= {"monitor": best.monitor, "best": best.value}
        files.write_json(path.with_suffix(".json"), record)
        self._prune()
        return path

    def steps(self) -> list[int]:
        """The steps that have a commit record, oldest first."""
        return sorted(_step_of(path) for path in self.folder.glob("step-*.json"))

    def newest(self) -> tuple[Path, State] | None:
        """The newest checkpoint that is whole; None where there is none at all.

        A damaged one is set aside under another name and said so in the log, and the one before it is taken. Of
        several processes the first chooses, and all read what it has chosen.

        Raises
        ------
        ModelError
            When there are checkpoints and all are damaged.
        GroundswellError
            When the disk does not give one; it stays as it is.
        """
        found = self._newest_whole() if distributed.is_first() else None
        step = int(distributed.first(-1 if found is None else _step_of(found[0])))
        if step < 0 or found is not None:
            return found
        return self.path(step), read_checkpoint(self.path(step))

    def _newest_whole(self) -> tuple[Path, State] | None:
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                return path, read_checkpoint(path)
            except ModelError as error:
                log.warning("the checkpoint %s is damaged and is set aside; trying the one before it. %s", path, error)
                for part in (path, path.with_suffix(".json")):
                    if part.exists():
                        part.replace(part.with_name(part.name + DAMAGED))
        if any(self.folder.glob(f"step-*{DAMAGED}")):  # of this or an earlier try
            raise ModelError(
                "every checkpoint of the run is damaged",
                where=self.folder,
                why="none has the size and the SHA-256 that were recorded when it was written",
                fix="start again with --overwrite; check the disk",
            )
        return None

    def vouch(self, step: int) -> None:
        """Write into the record of a checkpoint that what came after it went well; only then is it a good one.

        A step whose loss is fine may leave weights that are not.
        """
        record = self._record(step)
        if record and not record.get("good"):
            files.write_json(self.path(step).with_suffix(".json"), record | {"good": True})

    def good(self) -> int | None:
        """The step of the newest checkpoint that was vouched for."""
        return next((step for step in reversed(self.steps()) if self._record(step).get("good")), None)

    def best(self) -> tuple[int, Score] | None:
        """The step and the score of the best checkpoint so far."""
        for step in reversed(self.steps()):
            record = self._record(step)
            if "best" in record:
                return step, Score(str(record.get("monitor")), float(record["best"]))
        return None

    def path(self, step: int) -> Path:
        """The file that holds, or would hold, the state at ``step``."""
        return self.folder / f"step-{step:08d}.pt"

    def _record(self, step: int) -> dict[str, Any]:
        with suppress(DataError):  # a torn record vouches for nothing
            record = files.read_json(self.path(step).with_suffix(".json"))
            if isinstance(record, dict):
                return record
        return {}

    def _prune(self) -> None:
        best = self.best()
        kept = {*self.steps()[-self.keep :], self.good(), *([best[0]] if best else [])}
        # Those without a record, too, which a kill has left: a run that counts minutes would not pass the step again.
        written = {_step_of(path) for path in self.folder.glob("step-*.pt")}
        for step in (written | set(self.steps())) - kept:
            self.path(step).with_suffix(".json").unlink(missing_ok=True)  # the record first: then it is no more
            self.path(step).unlink(missing_ok=True)


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def read_checkpoint(path: Path) -> State:
    """The state in a checkpoint, after its SHA-256 has been compared with its commit record.

    Raises
    ------
    ModelError
        When a file is missing, or is not what was written.
    GroundswellError
        When the disk does not give them.
    """
    try:
        record, content = path.with_suffix(".json").read_bytes(), path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError("a file of a checkpoint is missing", where=error.filename, fix=_EARLIER) from error
    except OSError as error:
        raise GroundswellError(
            "a checkpoint could not be read",
            where=path,
            why=error.strerror or str(error),
            fix="look after the disk, then use --resume again; to use the checkpoint before it, move this one away",
        ) from error
    expected = None
    with suppress(ValueError, KeyError, TypeError):
        expected = json.loads(record)["sha256"]
    if hashlib.sha256(content).hexdigest() != expected:
        raise ModelError(
            "a checkpoint is damaged",
            where=path,
            why=f"its {len(content)} bytes do not have the SHA-256 recorded when it was written",
            fix=_EARLIER,
        )
    state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state
