"""Errors say what, where, why and how to fix it, and the exit codes are those of the manual."""

from __future__ import annotations

import pickle

import pytest

from groundswell import errors


def test_the_message_holds_every_part_in_order() -> None:
    error = errors.DataError("a file is bad", where="a.png", why="it is cut short", fix="fetch it again")
    assert str(error) == "a file is bad\nwhere: a.png\nwhy: it is cut short\nfix: fetch it again"
    assert error.details() == [("where", "a.png"), ("why", "it is cut short"), ("fix", "fetch it again")]
    assert str(errors.UsageError("no")) == "no"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.GroundswellError, 1),
        (errors.TrainingError, 1),
        (errors.LostProcess, 1),
        (errors.CollapsedError, 1),
        (errors.DivergedError, 1),
        (errors.UsageError, 2),
        (errors.BusyError, 2),
        (errors.ConfigError, 2),
        (errors.DataError, 3),
        (errors.QuantityError, 3),
        (errors.ArchiveError, 3),
        (errors.ProductError, 3),
        (errors.ModelError, 3),
        (errors.TableError, 3),
        (errors.StoppedBySignal, 75),
    ],
)
def test_exit_codes(kind: type[errors.GroundswellError], code: int) -> None:
    assert kind("x").exit_code == code
    assert issubclass(kind, errors.GroundswellError)


def test_every_error_has_a_tested_exit_code() -> None:
    family = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    tested = {kind for kind, _ in test_exit_codes.pytestmark[0].args[1]}
    assert family == tested


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(errors.ArchiveError("a", where="b", why="c", fix="d")))
    assert type(error) is errors.ArchiveError
    assert (error.what, error.where, error.why, error.fix) == ("a", "b", "c", "d")


def test_did_you_mean() -> None:
    assert errors.did_you_mean("archve", ["archive", "encoder"]) == "did you mean 'archive'?"
    assert errors.did_you_mean("zzz", ["b", "a"]) == "known: a, b"
    assert errors.did_you_mean("zzz", []) == "nothing is known by that name"
