"""Tasks done by the workers of a Dask cluster (the ``distributed`` scheduler)."""

from __future__ import annotations

import functools
import sys
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import threadpoolctl

from groundswell.errors import GroundswellError, UsageError
from groundswell.executors.tasks import Context, Lost, Result, Task, cores, single_threaded

AHEAD = 4
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Dask:
    """Does tasks on the cluster whose scheduler is at ``scheduler`` (``tcp://host:8786``, or a scheduler file).

    Without an address a cluster of ``workers`` processes is started on this machine for the time being. The workers
    of another cluster need the same version of groundswell, and must see the source under the same paths.
    """

    scheduler: str | None = None
    workers: int | None = None

    def map(
        self, function: Callable[[Context, Task], Result], context: Context, tasks: Iterable[Task]
    ) -> Generator[Result | Lost, None, None]:
        """As `Executor.map`.

        Raises
        ------
        UsageError
            When ``distributed`` is not installed.
        GroundswellError
            When the scheduler does not answer.
        """
        try:
            import distributed
        except ImportError as error:
            raise UsageError(
                "the executor dask needs the package distributed", fix="pip install 'groundswell[dask]'"
            ) from error
        with ExitStack() as stack:
            stack.enter_context(single_threaded())
            client = stack.enter_context(self._client(distributed, stack))
            # A plugin reaches every worker once, those that take the place of a dead one too; scattered data does not.
            name = f"groundswell-{uuid.uuid4()}"
            client.register_plugin(_plugin(distributed, context), name=name)
            stack.callback(_forget, client, name)
            ahead = AHEAD * max(1, sum(client.nthreads().values()))
            waiting: deque[Any] = deque()
            for task in tasks:
                waiting.append(client.submit(_call, function, name, task, pure=False))
                if len(waiting) >= ahead:
                    yield _result(distributed, waiting.popleft())
            while waiting:
                yield _result(distributed, waiting.popleft())

    def _client(self, distributed: Any, stack: ExitStack) -> Any:
        if self.scheduler is None:
            try:
                cluster = distributed.LocalCluster(
                    n_workers=self.workers or cores(), threads_per_worker=1, dashboard_address=":0"
                )
                return distributed.Client(stack.enter_context(cluster), set_as_default=False)
            except (OSError, RuntimeError) as error:
                raise GroundswellError(
                    "a Dask cluster could not start on this machine",
                    why=str(error).splitlines()[0] if str(error) else type(error).__name__,
                    fix="give it fewer --workers, or use --executor local",
                ) from error
        try:
            if self.scheduler.endswith(".json"):
                return distributed.Client(scheduler_file=self.scheduler, timeout=_TIMEOUT_S, set_as_default=False)
            return distributed.Client(self.scheduler, timeout=_TIMEOUT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise GroundswellError(
                "the Dask scheduler does not answer",
                where=self.scheduler,
                why=str(error).splitlines()[0],
                fix="give the address that `dask scheduler` printed, such as --scheduler tcp://host:8786",
            ) from error


def _result(distributed: Any, future: Any) -> Any:
    try:
        return future.result()
    except distributed.KilledWorker as error:
        return Lost(f"worker {error.last_worker.address} of the Dask cluster died with it, as did those before")
    except (distributed.CancelledError, distributed.comm.CommClosedError) as error:
        raise GroundswellError(
            "the Dask scheduler is gone", why=str(error).splitlines()[0], fix="start it, and run the same command again"
        ) from error


def _forget(client: Any, name: str) -> None:
    with suppress(OSError):  # a scheduler that is gone has forgotten
        client.unregister_worker_plugin(name)


def _plugin(distributed: Any, context: Any) -> Any:
    plugin: Any = distributed.WorkerPlugin()
    plugin.context = context
    return plugin


def _call(function: Callable[[Any, Any], Any], name: str, task: Any) -> Any:
    from distributed import get_worker

    _one_thread()
    plugins: dict[str, Any] = dict(get_worker().plugins)
    return function(plugins[name].context, task)


@functools.cache
def _one_thread() -> None:
    """One thread for BLAS, OpenMP and torch in this worker, for good."""
    threadpoolctl.threadpool_limits(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
