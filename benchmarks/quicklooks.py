"""How far simulated classes agree with the tags of the fifteen real wave-mode quick-looks, beside controls.

    python benchmarks/quicklooks.py model=SIMULATED.parquet,REAL.parquet random=... statistics=...

Two embedding tables by one encoder each, of the simulator's archive and of the quick-looks; the model's come first. The
classes of the ten nearest simulated images (cosine) vote, each with one voice, and the class with most votes wins; on a
tie the one whose votes are nearer in sum. An image is a hit where the winner is the class of one of its tags. Images
without such a tag have no counterpart and are not counted. Everything is done twice, for all encoders alike: with the
vectors as they are, which is what `groundswell search` shows, and with columns standardised over the simulated images,
without which raw image statistics would be a weak control.

Chance is what an image drawn at random from the simulated ones would reach: for each real image the share of its
classes, so that two counted tags have twice the chance of one; then the mean. Classes are not equally frequent among
the real images, so the best answer that never changes is printed too: a score that does not pass it shows nothing. The
interval is Wilson's (95 %) and takes images for independent. Fifteen images tell a large effect from none, and
nothing finer: do not rank models, or choose settings, by them.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from groundswell.encoder.provenance import in_words
from groundswell.encoder.table import EmbeddingTable, require_same_encoder
from groundswell.report.neighbours import Labels
from groundswell.search.index import top_k

K = 10
# The sample says nowhere what its codes mean: those before NV are read as codes of TenGeoP-SARwv, the rest guessed.
COUNTERPARTS = {
    "WS": "wind_streaks",
    "MC": "micro_convective_cells",
    "RC": "rain_cells",
    "OF": "oceanic_front",
    "SI": "sea_ice",
    "LW": "low_wind",
    "BS": "biological_slicks",
    "IB": "icebergs",
    "NV": "pure_ocean_waves",  # guess: negligible variability; waves alone come nearest, and are not the same
}
NO_COUNTERPART = {
    "UN": "unknown; in the sample it only goes with MC, WS or NV",
    "CP": "cold pool (guess)",
    "AB": "atmospheric boundary or bore (guess)",
    "AW": "atmospheric waves (guess)",
    "UA": "unidentified, atmospheric (guess)",
    "UO": "unidentified, oceanic (guess)",
    "OE": "ocean eddy (guess)",
    "IW": "internal waves (by its usual code)",
    "SH": "ship (guess)",
    "SW": "swell (guess)",
    "LA": "land (guess)",
    "NO": "none (guess)",
}


@dataclass(frozen=True)
class Verdict:
    """One image: its tags, the votes of its neighbours, the matching classes and whether the winner is one of them."""

    name: str
    tags: tuple[str, ...]
    votes: Mapping[str, int]
    classes: frozenset[str]
    winner: str
    chance: float

    @property
    def counted(self) -> bool:
        return bool(self.classes)

    @property
    def hit(self) -> bool:
        return self.winner in self.classes

    @property
    def word(self) -> str:
        return ("hit" if self.hit else "miss") if self.counted else "no counterpart"


def judge(simulated: EmbeddingTable, real: EmbeddingTable, standardise: bool) -> list[Verdict]:
    """The verdict on each real image."""
    labels = Labels.of(simulated.frame)
    if labels.main is None:
        raise SystemExit("the first table has no classes: give the simulated one first, then the real one")
    classes = simulated.frame[labels.main].astype(str).to_numpy()
    a, b = real.vectors, simulated.vectors
    if standardise:
        mean, spread = b.mean(axis=0), b.std(axis=0)
        a, b = ((x - mean) / np.where(spread > 0, spread, 1) * (spread > 0) for x in (a, b))
    scores, rows = top_k(a.astype(np.float32), b.astype(np.float32), K)
    asked = Labels.of(real.frame).rows(real.frame)
    return [
        verdict(str(row["id"]), tuple(row.get("tags", ())), classes[near], score, classes)
        for row, near, score in zip(asked, rows, scores, strict=True)
    ]


def verdict(
    name: str,
    tags: tuple[str, ...],
    near: NDArray[np.str_],
    scores: NDArray[np.float32],
    classes: NDArray[np.str_],
) -> Verdict:
    """The verdict on an image: classes and cosines ``[K]`` of its neighbours, and the classes of all ``[N]``."""
    unknown = set(tags) - COUNTERPARTS.keys() - NO_COUNTERPART.keys()
    if unknown:
        raise SystemExit(f"{name} has tags that this script does not know: {', '.join(sorted(unknown))}")
    matching = frozenset(COUNTERPARTS[t] for t in tags if t in COUNTERPARTS)
    votes = Counter(map(str, near))
    winner = max(votes, key=lambda c: (votes[c], float(scores[near == c].sum())))
    chance = float(np.isin(classes, list(matching)).mean())
    return Verdict(name, tags, dict(votes.most_common()), matching, winner, chance)


def summary(name: str, verdicts: Sequence[Verdict]) -> str:
    """Hits among the images that have a counterpart, with interval and chance, and the mean share of right votes."""
    counted = [v for v in verdicts if v.counted]
    if not counted:
        return f"{name:20} no image has a counterpart"
    hits, n = sum(v.hit for v in counted), len(counted)
    interval = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    chance = sum(v.chance for v in counted) / n
    votes = sum(sum(c for k, c in v.votes.items() if k in v.classes) / sum(v.votes.values()) for v in counted) / n
    return (
        f"{name:20} {hits:2d} of {n} hit = {hits / n:4.0%} (95 %: {interval.low:.0%} to {interval.high:.0%}), "
        f"chance {chance:.0%}; votes for a matching class {votes:.0%}"
    )


def constant(verdicts: Sequence[Verdict]) -> str:
    """The class that, answered for every image, hits most of those that have a counterpart."""
    counted = [v for v in verdicts if v.counted]
    answers = Counter(name for v in counted for name in sorted(v.classes))
    if not answers:
        return ""
    name, hits = answers.most_common(1)[0]
    return (
        f"{'always the same':20} {hits:2d} of {len(counted)} hit = {hits / len(counted):4.0%} by {name} for every image"
    )


def table(verdicts: Sequence[Verdict]) -> list[str]:
    """One line an image."""
    lines = []
    for v in verdicts:
        votes = ", ".join(f"{count} {name}" for name, count in v.votes.items())
        lines.append(f"{Path(v.name).stem[-10:]:12}{' '.join(v.tags) or '-':10}{v.word:16}{votes}")
    return lines


def read(text: str) -> tuple[str, EmbeddingTable, EmbeddingTable]:
    """``NAME=SIMULATED,REAL`` as the name and the two tables."""
    name, separator, paths = text.partition("=")
    both = paths.split(",")
    if not separator or len(both) != 2:
        raise SystemExit(f"{text!r}: write NAME=SIMULATED.parquet,REAL.parquet")
    simulated, real = map(EmbeddingTable.read, both)
    require_same_encoder(simulated.header, real.header)
    return name, simulated, real


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the votes for each image by the model, and the summary of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", metavar="NAME=SIMULATED,REAL", help="the model's first, then controls'")
    options = parser.parse_args(None if arguments is None else list(arguments))
    encoders = [read(text) for text in options.tables]
    name, simulated, real = encoders[0]
    print(f"{name} is {simulated.header.model}\n  searched: {in_words(simulated.header.data)}")
    print(f"  queries: {in_words(real.header.data)}")
    for standardise, how in ((False, "vectors as they are"), (True, "columns standardised")):
        judged = [(name, judge(simulated, real, standardise)) for name, simulated, real in encoders]
        print(f"\n{how}\n{'image':12}{'tags':10}{'verdict':16}votes of the {K} nearest by {name}")
        print("\n".join(table(judged[0][1])) + "\n")
        print("\n".join([*(summary(*pair) for pair in judged), constant(judged[0][1])]))
    silent = sorted({t for v in judged[0][1] for t in v.tags if t in NO_COUNTERPART})
    print("\nTags without a simulated class: " + "; ".join(f"{t}: {NO_COUNTERPART[t]}" for t in silent))
    print("NV is compared with pure_ocean_waves, which comes nearest and is not the same.")


if __name__ == "__main__":
    main()
