"""Who may write: a lock that the operating system lets go of however its holder ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from groundswell.errors import UsageError

LOCK_FILE = ".lock"


@contextmanager
def held(path: Path, busy: str, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock file, alone or with others that share it; `UsageError` (``busy``) when it is held otherwise.

    On file systems of several machines this needs one that knows ``flock`` (NFS 4, Lustre mounted with ``flock``).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as handle:
        if os.name == "posix":
            import fcntl

            try:
                fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    busy,
                    where=path.parent,
                    fix="wait until it has finished, or stop it; what it has committed is kept",
                ) from None
        yield
