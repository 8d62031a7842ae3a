"""The manners of the command line: help without heavy imports, JSON alone on standard output, errors on one screen."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

import groundswell
from groundswell import progress
from groundswell.cli import app, verbs  # noqa: F401 - importing the verbs registers them
from groundswell.errors import DataError, StoppedBySignal, UsageError

HEAVY = ("torch", "pandas", "pyarrow", "sklearn", "scipy", "matplotlib", "xarray", "PIL", "pydantic", "numpy")
"""What ``--help`` must not wait for; torch alone takes more than the half second that help may take."""


def loaded_after(code: str) -> list[str]:
    script = f"{code}\nimport sys, json\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


def test_importing_every_verb_imports_nothing_heavy() -> None:
    assert loaded_after("from groundswell.cli import verbs") == []


def test_the_check_would_see_a_heavy_import() -> None:
    assert "pyarrow" in loaded_after("import pyarrow")


def names() -> list[str]:
    return [str(command.name) for command in app.application.registered_commands]


def test_verbs_come_in_the_way_of_the_data() -> None:
    order = ["demo", "simulate", "ingest", "stats", "inspect", "collocate", "views", "pretrain"]
    order += ["ablate", "embed", "attend", "probe", "predict", "report", "search", "list"]
    assert names() == [name for name in order if name in names()]


def test_the_command_tells_its_version() -> None:
    result = CliRunner().invoke(app.application, ["--version"])
    assert (result.exit_code, result.output) == (0, f"groundswell {groundswell.__version__}\n")


@pytest.mark.parametrize("name", names())
def test_every_verb_explains_itself_and_takes_the_common_flags(name: str) -> None:
    result = CliRunner().invoke(app.application, [name, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    for flag in ("--json", "--quiet", "--debug"):
        assert flag in result.output
    assert "groundswell " + name in result.output  # an example to paste


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[CliRunner]:
    """A command line of its own, with verbs that end in every way."""
    monkeypatch.setattr(app, "application", typer.Typer(pretty_exceptions_enable=False))

    @app.verb
    def done(count: int = 3) -> app.Outcome:
        with progress.bar("work", total=count, unit="images") as bar:
            bar.advance(count)
        return app.Outcome({"count": count, "path": None}, f"[bold]{count}[/bold] done")

    @app.verb
    def partial() -> app.Outcome:
        return app.Outcome({"rejected": 2}, "2 set aside", app.PARTIAL)

    @app.verb
    def fail(kind: str) -> app.Outcome:
        if kind == "interrupt":
            raise KeyboardInterrupt
        if kind == "disk":
            raise OSError(30, "Read-only file system", "a.png")
        if kind == "pipe":
            raise BrokenPipeError(32, "Broken pipe")
        raise {"usage": UsageError, "data": DataError, "signal": StoppedBySignal, "bug": ZeroDivisionError}[kind](
            *(["what failed"] if kind != "bug" else []),
            **({"where": "a.png", "why": "line one\nline two", "fix": "do this"} if kind != "bug" else {}),
        )

    yield CliRunner()
    progress.use(progress.SilentReporter())


def test_json_is_one_object_and_nothing_else(runner: CliRunner) -> None:
    result = runner.invoke(app.application, ["done", "--count", "5", "--json"])
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"count": 5, "path": None})


def test_text_is_for_people_and_quiet_drops_it(runner: CliRunner) -> None:
    assert runner.invoke(app.application, ["done"]).stdout == "3 done\n"
    quiet = runner.invoke(app.application, ["done", "--quiet"])
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, "", "")


def test_a_partial_outcome_has_its_own_code(runner: CliRunner) -> None:
    result = runner.invoke(app.application, ["partial"])
    assert (result.exit_code, result.stdout) == (4, "2 set aside\n")
    quiet = runner.invoke(app.application, ["partial", "--quiet"])  # never silently
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (4, "", "2 set aside\n")


@pytest.mark.parametrize(("kind", "code"), [("usage", 2), ("data", 3), ("signal", 75)])
def test_errors_are_told_on_standard_error_without_a_traceback(runner: CliRunner, kind: str, code: int) -> None:
    result = runner.invoke(app.application, ["fail", kind, "--json"])
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "error: what failed",
        "  where: a.png",
        "    why: line one",
        "         line two",
        "    fix: do this",
    ]


def test_debug_shows_the_traceback_and_bugs_are_never_hidden(runner: CliRunner) -> None:
    assert isinstance(runner.invoke(app.application, ["fail", "data", "--debug"]).exception, DataError)
    assert isinstance(runner.invoke(app.application, ["fail", "bug"]).exception, ZeroDivisionError)


def test_a_refusal_of_the_system_is_no_traceback(runner: CliRunner) -> None:
    result = runner.invoke(app.application, ["fail", "disk"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[:3] == [
        "error: the system refused to read or write",
        "  where: a.png",
        "    why: Read-only file system",
    ]
    assert "--debug" in result.stderr
    assert isinstance(runner.invoke(app.application, ["fail", "disk", "--debug"]).exception, OSError)
    assert runner.invoke(app.application, ["fail", "pipe"]).stderr == ""  # nobody reads it


def test_interruption_has_the_code_of_the_shell(runner: CliRunner) -> None:
    assert runner.invoke(app.application, ["fail", "interrupt"]).exit_code == 130


def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "groundswell", "stats", "/no/such/archive"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert done.stdout == ""
    assert "there is no such archive" in done.stderr
    assert "Traceback" not in done.stderr
