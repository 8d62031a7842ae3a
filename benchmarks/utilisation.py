"""What `methods.py` prints beside the time of our step: its arithmetic, the device's matrix peak, and the data path."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from groundswell.archive.reader import Archive
from groundswell.backbones.linear import AVAILABLE
from groundswell.signals import StopRequest
from groundswell.training import loop
from groundswell.training.building import build_session
from groundswell.training.checkpoint import Checkpoints
from groundswell.training.clock import Clock
from groundswell.training.data import Feed
from groundswell.training.precision import Precision
from groundswell.training.recipe import Recipe
from groundswell.training.run_directory import RunDirectory
from groundswell.training.session import Position

MODEL = ("forward", "heads", "loss", "backward")
"""The parts of a step whose work is the model's; the teacher's forward is in the first two."""


@contextmanager
def counting() -> Iterator[Callable[[], int]]:
    """A count, so far, of the floating point operations inside, by `torch.utils.flop_counter`.

    Matrix products (attention's among them) and convolutions, forward and backward, a multiplication and an addition as
    two. Not counted: norms, softmax, activations, pooling, interpolation, sums, FFTs, products of a matrix and a vector
    on its right, the optimiser, the moving teacher. Attention is written out meanwhile: of its fused kernels torch
    counts the scores again that they compute again for the backward pass, and of those on a CPU nothing. Compiled
    blocks run eagerly.
    """
    ours = {torch.ops.mkldnn._linear_pointwise: of_linear} if AVAILABLE else {}
    count = FlopCounterMode(display=False, custom_mapping=ours)
    with torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH), count as mode:
        yield mode.get_total_flops


def of_linear(x: torch.Size, weight: torch.Size, *_: object, out_shape: object = None, **__: object) -> int:
    """Operations of oneDNN's linear map, by the shapes of its input and its weights."""
    return 2 * math.prod(x) * weight[0]


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_peak(
    device: torch.device,
    precision: Precision,
    now: Callable[[], float] = time.perf_counter,
    side: int | None = None,
    repeats: int = 10,
) -> float:
    """FLOP/s, the best of ``repeats`` products of two square matrices ``[side, side]``, 2 side^3 FLOP each.

    In the precision of the run, fp32 as this process multiplies it (TF32 where that is on). By default ``side`` is 8192
    on a GPU, 2048 elsewhere.
    """
    side = side or (8192 if device.type == "cuda" else 2048)
    dtype = torch.bfloat16 if precision.name == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.mm(a, b)
    seconds = []
    for _ in range(repeats):
        synchronise(device)
        start = now()
        torch.mm(a, b, out=out)
        synchronise(device)
        seconds.append(now() - start)
    return 2 * side**3 / min(seconds)


def describe(flops: dict[str, float], batch: int, seconds: float, peak: float, nominal: float | None) -> str:
    """A line on a step's work: FLOP by its parts and the seconds it takes, beside peaks in FLOP/s and in TFLOP/s."""
    giga = {part: flops.get(part, 0.0) / batch / 1e9 for part in MODEL}
    total = sum(giga.values())
    rate = 1e9 * total * batch / seconds
    parts = ", ".join(f"{part} {value:.3f}" for part, value in giga.items())
    text = f"work {total:.3f} GFLOP an image ({parts}), {rate / 1e9:.1f} GFLOP/s: "
    text += f"MFU {rate / peak:.1%} of the measured {peak / 1e9:.1f} GFLOP/s"
    return text if nominal is None else f"{text}, {rate / nominal / 1e12:.1%} of the nominal {nominal:g} TFLOP/s"


def data_path(
    recipe: Recipe, archive: Archive, steps: int, now: Callable[[], float] = time.perf_counter, seconds: float = 1.0
) -> dict[str, tuple[float, float]]:
    """What the data path of a run gives: images/s without training, and the part of the loop's steps that waits for it.

    Of the feed that a run would have, and where that holds the archive in memory also of one that reads it from disk, a
    batch ahead. Both are the run's own: batches as `Feed` brings them to the device, for about ``seconds``, and then
    ``steps`` steps of `groundswell.training.loop`, whose ``data_wait`` this is, on the wall clock. The archive's files
    have been read before, so they come from the page cache where that holds them.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder))
        session = build_session([archive], recipe, run, Checkpoints(run.checkpoints, 1), time.monotonic())
        session.method.train()
        session.method.progress = 0.5
        feeds = {"disk" if session.feed.preloaded is None else "memory": session.feed}
        if "disk" not in feeds:
            given = session.feed.archives, session.preprocessing, recipe.batch_size, recipe.seed, session.device
            feeds["disk"] = Feed(*given, free=0)
        for place, feed in feeds.items():
            feed.batch(0, 0)
            index = 0
            synchronise(session.device)
            start = now()
            while now() - start < seconds:
                index += 1
                feed.batch(*divmod(index, feed.batches_per_epoch))
            synchronise(session.device)
            rate = recipe.batch_size * index / (now() - start)
            session.feed, session.at = feed, Position()
            clock = Clock(recipe.checkpoint, session.started, StopRequest())
            for number in range(steps + 1):
                clock.agree()
                loop.step(session, 1e-4, clock)
                clock.tick(recipe.images_per_step)
                if number == 0:
                    clock.read()  # the first step warms up
            found[place] = rate, clock.read()["data_wait"]
    return found
