"""A process group of one, in this process and without leaving a trace in the environment of others."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from megabiomed.samples.questions.generate import generate_questions

    folder = tmp_path_factory.mktemp("questions")
    generate_questions(folder, train=24, test=16)
    return folder


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    import torch.distributed as dist

    from megabiomed.processes import platform

    started = not dist.is_initialized()
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    platform.init_alone()
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if started:
        dist.destroy_process_group()
