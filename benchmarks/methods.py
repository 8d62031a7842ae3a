"""One training step of each method, views included, beside the same step as the best peer's own code writes it.

    python benchmarks/methods.py [RECIPE ...] [--batch 32] [--threads 1] [--precision fp32] [--shipped] [--compile]

The peers are lightly (SimCLR, DINO, DINOv2) and transformers (MAE); `method_peers.py` names every choice. A step starts
from 8-bit images in memory and ends with the teacher: views, forward, heads, loss, backward, clipping (ours alone),
optimiser, teacher. Both sides have the same backbone, sizes, batch, precision, threads and memory format; their steps
take turns in one run, each in a process of its own (ours keeps freed memory, as a training run does). The ratio is the
median of those of the pairs of steps, with their quartiles. Recipes lose their drop path (which would skip work in our
step alone), take AdamW, local views where DINO has none, and of a vision transformer the class token and one head, as
the examples do; DINOv2 has KoLeo at 0.1 and layer scales, no patch is told its neighbours. Peak memory is that of the
process, less what it had before the model was built; on a GPU, what torch has allocated.

With ``--shipped`` our step alone, of the recipes as they ship, in batches of their own size without ``--batch``.

Of our step also the work: GFLOP an image of the model (forward of student and teacher, heads, loss, backward, and not
the views), and the model FLOP utilisation (MFU), that work over the whole step's time, beside a measured matrix peak
and a nominal one. With an archive, also what the data path of a run gives. `utilisation.py` says how each is measured.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from groundswell import rng
from groundswell.archive.reader import open_archive
from groundswell.backbones import build_backbone
from groundswell.backbones.blocks import Block
from groundswell.backbones.resnet import BasicBlock, Bottleneck
from groundswell.config import read_recipe
from groundswell.device import keep_freed_memory
from groundswell.methods import dinov2
from groundswell.methods.base import Method
from groundswell.training.building import build_method
from groundswell.training.optimisers import build_optimiser, clip_gradients, set_rates
from groundswell.training.precision import Precision, choose, cpu_instructions
from groundswell.training.recipe import Recipe, resolve_recipe
from groundswell.views.named import POLICIES
from method_peers import PEERS, Peer, import_peer
from utilisation import counting, data_path, describe, matrix_peak, synchronise

SMALL = ("quicklook-small", "oceansar1-small", "sar-dino-small", "oceansar2-small", "sar-mae-small")
BATCH = 32  # of both sides, unless another is asked for
ORDER = ("views", "forward", "heads", "loss", "backward", "clip", "optimiser", "teacher", "rest")
Part = Callable[[str], Any]


class Parts:
    """Seconds of each part of a step, or what else the clock counts, each without the parts inside it."""

    def __init__(self, device: torch.device, clock: Callable[[], float]) -> None:
        self.device, self.clock = device, clock
        self.seconds: dict[str, float] = defaultdict(float)
        self.open: list[str] = []
        self.since = 0.0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._charge()
        self.open.append(name)
        yield
        self._charge()
        self.open.pop()

    def _charge(self) -> None:
        synchronise(self.device)
        now = self.clock()
        if self.open:
            self.seconds[self.open[-1]] += now - self.since
        self.since = now

    def shares(self) -> dict[str, float]:
        """Of each part in the whole."""
        return {part: value / sum(self.seconds.values()) for part, value in self.seconds.items()}

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Count the calls of a method, or of a function of a module, as a part."""
        inner = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self(part):
                return inner(*args, **kwargs)

        object.__setattr__(owner, name, timed)

    def follow(self, side: Ours | Theirs) -> None:
        """Count the parts of a side's steps."""
        for owner, name, part in side.watched():
            self.watch(owner, name, part)


@contextmanager
def unwatched(_: str) -> Iterator[None]:
    """No part is counted."""
    yield


