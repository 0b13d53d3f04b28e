"""Four virtual nodes, a disk for the runs and an operator: where `make bench-campaign` and `make bench-goodput` happen."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.operator import Operator
from support.runs import RUN
from support.slurm import MiniSlurm

from bench.fault_rank import FOLDER
from megabiomed.corpus.build import BuildOptions, build_corpus
from megabiomed.corpus.generate import write_records

DISK_MIB = 2560
"""More than the GiB without which a node counts as full; it is taken from memory only while the disk is full."""
LEFT_BYTES = 1 << 20
"""What a full disk has left: files of some kilobytes still fit, a checkpoint does not."""
FILL = "full"


class Place:
    """A cluster with its folders.

    Attributes:
        disk: a file system of its own, where the runs are.
        faults: where ranks look for what they are to suffer (`fault_rank`).
    """

    def __init__(self, folder: Path, cluster: MiniSlurm, run_text: str) -> None:
        self.folder = folder
        self.disk = folder / "disk"
        self.faults = folder / "faults"
        self.cluster = cluster
        self.operator = Operator(cluster, folder, folder / "run.yaml")
        self.run_text = run_text.replace("CORPUS", str(folder / "corpus"))
        self.operator.run_file.write_text(self.run_text)

    def configure(self, **changes: Any) -> None:
        """Write the cluster file; ranks are those of `fault_rank`."""
        environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
        own = {
            "python": str(self.folder / "python"),
            "host_python": sys.executable,
            "environment": {**environment, FOLDER: str(self.faults)},
        }
        self.operator.configure(**{**own, **changes})

    def fill_disk(self) -> None:
        """Leave no room for a checkpoint."""
        free = os.statvfs(self.disk)
        size = free.f_bavail * free.f_frsize - LEFT_BYTES
        with (self.disk / FILL).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)

    def free_disk(self) -> None:
        """Give the room back."""
        (self.disk / FILL).unlink(missing_ok=True)

    def live(self) -> str:
        """The queue, a line a job that is not over: id, state, reason, node list, script."""
        return self.cluster.run("squeue", "-h", "-a", "-o", "%i|%T|%r|%N|%o")


@contextmanager
def place(name: str, run_text: str = RUN) -> Iterator[Place]:
    """The cluster, started; everything is ended afterwards."""
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-", ignore_cleanup_errors=True) as where:
        folder = Path(where)
        for each in ("disk", "faults"):
            (folder / each).mkdir()
        _write_python(folder / "python")
        write_records(folder / "records.jsonl.gz", 40, 0)
        sources = [folder / "records.jsonl.gz"]
        build_corpus(BuildOptions(sources, folder / "corpus", vocab_size=600, validation_fraction=0.2, workers=1))
        # Before the nodes start: each has the mounts of that moment.
        words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder / "disk")]
        subprocess.run(words, check=True)
        cluster = MiniSlurm(folder / "slurm")
        try:
            cluster.start()
            yield Place(folder, cluster, run_text)
        finally:
            cluster.stop()
            subprocess.run(["umount", "--lazy", str(folder / "disk")], check=False)


def _write_python(file: Path) -> None:
    """An interpreter whose training ranks can be asked for faults."""
    python, rank = shlex.quote(sys.executable), shlex.quote(str(Path(__file__).with_name("fault_rank.py")))
    file.write_text(
        f'#!/bin/bash\n[[ "${{2:-}}" == *.worker ]] && exec {python} -W ignore {rank} "$@"\nexec {python} "$@"\n'
    )
    file.chmod(0o755)
