"""How long `groundswell --help` takes, beside a bare interpreter: it must answer within half a second of CPU.

python benchmarks/help.py
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time

LIMIT_S = 0.5
REPEATS = 7


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Median user time and wall time of a command, in seconds, after one run that warms the disk cache."""
    user, wall = [], []
    for _ in range(REPEATS + 1):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        wall.append(time.perf_counter() - start)
        user.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
    return statistics.median(user[1:]), statistics.median(wall[1:])


def main() -> None:
    """Print the table."""
    bare = seconds(["-c", "pass"])
    print(f"{'':28}user      wall\n{'python -c pass':27} {bare[0]:.3f} s   {bare[1]:.3f} s")
    for arguments in (["--help"], ["ingest", "--help"], ["pretrain", "--help"], ["stats", "--help"]):
        user, wall = seconds(["-m", "groundswell", *arguments])
        verdict = "within" if user <= LIMIT_S else "BEYOND"
        name = "groundswell " + " ".join(arguments)
        print(f"{name:27} {user:.3f} s   {wall:.3f} s   {user / bare[0]:.0f} x bare, {verdict} {LIMIT_S} s")


if __name__ == "__main__":
    main()
