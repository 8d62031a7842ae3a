"""Does pruning help? Rules against training on all images, at equal steps, on an archive with the ocean's imbalance.

    python benchmarks/pruning.py -o DIR [--count 20000] [--steps 2000] [--seeds 3] [--recipe demo] [a.b=c ...]
                                 [--arms all,longer,random,oceansar1,oceansar2,balanced]

An archive is simulated with ``--mix ocean``, and of its four rarest classes every fourth image is kept, so that each is
under 1 %. Every arm trains on it without labels, with the same steps, seeds, views and starting weights:

    all         no rule
    longer      no rule, and as many more steps as the forward passes of the draws come to
    random      as many images as the rules keep, drawn evenly at the same moments
    oceansar1, oceansar2, balanced

Judged on a second archive of another seed with all classes alike, never trained on: kNN (k = 20) and linear probes are
fitted on its train split and scored on its test split; ``rare`` is the mean recall of the four rare classes, ``every``
that of all ten. ``equal loss`` is the step, over all steps, at which an arm reaches the final loss of ``all`` on
held-out images of the ocean's own mix, the same images and views for every arm ("-": not reached by every seed); it
is interpolated between checkpoints. Differences to ``all``, and to ``longer``, whose compute is that of the rules, are
paired by seed, with 95 % t intervals over seeds. Runs are resumed and results kept, so the script can be stopped and
started again. Simulated images: no score here is skill on the ocean.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from groundswell import files, rng
from groundswell.archive.ingest import ingest
from groundswell.archive.reader import Archive, open_archive
from groundswell.backbones import build_backbone
from groundswell.config import read_recipe
from groundswell.encoder.directory import load
from groundswell.evaluation.knn import KNNClassifier
from groundswell.evaluation.linear import LinearClassifier
from groundswell.physics.imagette import Quantity
from groundswell.simulator.conditions import OCEAN_MIX
from groundswell.simulator.phenomena import PHENOMENA
from groundswell.simulator.source import SimulatedSource, SimulatorSettings
from groundswell.training.building import build_method
from groundswell.training.checkpoint import read_checkpoint
from groundswell.training.loop import pretrain
from groundswell.training.recipe import Recipe, resolve_recipe
from groundswell.training.run_directory import read_metrics

RARE = tuple(name for _, name in sorted(zip(OCEAN_MIX, PHENOMENA, strict=True))[:4])
ARMS: dict[str, dict[str, Any]] = {
    "all": {"rule": "none"},
    "longer": {"rule": "none"},
    "random": {"rule": "oceansar2", "power": 0.0, "clusters": [1]},
    "oceansar1": {"rule": "oceansar1"},
    "oceansar2": {"rule": "oceansar2"},
    "balanced": {"rule": "balanced"},
}
SCORES = ("rare kNN", "rare linear", "every kNN", "every linear")
_LOOKS = 20  # checkpoints at which the held-out loss is taken
_HELD_OUT = 4  # batches


def archive(path: Path, count: int, seed: int, mix: str, size: int, spacing: float) -> Archive:
    """A simulated archive, made where it is not whole yet."""
    settings = SimulatorSettings(
        count=count, seed=seed, size=size, spacing_m=spacing, mix=mix, quantity=Quantity.SIGMA0_DB
    )
    ingest(SimulatedSource(settings), path, quantity=Quantity.SIGMA0_DB, label=f"simulate {path.name}")
    return open_archive(path)


def draw_cost(recipe: Recipe, rows: int, size: int) -> float:
    """Forward passes of all draws over those of all steps, by pixels; a step passes three times, back and forth."""
    moments = math.ceil(round((1 - recipe.pruning.warmup) / recipe.pruning.every, 6))
    seen = 2 * recipe.view_size**2
    if recipe.local_views is not None:
        seen += recipe.local_view_count * recipe.local_view_size**2
    return moments * rows * size**2 / (3 * (recipe.length.steps or 1) * recipe.images_per_step * seen)


def held_out_losses(run: Path, recipe: Recipe, archive: Archive) -> list[tuple[int, float]]:
    """The loss on the same images and views at every checkpoint: pairs of step and loss."""
    preprocessing = recipe.preprocessing.resolve(
        archive.channels, archive.height, archive.width, archive.schema.spacing_m
    )
    rows = np.arange(min(_HELD_OUT * recipe.batch_size, len(archive)) // recipe.batch_size * recipe.batch_size)
    images = preprocessing.normalise(archive.read(rows), archive.channels, archive.catalogue.iloc[rows])
    keys = rng.keys(0, rows.tolist(), "held out")
    backbone = build_backbone(recipe.backbone, len(preprocessing.channels), recipe.seed)
    method = build_method(recipe, backbone, preprocessing.channels)
    found = []
    for path in sorted((run / "checkpoints").glob("step-*.pt")):
        method.load_state_dict(read_checkpoint(path)["method"])
        step = int(path.stem.removeprefix("step-"))
        method.progress = step / (recipe.length.steps or 1)
        with torch.no_grad():  # in training mode, as in training: batches bring their own statistics
            parts = zip(images.split(recipe.batch_size), keys.split(recipe.batch_size), strict=True)
            found.append((step, float(np.mean([float(method.train().loss(x, k)[0]) for x, k in parts]))))
    return found


def recalls(model: Path, probe: Archive) -> dict[str, float]:
    """Mean recall of the rare classes, and of all, by both probes."""
    vectors = load(model).encode(probe)
    labels = probe.catalogue["label_phenomenon"].to_numpy(str)
    train = (probe.catalogue["split"] == "train").to_numpy()
    scores = {}
    for name, classifier in (("kNN", KNNClassifier(k=20)), ("linear", LinearClassifier())):
        said = classifier.fit(vectors[train], labels[train]).predict(vectors[~train])
        recall = {c: float((said[labels[~train] == c] == c).mean()) for c in PHENOMENA}
        scores[f"rare {name}"] = float(np.mean([recall[c] for c in RARE]))
        scores[f"every {name}"] = float(np.mean(list(recall.values())))
    return scores


def rare_share(run: Path, archive: Archive) -> float:
    """Share of the rare classes in what the run trained on last."""
    newest = max((run / "checkpoints").glob("step-*.pt"))
    kept = read_checkpoint(newest)["pruning"]["kept"]
    labels = archive.catalogue["label_phenomenon"].to_numpy(str)
    chosen = np.ones(len(labels), bool) if kept is None else np.unpackbits(kept.numpy(), count=len(labels)) > 0
    return float(np.isin(labels[chosen], RARE).mean())


def one(folder: Path, recipe: Recipe, train: Archive, probe: Archive, held: Archive) -> dict[str, Any]:
    """Train, judge, and keep the result; checkpoints go."""
    result, run = folder / "result.json", folder / "run"
    if result.exists():
        found: dict[str, Any] = files.read_json(result)
        return found
    report = pretrain([train], recipe, run, resume=(run / "recipe.yaml").exists())
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "kept_entropy" in row]
    chosen = train if recipe.where is None else train.where(recipe.where)
    found = {
        **recalls(report.model, probe),
        "losses": held_out_losses(run, recipe, held),
        "rare share": rare_share(run, chosen),
        "seconds": report.seconds,
        "last draw": {k: v for k, v in rows[-1].items() if k.startswith(("kept", "cluster", "seen"))} if rows else {},
    }
    files.write_json(result, found)
    shutil.rmtree(run / "checkpoints")
    return found


def steps_to(loss: float, losses: list[tuple[int, float]]) -> float:
    """The first step at which a loss is reached, interpolated; NaN where it is not."""
    before = (0, math.inf)
    for step, value in losses:
        if value <= loss:
            step0, value0 = before
            return step if math.isinf(value0) else step0 + (step - step0) * (value0 - loss) / max(value0 - value, 1e-12)
        before = (step, value)
    return math.nan


def interval(values: NDArray[np.float64]) -> str:
    """Mean with the 95 % t interval over seeds."""
    if len(values) < 2:
        return f"{values.mean():+.3f} [one seed]"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():+.3f} [{values.mean() - half:+.3f}, {values.mean() + half:+.3f}]"


def table(results: dict[str, list[dict[str, Any]]]) -> None:
    """Print scores, and paired differences to ``all`` and to ``longer``."""
    width = 26
    heads = "  ".join(f"{s:<12}" for s in SCORES)
    print(f"\n{'arm':<10} {'rare share':>10} {'equal loss':>11} {'seconds':>8}  {heads}")
    for arm, runs in results.items():
        finals = [run["losses"][-1] for run in results["all"]]
        reached = [steps_to(loss, run["losses"]) / step for run, (step, loss) in zip(runs, finals, strict=True)]
        equal = "-" if np.isnan(reached).any() else f"{np.mean(reached):.2f}"
        means = "  ".join(f"{np.mean([r[s] for r in runs]):<12.3f}" for s in SCORES)
        share, took = (np.mean([r[name] for r in runs]) for name in ("rare share", "seconds"))
        print(f"{arm:<10} {share:>10.2%} {equal:>11} {took:>8.0f}  {means}")
    for reference in (name for name in ("all", "longer") if name in results):
        print(f"\n{f'minus {reference}':<14}" + "".join(f"{s:<{width}}" for s in SCORES))
        for arm in (name for name in results if name not in ("all", reference)):
            pairs = list(zip(results[arm], results[reference], strict=True))
            differences = (interval(np.array([r[s] - b[s] for r, b in pairs])) for s in SCORES)
            print(f"{arm:<14}" + "".join(f"{d:<{width}}" for d in differences))


def recipe_of(
    base: dict[str, Any], rule: dict[str, Any], arguments: argparse.Namespace, where: str, seed: int, steps: int
) -> Recipe:
    """The recipe of one run, with a checkpoint at each look."""
    fixed = {"where": where, "seed": seed, "length": {"steps": steps}, "pruning": rule}
    fixed["checkpoint"] = {"steps": max(1, steps // _LOOKS), "keep": 1000}
    return resolve_recipe([("recipe", base), ("experiment", fixed)], arguments.overrides)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=20_000, help="images, before the rare classes are thinned")
    parser.add_argument("--probe-count", type=int, default=3000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--spacing", type=float, default=100.0)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("overrides", nargs="*", help="settings of every arm, a.b=c")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arms = ["all", *(arm for arm in arguments.arms.split(",") if arm != "all")]
    where = f"label_phenomenon not in {list(RARE)} or row % 4 == 0"
    grid = arguments.size, arguments.spacing
    train = archive(arguments.output / "train", arguments.count, 1, "ocean", *grid)
    probe = archive(arguments.output / "probe", arguments.probe_count, 2, "balanced", *grid)
    held = archive(arguments.output / "held", 600, 3, "ocean", *grid)
    chosen = train.where(where)
    shares = chosen.catalogue["label_phenomenon"].value_counts(normalize=True)
    print(f"{len(chosen)} images; " + ", ".join(f"{name} {share:.2%}" for name, share in shares.items()), flush=True)

    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    base, _ = read_recipe(arguments.recipe)
    for seed in range(arguments.seeds):
        for arm in arms:
            steps = arguments.steps
            if arm == "longer":
                plain = recipe_of(base, ARMS[arm], arguments, where, seed, steps)
                steps += round(steps * draw_cost(plain, len(chosen), grid[0]))
            recipe = recipe_of(base, ARMS[arm], arguments, where, seed, steps)
            found = one(arguments.output / f"{arm}-{seed}", recipe, train, probe, held)
            results[arm].append(found)
            scores = ", ".join(f"{name} {found[name]:.3f}" for name in SCORES)
            print(f"{arm} seed {seed}: {steps} steps, {scores}; {json.dumps(found['last draw'])}", flush=True)
    table(results)


if __name__ == "__main__":
    main()
