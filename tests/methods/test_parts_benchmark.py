"""The ways that benchmarks/parts.py times compute the same, and a way that does not is told."""

import argparse
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from benchmark_scripts import loaded

ARGUMENTS = argparse.Namespace(
    **{"device": "cpu", "precision": "fp32", "batch": 2, "image": 64, "clock": "wall", "prototypes": 64},
    **{"repeats": 1, "warmup": 0, "least": 0.0},
)
NAMES = ("attention", "grouping", "last-block", "views", "chunks", "clipping", "adamw", "sinkhorn", "ibot", "qkv")
NAMES += ("layer-scale", "batch-parts", "linear")


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Any]:
    with loaded("parts.py") as script:
        yield script


@pytest.fixture(scope="module")
def setup(benchmark: Any) -> Any:
    return benchmark["Setup"](ARGUMENTS)


def test_the_parts_are_those_of_the_benchmark(benchmark: Any) -> None:
    assert tuple(benchmark["PARTS"]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_ways_of_a_part_agree_and_are_timed(benchmark: Any, setup: Any, name: str, capsys: Any) -> None:
    for part in benchmark["PARTS"][name](setup):
        capsys.readouterr()
        benchmark["measure"](part, setup)
        head, *rows = capsys.readouterr().out.strip().splitlines()
        assert head == part.what
        assert [row[:26].strip() for row in rows] == list(part.ways)
        assert all(" ms   x " in row for row in rows[1:])


@pytest.mark.parametrize("name", ["attention", "last-block", "ibot", "qkv"])
def test_the_ways_of_a_part_agree_in_half_precision(benchmark: Any, name: str) -> None:
    half = benchmark["Setup"](argparse.Namespace(**{**vars(ARGUMENTS), "precision": "bf16"}))
    for part in benchmark["PARTS"][name](half):
        benchmark["check"](part, benchmark["LIMIT"]["bf16"])


def test_a_way_that_computes_something_else_is_told(benchmark: Any) -> None:
    ways = {"ours": lambda: [torch.ones(3)], "other": lambda: [torch.ones(3) * 1.01]}
    with pytest.raises(SystemExit, match=r"a part: other gives another result, 1\.0e-02 from ours"):
        benchmark["check"](benchmark["Part"]("a part", ways), 1e-3)
    ways["other"] = lambda: [torch.full((3,), torch.nan)]
    with pytest.raises(SystemExit, match="other gives another result"):
        benchmark["check"](benchmark["Part"]("a part", ways), 1e-3)
