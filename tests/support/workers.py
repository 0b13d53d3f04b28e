"""How the tests are shared by several workers of pytest-xdist (`pytest -n 2`).

A worker takes whole files, so that what a module computes once is computed once, and files of tests that need the private
SLURM cluster go to one worker, which starts one cluster. The longest come first: what is left at the end is short.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

SLURM = "launch/test_slurm"
LONGEST = (
    SLURM,
    "runs/test_crash.py",
    "engine/test_parity.py",
    "runs/test_pretrain.py",
    "engine/test_families.py",
    "checkpoint/test_any_to_any.py",
    "align/test_parity.py",
    "engine/test_fused_adamw.py",
    "engine/test_lora.py",
    "align/test_extending.py",
    "align/test_stages.py",
    "runs/test_credentials.py",
    "processes/test_hang.py",
    "engine/test_gate.py",
    "engine/test_main_gradients.py",
    "test_packaging.py",
)
"""Beginnings of paths in tests/, the longest first; the other files follow as they stand."""


def group_of(nodeid: str) -> str:
    """What one worker runs in one go: a file, or all files of the SLURM cluster."""
    file = nodeid.partition("::")[0]
    return SLURM if f"/{SLURM}" in file else file


def place(nodeid: str) -> int:
    """Where the file of a test stands in `LONGEST`, or behind it."""
    file = nodeid.partition("::")[0]
    return next((i for i, start in enumerate(LONGEST) if f"/{start}" in file), len(LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Groups instead of single tests, unless `--dist` asks for another order."""
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False  # by the number of tests
    return Groups(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest groups first, where a worker runs them."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: place(item.nodeid))


def share_cores() -> None:
    """Leave the other workers their cores."""
    if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(workers)))
