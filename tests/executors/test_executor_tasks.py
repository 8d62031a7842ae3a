"""Shares of a list, and threads: what every executor stands on."""

from __future__ import annotations

import os

import pytest
import threadpoolctl
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundswell.errors import UsageError
from groundswell.executors.tasks import THREAD_VARIABLES, Share, single_threaded


@given(st.integers(0, 50), st.integers(1, 60))
def test_shares_are_everything_once(items: int, count: int) -> None:
    shares = [Share.parse(f"{index}/{count}").of(range(items)) for index in range(count)]
    assert sorted(item for share in shares for item in share) == list(range(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.text(max_size=12))
def test_anything_else_is_no_share(text: str) -> None:
    try:
        share = Share.parse(text)
    except UsageError:
        return
    assert 0 <= share.index < share.count
    assert int(text.split("/")[0]) == share.index


@pytest.mark.parametrize("text", ["4/4", "-1/4", "0/0", "1", "1/", "/2", "1/2/3", "a/b", "0.5/2", ""])
def test_what_is_no_task(text: str) -> None:
    with pytest.raises(UsageError, match="is no task"):
        Share.parse(text)


def test_one_thread_inside_and_as_before_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with single_threaded():
            assert torch.get_num_threads() == 1
            assert {pool["num_threads"] for pool in threadpoolctl.threadpool_info()} == {1}
            assert {os.environ[name] for name in THREAD_VARIABLES} == {"1"}
        assert torch.get_num_threads() == 2
        assert os.environ["OMP_NUM_THREADS"] == "3"
        assert "MKL_NUM_THREADS" not in os.environ
    finally:
        torch.set_num_threads(before)
