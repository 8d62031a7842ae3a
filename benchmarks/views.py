"""How fast views are made: each operation alone, then the named policies, beside a SimCLR step of a small ResNet.

    python benchmarks/views.py [--threads 2] [--batch 256] [--device cpu] [--clock cpu] [--stem small]

Images a second, best of several repeats (the machine may be shared). The last column of the policies is the ratio of
the time of two views to that of one training step (ResNet-18 of base width 32 in bf16) on the same images. On a shared
machine, ``--threads 1 --clock cpu`` counts only this process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from groundswell import rng
from groundswell.backbones import BackboneSettings, build_backbone
from groundswell.objectives.nt_xent import nt_xent
from groundswell.views import ViewPolicy, ViewSettings, block_masks, random_masks
from groundswell.views.operation import PixelScale
from groundswell.views.policies import ORDER, POLICIES


def seconds(work: Callable[[], object], arguments: argparse.Namespace, repeats: int) -> float:
    """The shortest time of ``work``, by the chosen clock."""
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    times = []
    for _ in range(repeats + 1):
        start = clock()
        work()
        if arguments.device != "cpu":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return min(times[1:])


def training_step(size: int, batch: int, arguments: argparse.Namespace) -> Callable[[], object]:
    """Forward and backward of two views through the narrow ResNet, as the chip recipe has it."""
    device = arguments.device
    backbone = build_backbone(BackboneSettings(width=32, stem=arguments.stem), 1, seed=0).to(device)
    backbone = backbone.to(memory_format=torch.channels_last)
    views = torch.randn(2 * batch, 1, size, size, device=device)

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16):
            pooled = backbone(views).pooled
        nt_xent(*pooled.chunk(2), 0.1).backward()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--stem", default="imagenet", choices=["imagenet", "small"], help="of the training step")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="cpu: on a shared machine, 1 thread")
    parser.add_argument("--no-step", action="store_true", help="leave the training step out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, batch, repeats = arguments.device, arguments.batch, arguments.repeats
    keys = rng.keys(0, range(batch), "view 0")
    freed = torch.zeros(8_000_000)  # once such a block was freed, glibc keeps freed memory, as in any training run
    del freed
    for side in (16, 32):
        blocks = seconds(lambda n=side: block_masks(keys, (n, n), (0.1, 0.5), 0.5), arguments, repeats)
        single = seconds(lambda n=side: random_masks(keys, n * n, 0.75), arguments, repeats)
        print(f"masks of {side} x {side} patches, images/s: blocks {batch / blocks:,.0f}, random {batch / single:,.0f}")
    for size in (64, 128):
        x = torch.randn(batch, 1, size, size, device=device)
        setting = f"batch {batch}, {arguments.threads} threads, {device}, {arguments.clock} clock"
        print(f"\n{size} px, {setting}: images/s of each operation at p = 1")
        for name in ("mixup", *ORDER):
            operation = type(getattr(ViewSettings(), name))(p=1.0)
            time_taken = seconds(lambda op=operation, x=x: op(x, keys, PixelScale()), arguments, repeats)
            print(f"  {name:10s} {batch / time_taken:10,.0f}")
        step = None if arguments.no_step else seconds(training_step(size, batch, arguments), arguments, 2)
        if step:
            print(f"training step on two views: {batch / step:,.0f} images/s")
        for policy in POLICIES:
            for source in sorted({size, 128, 256}):
                images = torch.randn(batch, 1, source, source, device=device)
                views = ViewPolicy(ViewSettings(policy=policy), size)  # type: ignore[arg-type]
                one = seconds(lambda make=views, x=images: make(x, keys), arguments, repeats)
                share = f"   two views / step {2 * one / step:5.2f}" if step else ""
                print(f"  {policy:15s} {source:3d} -> {size:3d} px {batch / one:10,.0f} views/s{share}")


if __name__ == "__main__":
    main()
