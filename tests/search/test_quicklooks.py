"""The agreement that benchmarks/quicklooks.py prints: votes, ties, chance and what is not counted."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "quicklooks.py"))
CLASSES = np.array(["wind_streaks"] * 2 + ["rain_cells"] * 3 + ["low_wind"] * 5)


def verdict(tags: str, near: str, scores: list[float]) -> Any:
    names = {"w": "wind_streaks", "r": "rain_cells", "l": "low_wind"}
    return SCRIPT["verdict"](
        "image", tuple(tags.split()), np.array([names[c] for c in near]), np.array(scores), CLASSES
    )


def test_the_class_with_most_votes_wins_and_ties_go_to_the_nearer() -> None:
    clear = verdict("WS UN", "rwwl", [0.99, 0.5, 0.5, 0.9])
    assert (clear.winner, clear.word, clear.votes["wind_streaks"]) == ("wind_streaks", "hit", 2)
    assert verdict("WS", "wrrw", [0.9, 0.8, 0.7, 0.5]).word == "miss"  # 1.4 against 1.5
    assert verdict("RC", "wrrw", [0.9, 0.8, 0.7, 0.5]).word == "hit"


def test_chance_is_the_share_of_the_matching_classes() -> None:
    assert verdict("WS", "w", [1.0]).chance == pytest.approx(0.2)
    assert verdict("WS RC", "w", [1.0]).chance == pytest.approx(0.5)
    assert verdict("WS UN", "w", [1.0]).chance == pytest.approx(0.2)


def test_what_has_no_counterpart_is_not_counted() -> None:
    alone = [verdict("AB", "w", [1.0]), verdict("UN", "w", [1.0]), verdict("", "w", [1.0])]
    assert [v.word for v in alone] == ["no counterpart"] * 3
    hits = [verdict("WS", "w", [1.0])] * 4 + [verdict("RC", "w", [1.0])] * 8
    line = SCRIPT["summary"]("model", [*alone, *hits])
    # Wilson (1927) for 4 of 12 at z = 1.95996, from his formula by hand: centre 0.3737, half width 0.2356
    assert "4 of 12 hit =  33% (95 %: 14% to 61%)" in line
    assert "chance 27%" in line  # (4 x 0.2 + 8 x 0.3) / 12
    assert "8 of 12 hit =  67% by rain_cells" in SCRIPT["constant"]([*alone, *hits])


def test_an_unknown_tag_stops_it() -> None:
    with pytest.raises(SystemExit, match="does not know: XX"):
        verdict("XX", "w", [1.0])


def test_every_class_is_one_of_the_simulator() -> None:
    from groundswell.simulator.phenomena import PHENOMENA

    assert set(SCRIPT["COUNTERPARTS"].values()) <= set(PHENOMENA)
    assert not SCRIPT["COUNTERPARTS"].keys() & SCRIPT["NO_COUNTERPART"].keys()
    assert len(SCRIPT["COUNTERPARTS"]) + len(SCRIPT["NO_COUNTERPART"]) == 21
