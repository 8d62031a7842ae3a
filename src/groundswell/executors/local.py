"""Tasks done by processes of this machine.

Each worker is started afresh (spawn, so no lock or thread of this process is copied) and is looked after by a thread
here, which sends it a task, waits, and takes the result. A worker that dies closes its pipe: its task is `Lost`, and a
new worker takes its place. Workers write nothing, and leave when this process does, however it ends.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from groundswell.errors import GroundswellError
from groundswell.executors.tasks import Context, Lost, Result, Task, cores, single_threaded

AHEAD = 4
"""Tasks in hand for each worker: enough that none waits while the results of others are written."""
_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Local:
    """Does tasks in ``workers`` processes, each with one thread.

    For the first ``patience_s`` seconds tasks are done in this process: a small job is over before workers are there.
    A script that uses this must do so below ``if __name__ == "__main__"``: each worker imports it.
    """

    workers: int = field(default_factory=cores)
    patience_s: float = 2.0

    def map(
        self, function: Callable[[Context, Task], Result], context: Context, tasks: Iterable[Task]
    ) -> Generator[Result | Lost, None, None]:
        """As `Executor.map`."""
        with single_threaded():
            rest, start = iter(tasks), time.monotonic()
            while self.workers == 1 or time.monotonic() - start < self.patience_s:
                for task in rest:
                    yield function(context, task)
                    break
                else:
                    return
            yield from self._by_workers(_Crew(function, context), rest)

    def _by_workers(self, crew: _Crew, tasks: Iterable[Any]) -> Generator[Any, None, None]:
        waiting: deque[Future[Any]] = deque()
        threads = ThreadPoolExecutor(self.workers)
        try:
            for task in tasks:
                waiting.append(threads.submit(crew.do, task))
                if len(waiting) >= AHEAD * self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            crew.stop()
            threads.shutdown(cancel_futures=True)


@dataclass
class _Worker:
    """A process at the other end of a pipe."""

    name: str
    process: SpawnProcess
    pipe: Connection

    def ended(self) -> str:
        """How the process ended, once it has."""
        self.process.join()
        code = self.process.exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"left with exit code {code}"
        return f"{self.name} (process {self.process.pid}) {how}"


class _Crew:
    """The workers, one for each thread that calls `do`."""

    def __init__(self, function: Callable[[Any, Any], Any], context: Any) -> None:
        self.function, self.context = function, context
        self.mine = threading.local()
        self.lock = threading.Lock()
        self.workers: list[_Worker] = []
        self.stopped = False

    def do(self, task: Any) -> Any:
        """The result of a task by the worker of this thread, or how it was `Lost`."""
        worker: _Worker | Lost | None = getattr(self.mine, "worker", None)
        if worker is None:
            worker = self.mine.worker = self.start()
        if isinstance(worker, Lost):
            self.mine.worker = None
            return worker
        try:
            worker.pipe.send(task)
            raised, result = worker.pipe.recv()
        except (EOFError, OSError):
            self.mine.worker = None
            return Lost(worker.ended())
        if raised:
            raise result
        return result

    def start(self) -> _Worker | Lost:
        """A new worker, once it is ready for its first task, unless it is killed before that."""
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        with self.lock:
            if self.stopped:
                raise GroundswellError("the workers were stopped")
            name = f"worker {len(self.workers) + 1}"
            process = spawn.Process(target=_work, args=(theirs,), name=name, daemon=True)
            worker = _Worker(name, process, ours)
            # A Ctrl-C reaches every process of the terminal: inherited, this mask leaves it to the parent alone.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if os.name == "posix" else None
            try:
                process.start()
            finally:
                if before is not None:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self.workers.append(worker)
        theirs.close()
        try:
            # Not among the arguments of the process: written before that has begun to read, a large one would wait
            # for ever on a process that was killed meanwhile.
            ours.send((self.function, self.context))
            ours.recv()
        except (EOFError, OSError) as error:
            process.join()
            if (process.exitcode or 0) < 0:
                return Lost(worker.ended())
            raise GroundswellError(
                "a worker process could not start",
                why=worker.ended(),
                fix="its own message is above; --workers 1 does everything in one process",
            ) from error
        return worker

    def stop(self) -> None:
        """End every worker, whatever it does."""
        with self.lock:
            self.stopped = True
            for worker in self.workers:
                worker.process.terminate()
            for worker in self.workers:
                worker.process.join(_GRACE_S)
                worker.process.kill()


def _work(pipe: Connection) -> None:
    """The life of a worker: tasks in, results out, until the pipe is closed or the parent is gone."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    function, context = pipe.recv()
    pipe.send("ready")
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            answer = (False, function(context, task))
        except Exception as error:
            answer = (True, _portable(error))
        pipe.send(answer)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """An exception that survives the way to the parent, with the traceback as a note."""
    text = "".join(traceback.format_exception(error))
    try:
        error.add_note(f"in a worker process:\n{text}")
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"in a worker process:\n{text}")
    return error
