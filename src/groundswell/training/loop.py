"""The training loop, from the first line to the last: batch, loss, backward, step, look, log, save.

A run is a function of its recipe, its archives and its starting weights. All randomness comes from keys, and a batch
is a function of (seed, epoch, index), so a checkpoint needs weights, optimiser and a few integers, and a resumed run
on a CPU (same threads, same build) ends in the same bits as one that nothing disturbed. Checkpoints lie between
optimiser steps: a signal that comes half-way through an accumulation waits for its end, a kill goes back.

Of several processes each runs this loop over its part of every batch: `session.loss` averages the gradients, the clock
and the figures are those of all, so every decision falls alike everywhere, and only the first process writes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from groundswell import distributed, progress, rng
from groundswell.archive.reader import Archive
from groundswell.config import Origins, to_yaml
from groundswell.device import float32_matmul
from groundswell.errors import StoppedBySignal
from groundswell.methods.base import Observed
from groundswell.methods.schedules import warmup_cosine
from groundswell.signals import StopRequest, listening
from groundswell.training.building import build_session, check_parent
from groundswell.training.checkpoint import Checkpoints, Score
from groundswell.training.clock import Clock
from groundswell.training.health import effective_rank, feature_spread
from groundswell.training.optimisers import clip_gradients, set_rates
from groundswell.training.parallel import exchanging
from groundswell.training.recipe import Recipe
from groundswell.training.run_directory import MetricsLog, Row, RunDirectory, annotated_yaml, plain
from groundswell.training.session import Monitor, Session

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunReport:
    """What a run came to.

    Attributes
    ----------
    path, model : Path
        The run directory and the model directory in it.
    steps, images : int
        Optimiser steps, and images drawn (each may be seen as several views).
    seconds : float
        Time spent, over all lives of the run.
    metrics : dict
        The last row of metrics.jsonl.
    precision, device : str
    resumed_at : int or None
        The step at which this call took the run up.
    """

    path: Path
    model: Path
    steps: int
    images: int
    seconds: float
    metrics: Row
    precision: str
    device: str
    resumed_at: int | None


def pretrain(
    archives: Sequence[Archive],
    recipe: Recipe,
    output: str | Path,
    *,
    init: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    origins: Origins | None = None,
    given: str | None = None,
    monitor: Monitor | None = None,
) -> RunReport:
    """Pretrain a backbone on archives without labels, and leave a run directory behind.

    Parameters
    ----------
    archives : sequence of Archive
        Of one image size; ``recipe.where`` selects rows of each.
    recipe : Recipe
    output : path
        The run directory: new or empty, unless ``resume`` or ``overwrite``.
    init : path, optional
        A model directory whose backbone to start from; a run that is resumed has its own.
    resume : bool
        Go on from the newest whole checkpoint; from the start where there is none.
    origins, given : optional
        Where each setting came from, and the recipe's own text, for the run directory.
    monitor : Monitor, optional
        Asked each ``recipe.monitor_every`` of the run; the checkpoint with the best score is kept, and its model beside
        the last one (``model-best``). A fall to half of that score is told in the log and the metrics.

    Returns
    -------
    RunReport

    Raises
    ------
    UsageError
        When the folder is taken, another process works on it, or the run to resume was another one.
    CollapsedError, DivergedError
        When the run cannot lead anywhere; the last good checkpoint is named.
    StoppedBySignal
        After SIGTERM or SIGINT, with a checkpoint written.
    LostProcess
        When another process of the run has gone.
    """
    started = time.monotonic()
    run = RunDirectory(Path(output))
    checkpoints = Checkpoints(run.checkpoints, recipe.checkpoint.keep)
    with distributed.process_group(), listening() as stop:
        if distributed.is_first():
            run.prepare(resume=resume, overwrite=overwrite)
        distributed.barrier()
        with run.claimed(), run.logging(), torch.random.fork_rng(devices=[]):
            # For layers that draw from torch's own state; all else comes from keys.
            torch.manual_seed(recipe.seed + distributed.rank())
            found = None if overwrite else checkpoints.newest()
            session = build_session(archives, recipe, run, checkpoints, started, init if found is None else None)
            if found is not None:
                session.restore(*found)
                if init is not None:
                    check_parent(session, init)
            distributed.barrier()  # the model to start from may be that of the run to write over
            if found is None and distributed.is_first():
                if overwrite:
                    run.clear()  # only now, that recipe, archives and model are known to fit
                settings = recipe.model_dump(mode="json")
                run.write_settings(given or to_yaml(settings), annotated_yaml(settings, origins or {}))
            resumed_at = session.at.step if found else None
            if distributed.is_first():
                data = [d.to_json() for d in session.data]
                parent = session.parent and session.parent.id
                run.write_environment(
                    {"resumed_at": resumed_at, **session.surroundings(), "parent": parent, "data": data}
                )
            with float32_matmul(session.device, "high"):  # TF32
                train(session, stop, monitor)
            return RunReport(
                path=run.path,
                model=run.model,
                steps=session.at.step,
                images=session.at.step * recipe.images_per_step,
                seconds=session.elapsed,
                metrics=session.last_row,
                precision=session.precision.name,
                device=str(session.device),
                resumed_at=resumed_at,
            )


def train(session: Session, stop: StopRequest, monitor: Monitor | None) -> None:
    """Drive a session to the end of its run, or to the signal that stops it."""
    recipe, horizon, at = session.recipe, session.horizon, session.at
    peak = recipe.optimiser.peak(recipe.images_per_step)
    clock = Clock(recipe.checkpoint, session.started, stop)
    session.method.train()
    total, unit = horizon.remaining(at.step, clock.elapsed)
    # A run takes at least one step: setting up may have used all its minutes.
    done = at.step > 0 and horizon.finished(at.step, clock.elapsed, session.step_seconds)
    scored = horizon.progress(at.step, clock.elapsed)
    with metrics_log(session) as metrics, progress.bar("pretrain", total=total, unit=unit) as bar:
        while not done:
            heed(session, metrics, clock)
            before = session.method.progress = horizon.progress(at.step, clock.elapsed)
            if session.pruner.due(before):
                if at.step > 0 and session.health.well:  # a draw may take long
                    save(session, metrics, clock)
                session.prune(before, lambda: heed(session, metrics, clock))
                clock.agree()  # a draw is no part of a step
                before = session.method.progress = horizon.progress(at.step, clock.elapsed)
            rate = warmup_cosine(before, peak=peak, warmup=recipe.schedule.warmup, final=recipe.schedule.final * peak)
            loss, norm, observed = step(session, rate, clock)
            session.step_seconds = clock.tick(recipe.images_per_step)
            left = horizon.remaining(at.step, clock.elapsed)[0]
            bar.advance(total - left)
            total = left
            after = horizon.progress(at.step, clock.elapsed)
            done = horizon.finished(at.step, clock.elapsed, session.step_seconds)

            best: Score | None = None
            scoring = monitor is not None and (done or passes(recipe.monitor_every, scored, after))
            scored = after
            if done or scoring or at.step % recipe.log_steps == 0:
                figures = look(observed)
                row: Row = {"step": at.step, "epoch": at.epoch, "images": at.step * recipe.images_per_step}
                row |= {"progress": before, "learning_rate": rate, "loss": loss, "gradient_norm": norm, **figures}
                row |= {"skipped_steps": session.health.total_skipped, **session.pruner.figures}
                if scoring and monitor is not None:
                    score, is_best = session.score(monitor)
                    best = score if is_best else None
                    fall = session.health.judge_score(score)
                    if fall is not None:
                        log.warning("step %d: %s", at.step, fall)
                    row |= {"monitor": score.value, "monitor_fallen": session.health.fallen}
                session.last_row = {name: plain(value) for name, value in row.items()}
                timing = {"elapsed_s": clock.elapsed, **clock.read()}
                if metrics is not None:
                    rounded = {name: round(value, 4) for name, value in timing.items()}
                    metrics.write(session.last_row | {"timing": rounded})
                bar.note(
                    f"loss {loss:.3f}, {timing['images_per_s']:.0f} img/s, data wait {timing['data_wait']:.0%}, "
                    f"rank {figures['effective_rank']:.1f}"
                )
                fault = session.health.judge_features(figures, before, at.step, session.last_good)
                if fault is not None:
                    log.warning("step %d: %s", at.step, fault)
                if session.health.well:
                    session.vouch()
            if done or best or (clock.save_is_due(at.step) and session.health.well):
                save(session, metrics, clock, best)


def heed(session: Session, metrics: MetricsLog | None, clock: Clock) -> None:
    """Agree on the time; where a signal has come to any process, leave a checkpoint and raise `StoppedBySignal`."""
    clock.agree()
    if clock.signal is not None:
        save(session, metrics, clock)
        raise StoppedBySignal(
            f"stopped by {clock.signal}, with a checkpoint",
            where=f"{session.run.path}, step {session.at.step}",
            fix="run the same command with --resume to go on",
        )


def step(session: Session, rate: float, clock: Clock) -> tuple[float, float, Observed]:
    """One optimiser step: its loss, the norm of its gradient, and what its last batch shows.

    The gradient is the mean of those of ``accumulate`` batches. For a loss that is a mean over images that is the
    gradient of the one large batch; NT-Xent takes its negatives, and batch normalisation its statistics, from each
    batch alone, and the centre of a teacher moves with each, so for them it is not. A step whose loss has exploded, or
    with a number that is not finite, is not taken, and the buffers (statistics, centres), which its forward pass has
    spoilt, are put back.
    """
    recipe, method, at = session.recipe, session.method, session.at
    statistics = [buffer.clone() for buffer in method.buffers()]
    set_rates(session.optimiser, rate, recipe.optimiser.decay(method.progress))
    session.optimiser.zero_grad(set_to_none=True)
    losses = []
    for number in range(recipe.accumulate):
        with clock.waiting():
            images, rows = session.feed.batch(at.epoch, at.index)
            keys = rng.keys(recipe.seed, rows, "views", at.epoch)
        with exchanging(session.loss, last=number == recipe.accumulate - 1):
            with session.precision.autocast(session.device):
                loss, observed = session.loss(images, keys)
            torch.autograd.backward(loss / recipe.accumulate)
        losses.append(loss.detach())
        at.index += 1
        if at.index == session.feed.batches_per_epoch:
            at.epoch, at.index = at.epoch + 1, 0
    at.step += 1
    norm = clip_gradients(method, recipe.clip_norm, recipe.clip_scope)
    value, size = float(distributed.mean(torch.stack(losses).mean())), float(norm)
    if session.health.judge_step(value, size, at.step, session.last_good):
        method.before_update()
        session.optimiser.step()
        method.after_update()
    else:
        log.warning("step %d is skipped: loss %s, gradient norm %s", at.step, value, size)
        with torch.no_grad():
            for buffer, saved in zip(method.buffers(), statistics, strict=True):
                buffer.copy_(saved)
    return value, size, observed


def look(observed: Observed) -> dict[str, float]:
    """The figures of a batch, of all processes, that tell whether the representation is alive."""
    features = distributed.gather(observed.features)
    return {
        **{name: float(distributed.mean(value)) for name, value in observed.scalars.items()},
        "feature_spread": feature_spread(features),
        "effective_rank": effective_rank(features),
    }


def passes(interval: float, before: float, after: float) -> bool:
    """Whether progress has passed a multiple of ``interval``."""
    return int(after / interval) > int(before / interval)


def metrics_log(session: Session) -> AbstractContextManager[MetricsLog | None]:
    """The log of the metrics, which the first process keeps."""
    return MetricsLog(session.run, session.at.step) if distributed.is_first() else nullcontext()


def save(session: Session, metrics: MetricsLog | None, clock: Clock, best: Score | None = None) -> None:
    """Make the metrics durable, then write a checkpoint and the model directory; ``best`` is a best score so far."""
    if metrics is not None:
        metrics.sync()
    session.save(best)
    clock.saved()
