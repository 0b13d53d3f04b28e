"""Compares what several ranks hold alike, at intervals and before every save, so that no damaged weights are kept."""

from __future__ import annotations

import socket
from typing import Any

from megabiomed.engine.replicas import Difference, differences
from megabiomed.ground.errors import CorruptionError
from megabiomed.processes import messages, platform
from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.training import Step, Training

_SHOWN = 5


class ReplicaCheck(Hook):
    """Ends the run where ranks differ that must not, before the weights are saved. All of it is collective."""

    def __init__(self) -> None:
        self._checked = -1

    def at_start(self, training: Training) -> None:
        """See the base class. Says where nothing can be compared."""
        if training.config.health.check_every and not _comparable(training):
            training.reporter.say(
                "health: no rank holds what another one holds too, so health.check_every compares nothing"
            )

    def after_step(self, training: Training, step: Step) -> None:
        """See the base class."""
        every = training.config.health.check_every
        if every and step.number % every == 0:
            self.check(training)

    def check(self, training: Training) -> None:
        """Compare now, once after each step; nothing where `health.check_every` is 0.

        Raises:
            CorruptionError: on all ranks, with tensors, ranks and hosts.
        """
        if not training.config.health.check_every or self._checked == training.step:
            return
        self._checked = training.step
        found = differences(training.module.engine)
        if platform.on_any_rank(bool(found)):
            raise self._error(training, found)

    def _error(self, training: Training, found: list[Difference]) -> CorruptionError:
        told = messages.gather({"host": socket.gethostname(), "found": found})
        ranks, tensors, hosts = messages.from_first(lambda: _merged(told or []))
        training.reporter.event("corruption", step=training.step, ranks=ranks, hosts=hosts, tensors=tensors)
        more = f" and {len(tensors) - _SHOWN} more" if len(tensors) > _SHOWN else ""
        return CorruptionError(
            f"weights differ after step {training.step} between ranks that must hold the same: memory or a link of a device "
            "is damaged, or an operation is not deterministic",
            got=f"{', '.join(tensors[:_SHOWN])}{more} on rank {', '.join(map(str, ranks))} ({', '.join(hosts)})",
            do="nothing of it was saved; exclude the node and start the run again",
        )


def _comparable(training: Training) -> bool:
    engine = training.module.engine
    return platform.on_any_rank(
        any(engine.mesh.in_model and engine.mesh.size(span) > 1 for *_, span in engine.data_parallel.replicated())
    )


def _merged(told: list[dict[str, Any]]) -> list[list[Any]]:
    """[ranks, tensors, hosts] of what all ranks have found, each once."""
    found = [difference for each in told for difference in each["found"]]
    ranks = sorted({rank for difference in found for rank in difference["ranks"]})
    tensors = list(dict.fromkeys(difference["tensor"] for difference in found))
    return [ranks, tensors, sorted({told[rank]["host"] for rank in ranks})]
