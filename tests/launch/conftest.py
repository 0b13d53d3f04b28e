"""One SLURM cluster for all tests of this folder, and runs on it; a server that takes notifications."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import slurm
from support.operator import LONG, SHORT, TOPOLOGY, Operator
from support.receivers import TOKEN, Web
from support.reference import Reference
from support.runs import RUN
from support.scheduling import QUEUE, program


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm.MiniSlurm]:
    reason = slurm.missing()
    if reason:
        pytest.skip(reason)
    found = slurm.MiniSlurm(tmp_path_factory.mktemp("slurm"))
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture
def operator(cluster: slurm.MiniSlurm, tmp_path: Path, run_file: Path) -> Iterator[Operator]:
    yield Operator(cluster, tmp_path, run_file)
    cluster.recover()


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, corpus: Path, request: pytest.FixtureRequest) -> Reference:
    """One uninterrupted run for all tests of the session, as long as the longest of them needs."""
    slow = any(item.get_closest_marker("slow") for item in request.session.items)
    text = RUN.replace("CORPUS", str(corpus))
    return Reference(tmp_path_factory.mktemp("reference"), text, list(TOPOLOGY), LONG if slow else SHORT)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stand-ins that come first in PATH."""
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


@pytest.fixture
def queue(tools: Path, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Makes a scheduler that keeps a queue and behaves badly before or after it queues a job; returns its folder."""

    def make(before: str = ":", after: str = ":") -> Path:
        base = tmp_path / "queue"
        base.mkdir(exist_ok=True)
        for name in ("sbatch", "squeue", "scancel", "scontrol"):
            program(tools, name, QUEUE.format(base=base, before=before, after=after))
        return base

    return make


@pytest.fixture(scope="module")
def server() -> Iterator[Web]:
    web = Web()
    yield web
    web.open.set()
    web.server.shutdown()
    web.server.server_close()


@pytest.fixture
def web(server: Web, monkeypatch: pytest.MonkeyPatch) -> Web:
    server.posts.clear()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HOOK", f"{server.url}/ok/{TOKEN}")
    return server
