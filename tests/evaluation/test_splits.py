"""No group straddles a split, whatever the data."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundswell.errors import DataError, UsageError
from groundswell.evaluation.splits import audit, by_column, group_codes, hold_out, leave_groups_out

GROUPS = st.lists(st.integers(0, 12), min_size=2, max_size=80)


@given(GROUPS, st.integers(2, 6), st.integers(0, 5))
def test_folds_cover_every_row_once_and_never_split_a_group(groups, folds, seed):
    codes = group_codes(groups, len(groups))
    if len(set(groups)) < folds:
        with pytest.raises(DataError):
            leave_groups_out(codes, folds, seed)
        return
    split = leave_groups_out(codes, folds, seed)
    assert len(split.folds) == folds
    np.testing.assert_array_equal(np.sort(split.parts["cv"]), np.arange(len(groups)))
    for fold in split.folds:
        assert len(fold.parts["cv"]) > 0
        assert not set(codes[fold.train]) & set(codes[fold.parts["cv"]])
        assert len(fold.train) + len(fold.parts["cv"]) == len(groups)


@given(GROUPS, st.floats(0.05, 0.5), st.integers(0, 5), st.data())
def test_what_is_held_out_is_whole_groups_and_leaves_every_class(groups, fraction, seed, data):
    codes = group_codes(groups, len(groups))
    labels = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(groups), max_size=len(groups))))
    held = hold_out(codes, fraction, seed, labels)
    assert not set(codes[held]) & set(codes[~held])
    assert set(labels[~held]) == set(labels)
    assert held.sum() <= len(held) / 2
    np.testing.assert_array_equal(held, hold_out(codes, fraction, seed, labels))


def test_rows_without_groups_are_held_out_in_the_asked_share():
    assert hold_out(np.arange(1000), 0.2, 3).sum() == 200
    assert (hold_out(np.arange(1000), 0.2, 3) != hold_out(np.arange(1000), 0.2, 4)).any()


def test_a_row_without_a_group_is_its_own():
    codes = group_codes(pd.Series(["a", None, "a", None, "b"]), 5)
    assert codes[0] == codes[2]
    assert len(set(codes)) == 4


def test_one_group_a_fold_up_to_ten_groups_else_five_folds():
    assert leave_groups_out(np.arange(8)).kind == "leave one group out"
    assert len(leave_groups_out(np.arange(8)).folds) == 8
    assert len(leave_groups_out(np.arange(30)).folds) == 5


def test_folds_have_about_equal_rows():
    sizes = [124, 72, 56, 40, 25, 13, 12, 9]  # the products of OpenSARShip
    split = leave_groups_out(np.repeat(np.arange(8), sizes), 3)
    assert max(len(f.parts["cv"]) for f in split.folds) == 124  # the largest alone; the rest 115 and 112


def test_a_split_column_gives_train_validation_and_every_other_value_as_a_part():
    values = pd.Series(["train", "eoc30", "val", "test", None, "train"], name="split")
    fold = by_column(values).folds[0]
    assert fold.train.tolist() == [0, 5]
    assert fold.validation.tolist() == [2]
    assert {k: v.tolist() for k, v in fold.parts.items()} == {"test": [3], "eoc30": [1]}
    assert list(fold.parts) == ["test", "eoc30"]


def test_a_split_column_without_training_rows_says_what_it_has():
    with pytest.raises(UsageError, match=r"(?s)training.*did you mean 'Train'"):
        by_column(pd.Series(["Train", "test"], name="split"), train="train")
    with pytest.raises(UsageError, match="nothing to evaluate"):
        by_column(pd.Series(["train", "val"], name="split"))


def test_the_audit_refuses_shared_groups_unless_told_and_counts_shared_files():
    frame = pd.DataFrame(
        {
            "id": list("abcd"),
            "group": ["p", "q", "q", None],
            "source_hash": ["1", "2", "3", "1"],
            "split": ["train", "train", "test", "test"],
        }
    )
    split, codes = by_column(frame["split"]), group_codes(frame["group"], 4)
    with pytest.raises(DataError, match="1 groups are in both"):
        audit(frame, split, codes, "group")
    found = audit(frame, split, codes, "group", allow=True)
    assert found.shared == {"ids": 0, "source hashes": 1, "groups": 1}
    assert found.examples["groups"] == ["q"]
    with pytest.raises(DataError, match="1 ids are in both"):
        audit(frame.assign(id=list("abbd")), split, codes, None)
