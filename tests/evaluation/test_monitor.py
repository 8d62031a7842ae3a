"""The score that watches an encoder in training."""

from pathlib import Path

import numpy as np
import pytest

from groundswell.archive.reader import Archive
from groundswell.errors import DataError
from groundswell.evaluation.monitor import knn_monitor
from training.tiny import make_archive


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return make_archive(tmp_path / "archive")


def test_the_monitor_keeps_groups_in_one_half_and_names_an_unknown_label(archive: Archive) -> None:
    seen: list[str] = []

    class Oracle:
        """An encoder that knows the answer: its vectors are the classes."""

        def embed_batch(self, pixels: object, channels: object, rows: object) -> object:
            seen.extend(rows["id"])  # type: ignore[call-overload]
            codes = rows["label_pattern"].astype("category").cat.codes.to_numpy()  # type: ignore[index]
            return np.eye(3, dtype=np.float32)[codes]

    monitor = knn_monitor([archive], "pattern", "split == 'train'", seed=0)
    assert monitor.judge(Oracle()) == 1.0  # type: ignore[arg-type]
    assert len(seen) == len(set(seen)) == 36
    with pytest.raises(DataError, match="no label") as caught:
        knn_monitor([archive], "patern", None, seed=0)
    assert "label_pattern" in caught.value.fix


def test_numbers_are_no_classes_to_watch(archive: Archive) -> None:
    archive.catalogue["label_hs"] = np.linspace(0.5, 6.0, len(archive.catalogue))
    with pytest.raises(DataError, match="needs classes"):
        knn_monitor([archive], "hs", None, seed=0)
