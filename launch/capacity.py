"""Whether a job can still start without the nodes that it excludes: SLURM lets one that cannot wait for ever, in silence."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from megabiomed.ground.errors import MegabiomedError
from megabiomed.launch import scheduler
from megabiomed.launch.decision import Decision
from megabiomed.launch.preflight_verdict import is_slow

_IMPOSSIBLE = ("Requested node configuration is not available", "Invalid node name specified")
_AWAY = ("down", "drain", "fail", "maint", "unk", "power", "reboot", "no_respond", "*", "~", "#", "!", "%", "$", "@")
"""Parts of the states of nodes that may come back: then sbatch's answer is about this moment, not about all times."""


def within_capacity(
    decision: Decision, bad: Mapping[str, str], own: Iterable[str], fits: Callable[[set[str]], bool]
) -> Decision:
    """A requeue without bad nodes, as far as enough others are left: the least bad ones are let in again, or it gives up.

    Args:
        decision: a requeue that excludes bad nodes, those of earlier starts among them.
        bad: node -> why it was found bad just now.
        own: nodes that the operator excludes, which nobody else lets in.
        fits: whether the job could start without some nodes.
    """
    own = set(own)
    if fits(own | set(decision.exclude)):
        return replace(decision, exclude=tuple(sorted(own | set(decision.exclude))))
    # Those of earlier starts may be repaired by now, and their preflight tells.
    if fits(own | set(bad)):
        again = ", ".join(sorted(set(decision.exclude) - own - set(bad)))
        reason = f"{decision.reason}; too few others are left, so these are tried again: {again}"
        return replace(decision, reason=reason, exclude=tuple(sorted(own | set(bad))))
    broken = {node for node, why in bad.items() if not is_slow(why)}
    if not broken:
        return Decision("run", f"{decision.reason}; they are used, because too few others are left")
    if fits(own | broken):
        reason = f"{decision.reason}; too few others are left, so slow ones are used"
        return replace(decision, reason=reason, exclude=tuple(sorted(own | broken)))
    return Decision("fail", f"{decision.reason}; too few others are left: repair them, then megabiomed resubmit")


def can_start(job: Mapping[str, str], script: Path, needed: int, exclude: set[str]) -> bool:
    """Whether the scheduler could ever start a job without some nodes; True where nobody can tell.

    Args:
        job: its fields, as `scheduler.job` has them.
        needed: nodes that it takes.
    """
    # Of a job on several kinds of nodes, each kind has its own partition and exclusions.
    if "Partition" not in job or "SLURM_HET_SIZE" in os.environ:
        return True
    try:
        states = states_of(job["Partition"])
        if states and len(states.keys() - exclude) < needed:
            return False
        # Constraints, GPUs and memory narrow the choice further; sbatch knows all of them, but takes a node that is away
        # for one that does not exist.
        if not exclude or any(part in state for state in states.values() for part in _AWAY):
            return True
        said = scheduler.refusal(script, exclude)
        return not any(words in said for words in _IMPOSSIBLE)
    except MegabiomedError:
        return True


def states_of(partition: str) -> dict[str, str]:
    """Node -> state of all nodes of a partition, or of several (`a,b`)."""
    text = scheduler.call("sinfo", "--noheader", "-N", f"--partition={partition}", "--format=%N|%T", patient=False)
    return dict(line.strip().split("|", 1) for line in text.splitlines() if "|" in line)
