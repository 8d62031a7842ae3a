"""Is the run alive? Spread and rank of the features, the choices of a teacher, finiteness of the gradient.

A run can die quietly: all features become one vector (collapse), or a number becomes NaN and every weight follows.
Both are stopped here with the reason, since hours of a cluster are worth more than hope. Which figures count is the
method's to say (`Method.watched`): a contrastive loss has a chance level, and a teacher can choose all prototypes alike
or one for all. An autoencoder can stay with the mean of each patch; since every run of one begins there, and images of
speckle alone hold no more, that is told and the run goes on. So is the fall of a monitored score: what it counts is a
label, which the loss does not know.
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
from groundswell.training.checkpoint import Score


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
    max_uniformity: float = Field(default=0.999, ge=0)
    """Collapsed where the teacher's choices have more than this part of the largest entropy: it chooses nothing."""
    min_prototypes: float = Field(default=1.5, ge=0)
    """Collapsed where the mean choice spreads over fewer prototypes: all images are one to the teacher."""
    min_kl: float = Field(default=1e-4, ge=0)
    """Collapsed where the student differs from the teacher by less, in nats: there is nothing left to learn."""
    max_growth: float = Field(default=10.0, gt=1)
    """A loss more than so many times that of the first step has exploded: where every run begins, nothing is known.
    NT-Xent, and cross entropies over prototypes of a fixed scale, have a largest value, which is less at the usual
    temperatures: weights that run away show there as numbers that are not finite, or as a collapse."""
    max_skipped: int = Field(default=5, ge=0)
    """Diverged after more than so many steps in a row whose loss has exploded, or loss or gradient is not finite."""


def feature_spread(features: Tensor) -> float:
    """Mean over dimensions of the standard deviation of unit features, times sqrt(D).

    ``features`` are float ``[N, D]``. 1 where they fill the sphere evenly, 0 where all are the same. Healthy above
    0.5, alarming below 0.1 (the collapse monitor of lightly and SimSiam, arXiv 2011.10566, section 4.1).
    """
    unit = F.normalize(features.cpu().double(), dim=1)
    return float(unit.std(dim=0, correction=0).mean() * math.sqrt(features.shape[1]))


def effective_rank(features: Tensor) -> float:
    """RankMe: the exponential of the entropy of the singular values (Garrido et al. 2023, arXiv 2210.02885, eq. 1).

    ``features`` are float ``[N, D]``; the result lies between 1 and min(N, D). The paper takes 25,600 rows; a batch
    has fewer, so compare it only with itself. The singular values come from the smaller Gram matrix in float64.
    """
    x = features.cpu().double()
    if not bool(torch.isfinite(x).all()):
        return math.nan  # a step that is skipped; the eigensolver would not end
    gram = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x
    sigma = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    if not float(sigma.sum()) > 0:
        return 1.0  # all features zero: one point
    p = sigma / sigma.sum() + 1e-7
    return float(torch.exp(-(p * p.log()).sum()))


LATE = 0.5  # progress at which an autoencoder should have left the mean of each patch
SLOWER = "lower optimiser.lr, lengthen schedule.warmup, or make the views less alike and the batch larger"
SHARPEN = (
    "set method.head_norm=true and method.momentum=0.99 (if it is lower), or lower method.teacher_temperature and "
    "method.final_teacher_temperature"
)
BACK = "To go on from the last good checkpoint, move what is newer out of checkpoints/ and use --resume"
CENTRE = "raise method.teacher_temperature, lengthen method.freeze_prototypes, or try method.centring=sinkhorn"


@dataclass(frozen=True)
class Fault:
    """What is wrong with a representation, and what helps."""

    what: str
    remedy: str


