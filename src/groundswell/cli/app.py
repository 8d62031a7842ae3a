"""The command line: one thin file per verb; this one joins them and gives them their manners.

Every verb takes ``--json``, ``--quiet`` and ``--debug``, prints errors on one screen, and exits 0 done, 1 failed,
2 usage, 3 data, 4 partial, 75 stopped by a signal with a checkpoint. No verb imports torch before it is needed.
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from groundswell import __version__, progress
from groundswell.errors import GroundswellError

application = typer.Typer(
    name="groundswell",
    help="Foundation models for ocean SAR images: simulate, ingest, pretrain, embed, probe, search.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

PARTIAL = 4


@dataclass
class Outcome:
    """What a verb did.

    Attributes
    ----------
    data : dict
        The result as a JSON-able object; ``--json`` prints exactly this.
    text : str
        The same for people (rich markup allowed); ``--quiet`` drops it, and where not everything could be done says
        it on standard error.
    exit_code : int
        0, or 4 where only a part could be done.
    """

    data: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    exit_code: int = 0


JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object on standard output, nothing else there.")
]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and what could not be done.")]
DebugFlag = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
_COMMON = {"json": JsonFlag, "quiet": QuietFlag, "debug": DebugFlag}


def verb(function: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Register a function as a verb: adds the common flags, shows progress, prints the outcome or the error."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        as_json, quiet, debug = (kwargs.pop(name) for name in _COMMON)
        if not quiet:
            progress.use(progress.RichReporter() if sys.stderr.isatty() else progress.LineReporter())
        try:
            outcome = function(*args, **kwargs)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None
        except GroundswellError as error:
            if debug:
                raise
            _print_error(error)
            raise typer.Exit(error.exit_code) from None
        except OSError as error:  # of a file that nothing nearer speaks for
            if debug or error.strerror is None or isinstance(error, ConnectionError):
                raise
            why, fix = error.strerror, "see that this can be read and written; --debug shows where it failed"
            _print_error(
                GroundswellError("the system refused to read or write", where=error.filename, why=why, fix=fix)
            )
            raise typer.Exit(GroundswellError.exit_code) from None
        if as_json:
            typer.echo(json.dumps(outcome.data, allow_nan=False, default=str))
        elif outcome.text and (outcome.exit_code or not quiet):
            from rich.console import Console

            Console(stderr=quiet, soft_wrap=True, highlight=False).print(outcome.text)
        raise typer.Exit(outcome.exit_code)

    signature = inspect.signature(function, eval_str=True)
    flags = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in _COMMON.items()
    ]
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *flags], return_annotation=None
    )
    run.__annotations__ = {p.name: p.annotation for p in run.__signature__.parameters.values()}  # type: ignore[attr-defined]
    name = function.__name__.removesuffix("_").replace("_", "-")
    application.command(name)(run)
    return function


def _print_error(error: GroundswellError) -> None:
    typer.echo(typer.style("error: ", fg="red", bold=True) + error.what, err=True)
    for name, value in error.details():
        first, *rest = value.splitlines() or [""]
        typer.echo(f"  {name:>5}: {first}", err=True)
        for line in rest:
            typer.echo(f"         {line}", err=True)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"groundswell {__version__}")
        raise typer.Exit


@application.callback()
def _before_a_verb(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the ``groundswell`` command."""
    from groundswell.cli import verbs  # noqa: F401 - importing the verbs registers them

    application()
