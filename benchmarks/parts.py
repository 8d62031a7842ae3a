"""What the choices in a training step are worth: ours beside other ways to compute the same, in one run.

    python benchmarks/parts.py [PART ...] [--batch 32] [--threads 1] [--precision fp32] [--repeats 15] [--prototypes K]

Sizes are those of the `-small` recipes as `methods.py` prepares them, but for ``chunks``: so few small images are one
piece. The ways of a part are first held against each other (results and gradients must agree), then take turns; a
timing is of as many calls as make ``--least`` seconds. Printed are the median of each way in ms, and how long it takes
beside ours: the median of the pairs, with their quartiles. ``memory`` and ``compile`` time whole steps, of which each
way has a process of its own, as in `methods.py`.
"""

from __future__ import annotations

import argparse
import copy
import functools
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundswell import rng
from groundswell.backbones import VisionTransformer, blocks
from groundswell.backbones.blocks import Attention, Block
from groundswell.backbones.linear import linear as by_onednn
from groundswell.methods.distillation import per_view
from groundswell.methods.heads import PrototypeHead
from groundswell.objectives.dino import sinkhorn_knopp
from groundswell.objectives.ibot import ibot_loss
from groundswell.training.optimisers import build_optimiser, clip_gradients, parameter_groups
from groundswell.training.precision import choose, cpu_instructions
from groundswell.views import policies
from groundswell.views.masking import block_masks
from methods import BATCH, Worker, build, clock, draw, in_turns, of_pairs, prepared
from utilisation import synchronise

SIMCLR, RESNET, DINO, DINOV2 = "quicklook-small", "oceansar1-small", "sar-dino-small", "oceansar2-small"
LIMIT = {"fp32": 1e-3, "bf16": 5e-2}
"""How far the results of two ways may be apart, relative to ours."""
IMAGE = 256  # px, of ``chunks``

