"""What stands in front of a job's process in a container; tests/launch/test_slurm_container.py runs whole jobs in one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from megabiomed.config import container
from megabiomed.config.cluster import ClusterConfig
from megabiomed.ground.mounts import NODE_ROOT


def test_signals_for_a_rank_do_not_end_the_program_in_front_of_it_and_programs_behind_it_can_hear_them() -> None:
    deaf = container.wrap_words(ClusterConfig(wrap=["env", "A=b c"]))
    script = "import os, signal; os.kill(os.getpid(), signal.SIGUSR1); print(os.environ['A'], flush=True)"
    heard = f"{script}; from megabiomed.processes.signals import hear; hear(); os.kill(os.getpid(), signal.SIGUSR1)"
    done = subprocess.run([*deaf, sys.executable, "-c", heard], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGUSR1, "b c\n")


ASKED = "from megabiomed.processes.signals import hear; hear(); import os; os.kill(1, 15)"


@pytest.mark.parametrize(
    ("wrap", "code", "status"),
    [
        (["env"], "from megabiomed.launch.selftest.interrupted import die; die()", {-9, 137}),
        (["env"], ASKED, {143}),
        ([], ASKED, {143}),
    ],
    ids=["kills itself", "is asked to end", "is asked to end under podman, which gives it back its ears"],
)
def test_the_first_process_of_a_container_can_end(wrap: list[str], code: str, status: set[int]) -> None:
    words = ["unshare", "--pid", "--fork", *container.wrap_words(ClusterConfig(wrap=wrap)), sys.executable, "-c"]
    if subprocess.run([*words, ""], capture_output=True).returncode:
        pytest.skip("this machine allows no PID namespaces")
    done = subprocess.run([*words, f"{code}; import time; time.sleep(30)"], capture_output=True, text=True)
    assert done.returncode in status, done.stderr


def test_the_nodes_root_is_noted_outside_of_the_container_only() -> None:
    image = ["--container-image=x"]
    outside, inside = (container.wrap_words(ClusterConfig(wrap=["env"], srun=srun)) for srun in ([], image))
    here = os.stat("/")
    for words, said in ((outside, f"{here.st_dev}:{here.st_ino}\n"), (inside, "")):
        found = subprocess.run([*words, "printenv", NODE_ROOT], capture_output=True, text=True)
        assert (found.stdout, found.stderr) == (said, "")


def test_without_a_container_nothing_stands_in_front() -> None:
    assert container.wrap_words(ClusterConfig()) == []
    assert container.exports(ClusterConfig(), 3) == [
        'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-3}" PYTHONUNBUFFERED=1'
    ]