class Ours:
    """A step as `groundswell.training.loop.step` takes it."""

    def __init__(self, recipe: Recipe, method: Method, precision: Precision, device: torch.device) -> None:
        self.recipe, self.method, self.precision, self.device = recipe, method, precision, device
        self.optimiser = build_optimiser(recipe.optimiser, method)

    def step(self, images: np.ndarray, keys: torch.Tensor, part: Part = unwatched) -> None:
        method = self.method
        method.progress = 0.5
        with part("views"):
            pixels = torch.from_numpy(images).to(self.device).float().sub_(127.5).div_(127.5)
        [buffer.clone() for buffer in method.buffers()]
        set_rates(self.optimiser, self.recipe.optimiser.lr, self.recipe.optimiser.decay(method.progress))
        self.optimiser.zero_grad(set_to_none=True)
        with part("loss"), self.precision.autocast(self.device):
            loss, _ = method.loss(pixels, keys)
        with part("backward"):
            loss.backward()
        with part("clip"):
            norm = clip_gradients(method, self.recipe.clip_norm, self.recipe.clip_scope)
            float(loss.detach()), float(norm)
        method.before_update()
        with part("optimiser"):
            self.optimiser.step()
        with part("teacher"):
            method.after_update()

    def watched(self) -> list[tuple[object, str, str]]:
        """What belongs to which part of the step."""
        m: Any = self.method
        found = [(m, name, "views") for name in ("crops", "policy") if hasattr(m, name)]
        found += [(dinov2, "block_masks", "views")] if isinstance(m, dinov2.DINOv2) else []
        for name in ("backbone", "teacher_backbone"):
            if hasattr(m, name):
                backbone = getattr(m, name)
                found += [
                    (backbone, entry, "forward")
                    for entry in ("forward", "embed", "transform")
                    if hasattr(backbone, entry)
                ]
        names = ("head", "teacher_head", "patch_head", "teacher_patch_head", "decoder")
        found += [(getattr(m, name), "forward", "heads") for name in names if getattr(m, name, None) is not None]
        return found


class Theirs:
    """A step of a peer, in the order of its examples."""

    def __init__(self, peer: Any, precision: Precision, device: torch.device) -> None:
        self.peer: Peer = peer.train()
        self.precision, self.device = precision, device

    def step(self, images: list[Any], keys: torch.Tensor, part: Part = unwatched) -> None:
        peer = self.peer
        with part("views"):
            views = [view.to(self.device) for view in peer.views(images)]
        with part("loss"), self.precision.autocast(self.device):
            loss = peer.loss(views)
        with part("backward"):
            loss.backward()
        with part("optimiser"):
            peer.optimiser.step()
            peer.optimiser.zero_grad()
        with part("teacher"):
            peer.follow()

    def watched(self) -> list[tuple[object, str, str]]:
        """What belongs to which part of the step."""
        return self.peer.parts


def prepared(name: str, shipped: bool = False) -> Recipe:
    """A recipe with AdamW and without drop path, and all else that the script names as in the peers' examples.

    With ``shipped`` as it ships.
    """
    values, _ = read_recipe(name)
    if shipped:
        return resolve_recipe([(name, values)])[0]
    vit = values["backbone"]["name"].startswith("vit")
    overrides = []
    if values["optimiser"]["name"] != "adamw":
        overrides += ["optimiser={name: adamw, lr: 0.001, weight_decay: 0.05}"]
    if values["method"]["name"] in ("dino", "dinov2"):
        overrides += ["method.drop_path=0"]
        if not values.get("local_views"):
            policy = values["views"]["policy"]
            local = f"{policy}-local" if f"{policy}-local" in POLICIES else policy
            local_views = {**values["views"], "policy": local, "geometry": {"scale": [0.1, 0.3]}}
            overrides += [f"local_views={json.dumps(local_views)}"]
            overrides += ["local_view_size=32", f"local_view_count={2 if vit else 4}"]
    if values["method"]["name"] == "dinov2":
        overrides += ["method.separate_heads=false", "method.koleo_weight=0.1", "method.layer_scale=0.1"]
    if values["method"]["name"] == "mae":
        overrides += ["method.decoder_neighbours=false"]
    if vit:
        overrides += ["backbone.pooling=class", "backbone.neighbours=false"]
    return resolve_recipe([(name, values)], overrides)[0]


def build(side: str, recipe: Recipe, arguments: argparse.Namespace) -> Ours | Theirs:
    """One of the two sides, on the device, channels last."""
    device, precision = torch.device(arguments.device), choose(arguments.precision, torch.device(arguments.device))
    torch.manual_seed(0)
    method = build_method(recipe, build_backbone(recipe.backbone, 1, seed=0), [])
    layout: Any = {"device": device, "memory_format": torch.channels_last}
    if side == "ours":
        if device.type == "cpu" and not arguments.release:
            keep_freed_memory()
        method = method.to(**layout).train()
        if arguments.compile:
            for module in list(method.modules()):
                if isinstance(module, Block | BasicBlock | Bottleneck):
                    module.compile()
        return Ours(recipe, method, precision, device)
    peer = PEERS[recipe.method.name](recipe, copy.deepcopy(method.backbone))
    check_same_network(method, peer, recipe)
    return Theirs(peer.to(**layout), precision, device)


