"""Who may write: a lock that the operating system lets go of however its holder ends."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from groundswell.errors import BusyError, GroundswellError

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"
_LEASE = 180.0  # seconds; of NFS 4 it is 90


def patience() -> float:
    """Seconds to wait for a lock: a job that Slurm started again may meet that of its machine that died."""
    return _LEASE if "SLURM_RESTART_COUNT" in os.environ else 0.0


@contextmanager
def held(path: Path, busy: str, *, shared: bool = False, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock file, alone or with others that share it; `BusyError` (``busy``) when it is held otherwise.

    On file systems of several machines this needs one that knows ``flock`` (NFS 4, Lustre mounted with ``flock``);
    where one does not, that is said in the log. ``patience`` is how many seconds to wait for another holder.
    `GroundswellError` where the disk refuses the file.
    """
    with _opened(path) as handle:
        if os.name == "posix":
            _lock(handle.fileno(), path, busy, shared, time.monotonic() + patience)
        yield


def _opened(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")
    except OSError as error:
        raise GroundswellError(
            "could not make a lock file",
            where=path,
            why=error.strerror or str(error),
            fix="choose a folder that can be written to, on a disk with space left",
        ) from error


def _lock(descriptor: int, path: Path, busy: str, shared: bool, until: float) -> None:
    import fcntl

    while True:
        try:
            return fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise BusyError(
                    busy,
                    where=path.parent,
                    fix="wait until it has finished, or stop it; what it has committed is kept",
                ) from None
            time.sleep(0.5)
        except OSError as error:
            log.warning("%s cannot be locked (%s): see that no other process writes there", path.parent, error.strerror)
            return None
