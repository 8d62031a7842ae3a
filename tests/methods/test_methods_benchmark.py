"""The two sides that benchmarks/methods.py times compute the same: a ratio of unlike networks would mean nothing.

And what it says of our step's work is right: the count of FLOP is held against closed forms, without tolerance.
"""

import argparse
import functools
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark_scripts import loaded
from groundswell.archive.reader import Archive
from groundswell.backbones.blocks import Block
from groundswell.backbones.resnet import BasicBlock
from groundswell.config import flatten, read_recipe, to_yaml
from groundswell.training.data import Feed
from groundswell.training.precision import Precision
from groundswell.training.recipe import resolve_recipe
from training.tiny import make_archive, tiny_recipe


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Any]:
    with loaded("methods.py") as script:
        yield script


ARGUMENTS = argparse.Namespace(
    device="cpu", precision="fp32", compile=False, release=False, batch=2, image=64, clock="wall"
)
RECIPES = ("quicklook-small", "oceansar1-small", "sar-dino-small", "oceansar2-small", "sar-mae-small")


def test_the_recipes_are_those_of_the_benchmark(benchmark: Any) -> None:
    assert benchmark["SMALL"] == RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_as_shipped_is_as_shipped_and_the_comparison_changes_what_the_page_says(benchmark: Any, name: str) -> None:
    shipped, _ = resolve_recipe([(name, read_recipe(name)[0])])
    assert benchmark["prepared"](name, shipped=True) == shipped
    prepared = benchmark["prepared"](name)
    before, after = (dict(flatten(recipe.model_dump(mode="json"))) for recipe in (shipped, prepared))
    changed = {key for key, value in after.items() if value != before.get(key)}
    allowed = {"backbone.pooling", "backbone.neighbours", "method.drop_path", "method.separate_heads"}
    allowed |= {"method.koleo_weight", "method.layer_scale", "method.decoder_neighbours"}
    allowed |= {"local_view_size", "local_view_count"}
    assert {key for key in changed if not key.startswith("local_views.")} <= allowed
    if prepared.local_views is not None:  # those of the same policy, cut smaller
        local, views = prepared.local_views, prepared.views
        assert local.policy == f"{views.policy}-local"
        assert all(getattr(local, step) == getattr(views, step) for step in ("gain", "contrast", "blur", "speckle"))


