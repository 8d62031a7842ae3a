"""Schedules as pure functions of progress: the fraction of the run that is done, from 0 to 1.

Progress, and not the step, is the argument because a run may be as long as a number of steps, epochs, images or
minutes: the shape of a schedule is the same for all four.
"""

from __future__ import annotations

import math


def warmup_cosine(progress: float, *, peak: float, warmup: float, final: float = 0.0) -> float:
    """Linear from 0 to ``peak`` over the first ``warmup`` of the run, then half a cosine down to ``final``.

    Parameters
    ----------
    progress : float
        0 at the start of the run, 1 at its end; values outside are clamped.
    peak, final : float
        The value after the warm-up and the value at the end.
    warmup : float
        Fraction of the run, in [0, 1).

    Source: linear warm-up as Goyal et al. 2017 (arXiv 1706.02677); cosine without restarts as Loshchilov and Hutter
    2017 (arXiv 1608.03983, eq. 5); together as SimCLR (arXiv 2002.05709, section 2.2).
    """
    done = min(max(progress, 0.0), 1.0)
    if done < warmup:
        return peak * done / warmup
    along = (done - warmup) / (1.0 - warmup)
    return final + 0.5 * (peak - final) * (1.0 + math.cos(math.pi * along))


def cosine(progress: float, start: float, final: float) -> float:
    """Half a cosine from ``start`` to ``final`` over the run: teacher momentum and weight decay of DINO.

    Source: Caron et al. 2021 (arXiv 2104.14294, section 3.2).
    """
    return final + (start - final) * 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def ramp(progress: float, start: float, final: float, *, until: float) -> float:
    """Linear from ``start`` to ``final`` over the first ``until`` of the run, then ``final``: teacher temperature.

    Source: arXiv 2104.14294, appendix D; there, in steps of an epoch.
    """
    return final if progress >= until else start + (final - start) * max(progress, 0.0) / until


def step_progress(step: int, total: int) -> float:
    """The progress at the middle of step ``step`` (counted from 0) of ``total``.

    The middle, so that neither the first nor the last step is spent at a learning rate of zero, as it is where a
    schedule is tabulated with both its ends.
    """
    return (step + 0.5) / total
