"""Which device a name means."""

import platform
import subprocess
import sys

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


FAULTS = """
import resource, sys, torch
from groundswell.device import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.set_num_threads(1)
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step = [torch.ones(40 << 20, dtype=torch.uint8) for _ in range(3)]
    del step
    count = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(count)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_that_is_kept_needs_no_pages_anew() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "leave")
    }
    # 120 MiB are 30,720 pages of 4 KiB, or 60 of 2 MiB where the kernel gives such.
    assert faults["leave"] >= 60
    assert faults["keep"] < faults["leave"] / 4
