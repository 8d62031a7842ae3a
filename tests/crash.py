"""Kill a process at a named point, make its disk fail, or kill it at a random moment; compare what is left.

A point is ``kind:what:number``: the ``number``-th (from 1) call of ``replace`` (os.replace, os.rename), ``fsync`` or
``write`` (of a file opened for writing), and what happens there:

- ``before``, ``after``, and for writes ``middle`` (half of the bytes are out): SIGKILL to the process group
- ``enospc``, ``eio``: that call and, for a full disk, every later write fails with this error
- ``short``: a write takes half of what it was given, once, which is allowed and must change nothing
- ``power``: the call raises `PowerLost`; `Trap.lose` then takes from the disk whatever was not synced

The program is not prepared for this in any way: the calls are patched in the child. A killed process leaves its page
cache behind: only ``power`` tells whether what is committed was durable.

As a program: ``python tests/crash.py [--point P] [--alone] [--counts FILE] -- groundswell ...`` or ``--
module:function JSON``. With ``--alone`` only the process at the point is killed, and not those that it started.
"""

from __future__ import annotations

import argparse
import builtins
import errno
import hashlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KINDS = {
    "replace": ("before", "after", "eio", "enospc"),
    "fsync": ("before", "after", "eio", "enospc"),
    "write": ("before", "middle", "after", "eio", "enospc", "short"),
}
READY = "ready"
_TESTS = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Point:
    """One named point; see the module."""

    kind: str
    what: str
    number: int

    @classmethod
    def parse(cls, text: str) -> Point:
        kind, what, number = text.split(":")
        if what not in (*KINDS[kind], "power"):
            raise ValueError(f"{kind} has no {what}; known: {KINDS[kind]}")
        return cls(kind, what, int(number))

    def __str__(self) -> str:
        return f"{self.kind}:{self.what}:{self.number}"


@dataclass
class Trap:
    """Counts the calls of each kind and springs at its point."""

    point: Point | None = None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    log: list[tuple[str, str]] = field(default_factory=list)
    full: bool = False
    alone: bool = False
    lying: bool = False
    unsynced: set[str] = field(default_factory=set)
    renames: list[tuple[str, str, bytes | None]] = field(default_factory=list)

    def kill(self) -> None:
        """SIGKILL to this process, and to all it started unless it is to die alone."""
        if self.alone:
            os.kill(os.getpid(), signal.SIGKILL)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    def enter(self, kind: str, name: str) -> str:
        """Count a call; what is to happen at it ('' for nothing). Kills and errors 'before' happen here."""
        self.counts[kind] += 1
        self.log.append((kind, name))
        if kind == "write" and self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        point = self.point
        if point is None or point.kind != kind or point.number != self.counts[kind]:
            return ""
        if point.what == "before":
            self.kill()
        if point.what == "power":
            raise PowerLost
        if point.what in ("eio", "enospc"):
            self.full = point.what == "enospc"
            code = getattr(errno, point.what.upper())
            raise OSError(code, os.strerror(code), name)
        return point.what

    def renaming(self, source: str, target: str) -> None:
        """Note a rename that is about to happen: until its folder is synced, it may be as if it never was."""
        old = Path(target).read_bytes() if Path(target).is_file() else None
        self.renames.append((source, target, old))
        self.unsynced.discard(target)
        if source in self.unsynced:
            self.unsynced.remove(source)
            self.unsynced.add(target)

    def synced(self, name: str) -> None:
        """Note that a file, or the names in a folder, are on the disk to stay (unless the disk is ``lying``)."""
        if not self.lying:
            self.unsynced.discard(name)
            self.renames = [rename for rename in self.renames if str(Path(rename[1]).parent) != name]

    def lose(self, names_too: bool) -> None:
        """Take from the disk what was never synced: content, and (which a disk may have kept) renames."""
        for name in self.unsynced:
            if Path(name).exists():
                os.truncate(name, 0)
        for source, target, old in reversed(self.renames) if names_too else ():
            if Path(target).exists() and Path(source).parent.exists():
                Path(target).rename(source)
            if old is not None:
                Path(target).write_bytes(old)


class PowerLost(BaseException):
    """The power fails: nothing that this process does from here on reaches the disk, save what must be cleaned up."""


