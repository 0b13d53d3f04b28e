"""What hooks into the training loop: one concern per file. `standard_hooks` lists all of them."""

from __future__ import annotations

from megabiomed.evaluate.in_training import TrainingEvaluation
from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.hooks.encoder_balance import EncoderBalance
from megabiomed.runs.hooks.evaluation import Evaluation
from megabiomed.runs.hooks.first_step import FirstStep
from megabiomed.runs.hooks.gpu_health import GpuHealth
from megabiomed.runs.hooks.hang import Heartbeat
from megabiomed.runs.hooks.health import HealthCheck
from megabiomed.runs.hooks.profile import Profile
from megabiomed.runs.hooks.replicas import ReplicaCheck
from megabiomed.runs.hooks.reports import Reports
from megabiomed.runs.hooks.saving import Saving
from megabiomed.runs.hooks.slow_ranks import SlowRanks
from megabiomed.runs.hooks.validation import Validation


def standard_hooks(evaluation: TrainingEvaluation | None) -> list[Hook]:
    """The hooks of every run. At each point of the loop they are called in this order.

    The order matters: a step is refused before anybody counts it, what was measured is reported before a save takes the time,
    and the report, which holds the last event of a run, comes last.
    """
    replicas = ReplicaCheck()
    return [
        HealthCheck(),
        replicas,
        Validation(),
        Evaluation(evaluation),
        Saving(replicas.check),
        Heartbeat(),
        Profile(),
        FirstStep(),
        SlowRanks(),
        GpuHealth(),
        EncoderBalance(),
        Reports(),
    ]


__all__ = ["Hook", "standard_hooks"]
