"""How it was made: commands, versions, settings, hashes, wall time."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from groundswell.report.blocks import Block, Details, Section, Table, Text, cells
from groundswell.report.inputs import Inputs

PACKAGES = ("groundswell", "torch", "numpy", "scipy", "pandas", "pyarrow", "scikit-learn", "matplotlib")


def made(inputs: Inputs, command: str) -> Section:
    """Stages with their commands and seconds where a demo left them; versions; the identity of every input."""
    blocks: list[Block] = []
    if inputs.stages:
        blocks.append(_stages(inputs.stages))
    blocks.append(Text(f"This report: {command}", note=True))
    hashes = [(f"archive {a.path.name}", a.hash) for a in inputs.archives]
    for file in inputs.tables:
        header = file.table.header
        hashes.append((f"table {file.name}", f"{header.model}, preprocessing {header.preprocessing_hash}"))
    if hashes:
        blocks.append(Details("Identity of archives and encoders", pairs=hashes))
    versions = [(name, metadata.version(name)) for name in PACKAGES]
    versions += [("python", platform.python_version()), ("platform", platform.platform())]
    blocks.append(Details("Versions that wrote this report", pairs=versions))
    for run in inputs.runs:
        for entry in run.environment:
            pairs = [(name, _text(value)) for name, value in entry.items()]
            blocks.append(Details(f"Machine and versions of the training run {run.path.name}", pairs=pairs))
    return Section("made", "How it was made", blocks)


def _stages(stages: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for stage in sorted(stages, key=lambda s: s["order"]):
        seconds = f"{stage['seconds']:.1f} s" + (", after a stop" if stage.get("resumed") else "")
        rows.append(cells(stage["stage"], stage["command"], seconds, stage["key"][:12]))
    return Table(("stage", "the same by hand", "wall time", "key"), rows, "Stages", text_columns=(0, 1))


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return " ".join(value)
    return value if isinstance(value, str) else json.dumps(value, default=str)