class _Raw(io.FileIO):
    """A file whose writes pass through the trap."""

    def __init__(self, file: Any, mode: str, trap: Trap) -> None:
        super().__init__(file, mode)
        self.trap = trap

    def write(self, data: Any) -> int:
        what = self.trap.enter("write", str(self.name))
        view = memoryview(data).cast("B")
        if what == "short":
            return super().write(view[: max(1, len(view) // 2)])
        if what == "middle":
            super().write(view[: len(view) // 2])
            self.trap.kill()
        self.trap.unsynced.add(str(self.name))
        written = super().write(view)
        if what == "after":
            self.trap.kill()
        return written


def _name(file: Any) -> str:
    """The path of a file, also where it is given as a descriptor (Linux; else the number)."""
    link = Path(f"/proc/self/fd/{file}")
    return str(link.readlink()) if isinstance(file, int) and link.is_symlink() else str(file)


@contextmanager
def trapped(point: str | None = None, *, alone: bool = False, lying: bool = False) -> Iterator[Trap]:
    """Patch os.replace, os.rename, os.fsync and open for writing in this process."""
    trap = Trap(Point.parse(point) if point else None, alone=alone, lying=lying)
    saved = {name: getattr(os, name) for name in ("replace", "rename", "fsync")}
    opened = io.open

    def patched(kind: str, real: Any) -> Any:
        def call(first: Any, *args: Any, **kwargs: Any) -> Any:
            name = _name(first)
            what = trap.enter(kind, name)
            if kind == "replace":
                trap.renaming(name, str(args[0]))
            result = real(first, *args, **kwargs)
            if kind == "fsync":
                trap.synced(name)
            if what == "after":
                trap.kill()
            return result

        return call

    def open_(file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not set(mode) & set("wax") or "+" in mode or buffering == 0 or isinstance(file, int):
            return opened(file, mode, buffering, encoding, *args, **kwargs)
        binary = io.BufferedWriter(_Raw(file, mode.replace("b", "").replace("t", ""), trap))
        return (
            binary
            if "b" in mode
            else io.TextIOWrapper(binary, encoding=encoding or "utf-8", newline=kwargs.get("newline"))
        )

    try:
        os.replace, os.rename = patched("replace", saved["replace"]), patched("replace", saved["rename"])
        os.fsync = patched("fsync", saved["fsync"])
        io.open = builtins.open = open_  # type: ignore[assignment]
        yield trap
    finally:
        for name, real in saved.items():
            setattr(os, name, real)
        io.open = builtins.open = opened


@dataclass(frozen=True)
class Ended:
    """How a child ended; ``counts`` only where it was asked for and the child lived."""

    returncode: int
    stdout: str
    stderr: str
    counts: dict[str, int]

    @property
    def killed(self) -> bool:
        return self.returncode == -signal.SIGKILL


def run(
    command: Sequence[str],
    *,
    point: str | None = None,
    after_s: float | None = None,
    when: Callable[[], bool] = lambda: True,
    victim: str = "group",
    count: Path | None = None,
    timeout_s: float = 1200.0,
) -> Ended:
    """Run ``["groundswell", ...]`` or ``["module:function", json]`` in a child with its own process group.

    It is killed at ``point``, or ``after_s`` seconds after its imports are done and ``when`` has come true, or never:
    with all that it started (``group``), alone (``parent``), or, after a time only, one ``worker`` in its stead. What
    outlives it is waited for, for it holds the other end of the pipes.
    """
    options = (
        (["--point", point] if point else [])
        + (["--alone"] if victim == "parent" else [])
        + (["--counts", str(count)] if count else [])
    )
    if count is not None:
        count.unlink(missing_ok=True)
    paths = [str(_TESTS), str(_TESTS / "archive"), str(_TESTS / "training"), os.environ.get("PYTHONPATH", "")]
    child = subprocess.Popen(
        [sys.executable, str(_TESTS / "crash.py"), *options, "--", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
    )
    assert child.stdout is not None
    over = threading.Event()
    if after_s is not None and child.stdout.readline().strip() == READY:
        kill = {"group": _kill, "parent": _kill_parent, "worker": _kill_worker}[victim]
        threading.Thread(target=_watch, args=(child, when, after_s, over, kill), daemon=True).start()
    try:
        stdout, stderr = child.communicate(timeout=timeout_s)
    finally:
        over.set()
        _kill(child)
    counts = json.loads(count.read_text()) if count is not None and count.exists() else {}
    return Ended(child.returncode, stdout, stderr, counts)


def _watch(
    child: subprocess.Popen[str],
    when: Callable[[], bool],
    after_s: float,
    over: threading.Event,
    kill: Callable[[subprocess.Popen[str]], None],
) -> None:
    """Kill ``after_s`` seconds after ``when`` has come true, unless it is over by then."""
    while not when():
        if over.wait(0.002):
            return
    if not over.wait(after_s):
        kill(child)


def _kill(child: subprocess.Popen[str]) -> None:
    """Kill the whole group of a child that still runs (a reaped child's number may be another's)."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)


def _kill_parent(child: subprocess.Popen[str]) -> None:
    child.kill()


def _kill_worker(child: subprocess.Popen[str]) -> None:
    """Kill one worker process of the child, if it has any yet."""
    for worker in workers(child.pid)[:1]:
        os.kill(worker, signal.SIGKILL)


def workers(process: int) -> list[int]:
    """The worker processes of a process, whichever of its threads started them (Linux)."""
    children: list[str] = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            children += path.read_text().split()
    return [int(child) for child in children if "spawn_main" in _command_line(child)]


def _command_line(process: str) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text()
    return ""


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _child() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--point")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--counts")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if command[0] == "groundswell":
        from groundswell.cli.app import main

        sys.argv = command
        job = main
    else:
        module, _, name = command[0].partition(":")
        function = getattr(importlib.import_module(module), name)
        arguments = json.loads(command[1]) if len(command) > 1 else {}

        def job() -> None:
            function(**arguments)

    print(READY, flush=True)
    with trapped(options.point, alone=options.alone) as trap:
        try:
            job()
        finally:
            counts = json.dumps(trap.counts).encode()
            if options.counts:
                descriptor = os.open(options.counts, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.write(descriptor, counts)


if __name__ == "__main__":
    _child()
