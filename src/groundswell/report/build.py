"""From paths to one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from groundswell import files
from groundswell.report.blocks import Section
from groundswell.report.html import Page, render
from groundswell.report.inputs import Inputs, find
from groundswell.report.sections.data import banner, data_section, data_used, first_line
from groundswell.report.sections.embeddings import gallery_section, map_section
from groundswell.report.sections.made import made
from groundswell.report.sections.scores import score_sections
from groundswell.report.sections.training import training
from groundswell.report.sections.verdict import verdict

TITLE = "What the encoder has learned"


@dataclass(frozen=True)
class ReportWritten:
    """What was written.

    Attributes
    ----------
    path : Path
    bytes : int
    sections : tuple of str
        Ids of the chapters; those whose material was not given are missing.
    data : str
        The first line: which data.
    verdict : tuple of str
        The sentences of the verdict.
    """

    path: Path
    bytes: int
    sections: tuple[str, ...]
    data: str
    verdict: tuple[str, ...]


def write_report(
    paths: Sequence[str | Path], output: str | Path, *, title: str = TITLE, command: str | None = None
) -> ReportWritten:
    """Write one self-contained HTML file about whatever lies at ``paths``.

    Parameters
    ----------
    paths : sequence of path
        Archives, run directories, RESULTS folders, embedding tables, or folders that hold some of these.
    output : path
    title : str
    command : str, optional
        The command that asked for it, for the last chapter.

    Raises
    ------
    UsageError
        When a path holds nothing that can be reported.
    DataError
        When something is recognised but damaged.
    """
    inputs = find(paths)
    line, simulated = first_line(data_used(inputs))
    asked = command or f"groundswell report {' '.join(str(p) for p in paths)} -o {output}"
    sections = chapters(inputs, asked)
    now = datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC")
    page = Page(
        title=title,
        data=line,
        simulated=simulated,
        banner=banner(inputs),
        sections=sections,
        made=f"Written by groundswell {metadata.version('groundswell')} on {now.lstrip('0')}.",
    )
    content = render(page).encode()
    files.write_bytes(output, content)
    sentences = tuple(sentence for _, sentence in verdict(inputs.results))
    return ReportWritten(Path(output), len(content), tuple(s.id for s in sections), line, sentences)


def chapters(inputs: Inputs, command: str) -> list[Section]:
    """The chapters for which there is material, in their order."""
    makers: list[Callable[[], Section | list[Section] | None]] = [
        lambda: score_sections(inputs.results),
        lambda: data_section(inputs),
        lambda: training(inputs.runs),
        lambda: map_section(inputs),
        lambda: gallery_section(inputs),
        lambda: made(inputs, command),
    ]
    sections: list[Section] = []
    for make in makers:
        found = make()
        sections += found if isinstance(found, list) else [found] if found else []
    return sections
