"""How the training went: the loss, the learning rate, and what watches for collapse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from groundswell.report.blocks import Block, Details, Figure, Section, Text
from groundswell.report.figures import curves, draw_curves
from groundswell.report.inputs import Run

PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss",)),
    ("views that find each other (top-1)", ("top1",)),
    ("parts of the loss", ("dino_loss", "ibot_loss", "koleo_loss")),
    ("entropy of the teacher's choices (nats), and how far the student is off", ("teacher_entropy", "kl")),
    ("prototypes used by the mean choice", ("prototypes_used",)),
    ("explained variance of hidden patches", ("explained",)),
    ("learning rate", ("learning_rate",)),
    ("feature spread (1 even, 0 collapsed)", ("feature_spread",)),
    ("effective rank of the features", ("effective_rank",)),
    ("cosine of pairs and of others", ("positive_cosine", "negative_cosine")),
    ("kNN score on the monitor part", ("monitor",)),
)


def training(runs: Sequence[Run]) -> Section | None:
    """Curves of every run, one run below the other."""
    blocks: list[Block] = []
    for number, run in enumerate(runs):
        panels = [(title, lines) for title, names in PANELS if (lines := curves(run.rows, "step", names))]
        if not panels:
            continue
        last = run.rows[-1]
        blocks.append(Text(f"{run.settings.get('name', run.path.name)}: {_length(last)}"))
        alt = "Training curves over steps: " + "; ".join(title for title, _ in panels)
        caption = "Thin: every logged step. Strong: running mean, which never looks ahead."
        blocks.append(Figure(draw_curves(panels, "step", f"curves{number}"), alt, caption))
        blocks.append(Details("Every setting, and where it came from", code=run.resolved))
    if not blocks:
        return None
    lead = "Pretraining without labels. Collapse would show as a feature spread near 0 and an effective rank near 1."
    return Section("training", "Training", blocks, lead)


def _length(row: Mapping[str, Any]) -> str:
    parts = [f"{row['step']:,} steps"]
    if "images" in row:
        parts.append(f"{row['images']:,} images seen")
    seconds = row.get("timing", {}).get("elapsed_s")
    if seconds is not None:
        parts.append(f"{seconds / 60:.1f} minutes")
    if "loss" in row:
        parts.append(f"last loss {row['loss']:.3f}")
    return ", ".join(parts) + "."
