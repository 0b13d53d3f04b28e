"""The state machine of a stage: from what an incarnation left behind to what happens next. Pure functions.

An incarnation is one start of a job; SLURM requeues the same job id again and again. Exit codes cannot tell how it ended:
srun ends the other ranks at the first code that is not 0, in the middle of their saves. So ranks that leave together exit with
0 and leave a verdict, and everything else is inferred from committed checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from megabiomed.launch.records import since_submission

WRONG_INPUT = 2
KILLED = 3
SUPERSEDED = 4
AGAIN = "again"
"""Verb: start the ranks again in this allocation."""
# Incarnations that vanished without a word (node or head node lost, preempted without grace) are not the run's fault, so five
# of them count as much as one failure. They must count, or a run that never gets anywhere would take nodes for ever.
LOST_FOR_EACH_FAILURE = 5
CRAWL = 0.1
"""Share of a start that has to be training; less is a start that only starts."""


@dataclass(frozen=True)
class Decision:
    """What the batch script does next.

    Attributes:
        verb: `run`, `again` in the same allocation, `done`, `requeue`, `fail`, or `leave` for another node, because this one
            cannot reach the run folder.
        exclude: nodes that the next incarnation must avoid.
        nodes: of `run` and `again`, where the ranks start; empty leaves that to the batch script.
        code: exit code of `fail`; dependents of a job that fails are cancelled.
    """

    verb: str
    reason: str
    exclude: tuple[str, ...] = ()
    code: int = 1
    nodes: tuple[str, ...] = ()

    def line(self) -> str:
        """For the batch script: `verb|exclude, nodes or code|reason`."""
        middle = str(self.code) if self.verb == "fail" else ",".join(self.nodes or self.exclude)
        return f"{self.verb}|{middle}|{' '.join(self.reason.split())}"


@dataclass(frozen=True)
class Ending:
    """How an incarnation ended.

    Attributes:
        outcome: `finished`, `stopped` or `ended` when all ranks left together; else empty.
        code: exit code of srun, the highest of the ranks' codes.
        active: whether SLURM still has the job running; not when an operator cancelled or requeued it.
        before, after: newest committed step at the begin and now.
        warned: the job was asked to leave, perhaps before the ranks could listen.
        lasted_s: seconds since the begin.
        trained_s: those after the first step; None where nobody knows, as for a command.
        copied_s: those in which the nodes copied what the ranks read, which the next start finds there.
    """

    outcome: str
    code: int
    active: bool
    before: int
    after: int
    warned: bool = False
    lasted_s: float = 0.0
    trained_s: float | None = None
    copied_s: float = 0.0

    @property
    def crawled(self) -> bool:
        """Whether nearly all of the start was spent on starting."""
        return self.trained_s is not None and self.trained_s < CRAWL * self.lasted_s


def after_run(ending: Ending, history: list[dict[str, Any]], max_failures: int) -> Decision:
    """What follows an incarnation that ran.

    Args:
        history: records of earlier decisions and begins, oldest first.
        max_failures: failures without progress, this one included, after which the stage gives up.
    """
    history = since_submission(history)
    if ending.outcome == "finished":
        return Decision("done", "finished")
    # A failure, although it was wished: stages that wait for this one (afterok) must not start on half a model.
    if ending.outcome == "ended":
        return Decision("fail", "ended by its kill switch", code=KILLED)
    # An operator's scancel or requeue, or a preemption: SLURM has decided already, and a second requeue would undo it.
    if not ending.active:
        return Decision("done", "the job was cancelled or requeued from outside")
    if ending.outcome == "stopped":
        return _after_stop(ending, history, max_failures)
    # The next start would read the same input.
    if ending.code == WRONG_INPUT:
        return Decision("fail", "the input is wrong", code=WRONG_INPUT)
    # Short time limits, frequent preemption: the stop came before the first step. That is no failure of the run, but its
    # patience is limited too.
    if ending.warned and patience(history, ending.after) < max_failures * LOST_FOR_EACH_FAILURE:
        return Decision("requeue", f"asked to leave before it could save, at step {ending.after}")
    # Progress is what was committed: steps computed and lost again do not bring a run to its end. A start that committed
    # something begins the count again, its own death being the first.
    saved = ending.after - ending.before
    count = 1 if saved > 0 else failures(history, ending.after) + 1
    since = f"after {saved} more saved steps" if saved > 0 else "without progress"
    text = f"failure {count} of {max_failures} {since}, exit code {ending.code}, step {ending.after}"
    return Decision("requeue", text) if count < max_failures else Decision("fail", text)


def _after_stop(ending: Ending, history: list[dict[str, Any]], max_failures: int) -> Decision:
    """A run that was stopped goes on; one whose starts hardly train would take nodes for ever, a step at a time."""
    if not ending.crawled:
        return Decision("requeue", "stopped and saved")
    ends = [record for record in reversed(history) if record["kind"] == "end"]
    row = next((n for n, record in enumerate(ends) if not record.get("crawled")), len(ends)) + 1
    # Preemption may have cut them short, which is not the run's fault, so they count as starts that were lost.
    most = max_failures * LOST_FOR_EACH_FAILURE
    text = (
        f"stopped and saved, but this start trained for {ending.trained_s:.0f} of {ending.lasted_s:.0f} s "
        f"({ending.after - ending.before} steps; {row} of {most} such starts in a row)"
    )
    return Decision("requeue", text) if row < most else Decision("fail", f"{text}: raise `time`, or find what is slow")


def before_run(finished: bool, killed: bool, history: list[dict[str, Any]], step: int, max_failures: int) -> Decision:
    """Whether an incarnation may begin.

    Args:
        finished: the run has reached its last step.
        killed: the kill switch is set.
        step: newest committed step.
    """
    # Both may have come true while the job waited in the queue, and a job requeued by SLURM asks nobody else.
    if finished:
        return Decision("done", "finished already")
    if killed:
        return Decision("fail", "the kill switch is set (control/end)", code=KILLED)
    lost = lost_begins(since_submission(history), step)
    if lost >= max_failures * LOST_FOR_EACH_FAILURE:
        return Decision("fail", f"{lost} starts were lost without progress at step {step}")
    return Decision("run", f"begin at step {step}")


def after_preflight(bad: dict[str, str], nodes: int, history: list[dict[str, Any]], max_failures: int) -> Decision:
    """Exclude bad nodes, and those that any submission of the run found bad.

    A job whose nodes are all bad again and again, or that met bad ones too often, gives up.

    Args:
        bad: node -> why.
    """
    if not bad:
        return Decision("run", "all nodes are well")
    text = "; ".join(f"{node}: {why}" for node, why in sorted(bad.items()))
    before = [record for record in since_submission(history) if record["kind"] == "preflight"]
    # When all nodes are bad, none of them is the cause: perhaps the network, or the storage. Excluding them all would leave
    # a job that no node may run, so it tries again anywhere.
    if len(bad) == nodes and nodes > 1:
        tries = next((n for n, record in enumerate(reversed(before)) if not record.get("all")), len(before)) + 1
        return Decision(
            "requeue" if tries < max_failures else "fail", f"all nodes are bad, {tries} of {max_failures}: {text}"
        )
    met = sum(bool(record.get("exclude")) for record in before) + 1
    if met > max_failures * LOST_FOR_EACH_FAILURE:
        return Decision("fail", f"bad nodes for the {met}th time: {text}")
    return Decision("requeue", f"bad nodes: {text}", _with_earlier(bad, history))


def without_bad(decision: Decision, bad: dict[str, str], nodes: int, history: list[dict[str, Any]]) -> Decision:
    """What follows an incarnation whose ranks found bad nodes: a requeue leaves them out, unless all of several are.

    Args:
        decision: from `after_run`.
        bad: node -> why.
    """
    if not bad or decision.verb != "requeue" or (len(bad) >= nodes > 1):
        return decision
    text = "; ".join(f"{node}: {why}" for node, why in sorted(bad.items()))
    return replace(decision, reason=f"{decision.reason}; bad nodes: {text}", exclude=_with_earlier(bad, history))


def _with_earlier(bad: dict[str, str], history: list[dict[str, Any]]) -> tuple[str, ...]:
    """The scheduler replaces a job's list of excluded nodes, so the earlier ones are named again."""
    return tuple(sorted({node for record in history for node in record.get("exclude", ())} | set(bad)))


