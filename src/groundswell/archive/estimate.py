"""How long an ingest will take, from a few of its items."""

from __future__ import annotations

import time
from dataclasses import dataclass

from groundswell.archive.filling import Conversion, convert
from groundswell.archive.planning import Options, wanted_schema
from groundswell.executors.tasks import single_threaded
from groundswell.products.source import Source

_MOST = 16


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds to read and convert one image on one core (the mean of ``measured``), and all by ``workers``.

    Writing comes on top where the disk is slower than the workers together.
    """

    measured: int
    seconds_per_image: float
    workers: int
    seconds: float


def estimate(source: Source, options: Options, workers: int, budget_s: float = 5.0, batch: int = 1) -> Estimate:
    """Read and convert up to 16 times ``batch`` images, spread over the source, for about ``budget_s`` seconds.

    Raises as `groundswell.archive.ingest.ingest` does for a source and options that do not fit.
    """
    conversion = Conversion(source, wanted_schema(source, options, None), options.spacing_m)
    ids = sorted(set(source.ids()))
    starts = range(0, len(ids), max(batch, len(ids) // _MOST))[:_MOST]
    sample = [ids[start : start + batch] for start in starts]
    with single_threaded():
        convert(conversion, sample[0][:1])  # what is loaded once is not part of an image
        measured, start = 0, time.perf_counter()
        for some in sample:
            convert(conversion, some)
            measured += len(some)
            seconds = time.perf_counter() - start
            if seconds > budget_s:
                break
    each = seconds / measured
    return Estimate(measured, each, workers, each * len(ids) / workers)
