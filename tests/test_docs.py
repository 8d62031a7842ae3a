"""Every command of the documentation exists, with these options: parsed by the command line itself, never run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from groundswell.cli import verbs  # noqa: F401 - registers them
from groundswell.cli.app import application
from groundswell.cli.pretrain import split_inputs
from groundswell.config import read_recipe, recipe_names
from groundswell.errors import ConfigError
from groundswell.training.recipe import resolve_recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    """The commands of all ```bash blocks of a page, continued lines joined."""
    blocks = [body.replace("\\\n", " ") for language, body in FENCE.findall(text) if language == "bash"]
    return [line for body in blocks for line in body.splitlines() if line.strip()]


def inline(text: str) -> list[str]:
    """Pieces such as `groundswell stats --verify` in running text."""
    return re.findall(r"`(groundswell [a-z][^`]*)`", FENCE.sub("", text).replace("\n", " "))


def verb_of(name: str) -> Any:
    """The command of a verb (of click or of Typer's own copy of it, by Typer's version)."""
    known = typer.main.get_command(application).commands  # type: ignore[attr-defined]
    assert name in known, f"no verb is called {name}"
    return known[name]


def check(command: str) -> None:
    """Fail unless the command line takes the command; recipes and their settings are looked up too."""
    program, *words = shlex.split(command, comments=True)
    if program == "make":
        phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert phony
        assert set(words) <= set(phony[1].split()), command
    elif program == "python":
        source = (ROOT / words[0]).read_text(encoding="utf-8")
        assert all(f'"{w.split("=")[0]}"' in source for w in words[1:] if w.startswith("-")), command
    else:
        assert program == "groundswell", f"neither groundswell, make nor python: {command}"
        verb = verb_of(words[0])
        try:
            given = dict(verb.make_context(words[0], words[1:]).params)  # parses, and does not run
        except Exception as error:  # UsageError, of whichever click
            raise AssertionError(f"{command}: {error}") from error
        if words[0] == "pretrain" and not given["recipe"].endswith(".yaml"):
            assert given["recipe"] in recipe_names(), command
            resolve_recipe([("recipe", read_recipe(given["recipe"])[0])], split_inputs(given["inputs"])[1])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_exist_with_these_options(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for command in commands(text):
        check(command)
    for piece in inline(text):  # may leave arguments out: only the verb and the options are looked up
        _, name, *words = shlex.split(piece)
        known = {option for parameter in verb_of(name).params for option in parameter.opts + parameter.secondary_opts}
        assert {w.split("=")[0] for w in words if w.startswith("-")} <= known, piece


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_command_hides_from_the_check_and_no_link_is_dead(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    rest = FENCE.sub(lambda m: "" if m[1] == "bash" else m[2], text)
    assert not re.search(r"^\s*(\$ )?(groundswell|make|python|pip) \S", rest, re.MULTILINE), page
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), target


def test_the_pages_hold_commands() -> None:
    found = {page.name: len(commands(page.read_text(encoding="utf-8"))) for page in PAGES}
    assert found["README.md"] >= 9
    assert found["tutorial.md"] >= 10
    assert found["real-data.md"] >= 25


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("groundswell serach table.parquet --query x", AssertionError),
        ("groundswell search table.parquet --querys x", AssertionError),
        ("groundswell embed model archive", AssertionError),  # no -o
        ("groundswell embed model archive -o t --dtype int8", AssertionError),
        ("groundswell pretrain archive --recipe oceans -o run", AssertionError),
        ("groundswell pretrain archive --recipe demo -o run optimizer.lr=1", ConfigError),
        ("make demos", AssertionError),
        ("python benchmarks/search.py --vector 3", AssertionError),
        ("python benchmarks/none.py", FileNotFoundError),
        ("wget something", AssertionError),
    ],
)
def test_the_check_would_see_a_mistake(command: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        check(command)


def test_every_recipe_that_ships_is_in_the_documentation() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert [name for name in recipe_names() if f"| `{name}` |" not in text] == []