def failed_there_before(history: list[dict[str, Any]], node: str) -> bool:
    """Whether the start before this one failed on the same node, and on no other.

    Args:
        history: records of earlier decisions, oldest first.
    """
    last: dict[str, Any] = next((each for each in reversed(since_submission(history)) if each["kind"] == "end"), {})
    failure = last.get("first_failure")
    return isinstance(failure, dict) and failure.get("suspect") == node


def failures(history: list[dict[str, Any]], step: int) -> int:
    """Consecutive failures at exactly this step: a start that got further, or was stopped, resets the count."""
    count = 0
    for record in reversed(history):
        if record["kind"] != "end":
            continue
        if record.get("outcome") or record.get("after") != step:
            break
        if record.get("warned"):
            continue  # counted by `patience`
        count += 1
        if record.get("before") != step:
            break  # this one made the progress
    return count


def patience(history: list[dict[str, Any]], step: int) -> int:
    """The latest consecutive starts that were asked to leave at this step before they made progress."""
    ends = [record for record in reversed(history) if record["kind"] == "end"]
    return next(
        (n for n, record in enumerate(ends) if not record.get("warned") or record.get("after") != step), len(ends)
    )


def lost_begins(history: list[dict[str, Any]], step: int) -> int:
    """The latest incarnations that began at this step and then left no trace."""
    # A preflight that ended a start is a trace: the node was bad, the incarnation is not lost.
    heard = {record["incarnation"] for record in history if record["kind"] in ("end", "preflight")}
    count = 0
    for record in reversed(history):
        if record["kind"] != "begin":
            continue
        if record["incarnation"] in heard or record.get("step") != step:
            break
        count += 1
    return count
