"""Which device a name means."""

import pytest
import torch

from groundswell.device import choose_device
from groundswell.errors import UsageError


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert choose_device("auto") == torch.device(device)


@pytest.mark.parametrize("name", ["tpu9", "cuda:99", ""])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=f"no device '{name}'") as caught:
        choose_device(name)
    assert caught.value.fix