def test_a_policy_without_one_for_local_views_gives_them_its_own(benchmark: Any, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    values = read_recipe("sar-dino-small")[0] | {"views": {"policy": "ocean"}}
    path.write_text(to_yaml(values), encoding="utf-8")
    assert benchmark["prepared"](str(path)).local_views.policy == "ocean"


@pytest.mark.parametrize("shipped", [False, True])
@pytest.mark.parametrize("name", RECIPES)
def test_our_step_counts_every_part(benchmark: Any, name: str, shipped: bool) -> None:
    recipe, given = benchmark["prepared"](name, shipped), ARGUMENTS
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


def test_a_worker_is_told_what_was_asked(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []
    monkeypatch.setattr("subprocess.Popen", lambda command, **_: told.append(command))
    more = {"repeats": 1, "threads": 1, "archive": None, "shipped": True, "release": True}
    benchmark["Worker"]("ours", "sar-dino-small", argparse.Namespace(**{**vars(ARGUMENTS), **more}))
    assert {"--shipped", "--release", "--batch"} <= set(told[0])
    assert "--compile" not in told[0]


def test_those_in_turns_begin_in_turns_and_are_compared_pair_by_pair(benchmark: Any) -> None:
    began: list[str] = []

    def take(name: str, number: int) -> float:
        began.append(name)
        return {"ours": 1.0, "peer": 2.0}[name] * (number + 1)

    takes = {name: functools.partial(take, name) for name in ("ours", "peer")}
    seconds = benchmark["in_turns"](takes, argparse.Namespace(warmup=1, repeats=3))
    assert began == ["ours", "peer", "peer", "ours"] * 2
    assert seconds == {"ours": [2.0, 3.0, 4.0], "peer": [4.0, 6.0, 8.0]}
    assert benchmark["of_pairs"](seconds["ours"], seconds["peer"]) == (2.0, 2.0, 2.0)


def block_flops(tokens: int, dim: int) -> int:
    """Forward of a transformer block of one image."""
    return 2 * tokens * dim * 3 * dim + 2 * 2 * tokens**2 * dim + 2 * tokens * (dim * dim + 8 * dim * dim)


def last_block_flops(tokens: int, dim: int, heads: int) -> int:
    """The same for the class token alone: all maps once, those of keys and values too, and each head looks at all."""
    return 2 * 12 * dim * dim + 2 * 2 * heads * tokens * dim


def flops(benchmark: Any, module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int:
    """The count of a forward and a backward pass, that of the input included."""
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    with benchmark["counting"]() as done:
        y: Tensor = module.to(dtype)(x)
        y.sum().backward()  # type: ignore[no-untyped-call]
    return int(done())


def test_the_count_of_a_part_is_its_closed_form(benchmark: Any) -> None:
    """A backward pass is twice the forward; fused attention, which would compute its scores again, counts no more."""
    assert flops(benchmark, nn.Linear(7, 5), (3, 7)) == 3 * 2 * 3 * 7 * 5
    for dtype in (torch.float32, torch.bfloat16):  # fused in the one, written out in the other
        assert flops(benchmark, Block(24, 3), (2, 9, 24), dtype) == 3 * 2 * block_flops(9, 24)
    inner = 4 * 4 * (9 * 8 * 16 + 9 * 16 * 16 + 8 * 16)  # two 3x3 convolutions of 8 x 8 to 4 x 4 px, and the shortcut
    assert flops(benchmark, BasicBlock(8, 16, 2), (2, 8, 8, 8)) == 3 * 2 * 2 * inner


def step_flops(benchmark: Any, name: str) -> tuple[Any, dict[str, int]]:
    recipe = benchmark["prepared"](name)
    ours = benchmark["build"]("ours", recipe, ARGUMENTS)
    return recipe, benchmark["work"](ours, benchmark["draw"](ARGUMENTS, 0), 0, ARGUMENTS)


def of_model(benchmark: Any, counted: dict[str, int]) -> int:
    parts = benchmark["describe"].__globals__["MODEL"]
    assert all(part in parts or value == 0 or part == "views" for part, value in counted.items())
    return sum(counted[part] for part in parts)


def test_the_count_of_a_step_of_dino_is_its_closed_form(benchmark: Any) -> None:
    """The teacher goes forward once, the last block for the class token alone, and no view is the model's work."""
    recipe, counted = step_flops(benchmark, "sar-dino-small")
    dim, depth, m = 192, recipe.backbone.depth, recipe.method
    embed = {size: 2 * (size // 8) ** 2 * 64 * dim for size in (recipe.view_size, recipe.local_view_size)}
    tokens = {size: 1 + (size // 8) ** 2 for size in embed}
    blocks = {s: (depth - 1) * block_flops(t, dim) + last_block_flops(t, dim, heads=3) for s, t in tokens.items()}
    head = 2 * (dim * m.head_hidden + m.head_hidden**2 + m.head_hidden * m.head_bottleneck)
    head += 2 * m.head_bottleneck * m.prototypes
    views = {recipe.view_size: 2, recipe.local_view_size: recipe.local_view_count}
    # Images need no gradient: of the patches' map only the weights do.
    student = sum(n * (2 * embed[size] + 3 * (blocks[size] + head)) for size, n in views.items())
    teacher = 2 * (embed[recipe.view_size] + blocks[recipe.view_size] + head)
    sinkhorn = 3 * 2 * 2 * m.prototypes  # three rounds, of whose two products torch counts that with v on the left
    assert of_model(benchmark, counted) == ARGUMENTS.batch * (student + teacher + sinkhorn)


def test_the_count_of_a_step_of_mae_is_its_closed_form(benchmark: Any) -> None:
    """The encoder's blocks work on the quarter of the patches that it sees, the decoder's on all."""
    recipe, counted = step_flops(benchmark, "sar-mae-small")
    dim, width, patches = 192, recipe.method.decoder_dim, (recipe.view_size // 8) ** 2
    seen = 1 + round(patches * (1 - recipe.method.mask_ratio))
    encoder = recipe.backbone.depth * block_flops(seen, dim)
    decoder = recipe.method.decoder_depth * block_flops(1 + patches, width)
    decoder += 2 * seen * dim * width + 2 * (1 + patches) * width * 64
    expected = ARGUMENTS.batch * (2 * 2 * patches * 64 * dim + 3 * (encoder + decoder))
    assert of_model(benchmark, counted) == expected


def test_the_matrix_peak_is_that_of_the_quickest_product(benchmark: Any) -> None:
    for precision in (Precision("fp32", ""), Precision("bf16", "")):
        now = iter([0.0, 3.0, 3.0, 5.0, 5.0, 9.0]).__next__
        assert benchmark["matrix_peak"](torch.device("cpu"), precision, now, 8, 3) == 2 * 8**3 / 2.0


def test_utilisation_is_the_rate_of_the_model_over_the_peak(benchmark: Any) -> None:
    counted = {"views": 9e12, "forward": 1e12, "heads": 0.25e12, "loss": 0.25e12, "backward": 2.5e12}
    text = benchmark["describe"](counted, 8, 2.0, 4e12, 20.0)
    assert text.startswith("work 500.000 GFLOP an image (forward 125.000, heads 31.250, loss 31.250, backward 312.500)")
    assert text.endswith("2000.0 GFLOP/s: MFU 50.0% of the measured 4000.0 GFLOP/s, 10.0% of the nominal 20 TFLOP/s")
    assert benchmark["describe"](counted, 8, 2.0, 4e12, None).endswith("of the measured 4000.0 GFLOP/s")


def test_the_data_path_is_the_runs_own(benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rate is that of the feed, and its wait the loop's: a feed that is slowed shows in both."""
    archive: Archive = make_archive(tmp_path / "archive")
    given = tiny_recipe(batch_size=8), archive, 2, time.perf_counter, 0.1
    free = benchmark["data_path"](*given)
    assert set(free) == {"memory", "disk"}
    assert all(rate > 0 and 0 < wait < 1 for rate, wait in free.values())

    def slow(self: Feed, *place: int, quick: Any = Feed.batch) -> Any:
        time.sleep(0.3)
        return quick(self, *place)

    monkeypatch.setattr(Feed, "batch", slow)
    slowed = benchmark["data_path"](*given)
    assert all(rate <= 8 / 0.3 for rate, _ in slowed.values())
    assert all(wait > 0.05 for _, wait in slowed.values())  # a busy machine may take seconds for a step
