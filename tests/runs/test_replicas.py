"""When a run looks for flipped bits, what it says of the cost, and whom it blames."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from megabiomed.engine.base import Held
from megabiomed.engine.replicas import Watch
from megabiomed.ground.errors import CorruptionError
from megabiomed.runs.hooks import replicas
from megabiomed.runs.hooks.replicas import ReplicaCheck, _merged


class Run:
    """A training of one rank whose clock the test sets: a step takes 100 ms, the two readings of a check 4.9 ms."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, check_every: int | None, save_every: int = 0) -> None:
        self.now = 0.0
        self.reads: list[int] = []
        self.lines: list[str] = []
        self.state = torch.arange(6.0)
        self.engine = SimpleNamespace(
            watch=Watch(), held=self._held, compare_next=lambda: None, compared=[], waits_for_gradients=False
        )
        self.training: Any = SimpleNamespace(
            step=0, module=SimpleNamespace(engine=self.engine), mesh=SimpleNamespace(rank=0),
            config=SimpleNamespace(
                health=SimpleNamespace(check_every=check_every),
                checkpoint=SimpleNamespace(save_every=save_every, keep_every=0),
            ),
            reporter=SimpleNamespace(say=self.lines.append, event=lambda kind, **values: self.lines.append(kind)),
        )  # fmt: skip
        monkeypatch.setattr(replicas, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.check = ReplicaCheck()
        self.check.at_start(self.training)

    def _held(self) -> list[Held]:
        self.reads.append(self.training.step)
        self.now += 0.00245
        return [Held("w (exp_avg)", self.state)]

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.check.before_step(self.training, cast(Any, None))
            self.now += 0.1
            if self.engine.watch.waits:
                self.engine.watch.before_update(self.engine.held())
            self.state += 1
            self.training.step += 1
            self.check.after_step(self.training, cast(Any, None))


def test_by_default_the_interval_is_chosen_so_that_checks_take_their_share_of_the_time(
    alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(monkeypatch, None)
    run.steps(100)
    assert run.lines[0] == (
        "health: state is checked every 25 steps, and before saves: 4.9 ms, 0.20% of the time (step 100 ms)"
    )
    assert run.reads == [6, 6, 25, 25, 50, 50, 75, 75, 100]
    run.check.on_leave(run.training)
    assert re.fullmatch(r"health: checks took \d\.\d\d s of 10\.\d s \(\d.*%\)", run.lines[1])


def test_a_bit_that_flips_after_an_update_is_found_before_the_save_or_in_the_next_step(
    alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = Run(monkeypatch, 0)
    never.steps(8)
    never.check.check(never.training)
    assert never.reads == []
    for steps, saves in ((3, True), (3, False), (7, True)):
        run = Run(monkeypatch, 3, save_every=7)
        run.steps(steps)
        run.state.view(torch.int32)[4] ^= 1
        with pytest.raises(CorruptionError, match=r"got w \(exp_avg\) on rank 0 \(n3\)") as found:  # noqa: PT012
            monkeypatch.setenv("SLURMD_NODENAME", "n3")
            if saves:
                run.check.check(run.training)
            run.steps(1)
        assert found.value.nodes == ("n3",)
        assert run.lines == ["corruption"]


def test_nobody_is_excluded_where_two_ranks_differ_unless_one_is_known_to_be_wrong() -> None:
    both = {"tensor": "norm", "ranks": [0, 1], "sure": False}
    told = [{"node": "n0", "found": [both]}, {"node": "n1", "found": [both]}]
    assert _merged(told) == [[0, 1], ["norm"], ["n0", "n1"], []]
    told[1]["found"].append({"tensor": "norm", "ranks": [1], "sure": True})
    assert _merged(told) == [[1], ["norm"], ["n1"], ["n1"]]
