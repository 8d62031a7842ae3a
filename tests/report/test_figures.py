"""What figures show, and that their SVG can stand inside the page."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from groundswell.report.figures import (
    OTHER,
    PALETTE,
    curves,
    draw_curves,
    draw_map,
    draw_scatter,
    embedding_map,
    shown_classes,
    smooth,
)

HOSTILE = "<script>alert('x')</script> $\\frac{1}{0}$"


def test_curves_keep_finite_numbers_only() -> None:
    rows = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": None},
        {"step": 3, "loss": float("nan")},
        {"step": 4, "loss": True},
        {"step": 5, "loss": 1},
        {"loss": 7.0},
    ]
    found = curves(rows, "step", ["loss", "absent"])
    assert list(found) == ["loss"]
    assert found["loss"][0].tolist() == [1, 5]
    assert found["loss"][1].tolist() == [2, 1]


def test_smooth_is_the_mean_of_the_past() -> None:
    y = np.arange(10.0) ** 2
    expected = [np.mean(y[max(0, i - 3) : i + 1]) for i in range(10)]
    # sums of ten whole numbers: exact but for the division
    np.testing.assert_allclose(smooth(y, 4), expected, rtol=1e-14)


def test_map_keeps_neighbours_and_says_which_rows() -> None:
    generator = np.random.default_rng(0)
    kind = np.repeat(np.arange(4), 60)
    vectors = (8 * np.eye(16)[kind] + generator.normal(size=(240, 16))).astype(np.float32)
    found = embedding_map(vectors, limit=120, seed=1)
    assert len(found.rows) == len(set(found.rows.tolist())) == 120
    assert (np.diff(found.rows) > 0).all()
    distance = np.linalg.norm(found.positions[:, None] - found.positions[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    # clusters 8 standard deviations apart: a map that mixes rows up would agree in a quarter of them
    assert (kind[found.rows][distance.argmin(axis=1)] == kind[found.rows]).mean() > 0.98
    again = embedding_map(vectors, limit=120, seed=1)
    np.testing.assert_array_equal(found.positions, again.positions)


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_map_of_few_rows(count: int) -> None:
    found = embedding_map(np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32))
    assert found.positions.shape == (count, 2)
    assert np.isfinite(found.positions).all()


def test_more_classes_than_colours_become_others() -> None:
    labels = [f"c{i:02d}" for i in range(15) for _ in range(i + 1)]
    shown = shown_classes(labels)
    assert shown == [f"c{i:02d}" for i in range(6, 15)] + [OTHER]
    assert len(shown) == len(PALETTE)
    assert shown_classes(["b", "a", "b"]) == ["a", "b"]


def _svgs() -> dict[str, str]:
    x = np.linspace(0, 1, 80)
    return {
        "curves": draw_curves([(HOSTILE, {"a": (x, x), HOSTILE: (x, 1 - x)}), ("b", {"b": (x, x)})], "step", "one"),
        "map": draw_map([(HOSTILE, np.stack([x, x], 1), [HOSTILE, "b"] * 40)], "two"),
        "scatter": draw_scatter([(HOSTILE, HOSTILE, x, x)], HOSTILE, HOSTILE, "three"),
    }


@pytest.mark.parametrize("name", ["curves", "map", "scatter"])
def test_svg_is_safe_and_follows_the_page(name: str) -> None:
    svg = _svgs()[name]
    root = ElementTree.fromstring(svg)  # well-formed: nothing in a label broke out
    texts = " ".join("".join(e.itertext()) for e in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "script" in texts  # the label is there, as text
    assert "<script" not in svg
    assert "currentColor" in svg
    assert "#010203" not in svg
    # every reference stays in the figure and exists there
    ids = set(re.findall(r'\bid="([^"]+)"', svg))
    pointed = set(re.findall(r'href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg))
    assert pointed
    assert pointed <= ids


def test_two_figures_share_no_id() -> None:
    found = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in _svgs().values()]
    assert not found[0] & found[1]
    assert not found[1] & found[2]


def test_map_draws_every_point_in_its_class_colour() -> None:
    positions = np.random.default_rng(0).normal(size=(30, 2))
    svg = draw_map([("t", positions, ["a"] * 10 + ["b"] * 20)], "m")
    uses = re.findall(r'<use [^>]*style="fill: (#\w+)', svg)
    legend = 1  # one marker of each class in the legend
    assert uses.count(PALETTE[0]) == 10 + legend
    assert uses.count(PALETTE[1]) == 20 + legend
