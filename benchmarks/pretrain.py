"""Images per second of the pretraining step (views, forward, backward, optimiser), by precision and memory layout.

    python benchmarks/pretrain.py [--width 32] [--size 64] [--batch 256] [--policy chip] [--threads 2]

Prints one line a variant with its ratio to plain fp32, and how a step divides into views and network. An image counts
once, though two views of it are seen.
"""

from __future__ import annotations

import argparse
import time

import torch

from groundswell import rng
from groundswell.backbones import BackboneSettings, build_backbone
from groundswell.methods.simclr import SimCLR, SimCLRSettings
from groundswell.training.optimisers import AdamWSettings, build_optimiser
from groundswell.training.precision import Precision, cpu_instructions
from groundswell.views.policies import ViewPolicy, ViewSettings


def seconds_per_step(
    precision: Precision, layout: torch.memory_format, arguments: argparse.Namespace
) -> tuple[float, float]:
    """The best of several steps, and the time of its views alone, in seconds."""
    device = torch.device(arguments.device)
    backbone = build_backbone(BackboneSettings(name="resnet18", width=arguments.width), 1, seed=0)
    policy = ViewPolicy(ViewSettings(policy=arguments.policy), arguments.size)
    method = SimCLR(SimCLRSettings(), backbone, policy, seed=0).to(device, memory_format=layout)
    optimiser = build_optimiser(AdamWSettings(name="adamw", lr=1e-3), method)
    images = torch.randn(arguments.batch, 1, arguments.image, arguments.image, device=device)
    step, views = [], []
    for i in range(arguments.repeats):
        keys = rng.keys(0, range(arguments.batch), i)
        start = time.perf_counter()
        policy(images, keys), policy(images, keys)
        views.append(time.perf_counter() - start)
        start = time.perf_counter()
        with precision.autocast(device):
            loss, _ = method.loss(images, keys)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        loss.item()
        step.append(time.perf_counter() - start)
    return min(step), min(views)


def main() -> None:
    """Run every variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--size", type=int, default=64, help="of a view, px")
    parser.add_argument("--image", type=int, default=88, help="of an image, px")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--policy", default="chip")
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads, {', '.join(cpu_instructions()) or 'no bfloat16 instructions'}")
    plain = None
    for name in ("fp32", "bf16"):
        for layout in (torch.contiguous_format, torch.channels_last):
            step, views = seconds_per_step(Precision(name, ""), layout, arguments)
            plain = plain or step
            print(
                f"{name} {str(layout).removeprefix('torch.'):<18} {arguments.batch / step:7.0f} img/s  "
                f"x{plain / step:.2f}  views {views / step:4.0%} of the step"
            )


if __name__ == "__main__":
    main()
