"""Five thousand damaged SAFE products, as in tests/products/test_safe_mutants.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from groundswell.products.safe_writer.model import Image, Settings
from groundswell.products.safe_writer.writer import write_wv
from safe_mutants import attack, attack_archive, write_products


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "seed"), [("wave", 1), ("ground", 2)])
def test_damaged_files(tmp_path: Path, kind: str, seed: int) -> None:
    verdict = attack(write_products(tmp_path)[kind], 2250, seed)
    print(kind, dict(verdict.counts))
    assert verdict.violations == []
    assert verdict.counts.total() == 2250


@pytest.mark.soak
def test_damaged_zip_files(tmp_path: Path) -> None:
    images = [Image(shape=(12, 16), number=k, grid=(2, 2)) for k in (1, 2, 3)]
    verdict = attack_archive(write_wv(tmp_path, images, Settings(container="zip")), 500, seed=3)
    print(dict(verdict.counts))
    assert verdict.violations == []
