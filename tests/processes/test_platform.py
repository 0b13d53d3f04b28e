"""How a process that held a process group ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
