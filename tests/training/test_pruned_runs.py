"""Runs that train on a part of the archive: the feed, the moments, and that no interruption changes the result."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import crash
from groundswell.archive.reader import Archive
from groundswell.backbones import build_backbone
from groundswell.encoder.directory import load
from groundswell.encoder.encoder import Encoder
from groundswell.errors import ModelError, StoppedBySignal, UsageError
from groundswell.training import loop, pruning
from groundswell.training.checkpoint import Checkpoints, read_checkpoint
from groundswell.training.data import Feed
from groundswell.training.loop import pretrain
from groundswell.training.pruning import Pruner, digest
from groundswell.training.recipe import PruningSettings, Recipe
from groundswell.training.run_directory import read_metrics
from groundswell.training.session import Session
from processes import in_processes
from training.test_pretrain import Killed, pretrain_until
from training.test_training_kills import in_fork, result
from training.tiny import METHODS, tiny_recipe

pytestmark = pytest.mark.usefixtures("shallow")

ROWS = 36  # of the tiny archive, for training
RULE = {"rule": "oceansar1", "keep": 0.5, "clusters": [6, 2], "warmup": 0.25, "every": 0.375}


def pruned(**changes: Any) -> Recipe:
    """Eight steps of eight images: draws before steps 2, 5 and none after; an epoch is four batches, then two."""
    values = {"batch_size": 8, "length": {"steps": 8}, "checkpoint": {"steps": 2}, "pruning": RULE}
    return tiny_recipe(health={"grace": 1.0}, **(values | changes))


@pytest.fixture(scope="module")
def undisturbed(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """The finished run, and how often it calls replace, fsync and write."""
    run = tmp_path_factory.mktemp("pruned") / "run"
    with crash.trapped() as trap:
        pretrain([archive], pruned(), run)
    return run, trap.counts


def feed_of(archive: Archive, **changes: Any) -> Feed:
    recipe = pruned(**changes)
    chosen = archive.where(recipe.where or "")
    preprocessing = recipe.preprocessing.resolve(chosen.channels, chosen.height, chosen.width)
    return Feed([chosen], preprocessing, recipe.batch_size, 0, torch.device("cpu"))


def test_a_feed_that_keeps_rows_gives_each_of_them_once_an_epoch_and_no_other(archive: Archive) -> None:
    feed = feed_of(archive, batch_size=4)
    kept = np.array([0, 3, 4, 9, 10, 11, 14, 20, 21, 22, 33, 35])  # some of each shard
    images = feed.images(np.arange(ROWS))
    feed.keep(kept)
    assert feed.batches_per_epoch == 3
    epochs = []
    for epoch in range(3):
        batches = [feed.batch(epoch, index) for index in range(3)]
        rows = torch.cat([batch[1] for batch in batches])
        assert sorted(rows.tolist()) == kept.tolist()
        assert torch.equal(torch.cat([batch[0] for batch in batches]), images[rows])
        np.testing.assert_array_equal(feed.drawn(epoch, 2), rows[:8])
        epochs.append(rows.tolist())
    assert epochs[0] != epochs[1] != epochs[2]


def test_keeping_every_row_changes_nothing(archive: Archive) -> None:
    plain, all_kept = feed_of(archive), feed_of(archive)
    all_kept.keep(np.arange(ROWS))
    for index in range(plain.batches_per_epoch):
        assert torch.equal(plain.batch(1, index)[1], all_kept.batch(1, index)[1])


def test_a_set_within_one_shard_leaves_the_others_empty(archive: Archive) -> None:
    feed = feed_of(archive, batch_size=4)
    feed.keep(np.array([1, 2, 3, 5]))
    assert sorted(feed.batch(7, 0)[1].tolist()) == [1, 2, 3, 5]


def test_moments_come_by_progress_and_each_once(archive: Archive, tmp_path: Path) -> None:
    pruner = Pruner(PruningSettings(rule="balanced", warmup=0.2, every=0.3), feed_of(archive), 0, tmp_path)
    due = []
    for step in range(10):
        if pruner.due(step / 10):
            due.append(step)
            pruner.drawn += 1
    assert due == [2, 5, 8]
    assert not Pruner(PruningSettings(rule="none", warmup=0.0), feed_of(archive), 0, tmp_path).due(1.0)


def test_a_run_trains_on_what_was_drawn_by_the_vectors_of_its_encoder_then(
    archive: Archive, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The set is that which the rule draws from vectors made here from the encoder at the moment of the draw."""
    from groundswell import rng
    from groundswell.curation.pruning import RuleSettings, choose

    seen: list[tuple[int, list[int], Any]] = []
    plain = loop.step

    def watched(session: Session, rate: float, clock: Any) -> Any:
        feed, expected = session.feed, None
        if session.at.step in (2, 5):  # the weights are still those of the draw
            encoder = session.encoder()
            whole = archive.where("split == 'train'")
            vectors = F.normalize(torch.from_numpy(encoder.encode(whole, device="cpu"))).half().numpy()
            rule = RuleSettings(**{k: v for k, v in RULE.items() if k not in ("warmup", "every")})
            seed = int(rng.keys(0, [session.pruner.drawn], "pruning")[0])
            expected = choose(vectors, rule, seed).rows.tolist()
        rows = feed.batch(session.at.epoch, session.at.index)[1].tolist()
        seen.append((session.at.epoch, rows, (expected, None if feed.kept is None else feed.kept.tolist())))
        return plain(session, rate, clock)

    monkeypatch.setattr(loop, "step", watched)
    pretrain([archive], pruned(), output)
    assert [epoch for epoch, _, _ in seen] == [0, 0, 1, 1, 2, 3, 3, 4]
    for step, (_, rows, (expected, kept)) in enumerate(seen):
        if step < 2:
            assert kept is None
        else:
            assert len(kept) == ROWS // 2
            assert set(rows) <= set(kept)
        if expected is not None:
            assert kept == expected
    assert seen[4][2][1] != seen[5][2][1]
    metrics = read_metrics(output / "metrics.jsonl")
    assert "kept" not in metrics[1]
    first, last = metrics[2], metrics[-1]
    assert first["kept"] == last["kept"] == ROWS // 2
    assert first["kept_overlap"] == 1.0
    assert first["seen"] == pytest.approx(16 / ROWS)  # two batches of eight
    before, after = seen[4][2][1], seen[5][2][1]
    assert last["kept_overlap"] == pytest.approx(len(set(before) & set(after)) / len(after))
    drawn = {row for _, rows, _ in seen[:5] for row in rows}
    assert last["seen"] == pytest.approx(len(drawn) / ROWS)
    assert last["kept_set"] == digest(np.array(after))[:12] != first["kept_set"]
    assert not list((output / "pruning").glob("*"))  # the vectors are gone


