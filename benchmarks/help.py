"""How long `groundswell --help` takes, beside a bare interpreter: it must answer within half a second.

python benchmarks/help.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

LIMIT_S = 0.5
REPEATS = 7


def seconds(arguments: list[str]) -> float:
    """Median wall time of a command, in seconds, after one run that warms the disk cache."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    """Print the table."""
    bare = seconds(["-c", "pass"])
    print(f"python -c pass              {bare:.3f} s")
    for arguments in (["--help"], ["ingest", "--help"], ["pretrain", "--help"], ["stats", "--help"]):
        taken = seconds(["-m", "groundswell", *arguments])
        verdict = "within" if taken <= LIMIT_S else "BEYOND"
        print(
            f"{'groundswell ' + ' '.join(arguments):27} {taken:.3f} s, {taken / bare:.0f} x bare, {verdict} {LIMIT_S} s"
        )


if __name__ == "__main__":
    main()