@torch.no_grad()
def check_same_network(ours: Method, peer: nn.Module, recipe: Recipe) -> None:
    """Stop where the two networks give other features; MAE's peer has weights of its own, as many as ours."""
    network = getattr(peer, "student_backbone", getattr(peer, "backbone", None))
    if network is None:
        sizes = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (ours, peer)]
        if sizes[0] != sizes[1]:
            raise SystemExit(f"{recipe.name}: our step trains {sizes[0]} numbers, the peer's {sizes[1]}")
        return
    images = torch.rand(2, 1, recipe.view_size, recipe.view_size)
    expected = ours.backbone.eval()(images).pooled
    torch.testing.assert_close(network.eval()(images), expected, rtol=1e-3, atol=1e-4)


def clock(arguments: argparse.Namespace) -> Callable[[], float]:
    """Seconds on the wall, or of this process alone."""
    return time.process_time if arguments.clock == "cpu" else time.perf_counter


def draw(arguments: argparse.Namespace, number: int) -> np.ndarray:
    """8-bit images ``[B, 1, H, W]`` with some structure: noise of four scales."""
    source, side = np.random.default_rng(number), arguments.image
    image = sum(
        np.kron(source.normal(size=(arguments.batch, 1, side // s, side // s)), np.ones((1, 1, s, s)))
        for s in (1, 2, 4, 8)
    )
    return np.clip(127.5 + 30 * np.asarray(image), 0, 255).astype(np.uint8)


def takes(side: Ours | Theirs, images: np.ndarray, number: int, arguments: argparse.Namespace, part: Part) -> float:
    """Seconds of one step."""
    now = clock(arguments)
    keys = rng.keys(0, range(len(images)), number)
    given: Any = images if isinstance(side, Ours) else [Image.fromarray(image[0]) for image in images]
    synchronise(torch.device(arguments.device))
    start = now()
    side.step(given, keys, part)
    synchronise(torch.device(arguments.device))
    return now() - start


class Worker:
    """One side of a recipe in a process of its own."""

    def __init__(self, side: str, name: str, arguments: argparse.Namespace) -> None:
        command = [sys.executable, "-W", "ignore", __file__, name, "--side", side]
        for option in ("batch", "image", "repeats", "threads", "precision", "device", "clock"):
            command += [f"--{option}", str(getattr(arguments, option))]
        command += ["--archive", arguments.archive] if arguments.archive else []
        command += [f"--{flag}" for flag in ("shipped", "compile", "release") if getattr(arguments, flag)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, what: str, number: int = 0) -> Any:
        """The answer of `serve`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what} {number}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(self.process.wait())
        return json.loads(answer)


def serve(side: str, name: str, arguments: argparse.Namespace) -> None:
    """Take the steps that the other end of the pipe asks for, until it closes."""
    recipe = prepared(name, arguments.shipped)
    if side == "peer":
        import_peer(recipe.method.name)
    device, now = torch.device(arguments.device), clock(arguments)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as a run has it
    before = resident("VmRSS")
    built = build(side, recipe, arguments)
    parts = Parts(device, now)
    watching = False
    for line in sys.stdin:
        what, number = line.split()
        answer: Any = None
        if what == "memory":
            gpu = device.type == "cuda"
            answer = torch.cuda.max_memory_allocated(device) / 2**20 if gpu else resident("VmHWM") - before
        elif what == "step":
            answer = takes(built, draw(arguments, int(number)), int(number), arguments, unwatched)
        elif what == "faults":
            answer = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        elif what == "peak":
            answer = matrix_peak(device, built.precision, now)
        elif what == "data":
            given = {"device": arguments.device, "precision": built.precision.name, "batch_size": arguments.batch}
            archive = open_archive(arguments.archive)
            answer = data_path(recipe.model_copy(update=given), archive, extra_steps(arguments), now)
        elif what == "work":
            answer = work(built, draw(arguments, int(number)), int(number), arguments)
        else:
            if not watching:
                watching = True
                parts.follow(built)
            images = draw(arguments, int(number))
            with parts("rest"):
                takes(built, images, int(number), arguments, parts)
            answer = parts.shares()
        print(json.dumps(answer), flush=True)


def work(side: Ours | Theirs, images: np.ndarray, number: int, arguments: argparse.Namespace) -> dict[str, float]:
    """FLOP of one step by its parts, as `counting` counts them."""
    with counting() as done:
        parts = Parts(torch.device(arguments.device), done)
        parts.follow(side)
        with parts("rest"):
            takes(side, images, number, arguments, parts)
    return dict(parts.seconds)


def extra_steps(arguments: argparse.Namespace) -> int:
    """How many steps are taken for the parts, and in the loop for the data path."""
    return max(int(arguments.repeats) // 2, 2)


def in_turns(take: Mapping[str, Callable[[int], float]], arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds that each takes, number by number, without those that warm up; another begins each time."""
    seconds: dict[str, list[float]] = {name: [] for name in take}
    names = list(take)
    for number in range(arguments.warmup + arguments.repeats):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            took = take[name](number)
            if number >= arguments.warmup:
                seconds[name].append(took)
    return seconds


def of_pairs(ours: list[float], others: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of others / ours, pair by pair."""
    low, middle, high = np.quantile(np.array(others) / np.array(ours), [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)


def compare(name: str, arguments: argparse.Namespace) -> None:
    """Time both sides of a recipe in turns, and print a row for each."""
    recipe = prepared(name, arguments.shipped)
    sides = ["ours"] if arguments.no_peer or arguments.shipped else ["ours", "peer"]
    workers = {side: Worker(side, name, arguments) for side in sides}
    take = {side: functools.partial(worker.ask, "step") for side, worker in workers.items()}
    shares: dict[str, dict[str, float]] = {}
    seconds = in_turns(take, arguments)
    memory = {side: worker.ask("memory") for side, worker in workers.items()}
    peak = workers["ours"].ask("peak")
    delivered = workers["ours"].ask("data") if arguments.archive else {}
    for number in range(extra_steps(arguments)):
        for side in sides if number % 2 else sides[::-1]:
            shares[side] = workers[side].ask("parts", number)
    flops = workers["ours"].ask("work")
    for worker in workers.values():
        worker.process.communicate()
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    views = f"{recipe.view_size} px" + (
        f" + {recipe.local_view_count} x {recipe.local_view_size} px" if recipe.local_views else ""
    )
    shipped = ", as shipped" if arguments.shipped else ""
    print(f"\n{name}{shipped}: {recipe.method.name}, {recipe.backbone.name}, {views}, batch {arguments.batch}")
    print(f"  {'':6}{'ms':>8}{'image/s':>9}{'MiB':>7}  ms: " + "".join(f"{part:>10}" for part in ORDER))
    for side in sides:
        row = "".join(f"{1000 * medians[side] * shares[side].get(part, 0.0):>10.1f}" for part in ORDER)
        rate = arguments.batch / medians[side]
        print(f"  {side:6}{1000 * medians[side]:>8.1f}{rate:>9.0f}{memory[side]:>7.0f}      {row}")
    if len(sides) == 1:
        low, high = 1000 * np.quantile(seconds["ours"], [0.25, 0.75])
        print(f"  quartiles {low:.1f} to {high:.1f} ms")
    else:
        low, ratio, high = of_pairs(seconds["ours"], seconds["peer"])
        after = ratio * (1 - shares["peer"]["views"]) / (1 - shares["ours"]["views"])
        print(
            f"  ratio {ratio:.2f} (median of the pairs, quartiles {low:.2f} to {high:.2f}), "
            f"without views {after:.2f}, memory {memory['peer'] / memory['ours']:.2f}"
        )
    print("  " + describe(flops, arguments.batch, medians["ours"], peak, arguments.nominal_tflops))
    rate = arguments.batch / medians["ours"]
    for place, (images, wait) in delivered.items():
        print(f"  data from {place}: {images:.0f} image/s, {images / rate:.1f} x the step's; data wait {wait:.1%}")
    sys.stdout.flush()


def resident(field: str) -> float:
    """MiB of memory of this process as Linux counts it: ``VmRSS`` now, ``VmHWM`` at most."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) / 1024


def main() -> None:
    """Compare every recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=SMALL, metavar="RECIPE")
    parser.add_argument("--batch", type=int, help=f"by default {BATCH}; with --shipped, the recipe's own")
    parser.add_argument("--image", type=int, default=96, help="side of an image, px; a multiple of 8")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="fp32", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="cpu: on a shared machine, 1 thread")
    parser.add_argument(
        "--nominal-tflops",
        type=float,
        help="the device's nominal peak in this precision, TFLOP/s, for an MFU of it; 989 for the H200's dense bf16",
    )
    parser.add_argument("--archive", help="measure the data path of a run from this archive, too")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--shipped", action="store_true", help="our step alone, of the recipes as they ship")
    parser.add_argument("--compile", action="store_true", help="torch.compile of our blocks")
    parser.add_argument("--release", action="store_true", help="give freed memory back, which a run on a CPU keeps")
    parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.side:
        serve(arguments.side, arguments.recipes[0], arguments)
        return
    where = ", ".join(cpu_instructions()) or "no bfloat16 instructions"
    chosen = choose(arguments.precision, torch.device(arguments.device)).name
    print(f"{arguments.device}, {arguments.threads} threads, {where}, {chosen}, {arguments.clock} clock")
    for name in arguments.recipes:
        batch = arguments.batch or (prepared(name, shipped=True).batch_size if arguments.shipped else BATCH)
        compare(name, argparse.Namespace(**{**vars(arguments), "batch": batch}))


if __name__ == "__main__":
    main()
