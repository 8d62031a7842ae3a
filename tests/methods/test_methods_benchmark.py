"""The two sides that benchmarks/methods.py times compute the same: a ratio of unlike networks would mean nothing."""

import argparse
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    sys.path.insert(0, str(FOLDER))
    try:
        script = runpy.run_path(str(FOLDER / "methods.py"))
        script["build"].__globals__["keep_freed_memory"] = lambda: False  # other tests run in this process
        yield script
    finally:
        sys.path.remove(str(FOLDER))


ARGUMENTS = argparse.Namespace(device="cpu", precision="fp32", compile=False, batch=2, image=64, clock="wall")
RECIPES = ("quicklook-small", "oceansar1-small", "sar-dino-small", "oceansar2-small", "sar-mae-small")


def test_the_recipes_are_those_of_the_benchmark(benchmark: Any) -> None:
    assert benchmark["SMALL"] == RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_our_step_counts_every_part(benchmark: Any, name: str) -> None:
    recipe, given = benchmark["prepared"](name), ARGUMENTS
    ours = benchmark["build"]("ours", recipe, given)
    parts = benchmark["Parts"](benchmark["torch"].device("cpu"), benchmark["clock"](given))
    for owner, method, part in ours.watched():
        parts.watch(owner, method, part)
    with parts("rest"):
        benchmark["takes"](ours, benchmark["draw"](given, 0), 0, given, parts)
    assert all(parts.seconds[part] > 0 for part in ("views", "forward", "heads", "loss", "backward", "optimiser"))


@pytest.mark.parametrize("name", RECIPES)
def test_the_peer_has_our_network(benchmark: Any, name: str) -> None:
    """`build` stops where features differ, or for MAE the number of weights."""
    if find_spec("lightly") is None:
        pytest.skip("lightly is not installed; docs/speed.md says how")
    recipe = benchmark["prepared"](name)
    benchmark["import_peer"](recipe.method.name)
    peer = benchmark["build"]("peer", recipe, ARGUMENTS)
    if recipe.method.name == "mae":
        peer.peer.model.decoder.decoder_pred.weight.requires_grad_(False)
        with pytest.raises(SystemExit, match="the peer's"):
            benchmark["check_same_network"](benchmark["build"]("ours", recipe, ARGUMENTS).method, peer.peer, recipe)
