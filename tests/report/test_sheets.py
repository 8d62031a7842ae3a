"""Contact sheets: every image in its place, stretched by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from groundswell.errors import UsageError
from groundswell.report.sheets import contact_sheet, grey


def test_grey_is_linear_between_the_percentiles() -> None:
    image = np.arange(101, dtype=np.float32).reshape(1, 101)
    image[0, 50] = np.nan
    result = grey(image)
    low, high = np.percentile(image[np.isfinite(image)], [1, 99])
    expected = np.clip((image - low) / (high - low), 0, 1) * 255
    assert result[0, 50] == 0
    finite = np.isfinite(image)
    assert np.abs(result[finite] - expected[finite]).max() <= 0.5
    assert grey(np.full((2, 2), np.nan)).max() == 0
    assert grey(np.full((2, 2), 7.0)).max() == 0


def test_images_lie_where_they_belong(tmp_path: Path) -> None:
    ramps = [np.rot90(np.linspace(0, 1, 64).reshape(8, 8), turn) for turn in range(3)]
    contact_sheet(ramps, ["a", "b\nc", "d" * 100], tmp_path / "s.png", columns=2, tile=40, marked=[1])
    page = np.asarray(Image.open(tmp_path / "s.png").convert("RGB")).astype(int)
    for i, ramp in enumerate(ramps):
        x, y = 6 + (i % 2) * 46, 6 + (i // 2) * (40 + 2 * 15 + 12)
        tile = page[y : y + 40, x : x + 40, 0]
        assert np.array_equal(tile[2::5, 2::5], grey(ramp))  # 8 px as blocks of 5
    red = (page[..., 0] > 200) & (page[..., 1] < 60)
    where = np.argwhere(red)
    assert (where.min(0) == [4, 50]).all()  # the frame lies around the second tile
    assert (where.max(0) == [47, 93]).all()


def test_only_pictures(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"end its name in \.png"):
        contact_sheet([np.ones((2, 2))], ["x"], tmp_path / "s.pdf")
    assert not list(tmp_path.iterdir())


def test_a_place_can_stay_empty(tmp_path: Path) -> None:
    contact_sheet([np.eye(4), None, np.eye(4)], ["a", "", "c"], tmp_path / "s.png", columns=3, tile=20, marked=[0])
    page = np.asarray(Image.open(tmp_path / "s.png").convert("RGB"))
    assert (page[6:26, 32:52] == 255).all()
    assert np.array_equal(page[6:26, 58:78, 0], np.kron(np.eye(4, dtype=np.uint8) * 255, np.ones((5, 5), np.uint8)))
