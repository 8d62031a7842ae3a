"""Worker processes: results in order, deaths named, one thread each, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import executor_jobs
import pytest

from groundswell.errors import DataError, GroundswellError
from groundswell.executors.local import AHEAD, Local
from groundswell.executors.tasks import Executor, Lost, Serial

AT_ONCE = Local(2, patience_s=0)


def alive(process: int) -> bool:
    """Whether a process runs (one that has ended and waits for its parent to ask does not)."""
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.mark.parametrize("executor", [Serial(), AT_ONCE, Local(1), Local(2, patience_s=0.1)], ids=str)
def test_results_come_in_the_order_of_the_tasks(executor: Executor) -> None:
    assert list(executor.map(executor_jobs.scaled, 3, range(12))) == [3 * task for task in range(12)]
    assert list(executor.map(executor_jobs.scaled, 3, [])) == []


def test_tasks_are_drawn_only_a_little_ahead() -> None:
    drawn: list[int] = []

    def tasks() -> Iterator[int]:
        for task in range(1000):
            drawn.append(task)
            yield task

    results = AT_ONCE.map(executor_jobs.scaled, 1, tasks())
    assert next(results) == 0
    assert len(drawn) == 2 * AHEAD
    results.close()


def test_a_small_job_is_done_without_workers() -> None:
    results = Local(2, patience_s=60).map(executor_jobs.mostly, {}, range(3))
    assert [process for _, process in results] == [os.getpid()] * 3  # type: ignore[misc]


def test_workers_are_processes_of_one_thread_each() -> None:
    found = [f for f in AT_ONCE.map(executor_jobs.threads, None, range(8)) if not isinstance(f, Lost)]
    assert {f["torch"] for f in found} == {1}
    assert {tuple(f["pools"]) for f in found} == {(1,)}
    assert os.getpid() not in {f["pid"] for f in found}


@pytest.mark.parametrize(("what", "how"), [("die", "was ended by SIGKILL"), ("exit", "left with exit code 3")])
def test_a_worker_that_dies_is_named_and_the_others_go_on(what: str, how: str) -> None:
    results = list(AT_ONCE.map(executor_jobs.mostly, {2: what, 9: what}, range(12)))
    lost = {task: result for task, result in enumerate(results) if isinstance(result, Lost)}
    assert sorted(lost) == [2, 9]
    for loss in lost.values():
        assert loss.reason.startswith("worker ")
        assert loss.reason.endswith(how)
    assert [r[0] for r in results if not isinstance(r, Lost)] == [t for t in range(12) if t not in lost]


def test_an_error_is_raised_when_the_turn_of_its_task_has_come() -> None:
    results = AT_ONCE.map(executor_jobs.mostly, {3: "raise"}, range(8))
    for task in range(3):
        result = next(results)
        assert not isinstance(result, Lost)
        assert result[0] == task
    with pytest.raises(DataError, match="a bad task") as error:
        next(results)
    assert (error.value.where, error.value.fix) == ("3", "leave it out")
    with pytest.raises(KeyError) as bug:
        list(AT_ONCE.map(executor_jobs.mostly, {0: "bug"}, range(2)))
    assert "executor_jobs.py" in "".join(bug.value.__notes__)


def test_a_worker_that_cannot_start_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GroundswellError, match="could not start") as error:
        list(AT_ONCE.map(executor_jobs.mostly, executor_jobs.Heavy(), range(2)))  # type: ignore[arg-type]
    assert "exit code 1" in str(error.value.why)
    assert "refused on purpose" in capfd.readouterr().err


def test_workers_killed_while_they_start_lose_their_tasks_alone() -> None:
    context = executor_jobs.Large(os.getpid(), bytes(1_000_000))
    results = list(AT_ONCE.map(executor_jobs.mostly, context, range(3)))  # type: ignore[arg-type]
    assert [isinstance(r, Lost) and r.reason.endswith("was ended by SIGKILL") for r in results] == [True] * 3


def test_closing_ends_busy_workers() -> None:
    results = AT_ONCE.map(executor_jobs.mostly, dict.fromkeys(range(2, 20), "sleep"), range(20))
    found = [next(results), next(results)]
    processes = [f[1] for f in found if not isinstance(f, Lost)]
    assert len(processes) == 2
    start = time.monotonic()
    results.close()
    assert not any(map(alive, processes))
    assert time.monotonic() - start < 30  # the tasks at hand would have taken a minute


def test_workers_leave_when_their_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, executor_jobs.__file__, str(tmp_path)], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert wait_until(lambda: sum(p.stat().st_size > 0 for p in tmp_path.glob("*.pid")) == 2)
        workers = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
        assert all(map(alive, workers))
        parent.kill()
        parent.wait()
        assert wait_until(lambda: not any(map(alive, workers)))
    finally:
        if parent.poll() is None:
            os.killpg(parent.pid, signal.SIGKILL)
        parent.communicate()