def test_killed_at_seeded_points_and_resumed(
    archive: Archive, undisturbed: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    whole, counts = undisturbed
    chosen = random.Random(4)
    kinds = [("replace", "before"), ("replace", "after"), ("write", "middle"), ("fsync", "enospc")]
    for i, (kind, what) in enumerate(kinds):
        point = f"{kind}:{what}:{chosen.randint(1, counts[kind])}"
        run = tmp_path / f"run{i}"

        def job(run: Path = run, point: str = point) -> None:
            with crash.trapped(point):
                pretrain([archive], pruned(), run)

        assert in_fork(job) == (3 if what == "enospc" else -signal.SIGKILL), point
        if (run / "model").exists():
            load(run / "model")
        pretrain([archive], pruned(), run, resume=True)
        assert result(run) == result(whole), point


@pytest.mark.parametrize("step", [2, 3, 5])
def test_stopped_before_or_after_a_draw_and_resumed(
    archive: Archive, undisturbed: tuple[Path, dict[str, int]], output: Path, step: int
) -> None:
    pretrain_until(step, archive, pruned(), output, "signal")
    assert pretrain([archive], pruned(), output, resume=True).resumed_at == step + 1
    assert result(output) == result(undisturbed[0])


@pytest.mark.parametrize("dropped", ["kept", "drawn", "index"])
def test_negative_control_a_resume_that_forgets_something_ends_elsewhere(
    archive: Archive, undisturbed: tuple[Path, dict[str, int]], output: Path, dropped: str
) -> None:
    pretrain_until(2, archive, pruned(), output, "signal")
    store = Checkpoints(output / "checkpoints")
    found = store.newest()
    assert found is not None
    state = found[1]
    if dropped == "index":
        assert state["at"] == {"step": 3, "epoch": 1, "index": 1}
        state["at"]["index"] = 0
    else:
        assert state["pruning"]["drawn"] == 1
        state["pruning"][dropped] = {"kept": None, "drawn": 0}[dropped]
    store.save(state["at"]["step"], state)
    pretrain([archive], pruned(), output, resume=True)
    assert result(output)[0] != result(undisturbed[0])[0]


def test_a_checkpoint_whose_rows_are_not_those_drawn_is_refused(
    undisturbed: tuple[Path, dict[str, int]], archive: Archive, tmp_path: Path
) -> None:
    state = read_checkpoint(undisturbed[0] / "checkpoints" / "step-00000008.pt")["pruning"]
    assert len(np.flatnonzero(np.unpackbits(state["kept"].numpy()))) == ROWS // 2
    pruner = Pruner(PruningSettings.model_validate(RULE), feed_of(archive), 0, tmp_path)
    pruner.restore(state)
    assert pruner.state()["hash"] == state["hash"]
    state["kept"][0] ^= 64
    with pytest.raises(ModelError, match="not those that were drawn"):
        pruner.restore(state)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_pruned(archive: Archive, output: Path, name: str) -> None:
    rule = {"rule": "balanced", "keep": 0.5, "clusters": [4], "resamples": 1, "warmup": 0.5, "every": 0.5}
    changes = METHODS[name] | {"length": {"steps": 2}, "pruning": rule}
    pretrain([archive], pruned(**changes), output)
    last = read_metrics(output / "metrics.jsonl")[-1]
    assert last["kept"] == ROWS // 2
    assert last["seen"] == pytest.approx(8 / ROWS)


def test_keeping_less_than_a_batch_is_refused_before_the_first_step_and_the_fix_mends_it(
    archive: Archive, output: Path
) -> None:
    with pytest.raises(UsageError, match="would keep 4 images, less than a batch of 8") as caught:
        pretrain([archive], pruned(pruning=RULE | {"keep": 0.1}), output)
    keep = float((caught.value.fix or "").split("pruning.keep=")[1].split()[0])
    assert keep * ROWS >= 8


@pytest.mark.parametrize("clusters", [[100, 10], [6, 6]])
def test_clusters_that_do_not_fit_are_refused_before_the_first_step(
    archive: Archive, output: Path, clusters: list[int]
) -> None:
    with pytest.raises(UsageError, match="vectors cannot be divided"):
        pretrain([archive], pruned(pruning=RULE | {"clusters": clusters}), output)
    pretrain([archive], pruned(length={"steps": 1}), output)  # nothing has been written that stands in the way


def test_two_processes_embed_each_image_once_and_agree_on_the_set(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """17 images in blocks of five a process: the last block is short, and odd."""
    monkeypatch.setattr(pruning, "_BATCH", 5)
    recipe = pruned()
    chosen = archive.where("shard == 0 and row < 17")
    preprocessing = recipe.preprocessing.resolve(chosen.channels, chosen.height, chosen.width)
    encoder = Encoder(build_backbone(recipe.backbone, 1, 0), preprocessing, "fresh", recipe.backbone)
    expected = F.normalize(torch.from_numpy(encoder.encode(chosen, device="cpu")))
    rule = PruningSettings.model_validate(RULE | {"clusters": [3]})

    def job(rank: int) -> dict[str, Any]:
        feed = Feed([chosen], preprocessing, recipe.batch_size, 0, torch.device("cpu"))
        pruning.embed(feed, encoder, tmp_path / "vectors.npy")
        pruner = Pruner(rule, feed, 0, tmp_path / "scratch")
        pruner.draw(encoder, 0.3, 0, 1)
        assert feed.kept is not None
        return {"kept": torch.from_numpy(feed.kept), "figures": list(pruner.figures.values())[2:]}

    first, second = in_processes(job, 2, tmp_path)
    # float16 of numbers below one: half of 2^-10 at most, and the batches of an encoding change its last digits.
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy").astype(np.float32), expected, atol=6e-4)
    assert torch.equal(first["kept"], second["kept"])
    assert first["figures"] == second["figures"]
    assert len(first["kept"]) == 8


def test_a_kill_during_a_draw_costs_no_step(
    archive: Archive, output: Path, undisturbed: tuple[Path, dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = pruned(checkpoint={"steps": 100})
    draw = Pruner.draw

    def killed(self: Pruner, *arguments: Any) -> None:
        if self.drawn == 1:
            raise Killed
        draw(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Pruner, "draw", killed)
        with pytest.raises(Killed):
            pretrain([archive], recipe, output)
    assert Checkpoints(output / "checkpoints").steps() == [2, 5]  # as they stood before each draw
    assert pretrain([archive], recipe, output, resume=True).resumed_at == 5
    assert result(output) == result(undisturbed[0])


def test_a_signal_during_a_draw_stops_it_at_the_next_batch(
    archive: Archive, output: Path, undisturbed: tuple[Path, dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "_BATCH", 12)
    recipe, embedded = pruned(checkpoint={"steps": 100}), 0
    pooled = Encoder.pooled

    def asked(self: Encoder, images: torch.Tensor) -> torch.Tensor:
        nonlocal embedded
        embedded += len(images)
        if embedded == ROWS + 12:  # in the first batch of the second draw
            os.kill(os.getpid(), signal.SIGTERM)
        return pooled(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "pooled", asked)
        with pytest.raises(StoppedBySignal):
            pretrain([archive], recipe, output)
    assert embedded == ROWS + 12
    assert Checkpoints(output / "checkpoints").steps()[-1] == 5
    assert not list((output / "pruning").glob("*.npy*"))
    pretrain([archive], recipe, output, resume=True)
    assert result(output)[1] == result(undisturbed[0])[1]


def test_a_signal_is_answered_while_a_set_is_chosen(
    archive: Archive, undisturbed: tuple[Path, dict[str, int]], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, read = pruning.choose, []

    def signalled(vectors: Any, *others: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        found = plain(vectors, *others)
        read.append(found)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(pruning, "choose", signalled)
        with pytest.raises(StoppedBySignal):
            pretrain([archive], pruned(), output)
    assert not read  # it was stopped at the first block
    assert not list((output / "pruning").glob("*"))
    assert pretrain([archive], pruned(), output, resume=True).resumed_at == 2
    assert result(output) == result(undisturbed[0])
