"""The Dask executor: a scheduler at an address or one of its own, results in order, deaths named."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import executor_jobs
import pytest

from groundswell.errors import DataError, GroundswellError, UsageError
from groundswell.executors.dask import Dask
from groundswell.executors.tasks import Lost

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


def test_results_come_in_the_order_of_the_tasks_on_one_thread(address: str) -> None:
    executor = Dask(address)
    assert list(executor.map(executor_jobs.scaled, 3, range(12))) == [3 * task for task in range(12)]
    found = [f for f in executor.map(executor_jobs.threads, None, range(4)) if not isinstance(f, Lost)]
    assert {(f["torch"], *f["pools"]) for f in found} == {(1, 1)}


def test_the_default_of_dask_stays_what_it_was(address: str) -> None:
    dask = pytest.importorskip("dask")
    before = dask.config.get("scheduler", None)
    results = Dask(address).map(executor_jobs.scaled, 3, range(4))
    assert next(results) == 0  # the client is at work
    assert dask.config.get("scheduler", None) == before
    assert list(results) == [3, 6, 9]


def test_errors_are_raised_in_turn(address: str) -> None:
    results = Dask(address).map(executor_jobs.mostly, {2: "raise"}, range(5))
    assert [next(results)[0], next(results)[0]] == [0, 1]  # type: ignore[index]
    with pytest.raises(DataError, match="a bad task"):
        next(results)


def test_a_task_that_kills_its_workers_is_lost_and_the_others_are_not() -> None:
    results = list(Dask(workers=2).map(executor_jobs.mostly, {3: "die"}, range(6)))
    lost = {task: result.reason for task, result in enumerate(results) if isinstance(result, Lost)}
    assert "of the Dask cluster died" in lost.pop(3)
    # Dask also suspects a task that was queued on every worker that died: at most one, where a queue holds two.
    assert len(lost) <= 1
    assert {r[0] for r in results if not isinstance(r, Lost)} | set(lost) == {0, 1, 2, 4, 5}


def test_no_answer_and_no_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundswell.executors.dask._TIMEOUT_S", 0.5)
    with pytest.raises(GroundswellError, match="does not answer") as error:
        list(Dask("tcp://127.0.0.1:9").map(executor_jobs.scaled, 1, range(2)))
    assert error.value.where == "tcp://127.0.0.1:9"
    with pytest.raises(GroundswellError, match="does not answer"):
        list(Dask("nonsense://x").map(executor_jobs.scaled, 1, range(2)))
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match="distributed") as missing:
        list(Dask().map(executor_jobs.scaled, 1, range(2)))
    assert missing.value.fix == "pip install 'groundswell[dask]'"


def test_a_scheduler_that_goes_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundswell.executors.dask._TIMEOUT_S", 1.0)
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0")
    try:
        results = Dask(cluster.scheduler_address).map(executor_jobs.mostly, {}, range(20))
        assert next(results)[0] == 0  # type: ignore[index]
        cluster.close()
        with pytest.raises(GroundswellError, match="scheduler is gone"):
            list(results)
    finally:
        cluster.close()