@dataclass
class Health:
    """The memory of the watch over one run; its counters are part of every checkpoint.

    Attributes
    ----------
    watched : frozenset of str
        The figures that count; others are not judged.
    ill : int
        Looks in a row that found the representation collapsed.
    skipped : int
        Steps in a row that were skipped because the loss had exploded or a number was not finite.
    total_skipped : int
        All of them.
    first_loss : float, optional
        The loss of the first step, which others are measured by.
    told : bool
        Whether it was said that an autoencoder has learnt nothing; not part of a checkpoint.
    best : Score, optional
        The best score of the monitor; the records of the checkpoints hold it, too.
    fallen : bool
        Whether the last score was half of it or less.
    """

    settings: HealthSettings
    watched: frozenset[str] = frozenset({"feature_spread", "effective_rank", "chance_ratio"})
    ill: int = 0
    skipped: int = 0
    total_skipped: int = 0
    first_loss: float | None = None
    told: bool = False
    best: Score | None = None
    fallen: bool = False

    @property
    def well(self) -> bool:
        """Whether the weights are worth a checkpoint."""
        return not self.ill and not self.skipped

    def judge_step(self, loss: float, gradient_norm: float, step: int, last_good: str) -> bool:
        """Whether the step may be taken: False where its loss has exploded, or loss or gradient is not finite.

        Raises
        ------
        DivergedError
            After more than ``max_skipped`` such steps in a row.
        """
        finite = math.isfinite(loss) and math.isfinite(gradient_norm)
        if finite and self.first_loss is None:
            self.first_loss = loss
        if finite and abs(loss) <= self.settings.max_growth * abs(self.first_loss or loss):
            self.skipped = 0
            return True
        self.skipped += 1
        self.total_skipped += 1
        if self.skipped > self.settings.max_skipped:
            raise DivergedError(
                f"the run has diverged: {self.skipped} steps in a row "
                + ("had a loss that has exploded" if finite else "were not finite"),
                where=f"step {step}; last good checkpoint: {last_good}",
                why=f"loss {loss}, at the first step {self.first_loss}; gradient norm {gradient_norm}",
                fix="lower optimiser.lr, set clip_norm, or try precision=fp32; "
                f"groundswell stats --verify shows whether the archive holds infinite pixels. {BACK}",
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
                why=f"{fault.what} ({self.ill} looks in a row)",
                fix=f"{fault.remedy}; the limits are health.*. {BACK}",
            )
        if fault:
            return fault.what
        if "explained" in self.watched and progress >= LATE and figures["explained"] <= 0 and not self.told:
            self.told = True
            return (
                f"after {progress:.0%} of the run, pixels are predicted no better than by the mean of each patch: a "
                "higher optimiser.lr, a longer run or larger patches may help; speckle alone cannot be predicted"
            )
        return None

    def judge_score(self, score: Score) -> str | None:
        """What a score of the monitor tells, or None: that it has come down to half of its best, once a fall.

        Scores of another monitor are not compared, nor those that are no number; only a best above zero has a half.
        """
        if not math.isfinite(score.value):
            return f"{score.monitor} is {score.value}: no number, and not compared"
        if self.best is None or score.beats(self.best):
            self.best = score
        before, self.fallen = self.fallen, self.best.value > 0 and score.value <= self.best.value / 2
        if before or not self.fallen:
            return None
        return (
            f"{score.monitor} has fallen to {score.value:.3g}, half of its best ({self.best.value:.3g}) or less: "
            "model-best holds the encoder of that best"
        )

    def _fault(self, figures: Mapping[str, float]) -> Fault | None:
        s, seen = self.settings, {name: value for name, value in figures.items() if name in self.watched}
        spread, rank = seen.get("feature_spread", math.inf), seen.get("effective_rank", math.inf)
        chance, uniformity = seen.get("chance_ratio", math.inf), seen.get("teacher_uniformity", 0.0)
        used, kl = seen.get("prototypes_used", math.inf), seen.get("kl", math.inf)
        if uniformity > s.max_uniformity:
            return Fault(
                f"the teacher's choices have {uniformity:.4%} of the largest entropy: it chooses nothing", SHARPEN
            )
        if used < s.min_prototypes:
            return Fault(f"all images choose the same {used:.3g} prototypes (limit {s.min_prototypes:g})", CENTRE)
        if kl < s.min_kl:
            return Fault(
                f"student and teacher differ by {kl:.3g} nats (limit {s.min_kl:g}): both have collapsed", SHARPEN
            )
        if spread < s.min_spread:
            return Fault(f"features differ by {spread:.3g} of an even spread (limit {s.min_spread:g})", SLOWER)
        if rank < s.min_rank:
            return Fault(f"features have an effective rank of {rank:.3g} (limit {s.min_rank:g})", SLOWER)
        if abs(chance - 1.0) < s.chance_band:
            return Fault(f"the loss sits at {chance:.4f} of chance level: all views look alike to it", SLOWER)
        return None
