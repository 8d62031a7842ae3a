"""Is the run alive? Spread and rank of the features, chance level of the loss, finiteness of the gradient.

A contrastive run can die quietly: all features become one vector (collapse), or a number becomes NaN and every
weight follows. Both are stopped here with the reason, since hours of a cluster are worth more than hope.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from groundswell.config import Settings
from groundswell.errors import CollapsedError, DivergedError


class HealthSettings(Settings):
    """When to stop a run. The limits are ours; the figures and their healthy ranges are described in each function."""

    grace: float = Field(default=0.1, ge=0, le=1)
    """The first part of the run, as progress, in which features are not judged: random networks look collapsed."""
    patience: int = Field(default=3, ge=1)
    """How many looks in a row must find the same fault."""
    min_spread: float = Field(default=0.1, ge=0)
    """Collapsed below this `feature_spread`."""
    min_rank: float = Field(default=1.5, ge=0)
    """Collapsed below this `effective_rank`."""
    chance_band: float = Field(default=0.001, ge=0)
    """Collapsed where the loss is within this fraction of what it is when all views are alike."""
    max_skipped: int = Field(default=5, ge=0)
    """Diverged after more than so many steps in a row with a loss or gradient that is not finite."""


def feature_spread(features: Tensor) -> float:
    """Mean over dimensions of the standard deviation of unit features, times sqrt(D).

    ``features`` are float ``[N, D]``. 1 where they fill the sphere evenly, 0 where all are the same. Healthy above
    0.5, alarming below 0.1 (the collapse monitor of lightly and SimSiam, arXiv 2011.10566, section 4.1).
    """
    unit = F.normalize(features.double(), dim=1)
    return float(unit.std(dim=0, correction=0).mean() * math.sqrt(features.shape[1]))


def effective_rank(features: Tensor) -> float:
    """RankMe: the exponential of the entropy of the singular values (Garrido et al. 2023, arXiv 2210.02885, eq. 1).

    ``features`` are float ``[N, D]``; the result lies between 1 and min(N, D). The paper takes 25,600 rows; a batch
    has fewer, so compare it only with itself. The singular values come from the smaller Gram matrix in float64.
    """
    x = features.double()
    if not bool(torch.isfinite(x).all()):
        return math.nan  # a step that is skipped; the eigensolver would not end
    gram = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x
    sigma = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    if not float(sigma.sum()) > 0:
        return 1.0  # all features zero: one point
    p = sigma / sigma.sum() + 1e-7
    return float(torch.exp(-(p * p.log()).sum()))


@dataclass
class Health:
    """The memory of the watch over one run; its counters are part of every checkpoint.

    Attributes
    ----------
    ill : int
        Looks in a row that found the representation collapsed.
    skipped : int
        Steps in a row that were skipped because a number was not finite.
    total_skipped : int
        All of them.
    """

    settings: HealthSettings
    ill: int = 0
    skipped: int = 0
    total_skipped: int = 0

    @property
    def well(self) -> bool:
        """Whether the weights are worth a checkpoint."""
        return not self.ill and not self.skipped

    def judge_step(self, loss: float, gradient_norm: float, step: int, last_good: str) -> bool:
        """Whether the step may be taken: False where its loss or gradient is not finite.

        Raises
        ------
        DivergedError
            After more than ``max_skipped`` such steps in a row.
        """
        if math.isfinite(loss) and math.isfinite(gradient_norm):
            self.skipped = 0
            return True
        self.skipped += 1
        self.total_skipped += 1
        if self.skipped > self.settings.max_skipped:
            raise DivergedError(
                f"the run has diverged: {self.skipped} steps in a row were not finite",
                where=f"step {step}; last good checkpoint: {last_good}",
                why=f"loss {loss}, gradient norm {gradient_norm}",
                fix="lower optimiser.lr, set clip_norm, or try precision=fp32; "
                "groundswell stats --verify shows whether the archive holds infinite pixels",
            )
        return False

    def judge_features(self, figures: Mapping[str, float], progress: float, step: int, last_good: str) -> str | None:
        """What is wrong with the representation, or None; ``figures`` are those of one look.

        Raises
        ------
        CollapsedError
            When ``patience`` looks in a row found it collapsed.
        """
        fault = self._fault(figures) if progress >= self.settings.grace else None
        self.ill = self.ill + 1 if fault else 0
        if fault and self.ill >= self.settings.patience:
            raise CollapsedError(
                "the representation has collapsed",
                where=f"step {step}; last good checkpoint: {last_good}",
                why=f"{fault} ({self.ill} looks in a row)",
                fix="lower optimiser.lr, lengthen schedule.warmup, or make the views less alike and the batch larger; "
                "the limits are health.*",
            )
        return fault

    def _fault(self, figures: Mapping[str, float]) -> str | None:
        s = self.settings
        if figures["feature_spread"] < s.min_spread:
            return f"features differ by {figures['feature_spread']:.3g} of an even spread (limit {s.min_spread:g})"
        if figures["effective_rank"] < s.min_rank:
            return f"features have an effective rank of {figures['effective_rank']:.3g} (limit {s.min_rank:g})"
        if abs(figures["chance_ratio"] - 1.0) < s.chance_band:
            return f"the loss sits at {figures['chance_ratio']:.4f} of chance level: all views look alike to it"
        return None
