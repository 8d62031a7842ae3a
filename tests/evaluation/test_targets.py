"""What a column is taken for."""

import numpy as np
import pandas as pd
import pytest

from groundswell.errors import DataError, UsageError
from groundswell.evaluation.targets import read_target


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["a", "b", None], "classification"),
        ([True, False, True], "classification"),
        ([3, 1, 2], "classification"),
        ([3.0, 1.0, np.nan], "classification"),  # whole numbers that a missing value made floats
        ([3.5, 1.0, np.nan], "regression"),
        (list(range(60)), "regression"),  # lengths in whole metres
    ],
)
def test_the_task_is_told_by_the_values(values, task):
    target = read_target(pd.DataFrame({"label_x": values}), "x")
    assert target.task == task
    assert target.known.tolist() == [v is not None and v == v for v in values]


def test_classes_are_ordered_and_coded():
    target = read_target(pd.DataFrame({"label_x": [10.0, 2.0, np.nan, 10.0]}), "label_x")
    assert target.classes == ("2", "10")
    assert target.observed.tolist() == [1, 0, -1, 1]


def test_a_pattern_is_tags_and_the_given_task_wins():
    frame = pd.DataFrame({"label_tag_b": [0, 1], "label_tag_a": [1, 1], "label_n": [1, 2]})
    target = read_target(frame, "tag_*")
    assert target.task == "multi-label"
    assert target.columns == ("label_tag_a", "label_tag_b")
    assert target.classes == ("a", "b")
    assert read_target(frame, "n", "regression").observed.tolist() == [1.0, 2.0]


def test_what_does_not_fit_is_refused():
    frame = pd.DataFrame({"label_n": [0, 2], "label_text": ["a", "b"], "label_none": [None, None]})
    with pytest.raises(DataError, match="0 or 1"):
        read_target(frame, "n", "multi-label")
    with pytest.raises(DataError, match="not numbers"):
        read_target(frame, "text", "regression")
    with pytest.raises(DataError, match="known for no row"):
        read_target(frame, "none")
    with pytest.raises(UsageError, match="did you mean 'label_text'"):
        read_target(frame, "label_txet")
    with pytest.raises(UsageError, match="did you mean 'regression'"):
        read_target(frame, "n", "regresion")
