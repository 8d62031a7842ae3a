"""Multi-crop: which view lies where, of which policy and of which key."""

import pytest
import torch

from groundswell import rng
from groundswell.errors import UsageError
from groundswell.views import MultiCrop, ViewPolicy, ViewSettings
from groundswell.views import crops as room

LARGE = ViewPolicy(ViewSettings(policy="ocean"), 24)
SMALL = ViewPolicy(ViewSettings(policy="ocean", geometry={"scale": (0.05, 0.3)}), 10)
IMAGES = rng.normal(rng.keys(5, range(6)), "image", 2 * 40 * 40).view(6, 2, 40, 40)
KEYS = rng.keys(1, range(6))


def test_views_lie_view_by_view_each_made_by_its_policy():
    other = ViewPolicy(ViewSettings(policy="chip"), 24)
    views = MultiCrop([LARGE, other], SMALL, n_global=3, n_local=4)(IMAGES, KEYS)
    assert views.globals.shape == (18, 2, 24, 24)
    assert views.locals.shape == (24, 2, 10, 10)
    for i, policy in enumerate([LARGE, other, LARGE]):
        expected = policy(IMAGES, rng.keys(0, KEYS, "global view", i))
        assert torch.equal(views.globals[6 * i : 6 * (i + 1)], expected)
    for i in range(4):
        expected = SMALL(IMAGES, rng.keys(0, KEYS, "local view", i))
        # The batch may be worked on in other parts: filters then add in another order.
        torch.testing.assert_close(views.locals[6 * i : 6 * (i + 1)], expected, atol=1e-5, rtol=0)


def test_no_two_views_of_an_image_are_the_same():
    views = MultiCrop(LARGE, SMALL, n_global=2, n_local=3)(IMAGES, KEYS)
    for stack, count in ((views.globals, 2), (views.locals, 3)):
        flat = stack.view(count, 6, -1)
        for i in range(count):
            for j in range(i):
                assert ((flat[i] - flat[j]).square().mean(1) > 0.05).all()


def test_views_are_the_same_whatever_the_batch():
    crops = MultiCrop(LARGE, SMALL, n_global=2, n_local=3)
    whole, alone = crops(IMAGES, KEYS), crops(IMAGES[2:3], KEYS[2:3])
    torch.testing.assert_close(whole.globals[2::6], alone.globals, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.locals[2::6], alone.locals, atol=1e-5, rtol=0)


def test_without_a_local_policy_there_are_no_local_views():
    views = MultiCrop(LARGE, None, n_global=2)(IMAGES, KEYS)
    assert len(views.globals) == 12
    assert len(views.locals) == 0


def test_impossible_crops_are_refused():
    with pytest.raises(UsageError, match="one global view"):
        MultiCrop(LARGE, SMALL, n_global=0)
    with pytest.raises(UsageError, match="one size"):
        MultiCrop([LARGE, SMALL], None)


def test_views_made_at_once_are_those_made_one_by_one_and_mixup_sees_one_batch(monkeypatch):
    mixed = ViewPolicy(ViewSettings(policy="ocean", mixup={"p": 1.0, "weight": (0.3, 0.5)}), 24)
    for policy in (LARGE, mixed):
        made = []
        for limit in (0, room.AT_ONCE):
            monkeypatch.setattr(room, "AT_ONCE", limit)
            made.append(MultiCrop(policy, SMALL, n_global=2, n_local=3)(IMAGES, KEYS))
        # Filters add in another order where the batch is worked on in other parts.
        torch.testing.assert_close(made[0].globals, made[1].globals, atol=1e-5, rtol=0)
        torch.testing.assert_close(made[0].locals, made[1].locals, atol=1e-5, rtol=0)
