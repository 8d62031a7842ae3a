"""Scripts of benchmarks/ as their tests see them."""

import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "benchmarks"


@contextmanager
def loaded(name: str) -> Iterator[dict[str, Any]]:
    """The names of a script that times methods; inside, it finds its neighbours, of which one is called `methods`."""
    ours = {name: sys.modules.pop(name) for name in [*sys.modules] if name.split(".")[0] == "methods"}
    sys.path.insert(0, str(FOLDER))
    try:
        script = runpy.run_path(str(FOLDER / name))
        script["build"].__globals__["keep_freed_memory"] = lambda: False  # other tests run in this process
        yield script
    finally:
        sys.path.remove(str(FOLDER))
        sys.modules.pop("methods", None)
        sys.modules.update(ours)