Way = Callable[[], list[Tensor]]
Attend = Callable[[Attention, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Part:
    """One choice: the ways of computing it, ours first, each giving what must agree."""

    what: str
    ways: dict[str, Way]
    alike: bool = True
    """False where another way is another computation."""


class Setup:
    """What parts are made of: methods as `methods.py` prepares them, images and numbers of a fixed seed."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.device = torch.device(arguments.device)
        self.precision = choose(arguments.precision, self.device)
        self.keys = rng.keys(0, range(arguments.batch), 0)
        self.source = torch.Generator().manual_seed(0)
        self.images = torch.from_numpy(draw(arguments, 0)).to(self.device).float().sub_(127.5).div_(127.5)

    @functools.cache  # noqa: B019 - one setup a run
    def recipe(self, name: str) -> Any:
        """The prepared recipe."""
        return prepared(name)

    @functools.cache  # noqa: B019
    def method(self, name: str) -> Any:
        """The method of a recipe, in training mode."""
        given = argparse.Namespace(**vars(self.arguments), compile=False, release=False)
        return build("ours", self.recipe(name), given).method  # type: ignore[union-attr]

    def normal(self, *shape: int, half: bool = False) -> Tensor:
        """Normal numbers; with ``half`` in the precision of the run."""
        dtype = torch.bfloat16 if half and self.precision.name == "bf16" else torch.float32
        return torch.randn(shape, generator=self.source).to(self.device, dtype)

    def views(self, name: str) -> tuple[Tensor, Tensor]:
        """Global and local views of a recipe, channels last."""
        made = self.method(name).crops(self.images, self.keys)
        whole, local = (x.contiguous(memory_format=torch.channels_last) for x in (made.globals, made.locals))
        return whole, local

    def masks(self) -> Tensor:
        """Which patches of the global views DINOv2 masks, bool ``[2 B, P]``."""
        recipe = self.recipe(DINOV2)
        side = recipe.view_size // self.method(DINOV2).backbone.patch
        keys = per_view(self.keys, "mask", 2)
        masks = block_masks(keys, (side, side), recipe.method.mask_ratio, recipe.method.mask_probability)
        return masks.to(self.device)

    def prototypes(self, name: str) -> int:
        """How many a head has."""
        return int(self.arguments.prototypes or self.recipe(name).method.prototypes)

    def trained(self, compute: Callable[[], Tensor], shown: Iterable[Tensor], others: Iterable[Tensor] = ()) -> Way:
        """Forward in the run's precision, and the gradients of a fixed linear function: those shown, and others."""
        shown, others = list(shown), list(others)
        directions: list[Tensor] = []

        def way() -> list[Tensor]:
            with self.precision.autocast(self.device):
                out = compute()
            if not directions:
                source = torch.Generator().manual_seed(1)
                directions.append(torch.randn(out.shape, generator=source).to(out.device, out.dtype))
            found = torch.autograd.grad(out, [*shown, *others], directions[0], allow_unused=True)
            return [out.detach(), *(gradient for gradient in found[: len(shown)] if gradient is not None)]

        return way


def trainable(*modules: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn."""
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def pooled(backbone: nn.Module, views: Tensor) -> Tensor:
    """What a head is given."""
    found: Tensor = (
        backbone.pooled_and_patches(views)[0] if isinstance(backbone, VisionTransformer) else backbone(views).pooled
    )
    return found


def attention(s: Setup) -> Iterator[Part]:
    """Attention without its linear maps; ours is one of the others, by precision and device."""
    backbone = s.method(DINO).backbone
    count, tokens, heads = 2 * s.arguments.batch, 1 + backbone.grid**2, backbone.blocks[0].attn.heads
    attn = Attention(backbone.width, heads)
    attn.qkv = nn.Identity()  # type: ignore[assignment]
    x = s.normal(count, tokens, 3 * backbone.width, half=True).requires_grad_()

    def explicit() -> Tensor:
        q, k, v = attn.split(x)
        weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]), dim=-1)
        return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)

    def fused() -> Tensor:
        return F.scaled_dot_product_attention(*attn.split(x)).transpose(1, 2).flatten(2)

    ways = {"ours": lambda: attn.attend(x), "softmax written out": explicit, "fused kernel": fused}
    what = f"attention, {count} x {heads} heads x {tokens} tokens"
    yield Part(what, {name: s.trained(compute, [x]) for name, compute in ways.items()})


def grouping(s: Setup) -> Iterator[Part]:
    """One forward for each size of view, of student and teacher, and one for each view; with local views or none."""
    for name in (RESNET, DINO):
        method, recipe, batch = s.method(name), s.recipe(name), s.arguments.batch
        whole, local = s.views(name)

        def compute(whole: tuple[Tensor, ...], local: tuple[Tensor, ...], method: Any = method) -> Tensor:
            with torch.no_grad():
                [pooled(method.teacher_backbone, x) for x in whole]
            return torch.cat([pooled(method.backbone, x) for x in (*whole, *local)])

        for count in (recipe.local_view_count, 0):
            ways = {
                "ours": functools.partial(compute, (whole,), (local,) if count else ()),
                "each view by itself": functools.partial(compute, whole.split(batch), local.split(batch)[:count]),
            }
            sizes = f"2 x {recipe.view_size} px" + (f" + {count} x {recipe.local_view_size} px" if count else "")
            yield Part(
                f"views grouped by size, {recipe.backbone.name}, {sizes}",
                {way: s.trained(of, trainable(method.backbone)) for way, of in ways.items()},
                alike=name != RESNET,  # batch statistics are then those of one view
            )


def last_block(s: Setup) -> Iterator[Part]:
    """The last block for the class token and the masked patches; attending for more; for all tokens.

    For more: with queries of all tokens of the images with a masked patch; with keys and values of all images, too.

    In global views, masked or not, and for the class token alone, as in DINO and of local views.
    """
    backbone, mask, (whole, _) = s.method(DINOV2).backbone, s.masks(), s.views(DINOV2)

    def of_all(attention: Attention, x: Tensor, others: Tensor) -> Tensor:
        seen = attention.attend(x)
        return torch.cat([seen[:, 0], seen.flatten(0, 1).index_select(0, others)])

    def of_images(attention: Attention, x: Tensor, others: Tensor) -> Tensor:
        owners, owner = torch.unique_consecutive(others // x.shape[1], return_inverse=True)
        seen = attention.attend(x.index_select(0, owners)).flatten(0, 1)
        places = owner * x.shape[1] + others % x.shape[1]
        return torch.cat([attention.attend_first(x), seen.index_select(0, places)])

    for asked in (mask, torch.zeros_like(mask)):

        def ours(asked: Tensor = asked) -> Tensor:
            return torch.cat(backbone.pooled_and_patches(whole, mask, patches=asked))

        def attending(attend_some: Attend, ours: Callable[[], Tensor] = ours) -> Tensor:
            with mock.patch.object(Attention, "attend_some", attend_some):
                return ours()

        def every(asked: Tensor = asked) -> Tensor:
            features = backbone(whole, mask)
            return torch.cat([features.pooled, features.spatial.flatten(2).transpose(1, 2)[asked]])

        ways = {"ours": ours, "all tokens": every, "keys and values of all": functools.partial(attending, of_all)}
        if asked.any():
            ways["queries of their images"] = functools.partial(attending, of_images)
        what = f"last block, {int(asked.sum()) + len(mask)} of {len(mask) * (1 + mask.shape[1])} tokens (whole network)"
        yield Part(what, {name: s.trained(compute, trainable(backbone)) for name, compute in ways.items()})


def views(s: Setup) -> Iterator[Part]:
    """All views of one policy at once, and one after the other."""
    crops = s.method(DINO).crops

    def each() -> list[Tensor]:
        sizes = (("global view", crops.globals_[0], crops.n_global), ("local view", crops.locals_, crops.n_local))
        return [
            torch.cat([policy(s.images, rng.keys(0, s.keys, name, i)) for i in range(count)])
            for name, policy, count in sizes
        ]

    def at_once() -> list[Tensor]:
        made = crops(s.images, s.keys)
        return [made.globals, made.locals]

    what = f"{crops.n_global} + {crops.n_local} views of {s.arguments.batch} images of {s.arguments.image} px"
    yield Part(what, {"ours": at_once, "one view at a time": each})


def chunks(s: Setup) -> Iterator[Part]:
    """Views made some images at a time, and of the whole batch."""
    policy, count = s.method(SIMCLR).policy, 8 * s.arguments.batch
    images, keys = s.normal(count, 1, IMAGE, IMAGE), rng.keys(0, range(count), 0)
    limit = "CPU_CHUNK" if s.device.type == "cpu" else "GPU_CHUNK"

    def whole() -> list[Tensor]:
        with mock.patch.object(policies, limit, 1 << 60):
            return [policy(images, keys)]

    what = f"a view of {policy.size} px of {count} images of {IMAGE} px"
    yield Part(what, {"ours": lambda: [policy(images, keys)], "whole batch": whole})


def clipping(s: Setup) -> Iterator[Part]:
    """Each tensor's gradient clipped, and the norm of all."""
    limit = s.recipe(RESNET).clip_norm
    methods = [copy.deepcopy(s.method(RESNET)) for _ in range(2)]
    for method in methods:
        source = torch.Generator().manual_seed(0)
        for p in trainable(method):
            p.grad = torch.randn(p.shape, generator=source).to(p.device)
    ours, theirs = (trainable(method) for method in methods)

    def at_once() -> list[Tensor]:
        return [clip_gradients(methods[0], limit, "tensor"), *(p.grad for p in ours if p.grad is not None)]

    def loop() -> list[Tensor]:
        norm = torch.nn.utils.get_total_norm([p.grad for p in theirs if p.grad is not None])
        for p in theirs:
            torch.nn.utils.clip_grad_norm_(p, limit)
        return [norm, *(p.grad for p in theirs if p.grad is not None)]

    what = f"clipping of {len(ours)} tensors, {sum(p.numel() for p in ours) / 1e6:.1f} M numbers"
    yield Part(what, {"ours": at_once, "clip_grad_norm_ of each": loop})


def adamw(s: Setup) -> Iterator[Part]:
    """The optimiser of a recipe, and torch's other two ways."""
    settings, method = s.recipe(DINO).optimiser, s.method(DINO)

    def way(make: Callable[[nn.Module], torch.optim.Optimizer]) -> Way:
        own = copy.deepcopy(method)
        optimiser, weights, source = make(own), trainable(own), torch.Generator().manual_seed(0)
        for p in weights:
            p.grad = torch.randn(p.shape, generator=source).to(p.device)

        def step() -> list[Tensor]:
            optimiser.step()
            return [p.detach() for p in weights]

        return step

    def other(foreach: bool) -> Way:
        given = {"lr": settings.lr, "betas": settings.betas, "foreach": foreach, "fused": False}
        return way(lambda own: torch.optim.AdamW(parameter_groups(own, settings.weight_decay), **given))

    ways = {"ours": way(lambda own: build_optimiser(settings, own)), "foreach": other(True), "loop": other(False)}
    yield Part(f"AdamW, {sum(p.numel() for p in trainable(method)) / 1e6:.1f} M weights", ways)


def plain_sinkhorn(logits: Tensor, temperature: float, rounds: int = 3) -> Tensor:
    """Sinkhorn-Knopp as facebookresearch/dinov2 b8931f7 has it: the whole matrix is scaled, over and over."""
    q = torch.exp(logits / temperature).T
    prototypes, samples = q.shape
    q /= q.sum()
    for _ in range(rounds):
        q /= q.sum(1, keepdim=True)
        q /= prototypes
        q /= q.sum(0, keepdim=True)
        q /= samples
    q *= samples
    return q.T


def sinkhorn(s: Setup) -> Iterator[Part]:
    """The choices of a teacher for the images of a batch and for its masked patches."""
    count = s.prototypes(DINOV2)
    for rows in (2 * s.arguments.batch, int(s.masks().sum())):
        logits = F.normalize(s.normal(rows, 64), dim=1) @ F.normalize(s.normal(64, count), dim=0)

        def vectors(logits: Tensor = logits) -> list[Tensor]:
            return [sinkhorn_knopp(logits, 0.04)]

        def matrix(logits: Tensor = logits) -> list[Tensor]:
            return [plain_sinkhorn(logits, 0.04)]

        yield Part(f"Sinkhorn-Knopp, {rows} x {count}", {"ours": vectors, "matrix": matrix})


def ibot(s: Setup) -> Iterator[Part]:
    """The heads of student and teacher and the loss, for the masked patches and for all."""
    recipe, mask, count = s.recipe(DINOV2).method, s.masks(), s.prototypes(DINOV2)
    width = s.method(DINOV2).backbone.width
    head = PrototypeHead(
        *(width, recipe.head_hidden, recipe.head_bottleneck, count), train_scale=True, seed=0, name="patch head"
    ).to(s.device)
    teacher = copy.deepcopy(head).requires_grad_(False)
    patches, seen = s.normal(*mask.shape, width).requires_grad_(), s.normal(*mask.shape, width)

    def loss(first: bool) -> Tensor:
        offered = teacher(seen[mask]) if first else teacher(seen)[mask]
        logits = head(patches[mask]) if first else head(patches)[mask]
        return ibot_loss(logits, sinkhorn_knopp(offered, 0.04), mask, recipe.student_temperature)

    ways = {"ours": True, "all patches": False}
    what = f"iBOT's head, {int(mask.sum())} of {mask.numel()} patches, K = {count}"
    leaves = [patches, *trainable(head)]
    yield Part(what, {name: s.trained(functools.partial(loss, first), leaves) for name, first in ways.items()})


class Unbound(Attention):
    """Queries, keys and values as timm parts them: one view of five axes, permuted."""

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v


def block_of(s: Setup) -> tuple[Block, Tensor, str]:
    """A block of the small transformers, with layer scales, the tokens of two views, and its name."""
    backbone = s.method(DINOV2).backbone
    count, tokens = 2 * s.arguments.batch, 1 + backbone.grid**2
    x = s.normal(count, tokens, backbone.width).requires_grad_()
    return copy.deepcopy(backbone.blocks[0]), x, f"a block of {count} x {tokens} tokens"


def qkv(s: Setup) -> Iterator[Part]:
    """Queries, keys and values cut apart by `chunk`, and as timm does it."""
    block, x, name = block_of(s)
    plain = copy.deepcopy(block)
    plain.attn = Unbound(block.norm1.weight.numel(), block.attn.heads).to(s.device)
    plain.attn.load_state_dict(block.attn.state_dict())
    ways = {"ours": block, "permuted": plain}
    compute = {way: functools.partial(module, x) for way, module in ways.items()}
    yield Part(name, {way: s.trained(of, [x, *trainable(ways[way])]) for way, of in compute.items()})


def layer_scale(s: Setup) -> Iterator[Part]:
    """Layer scale on the weights of a branch's last map, and on what comes out of it."""
    block, x, name = block_of(s)

    def after() -> Tensor:
        def outside(linear: nn.Linear, x: Tensor, scale: Tensor) -> Tensor:
            y: Tensor = linear(x) * scale
            return y

        with mock.patch.object(blocks, "scaled", outside):
            y: Tensor = block(x)
        return y

    ways = {"ours": functools.partial(block, x), "on what comes out": after}
    given = [x, *trainable(block)]
    yield Part(f"layer scale, {name}", {way: s.trained(of, given) for way, of in ways.items()})


def batch_parts(s: Setup) -> Iterator[Part]:
    """A batch through the network and back, whole and in parts."""
    backbone, (whole, _) = s.method(DINO).backbone, s.views(DINO)
    direction = s.normal(backbone.dim)

    def way(size: int) -> list[Tensor]:
        backbone.zero_grad(set_to_none=True)
        for part in whole.split(size):
            with s.precision.autocast(s.device):
                out = pooled(backbone, part)
            (out.float() @ direction).sum().backward()
        return [p.grad for p in trainable(backbone) if p.grad is not None]

    sizes = {f"in parts of {size}": size for size in (4, 8, 16, 32) if size < len(whole)}
    ways = {name: functools.partial(way, size) for name, size in ({"ours": len(whole)} | sizes).items()}
    yield Part(f"{len(whole)} views through {s.recipe(DINO).backbone.name} and back", ways)


def linear(s: Setup) -> Iterator[Part]:
    """The two maps of an MLP in fp32, by oneDNN's operator, by torch's own call, and as convolutions."""
    if s.precision.name != "fp32" or s.device.type != "cpu":
        return
    block, x, _ = block_of(s)
    for module in (block.mlp.fc1, block.mlp.fc2):
        weight, bias = module.weight, module.bias
        given = x if module is block.mlp.fc1 else s.normal(*x.shape[:2], weight.shape[1]).requires_grad_()

        def convolved(given: Tensor = given, weight: Tensor = weight, bias: Tensor = bias) -> Tensor:
            y = F.conv2d(given.transpose(1, 2).unsqueeze(3), weight[:, :, None, None], bias)  # lies channels last
            return y.squeeze(3).transpose(1, 2)

        ways = {
            "ours": functools.partial(by_onednn, given, weight, bias),
            "torch's own": functools.partial(F.linear, given, weight, bias),
            "1x1 convolution": convolved,
        }
        tokens, work = given.shape[0] * given.shape[1], 3 * 2 * given[..., 0].numel() * weight.numel() / 1e9
        what = f"a map of {weight.shape[1]} to {weight.shape[0]} numbers of {tokens} tokens, {work:.2f} GFLOP"
        yield Part(what, {name: s.trained(compute, [given, weight, bias]) for name, compute in ways.items()})


PARTS: dict[str, Callable[[Setup], Iterator[Part]]] = {
    "attention": attention,
    "grouping": grouping,
    "last-block": last_block,
    "views": views,
    "chunks": chunks,
    "clipping": clipping,
    "adamw": adamw,
    "sinkhorn": sinkhorn,
    "ibot": ibot,
    "qkv": qkv,
    "layer-scale": layer_scale,
    "batch-parts": batch_parts,
    "linear": linear,
}
STEPS = {
    "memory": ("release", "freed memory given back", (SIMCLR, DINO)),
    "compile": ("compile", "compiled", (DINO, DINOV2)),
}
"""Whole steps: a flag of `methods.py`, what it does, and the recipes."""


def check(part: Part, limit: float) -> None:
    """Stop where another way gives another result."""
    found = {name: way() for name, way in part.ways.items()}
    ours = found.pop("ours")
    for name, others in found.items() if part.alike else ():
        for a, b in zip(ours, others, strict=True):
            a, b = a.double(), b.double()
            away = float((a - b).norm() / a.norm().clamp(min=1e-30))
            if not away <= limit:
                raise SystemExit(f"{part.what}: {name} gives another result, {away:.1e} from ours")


def measure(part: Part, s: Setup) -> None:
    """Time the ways of a part in turns, and print a line for each."""
    now = clock(s.arguments)

    def take(way: Way, calls: int, _: int = 0) -> float:
        synchronise(s.device)
        start = now()
        for _ in range(calls):
            way()
        synchronise(s.device)
        return (now() - start) / calls

    check(part, LIMIT[s.precision.name])
    calls = max(1, math.ceil(s.arguments.least / max(take(part.ways["ours"], 1), 1e-9)))
    tell(
        part.what, in_turns({name: functools.partial(take, way, calls) for name, way in part.ways.items()}, s.arguments)
    )


def steps(name: str, arguments: argparse.Namespace) -> None:
    """Time whole steps with and without a flag, each in a process of its own, and count page faults."""
    flag, what, recipes = STEPS[name]
    without = argparse.Namespace(**vars(arguments), archive=None, shipped=False, compile=False, release=False)
    given = argparse.Namespace(**{**vars(without), flag: True})
    for recipe in recipes:
        workers = {"ours": Worker("ours", recipe, without), what: Worker("ours", recipe, given)}
        first = {way: worker.ask("step") for way, worker in workers.items()}
        seconds = in_turns({way: functools.partial(worker.ask, "step") for way, worker in workers.items()}, arguments)
        extra = {}
        for way, worker in workers.items():
            before = worker.ask("faults")
            worker.ask("step", arguments.warmup + arguments.repeats)
            faults, memory = worker.ask("faults") - before, worker.ask("memory")
            extra[way] = f"first step {first[way]:.1f} s, {faults:,} page faults in the last, {memory:.0f} MiB"
            worker.process.communicate()
        tell(f"a step of {recipe}", seconds, extra)


def tell(what: str, seconds: dict[str, list[float]], extra: dict[str, str] | None = None) -> None:
    """A line for each way."""
    print(f"\n{what}")
    for name, times in seconds.items():
        row = f"  {name:<24}{1000 * statistics.median(times):>10.3f} ms"
        if name != "ours":
            low, middle, high = of_pairs(seconds["ours"], times)
            row += f"   x {middle:.2f} [{low:.2f}, {high:.2f}]"
        print(row + (f"   {extra[name]}" if extra else ""))
    sys.stdout.flush()


def main() -> None:
    """Measure every part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join((*PARTS, *STEPS)))
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--image", type=int, default=96, help="side of an image, px; a multiple of 8")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--least", type=float, default=0.05, help="seconds of one timing; quick parts are repeated")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="fp32", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--prototypes", type=int, help="of sinkhorn and ibot; by default those of the recipe")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="cpu: on a shared machine, 1 thread")
    arguments = parser.parse_args()
    chosen = arguments.parts or [*PARTS, *STEPS]
    if unknown := [name for name in chosen if name not in {*PARTS, *STEPS}]:
        parser.error(f"no part is called {unknown[0]}; there are {', '.join((*PARTS, *STEPS))}")
    torch.set_num_threads(arguments.threads)
    s = Setup(arguments)
    if s.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as a run has it
    where = ", ".join(cpu_instructions()) or "no bfloat16 instructions"
    print(f"{arguments.device}, {arguments.threads} threads, {where}, {s.precision.name}, {arguments.clock} clock")
    for name in chosen:
        if name in STEPS:
            steps(name, arguments)
            continue
        for part in PARTS[name](s):
            measure(part, s)


if __name__ == "__main__":
    main()
