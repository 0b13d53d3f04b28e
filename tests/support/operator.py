"""A cluster operator who types megabiomed's commands on a login node."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from support import slurm
from support.reference import Reference
from support.runs import events, losses
from support.zygote import run_python

# A constant learning rate makes a short run the beginning of a long one.
TOPOLOGY = ("parallel.data_parallel_size=2", "optimizer.schedule=constant")
SHORT, LONG = 30, 400
"""Steps of the reference run in the default tests, and with the slow ones."""
CLUSTER = {
    "tasks_per_node": 2,
    "time": "00:10:00",
    "grace_seconds": 30,
    "preflight": False,
    "max_failures": 2,
    "environment": {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"},
}
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "DEADLINE", "OUT_OF_MEMORY")


def run_words(run: Path, steps: int, *more: str) -> list[str]:
    """Overrides for a run of two nodes."""
    return [f"run_dir={run}", f"train.steps={steps}", "checkpoint.save_every=5", *TOPOLOGY, *more]


class Operator:
    """Types megabiomed's commands on a login node of the cluster."""

    def __init__(self, cluster: slurm.MiniSlurm, folder: Path, run_file: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.run_file = run_file
        self.profile = folder / "cluster.yaml"
        self.configure()

    def configure(self, **changes: Any) -> None:
        """Write the cluster file."""
        self.profile.write_text(yaml.safe_dump(CLUSTER | changes))

    def type(self, *words: object, code: int = 0) -> str:
        """Output of a command; fails the test when the exit code is another one."""
        command = ["-m", "megabiomed.cli", *map(str, words)]
        environment = {**self.cluster.environment, "OMP_NUM_THREADS": "1"}
        done = run_python(command, environment, timeout_s=180, where=self.folder)
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def submit(self, file: Path | None = None, *words: str, nodes: int | None = 2) -> dict[str, str]:
        """Submit a run or chain; stage -> job id."""
        count = [] if nodes is None else ["--nodes", nodes]
        said = self.type("submit", file or self.run_file, "--cluster", self.profile, *count, *words)
        lines = [line.split() for line in said.splitlines() if line.startswith("submitted: ")]
        return {line[1].rstrip(":"): line[3] for line in lines}

    def status(self, run: Path) -> list[dict[str, Any]]:
        """`megabiomed status --json`."""
        found: list[dict[str, Any]] = json.loads(self.type("status", run, "--json"))
        return found

    def until(self, condition: Callable[[], Any], run: Path, timeout_s: float = 300) -> Any:
        """Poll until a condition is true."""
        deadline = time.monotonic() + timeout_s
        while not (found := condition()):
            assert time.monotonic() < deadline, self.logs(run)
            time.sleep(0.2)
        return found

    def final(self, job_id: str, run: Path, timeout_s: float = 400) -> dict[str, str]:
        """Fields of a job that is over."""
        self.until(lambda: self.cluster.job(job_id)["JobState"] in OVER, run, timeout_s)
        return self.cluster.job(job_id)

    def kill_rank(
        self, run: Path, rank: int, number: signal.Signals = signal.SIGKILL, restarts: int | None = None
    ) -> None:
        """Send a signal to one rank of a run, on whatever node it is; of the start after so many requeues."""
        for process in psutil.process_iter():
            try:
                words, known = " ".join(process.cmdline()), process.environ()
                mine = ".worker" in words and str(run) in words and known.get("SLURM_PROCID") == str(rank)
                # The program of a container, which stays beside its rank, has the same words.
                mine = mine and process.name().startswith("python")
                if mine and restarts in (None, int(known.get("SLURM_RESTART_COUNT", "0"))):
                    process.send_signal(number)
                    return
            except psutil.Error:
                continue
        raise AssertionError(f"rank {rank} of {run} does not run")

    def stop_preflight(self, node: str) -> None:
        """Make a node's preflight stand still in whatever it does."""
        for process in psutil.process_iter():
            try:
                known = process.environ() if "megabiomed.launch.preflight" in process.cmdline() else {}
                if (
                    known.get("SLURMD_NODENAME") == node
                    and known["SLURM_CONF"] == self.cluster.environment["SLURM_CONF"]
                ):
                    process.send_signal(signal.SIGSTOP)
                    return
            except psutil.Error:
                continue
        raise AssertionError(f"no preflight runs on {node}")

    def step(self, run: Path) -> int:
        """Newest step in the metrics."""
        return max(losses(run), default=0) if (run / "metrics.jsonl").is_file() else 0

    def logs(self, run: Path) -> str:
        """The end of every log of a run, for a failing test."""
        files = [*run.glob("slurm/job.log"), *sorted(run.glob("logs/*/*.log"))]
        return "\n".join(f"--- {file}\n{file.read_text()[-2000:]}" for file in files) or f"no logs in {run}"

    def ends_as(self, run: Path, reference: Reference, steps: int) -> None:
        """A run ended after these steps with the losses and sample ids of the reference, to the bit."""
        assert losses(run) == reference.losses(steps)
        last = events(run)[-1]
        assert (last["event"], last["step"], last["ids_hash"]) == ("finished", steps, reference.ids_hash(steps))

    @contextmanager
    def frozen(self, run: Path, rank: int = 3, restarts: int = 0) -> Iterator[None]:
        """A run that does not advance while the operator types."""
        self.kill_rank(run, rank, signal.SIGSTOP, restarts)
        try:
            yield
        finally:
            self.kill_rank(run, rank, signal.SIGCONT, restarts)
