"""Looks for flipped bits at intervals and before every save, so that no damaged weights are kept."""

from __future__ import annotations

import math
import time
from typing import Any

from megabiomed.data.loader import StepBatch
from megabiomed.engine.replicas import Difference, Sums
from megabiomed.ground.errors import CorruptionError
from megabiomed.ground.node import node_name
from megabiomed.processes import messages, platform
from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.training import Step, Training

SHARE = 0.002
"""Of the time, which the checks may take."""
_SHOWN = 5
_FIRST, _LAST = 2, 6
"""Steps of a start between which the length of a step is measured; the ones before load and compile."""


class ReplicaCheck(Hook):
    """Ends the run where ranks differ that must not, or the state changed between two updates. All of it is collective.

    A check after step n reads all weights, masters and moments once and compares those that several ranks hold; before the
    update of step n + 1 they are read again, and with them the reduced gradients and the tied copies that step n + 1 used.
    """

    def __init__(self) -> None:
        self._every: int | None = 0
        self._checked = -1
        self._asked = False
        self._done = 0
        self._steps_s: list[float] = []
        self._began = self._spent = self._step_began = 0.0

    def at_start(self, training: Training) -> None:
        """See the base class."""
        self._every, self._began = training.config.health.check_every, time.monotonic()

    def before_step(self, training: Training, batch: StepBatch) -> None:
        """See the base class."""
        self._step_began = time.monotonic()

    def after_step(self, training: Training, step: Step) -> None:
        """See the base class."""
        if self._every == 0:
            return
        began = time.monotonic()
        self._done += 1
        if _FIRST < self._done <= _LAST:
            self._steps_s.append(began - self._step_began)
        self._settle(training)
        if self._every is None:
            self._choose(training)
        elif self._due(training):
            self._check(training)
        self._spent += time.monotonic() - began

    def check(self, training: Training) -> None:
        """Before a save: compare now; nothing where `health.check_every` is 0.

        Raises:
            CorruptionError: on all ranks, with tensors, ranks and nodes.
        """
        if self._every == 0:
            return
        engine = training.module.engine
        if self._checked == training.step and engine.watch.waits:
            # Measurements may have taken minutes since then.
            engine.watch.before_update(engine.held())
            self._settle(training)
        self._check(training)

    def on_leave(self, training: Training) -> None:
        """See the base class. Says what the checks have cost this start."""
        lasted, spent = time.monotonic() - self._began, self._spent + training.module.engine.watch.seconds
        if self._every and self._done > _LAST:
            training.reporter.say(f"health: checks took {spent:.2f} s of {lasted:.1f} s ({spent / lasted:.2%})")

    def _due(self, training: Training) -> bool:
        """Also after a step that is about to be saved: its state is then watched until the copy."""
        saves = training.config.checkpoint
        return any(every and training.step % every == 0 for every in (self._every, saves.save_every, saves.keep_every))

    def _check(self, training: Training) -> None:
        engine = training.module.engine
        self._checked = training.step
        sums = Sums.of(engine.held())
        self._raise(training, sums.differences())
        engine.watch.after_update(sums)
        engine.compare_next()
        self._asked = True

    def _settle(self, training: Training) -> None:
        """What was compared in the step, if anything was."""
        if not self._asked:
            return
        engine, self._asked = training.module.engine, False
        found = engine.watch.changed(training.mesh.rank)
        compared, engine.compared = engine.compared, []
        if not messages.on_any_rank(engine.waits_for_gradients):
            found += Sums.joined(compared).differences()
        self._raise(training, found)

    def _raise(self, training: Training, found: list[Difference]) -> None:
        if messages.on_any_rank(bool(found)):
            raise _error(training, found)

    def _choose(self, training: Training) -> None:
        """The interval at which the checks take `SHARE` of the time, by what both take on the first rank."""
        if self._done < _LAST:
            return
        platform.synchronize()
        began = time.monotonic()
        self._check(training)
        training.module.engine.watch.before_update(training.module.engine.held())
        platform.synchronize()
        check_s, step_s = time.monotonic() - began, sorted(self._steps_s)[len(self._steps_s) // 2]
        self._every = int(messages.from_first(lambda: max(1, math.ceil(check_s / (SHARE * step_s)))))
        self._settle(training)
        training.reporter.say(
            f"health: state is checked every {self._every} steps, and before saves: {1000 * check_s:.1f} ms, "
            f"{check_s / (self._every * step_s):.2%} of the time (step {1000 * step_s:.0f} ms)"
        )


def _error(training: Training, found: list[Difference]) -> CorruptionError:
    told = messages.gather({"node": node_name(), "found": found})
    ranks, tensors, hosts, bad = messages.from_first(lambda: _merged(told or []))
    training.reporter.event("corruption", step=training.step, ranks=ranks, hosts=hosts, tensors=tensors, bad_nodes=bad)
    more = f" and {len(tensors) - _SHOWN} more" if len(tensors) > _SHOWN else ""
    error = CorruptionError(
        f"state after step {training.step} is damaged: a memory or a link of a device is at fault, or an operation is not "
        "deterministic",
        got=f"{', '.join(tensors[:_SHOWN])}{more} on rank {', '.join(map(str, ranks))} ({', '.join(hosts)})",
        expected="the same bits on all ranks that share them, and from one update to the next",
        do=f"nothing of it was saved; {'exclude ' + ', '.join(bad) if bad else 'test these nodes'} and start the run again",
    )
    error.nodes = tuple(bad)
    return error


def _merged(told: list[dict[str, Any]]) -> list[list[Any]]:
    """[ranks, tensors, nodes, bad nodes] of what all ranks have found, each once.

    Bad are those of ranks that are known to be wrong: a majority is against them, or their own memory changed.
    """
    found = [difference for each in told for difference in each["found"]]
    sure = {rank for difference in found if difference["sure"] for rank in difference["ranks"]}
    ranks = sorted(sure or {rank for difference in found for rank in difference["ranks"]})
    tensors = list(dict.fromkeys(difference["tensor"] for difference in found))
    bad = sorted({told[rank]["node"] for rank in sure})
    return [ranks, tensors, sorted({told[rank]["node"] for rank in ranks}), bad]
