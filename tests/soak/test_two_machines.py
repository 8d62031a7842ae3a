"""A run over two machines: two network namespaces with nothing in common but the disk, two processes in each.

Needs root on Linux, for the namespaces. Messages travel by gloo over a virtual cable; NCCL needs GPUs.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from groundswell import files
from groundswell.archive.reader import open_archive
from groundswell.config import to_yaml
from groundswell.training.loop import pretrain
from groundswell.training.run_directory import read_metrics
from training.tiny import METHODS, make_archive, tiny_recipe

ADDRESSES = ("10.77.0.1", "10.77.0.2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """The names of two namespaces, joined by a cable."""
    names = [f"gw{os.getpid()}a", f"gw{os.getpid()}b"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            for device in ("cable", "lo"):
                ip("-n", name, "link", "set", device, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces cannot be made here ({error})")
    else:
        yield names
    finally:
        if shutil.which("ip"):
            for name in names:
                subprocess.run(["ip", "netns", "del", name], capture_output=True)


def start(names: list[str], words: list[str]) -> list[subprocess.Popen[str]]:
    """torchrun on each machine, as docs/cluster.md has it; the first is where they meet."""
    agents = []
    for rank, (name, address) in enumerate(zip(names, ADDRESSES, strict=True)):
        rendezvous = ["--rdzv-backend=c10d", f"--rdzv-endpoint={ADDRESSES[0]}:29500", f"--rdzv-conf=is_host={1 - rank}"]
        launch = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2", *rendezvous]
        command = ["ip", "netns", "exec", name, sys.executable, *launch, f"--local-addr={address}", "-m", "groundswell"]
        agents.append(
            subprocess.Popen(
                [*command, *words],
                env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "cable"},
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
    return agents


def finish(agents: list[subprocess.Popen[str]]) -> tuple[list[int], str]:
    """Exit codes, and what was said on standard error."""
    said = [agent.communicate(timeout=300)[1] for agent in agents]
    return [agent.returncode for agent in agents], "\n".join(said)


@pytest.mark.soak
def test_two_machines_compute_what_one_does_and_outlive_the_loss_of_one(tmp_path: Path, machines: list[str]) -> None:
    archive = make_archive(tmp_path / "archive")
    settings = {"length": {"steps": 40}, "health": {"grace": 1.0}, "checkpoint": {"steps": 2}}
    recipe = tiny_recipe(**{**METHODS["mae"], **settings})
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe.model_dump(mode="json")))
    words = ["pretrain", str(archive.path), "--recipe", str(tmp_path / "recipe.yaml"), "--quiet", "-o"]

    pretrain([open_archive(archive.path)], recipe, tmp_path / "one")
    codes, said = finish(start(machines, [*words, str(tmp_path / "two")]))
    assert codes == [0, 0], said
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    # Sums of another order, and Adam, which divides by their size: after forty steps the losses agree to four digits.
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-4)
    assert len({row["loss"] for row in two}) == len(two) == 40

    lost = tmp_path / "lost"
    agents = start(machines, [*words, str(lost)])
    while len(read_metrics(lost / "metrics.jsonl") if (lost / "metrics.jsonl").exists() else []) < 10:
        assert agents[0].poll() is None, "the run ended before it was disturbed"
        time.sleep(0.05)
    ip("-n", machines[1], "link", "set", "cable", "down")  # as if its plug were pulled, and then the machine goes
    os.killpg(agents[1].pid, signal.SIGKILL)
    pids = subprocess.run(["ip", "netns", "pids", machines[1]], capture_output=True, text=True).stdout.split()
    for pid in pids:
        os.kill(int(pid), signal.SIGKILL)
    os.killpg(agents[0].pid, signal.SIGTERM)  # the queue takes the rest of the job away
    finish(agents)
    ip("-n", machines[1], "link", "set", "cable", "up")
    codes, said = finish(start(machines, [*words, str(lost), "--resume"]))
    assert codes == [0, 0], said
    model = Path("model", "model.safetensors")
    assert files.sha256_file(lost / model) == files.sha256_file(tmp_path / "two" / model)
