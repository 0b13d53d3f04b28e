"""How a process that held a process group ends."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megabiomed.ground.errors import LaunchError
from megabiomed.processes import platform
from megabiomed.processes.rendezvous import MEETING

RANK = """
import torch
from megabiomed.processes import platform
platform.init_distributed(timeout_s=60, megatron=False)
torch.distributed.all_reduce(torch.ones(2))
print("the last line")
platform.leave(3)
print("never")
"""


@pytest.mark.timeout(120)
def test_a_rank_leaves_with_its_code_and_loses_no_line() -> None:
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run([sys.executable, "-c", RANK], env=os.environ | alone, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "the last line\n"), done.stderr


def test_no_rank_of_the_tests_ends_by_python_s_own_end() -> None:
    """About one rank in 40 aborted there: `platform.leave` says why."""
    workers = [
        file
        for file in Path(__file__).parents[1].rglob("*.py")
        if "\n    platform.init_distributed(" in file.read_text()
    ]
    assert len(workers) >= 10
    assert [file.name for file in workers if "platform.leave(" not in file.read_text()] == []


@pytest.mark.parametrize(("devices", "local_rank", "chosen"), [(1, 3, 0), (4, 3, 3), (8, 0, 0)])
def test_a_process_that_sees_one_device_takes_it(
    devices: int, local_rank: int, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`srun --gpus-per-task=1` shows every task another device, each as number 0."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert platform.device() == torch.device("cuda", chosen)


def test_more_processes_than_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(LaunchError, match="fewer devices than processes: got local rank 4, 4 devices"):
        platform.device()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("RANK", "x", "from 0 to 1"), ("RANK", "3", "from 0 to 1"), ("RANK", "-1", "from 0 to 1"), ("WORLD_SIZE", "0", "from 1"),
     ("WORLD_SIZE", "2.0", "from 1"), ("LOCAL_RANK", "", "from 0"), ("MASTER_PORT", "99999999", "from 0 to 65535")],
)  # fmt: skip
def test_a_variable_that_describes_no_rank_is_named_at_once(
    name: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for key, text in {**given, name: value}.items():
        monkeypatch.setenv(key, text)
    monkeypatch.delenv(MEETING, raising=False)
    monkeypatch.setattr(dist, "is_initialized", lambda: False)  # whatever other tests of this process have joined
    with pytest.raises(LaunchError, match=f"got {name}='{value}', expected a whole number {expected}"):
        platform.init_distributed(megatron=False)


def test_a_rank_loads_neither_a_compiler_nor_a_tracker_with_the_libraries_of_its_engine() -> None:
    """Both took most of a rank's start: 2.7 of 6.7 seconds of processor time."""
    program = (
        "import sys, torch; import megabiomed.engine.build; from megabiomed.engine import zero\n"
        "zero.patches.check = lambda *_: None; zero.import_deepspeed()\n"
        "loaded = {'torch._inductor.compile_fx', 'torch._dynamo.eval_frame', 'mlflow'} & sys.modules.keys()\n"
        "print(sorted(loaded), torch.compile.__module__)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] torch"


def test_the_limit_of_collectives_reaches_every_group_but_patient_ones(alone: None) -> None:
    ordinary, patient = dist.new_group(), platform.patient_group(7000)
    platform.limit_collectives(123)
    limits = [
        group._get_backend(torch.device("cpu")).options._timeout for group in (dist.group.WORLD, ordinary, patient)
    ]
    assert limits == [timedelta(seconds=123), timedelta(seconds=123), timedelta(seconds=7000)]


def test_groups_of_a_model_that_is_done_with_end_with_their_threads(alone: None) -> None:
    """The groups of hundreds of cases in one process took more time than the cases."""

    def loops() -> int:
        names = []
        for thread in Path("/proc/self/task").iterdir():
            with suppress(OSError):  # it has just ended
                names.append((thread / "comm").read_text())
        return names.count("gloo_tcp_loop\n")

    platform.end_groups()
    before = loops()
    groups = [dist.new_group() for _ in range(5)] + [platform.patient_group(7000)]
    assert loops() > before
    del groups
    platform.end_groups()
    assert loops() == before
    dist.all_reduce(torch.ones(2))  # that of the world stays
