"""The steps of a replay on this rank: from a checkpoint to the step before, then that step under watch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import RunConfig
from megabiomed.config.topology import check_run
from megabiomed.data.quarantine import Quarantine
from megabiomed.engine.build import StepResult, TrainEngine
from megabiomed.engine.gate import Limits
from megabiomed.engine.mesh import Mesh, build_mesh
from megabiomed.engine.non_finite import NonFiniteWatch, non_finite_state
from megabiomed.ground.errors import DataError, UserError
from megabiomed.ground.figures import stored
from megabiomed.kernels.documents import Documents
from megabiomed.model.start_from import check_architecture
from megabiomed.processes import messages, platform
from megabiomed.processes.signals import Request, StopFlag
from megabiomed.runs.checkpointing import load, resumed_progress
from megabiomed.runs.module import Run, RunData, TrainModule
from megabiomed.runs.replay.documents import piece_of
from megabiomed.runs.replay.plan import Plan, PlannedStep
from megabiomed.runs.schedule import learning_rate_at

_REFUSED = Limits(loss=-math.inf)
"""No loss is below: the update is not applied."""
_SAY_S = 5.0


class Replay:
    """One rank of a replay. Nothing in the run folder is written. All methods are collective.

    Args:
        say: shows a line, on rank 0 alone.
    """

    def __init__(self, plan: Plan, run: Run, stop: StopFlag, say: Callable[[str], None]) -> None:
        self._plan, self._stop = plan, stop
        self._say = say
        self._config: RunConfig = run.config
        check_run(run.config, _world())
        self._mesh: Mesh = build_mesh(run.config.parallel, run.config.extra_ranks)
        self._data: RunData = run.open_data(self._mesh)
        checkpoint = Checkpoint.open(plan.checkpoint) if plan.checkpoint else None
        if checkpoint is not None:
            check_architecture(checkpoint, run.config.model)
            resumed_progress(checkpoint, self._data.loader.identity, run.config, self._data.tokenizer)  # the same data
        self._module: TrainModule = run.build(self._mesh, checkpoint)
        if checkpoint is None:
            self._module.load_initial()
        else:
            say(load(self._module.engine, checkpoint, plan.done))

    @property
    def _engine(self) -> TrainEngine:
        return self._module.engine

    def compute(self) -> dict[str, Any] | None:
        """The step that was asked for, as the ranks found it; on rank 0, None on the others."""
        *before, last = self._plan.steps
        began, told = time.monotonic(), 0.0
        for number, planned in enumerate(before):
            self._step(planned)
            if self._stop.agreed(leaving=True) >= Request.STOP:
                raise UserError(f"the replay was asked to leave after step {planned.step}", do="start it again")
            passed = time.monotonic() - began
            if passed - told >= _SAY_S or number + 1 == len(before):
                told, left = passed, passed / (number + 1) * (len(before) - number)
                self._say(f"step: {planned.step}/{last.step} eta: {timedelta(seconds=round(left))}")
        state = self._state()
        self._engine.record_gradients(True)
        watch = NonFiniteWatch(self._engine) if self._mesh.in_model else None
        watching: AbstractContextManager[object] = nullcontext() if watch is None else watch.watching()
        with watching:
            result = self._step(last)
        found = [self._located(watch, number, last) for number in range(len(watch.found))] if watch is not None else []
        # The same layer on tensor ranks is one finding of each of them.
        gathered = messages.gather(found)
        if gathered is None:
            return None
        return {
            "loss": stored(result.loss), "grad_norm": stored(result.grad_norm), "applied": result.applied,
            "loss_tokens": result.loss_tokens, "device": platform.describe(), "state": state,
            "norms": {name: stored(value) for name, value in self._engine.gradient_norms.read().items()},
            "non_finite": sorted((each for of_rank in gathered for each in of_rank), key=_order),
        }  # fmt: skip

    def _step(self, planned: PlannedStep) -> StepResult:
        """As the trainer does it."""
        config, loader = self._config, self._data.loader
        loader.quarantine = self._masked(planned.quarantined)
        batch = loader.batch_at(planned.sample)
        done = planned.step - 1
        lr = learning_rate_at(config, loader.samples_per_epoch, done, planned.sample)
        platform.seed_all(config.seed, done, self._mesh.replica or 0)
        agreed = Limits() if config.health.decides_on_device else None
        self._engine.gate.limits = agreed if planned.applied else _REFUSED
        return self._module.train_step(batch, lr)

    def _masked(self, papers: list[str]) -> Quarantine:
        """What was masked at a step; looked up once while it stays the same."""
        loader = self._data.loader
        if papers == loader.quarantine.papers:
            return loader.quarantine
        found, unknown = Quarantine.of_papers(papers, loader.documents)
        if unknown:
            raise DataError(
                "the training data of the run lack papers that it masked", got=", ".join(unknown),
                do="bring the token stores back that the run had",
            )  # fmt: skip
        return found

    def _state(self) -> list[str]:
        """Tensors that are not finite before the step, of all ranks."""
        gathered = messages.gather(non_finite_state(self._engine))
        return sorted({name for of_rank in gathered or [] for name in of_rank})

    def _located(self, watch: NonFiniteWatch, number: int, planned: PlannedStep) -> dict[str, Any]:
        found = watch.found[number]
        batch = self._engine.pipeline.batches[found.micro_batch]
        starts = batch.documents.start.tolist() if isinstance(batch.documents, Documents) else []
        firsts = sorted({starts[token] for token in found.tokens if starts})
        documents = [piece_of(self._data.loader, planned.sample, found.micro_batch, first) for first in firsts]
        named = {key: value for key, value in asdict(found).items() if key != "tokens"}
        return {**named, "rank": self._mesh.rank, "tokens": len(found.tokens), "documents": documents}


def _order(found: dict[str, Any]) -> tuple[Any, ...]:
    first = found["documents"][0]["sample"] if found["documents"] else -1
    return found["phase"] != "forward", found["place"], first, found["rank"]


def _world() -> int:
    import torch.distributed as dist

    return dist.get_world_size()
