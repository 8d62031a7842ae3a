"""Five hundred damaged SAFE products: refused, as before, or as the file says; and that this check can fail."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groundswell.errors import ProductError
from groundswell.products.safe import measurement
from groundswell.products.safe import xml as safe_xml
from groundswell.products.safe_writer.laws import Vectors
from groundswell.products.safe_writer.model import Image, Settings
from groundswell.products.safe_writer.writer import write_wv
from safe_mutants import (
    Arrays,
    Layout,
    Verdict,
    attack,
    attack_archive,
    differs_from_oracle,
    is_value,
    limited,
    oracle,
    read,
    target,
    write_products,
)


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_products(tmp_path_factory.mktemp("mutants"))


def assert_sound(verdict: Verdict, count: int) -> None:
    assert verdict.violations == []
    assert verdict.counts.total() == count
    # The attack reaches the parsers: much is refused, some is believed, and rightly.
    assert verdict.counts["refused"] > count / 3
    assert verdict.counts["as it says"] > count / 60


@pytest.mark.parametrize(("kind", "count", "seed"), [("wave", 220, 20261), ("ground", 220, 20262)])
def test_damaged_files(products: dict[str, Path], kind: str, count: int, seed: int) -> None:
    assert_sound(attack(products[kind], count, seed), count)


def test_damaged_zip_files(tmp_path: Path) -> None:
    at = Vectors.regular((0, 12), 16, 8)
    images = [Image(shape=(12, 16), number=k, calibration_at=at, noise_at=at, grid=(2, 2)) for k in (1, 2, 3)]
    verdict = attack_archive(write_wv(tmp_path, images, Settings(container="zip")), 60, seed=4)
    assert verdict.violations == []
    assert verdict.counts["refused"] > 30


@pytest.mark.parametrize("kind", ["wave", "ground"])
def test_the_oracle_agrees_on_sound_products_and_sees_a_change(products: dict[str, Path], kind: str) -> None:
    root = products[kind]
    stem = target(root)
    expected = oracle(root, stem, Layout.of(root, stem))
    found = next(iter(read(root).values()))
    assert isinstance(found, dict)
    assert expected is not None
    assert differs_from_oracle(found, expected) is None
    for name, value in (("sigma0", 1e-4), ("nesz", 1e-4), ("lon", 1e-3), ("incidence", 1e-3)):
        changed = {**found, name: found[name].copy()}
        changed[name][0, 0] += value
        assert differs_from_oracle(changed, expected) == name
    assert differs_from_oracle({**found, "denoised": 0}, expected) == "sigma0"


def test_what_is_a_change_of_value() -> None:
    before = (
        b'<a><line>5</line><v count="2">1.0 2.0</v><time>2021-01-01T00:00:00.000000</time><pass>Ascending</pass></a>'
    )
    assert is_value(before, before.replace(b"2.0", b"2.5e3"))
    assert is_value(before, before.replace(b"T00", b"T01"))
    for old, new in (
        (b"2.0", b"nan"), (b"2.0", b"1e999"), (b"2.0", b"2,0"), (b" 2.0", b""), (b'"2"', b'"3"'), (b"Asc", b"Bsc"),
        (b"<line>5</line>", b""), (b"line", b"lime"), (b"</a>", b""), (b"5", "٣".encode()), (b"T00", b"T0x"),
    ):  # fmt: skip
        assert not is_value(before, before.replace(old, new)), new


# ------------------------------------------------------------------------------- controls that must be caught


def lenient_floats(self: safe_xml.Document, path: str) -> np.ndarray:
    """What many readers do: no count, no question whether numbers are finite."""
    return np.array([float(token) for token in (self.one(path).get("") or "0").split()])


def lenient_items(self: safe_xml.Document, path: str) -> list[safe_xml.Document]:
    return self.all(path)


def lenient_fill(self: measurement.Measurement, stream: Any, target: np.ndarray) -> None:
    """Missing pixels are zeros, as in tifffile."""
    view, at = memoryview(target), 0
    while at < len(view) and (count := stream.readinto(view[at:])):
        at += count


@pytest.mark.parametrize(
    ("attribute", "replacement", "told"),
    [("floats", lenient_floats, "nan|Error|silently|not what"), ("items", lenient_items, "silently other numbers")],
)
def test_a_lenient_parser_is_caught(
    products: dict[str, Path], monkeypatch: pytest.MonkeyPatch, attribute: str, replacement: Any, told: str
) -> None:
    monkeypatch.setattr(safe_xml.Document, attribute, replacement)
    found = attack(products["wave"], 160, 20261, only="calibration-").violations
    assert found
    assert all(re.search(told, violation) for violation in found), found


def test_numbers_that_are_a_little_off_are_caught(products: dict[str, Path]) -> None:
    def tampered(root: Path) -> dict[Any, Arrays | Any]:
        return {k: {**v, "sigma0": v["sigma0"] * 1.0001} if isinstance(v, dict) else v for k, v in read(root).items()}

    found = attack(products["wave"], 160, 20261, tampered, only="measurement").violations
    assert found
    assert all("sigma0 is not what the file says" in violation for violation in found), found


def test_missing_pixels_as_zeros_are_caught(products: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement.Measurement, "_fill", lenient_fill)
    monkeypatch.setattr(measurement, "_check_chunks", lambda *_: None)
    found = attack(products["wave"], 160, 20261, only="measurement").violations
    assert any(".tiff: cut" in v or "cut off of" in v for v in found), found


def test_crashes_hangs_and_hunger_are_caught(products: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def misbehaving(root: Path) -> dict[Any, Arrays | Any]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyError("line")
        if calls == 3:
            while True:
                pass
        if calls == 4:
            np.ones(2**33)
        if calls == 5:
            raise ProductError("all of it")
        return read(root)

    monkeypatch.setattr("safe_mutants.SECONDS", 0.3)
    violations = attack(products["wave"], 4, 1, misbehaving).violations
    assert len(violations) == 4
    for violation, told in zip(violations, ("KeyError", "no end", "Memory", "whole product"), strict=True):
        assert told in violation
    with limited():
        assert calls == 5
