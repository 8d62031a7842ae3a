"""Which device a name means, and in which precision it multiplies."""

import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from groundswell.curation import kmeans
from groundswell.device import choose_device, float32_matmul
from groundswell.errors import StoppedBySignal, UsageError
from groundswell.objectives import nt_xent
from groundswell.training import loop
from training.tiny import make_archive, tiny_recipe

GPU = torch.device("cuda")


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert choose_device("auto") == torch.device(device)


@pytest.mark.parametrize("name", ["tpu9", "cuda:99", ""])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=f"no device '{name}'") as caught:
        choose_device(name)
    assert caught.value.fix


def test_a_device_that_computes_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="'meta' does not compute"):
        choose_device("meta")


@pytest.fixture
def high() -> Iterator[None]:
    """A process that multiplies in TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("high")
def test_a_precision_is_that_of_a_block_on_a_gpu() -> None:
    for device, inside in ((GPU, "highest"), (torch.device("cpu"), "high")):
        with suppress(ZeroDivisionError), float32_matmul(device, "highest"):
            assert torch.get_float32_matmul_precision() == inside
            raise ZeroDivisionError
        assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.usefixtures("high")
@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9")
@pytest.mark.parametrize("older", ["highest", "high"])
@pytest.mark.parametrize("before", ["tf32", "ieee"])
def test_a_precision_set_by_its_newer_name_is_put_back(before: str, older: str) -> None:
    torch.set_float32_matmul_precision(older)
    torch.backends.cuda.matmul.fp32_precision = before
    for precision, inside in (("highest", "ieee"), ("high", "tf32")):
        with float32_matmul(GPU, precision):
            assert torch.backends.cuda.matmul.fp32_precision == inside
        assert torch.backends.cuda.matmul.fp32_precision == before


class Products(TorchDispatchMode):
    """Notes in which precision each product was made."""

    def __init__(self) -> None:
        super().__init__()
        self.precisions: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            self.precisions.append(torch.get_float32_matmul_precision())
        return func(*args, **(kwargs or {}))


def as_on_a_gpu(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a module, which computes on the CPU, ask for precisions as on a GPU."""

    def asked(device: torch.device, precision: Any) -> AbstractContextManager[None]:
        return float32_matmul(GPU, precision)

    monkeypatch.setattr(module, "float32_matmul", asked)


@pytest.mark.usefixtures("high")
def test_k_means_and_similarities_are_exact_in_a_run_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (kmeans, nt_xent):
        as_on_a_gpu(module, monkeypatch)
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    with Products() as of_kmeans:
        kmeans.assign(kmeans.Points(x), torch.from_numpy(x[:4]))
    with Products() as of_loss:
        nt_xent.nt_xent(torch.from_numpy(x[:10]), torch.from_numpy(x[10:]), 0.1)
    assert of_kmeans.precisions == of_loss.precisions == ["highest"]
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.parametrize("end", ["done", "stopped"])
def test_a_run_on_a_gpu_multiplies_in_tf32_and_then_the_process_as_before(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = loop.build_session
    seen = []

    def train(*_: object) -> None:
        seen.append(torch.get_float32_matmul_precision())
        if end == "stopped":
            raise StoppedBySignal("stopped")

    monkeypatch.setattr(loop, "build_session", lambda *given: replace(build(*given), device=GPU))
    monkeypatch.setattr(loop, "train", train)
    with suppress(StoppedBySignal):
        loop.pretrain([make_archive(tmp_path / "archive")], tiny_recipe(), tmp_path / "run")
    assert seen == ["high"]
    assert torch.get_float32_matmul_precision() == "highest"


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
