"""`python -m megabiomed.launch.selftest.driver RUN PYTHON`: the batch script's process, on the first node, without torch.

It starts every check as steps of srun, one after another. A check that fails or hangs is a line of the verdict, and the next
one begins.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from megabiomed.config.cluster import ClusterConfig
from megabiomed.ground.errors import MegabiomedError
from megabiomed.ground.files import make_writable
from megabiomed.launch import records, scheduler
from megabiomed.launch.preflight_verdict import is_slow
from megabiomed.launch.selftest import machine, training
from megabiomed.launch.selftest.plan import PHASES, plan
from megabiomed.launch.selftest.results import FAILED, PASSED, Result
from megabiomed.launch.selftest.steps import FOLDER, Site
from megabiomed.launch.selftest.verdict import JSON, PAGE, Verdict, write

_TRAINING = ("reference", "parity", "resume")
CHECKS: dict[str, Callable[[Site], Iterator[Result]]] = {
    "storage": machine.storage,
    "links": machine.links,
    "kernels": machine.kernels,
    "corpus": training.corpus,
    "reference": training.reference,
    "parity": training.parity,
    "resume": training.resume,
}


class Asked(BaseException):
    """The job is to end: its time limit is near, or it was cancelled or preempted."""


class Driver:
    """All phases of a self-test on the nodes of this job."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.results: list[Result] = []
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def run(self) -> list[Result]:
        """Do every phase, also after failures, until the job is asked to end."""
        try:
            for number, phase in enumerate(PHASES, 1):
                self._say(f"[{number}/{len(PHASES)}] {phase}, {self._left(number - 1)} left")
                began = time.monotonic()
                for result in self._phase(phase):
                    self.results.append(result)
                    figures = ", ".join(map(str, result.figures[:3]))
                    self._say(f"  {result.name}: {result.status} {result.reason or figures}")
                self.seconds[phase] = time.monotonic() - began
        except Asked as asked:
            self._say(str(asked))
            done = {result.name for result in self.results}
            left = [check for check in plan(self.site.shape) if check.name not in done]
            self.results += [Result(check.name, FAILED, f"not done: {asked}") for check in left]
        return self.results

    def _phase(self, phase: str) -> Iterator[Result]:
        done: set[str] = set()
        try:
            for result in self._checks(phase):
                done.add(result.name)
                yield result
        except (MegabiomedError, OSError, ValueError, LookupError) as error:
            # What a check did not expect fails the rest of its phase, and no other.
            why = f"{type(error).__name__}: {error}" if not isinstance(error, MegabiomedError) else str(error)
            for check in plan(self.site.shape):
                if check.phase == phase and check.name not in done:
                    yield Result(check.name, FAILED, why)

    def _checks(self, phase: str) -> Iterator[Result]:
        if phase == "preflight":
            yield self._preflight()
        elif phase in _TRAINING and not training.is_built(self.site):
            names = [check.name for check in plan(self.site.shape) if check.phase == phase]
            yield from (Result.skip(name, "there is no corpus to train on: see that check") for name in names)
        else:
            yield from CHECKS[phase](self.site)

    def _preflight(self) -> Result:
        """Check the nodes, and go on without bad ones as long as any is left: the others are tested all the same."""
        result, bad = machine.preflight(self.site)
        good = tuple(node for node in self.site.nodes if node not in bad or is_slow(bad[node]))
        if good and good != self.site.nodes:
            self.site = replace(self.site, nodes=good)
            result = replace(result, reason=f"{result.reason}; all later checks are on {', '.join(good)} alone")
        return result

    def _left(self, done: int) -> str:
        """Time left, from the plan's estimates and from how long the finished phases took against theirs."""
        expected = list(PHASES.values())
        pace = sum(self.seconds.values()) / sum(expected[:done]) if done else 1.0
        # One phase says little of the others: it may have waited for a node that never came.
        left = sum(expected[done:]) * min(max(pace, 0.5), 3.0)
        return f"about {left / 60:.0f} min" if left > 90 else f"about {left:.0f} s"

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.0f} s {text}", flush=True)


def main(run: Path, python: str) -> int:
    """Run the self-test of this job; the exit code is 0 when the verdict is that everything passed."""
    _on_request(_leave)
    began = time.monotonic()
    job = records.read_job(run)
    nodes = scheduler.hostnames(os.environ["SLURM_JOB_NODELIST"])
    # Of a start that was requeued, or of an earlier submission.
    shutil.rmtree(run / FOLDER, ignore_errors=True)
    for name in (JSON, PAGE):
        (run / name).unlink(missing_ok=True)
    try:
        make_writable(run / FOLDER)
        incarnation = f"{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_RESTART_COUNT', '0')}.{int(time.time())}"
        site = Site(run, tuple(nodes), ClusterConfig.model_validate(job["cluster"]), python, incarnation)
        shape = site.shape
        driver = Driver(site)
        results = driver.run()
    finally:
        _on_request(signal.SIG_IGN)
    verdict = Verdict(job["chain"], tuple(nodes), plan(shape), results, time.monotonic() - began, job["code"])
    print(write(run, verdict))
    if verdict.status == PASSED:
        records.note_event(run, "finished", None)
    return 0 if verdict.status == PASSED else 1


def _on_request(do: Any) -> None:
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, do)


def _leave(number: int, frame: Any) -> None:
    _on_request(signal.SIG_IGN)  # once is enough: what follows is the verdict
    raise Asked(f"the job was asked to end by {signal.Signals(number).name} (time limit, preemption, or cancelled)")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
