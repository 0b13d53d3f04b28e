"""One rank of the engine tests: `python engine_worker.py WHAT OUTPUT [JSON]`; rank 0 writes what it found as JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from support.cases import one_by_one
from support.parity import STEPS, case_config, global_batches

from megabiomed.checkpoint.logical import Box
from megabiomed.data.packing import MicroBatch, padding_window
from megabiomed.engine import workarounds
from megabiomed.engine.build import TrainEngine, build_engine
from megabiomed.engine.frozen import FrozenEngine
from megabiomed.engine.fsdp import FsdpEngine
from megabiomed.engine.gate import Limits
from megabiomed.engine.mesh import build_mesh
from megabiomed.engine.replicas import Sums
from megabiomed.engine.stage import PipelineStage
from megabiomed.engine.zero import ZeroEngine
from megabiomed.ground.errors import CorruptionError
from megabiomed.model.fresh import SeededInit
from megabiomed.model.registry import architecture_of
from megabiomed.model.start_from import adapter_chain
from megabiomed.model.tying import CopiedEnd
from megabiomed.processes import messages, platform
from megabiomed.runs.hooks.replicas import ReplicaCheck


def engine_of(case: dict[str, Any]) -> TrainEngine:
    config = case_config({"name": "engine", **case})
    mesh = build_mesh(config.parallel)
    frozen = case.get("frozen", False)
    engine = TrainEngine(config, mesh, FrozenEngine(config, mesh)) if frozen else build_engine(config, mesh)
    engine.base = adapter_chain(None, config.model, config.seed) if config.lora else None
    engine.load_weights(engine.base or SeededInit(config.model, config.seed))
    return engine


def micro_batches(engine: TrainEngine) -> list[list[MicroBatch]]:
    """This rank's micro-batches of every step."""
    steps, mesh = [], engine.mesh
    for _, windows in zip(range(STEPS), global_batches(engine.config)):
        share = len(windows) // mesh.size("replicas")
        mine = windows[mesh.coordinate("replicas") * share : (mesh.coordinate("replicas") + 1) * share]
        size = engine.config.data.micro_batch_size
        steps.append([MicroBatch.from_windows(mine[i : i + size]) for i in range(0, share, size)])
    return steps


def decay(cases: list[dict[str, Any]]) -> Any:
    """A step whose gradient is zero: only weight decay moves anything. Returns the factor of every tensor."""
    return one_by_one(cases, _decay)


def _decay(case: dict[str, Any]) -> dict[str, float]:
    engine = engine_of(case)
    before = {f.box: f.views["param"].clone() for f in engine.fragments()}
    empty = [MicroBatch.from_windows([padding_window(32)])] * (8 // engine.mesh.size("replicas"))
    engine.train_step(empty, lr=0.01)
    factors: dict[str, float] = {}
    for fragment in engine.fragments():
        old = before[fragment.box]
        factors[fragment.box.name] = float(fragment.views["param"].norm() / old.norm())
    return factors


def memory(cases: list[dict[str, Any]]) -> Any:
    """Peak memory of constructing the stage, and of the loaded engine, over what was there before (largest rank)."""
    return one_by_one(cases, _memory_of)


def _memory_of(case: dict[str, Any]) -> dict[str, float]:
    engine_of({"parallel": case["parallel"]})  # a small one first: imports and buffers are not the model
    before, constructed = _reset_peak(), []
    original = PipelineStage.__init__

    def measured(self: PipelineStage, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        constructed.append(_status("VmHWM") - before)

    PipelineStage.__init__ = measured  # type: ignore[method-assign]
    engine = engine_of(case)
    PipelineStage.__init__ = original  # type: ignore[method-assign]
    peaks = torch.tensor([float(constructed[-1]), float(_status("VmHWM") - before)])
    dist.all_reduce(peaks, op=dist.ReduceOp.MAX)
    model = 4 * engine.num_parameters()
    return {"constructed": float(peaks[0]) / model, "loaded": float(peaks[1]) / model}


def _reset_peak() -> int:
    """Forget the high-water mark (proc(5), clear_refs); returns the resident bytes now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def autotp(cases: list[dict[str, Any]]) -> Any:
    """Losses of DeepSpeed's AutoTP on transformers' model, and of ours, on the same weights and batches."""
    import deepspeed
    from transformers import LlamaConfig, LlamaForCausalLM

    engine = engine_of(cases[0])
    steps = micro_batches(engine)
    ours = [engine.train_step(batches, lr=engine.config.optimizer.lr).loss for batches in steps]
    config = engine.config
    ours_only = ("init_from", "initializer_range", "tie_word_embeddings")
    shape = {key: value for key, value in config.model.model_dump().items() if key not in ours_only}
    model = LlamaForCausalLM(LlamaConfig(**shape, attn_implementation="sdpa")).float()
    source = SeededInit(config.model, config.seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(source.read(Box.whole(name, architecture_of(config.model).shapes[name])))
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 8,
        "gradient_clipping": config.optimizer.clip_grad_norm,
        "tensor_parallel": {"autotp_size": 2},
        "zero_optimization": {"stage": 1},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    o = config.optimizer
    groups = [{"params": decayed, "weight_decay": o.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps)
    peer, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, dist_init_required=False)
    theirs = [_autotp_step(peer, batches) for batches in steps]
    return {"ours": ours, "theirs": theirs}


def _autotp_step(peer: Any, batches: list[MicroBatch]) -> float:
    count, total = sum(batch.num_loss_tokens for batch in batches), 0.0
    for batch in batches:
        index = torch.arange(batch.tokens.numel())
        visible = (index[None, :] <= index[:, None]) & (index[None, :] >= batch.documents.start[:, None])
        logits = peer(
            input_ids=batch.tokens[None], attention_mask=visible[None, None], position_ids=batch.positions[None]
        ).logits[0]
        loss = torch.nn.functional.cross_entropy(logits.float(), batch.labels, reduction="sum") / count
        peer.backward(loss * len(batches))
        peer.step()
        total += float(loss.detach())
    return total


def evaluation(cases: list[dict[str, Any]]) -> Any:
    """Summed loss of the same windows, forward only, per case."""
    return one_by_one(cases, _evaluation)


def _evaluation(case: dict[str, Any]) -> list[float]:
    engine = engine_of(case)
    total, tokens = engine.evaluate(micro_batches(engine)[0])
    return [total, tokens]


def trace_check(cases: list[dict[str, Any]]) -> Any:
    """Whether the trace check notices ranks of one group that ran different modules, and passes equal ones."""
    from deepspeed.runtime.zero import partitioned_param_coordinator as module

    engine, original = engine_of(cases[0]), module.assert_ints_same_as_other_ranks
    trace = [5, 6, 7]
    coordinator = SimpleNamespace(reset_step=lambda: module.assert_ints_same_as_other_ranks(trace))
    optimizer = SimpleNamespace(parameter_offload=SimpleNamespace(param_coordinator=coordinator))
    workarounds.check_traces_inside(optimizer, engine.mesh.group("shards"))
    coordinator.reset_step()
    trace[2] += dist.get_rank()
    try:
        coordinator.reset_step()
    except RuntimeError as error:
        return str(error) if module.assert_ints_same_as_other_ranks is original else "the library stays changed"
    return "not noticed"


def refused(cases: list[dict[str, Any]]) -> Any:
    """Four steps of which the gate refuses two, and the same run without these two: figures and whether all state is equal.

    The second step is not a number on the last rank alone, the third one has a norm above the limit.
    """
    return one_by_one(cases, _refused)


def _refused(case: dict[str, Any]) -> dict[str, Any]:
    engine, reference = engine_of(case), engine_of(case)
    run, last = engine.pipeline.run, dist.get_rank() == dist.get_world_size() - 1
    results = []
    for number, batches in enumerate(micro_batches(engine)[:4]):
        bad = number == 1 and last
        engine.pipeline.run = lambda held, scale, bad=bad: run(held, math.nan if bad else scale)  # type: ignore[method-assign]
        engine.gate.limits = Limits(grad_norm=1e-9 if number == 2 else math.inf)
        results.append(engine.train_step(batches, lr=0.01))
        if number in (0, 3):
            reference.train_step(batches, lr=0.01)
    pairs = zip(engine.fragments(), reference.fragments(), strict=True)
    equal = all(torch.equal(view, b.views[kind]) for a, b in pairs for kind, view in a.views.items())
    counts = [_counts(each) for each in (engine, reference)]
    (broken,) = engine.mesh.sum_over(dist.group.WORLD, float(not equal or counts[0] != counts[1]))
    return {
        "applied": [result.applied for result in results], "finite": [math.isfinite(r.grad_norm) for r in results],
        "losses": [result.loss for result in results], "broken": broken, "counts": counts[0],
    }  # fmt: skip


def _counts(engine: TrainEngine) -> list[float]:
    """Step numbers that the optimizer keeps."""
    inner = engine.data_parallel
    assert isinstance(inner, ZeroEngine | FsdpEngine)
    optimizer = inner.torch_optimizer() if isinstance(inner, ZeroEngine) else inner.optimizer
    return sorted({float(state["step"]) for state in optimizer.state.values() if "step" in state})


FLIPS = 12


def replicas(cases: list[dict[str, Any]]) -> Any:
    """One bit flipped on the last rank, again and again: in the state, in reduced gradients, in the copy of a tied head."""
    return one_by_one(cases, _replicas)


def _replicas(case: dict[str, Any]) -> dict[str, Any]:
    engine, dice = engine_of(case), np.random.default_rng(1)
    steps = micro_batches(engine)
    engine.train_step(steps[0], lr=0.01)
    held, rank = engine.held(), dist.get_rank()
    before = Sums.of(held)
    engine.watch.after_update(before)
    engine.compare_next()
    engine.train_step(steps[1], lr=0.01)
    clean = before.differences() + engine.watch.changed(rank) + Sums.joined(engine.compared).differences()
    held = [each for each in engine.held() if each.tensor is not None and each.tensor.numel()]
    told: list[Any] = []
    for _ in range(FLIPS):
        chosen = held[int(dice.integers(len(held)))]
        assert chosen.tensor is not None
        place, bit = int(dice.integers(chosen.tensor.numel())), int(dice.integers(8 * chosen.tensor.element_size()))
        engine.watch.after_update(Sums.of(held))
        flip(chosen.tensor, place, bit)
        engine.watch.before_update(held)
        told.append([chosen.name, len(chosen.alike), Sums.of(held).differences(), engine.watch.changed(rank)])
        flip(chosen.tensor, place, bit)
    everywhere = messages.broadcast(messages.gather(told))
    return {
        "clean": clean, "told": everywhere[-1], "first": everywhere[0], "used": _flipped_in_use(engine, steps[2]),
        "hook": _hook(engine),
    }  # fmt: skip


def _flipped_in_use(engine: TrainEngine, batches: list[MicroBatch]) -> list[Any]:
    """A step in which a reduced gradient, or else the copy of a tied head, gets a flipped bit."""
    engine.compare_next()
    see, tied = engine.data_parallel.see_gradients, engine.data_parallel.stage.tied_end
    if see is not None:

        def flipped() -> None:
            gradients = list(engine.data_parallel.reduced_gradients())
            assert gradients[-1].tensor is not None
            flip(gradients[-1].tensor, 0, 3)
            see()

        engine.data_parallel.see_gradients = flipped
    elif isinstance(tied, CopiedEnd):
        take = tied.take_sum

        def damaged() -> Any:
            flip(tied.weight(), 5, 2)
            return take()

        tied.take_sum = damaged  # type: ignore[method-assign]
    engine.train_step(batches, lr=0.01)
    return Sums.joined(engine.compared).differences()


def _hook(engine: TrainEngine) -> dict[str, Any]:
    """What a run says of a bit that was flipped between a check and a save, and what its events do."""
    events: list[Any] = []
    reporter = SimpleNamespace(event=lambda kind, **told: events.append([kind, told]), say=events.append)
    config = SimpleNamespace(
        health=SimpleNamespace(check_every=4), checkpoint=SimpleNamespace(save_every=0, keep_every=0)
    )
    mesh = SimpleNamespace(rank=dist.get_rank())
    training: Any = SimpleNamespace(
        config=config, step=4, module=SimpleNamespace(engine=engine), reporter=reporter, mesh=mesh
    )  # fmt: skip
    check, error = ReplicaCheck(), ""
    nodes: tuple[str, ...] = ()
    check.at_start(training)
    engine.watch.forget()
    state = engine.held()
    # The flip that `_flipped_in_use` left in a gradient has made weights unlike; that is found as well.
    for each in (each for each in state if each.tensor is not None):
        for group in each.alike:
            dist.broadcast(each.tensor.detach(), group=group, group_src=0)
    check.after_step(training, cast(Any, None))
    name, tensor = next(
        (each.name, each.tensor) for each in reversed(state) if each.tensor is not None and each.tensor.numel()
    )
    flip(tensor, 0, 0)
    try:
        check.check(training)
    except CorruptionError as raised:
        error, nodes = str(raised), raised.nodes
    names = messages.broadcast(messages.gather(name))
    return {"events": events, "error": error, "nodes": nodes, "name": names[-1]}


def flip(tensor: torch.Tensor, place: int, bit: int) -> None:
    """Flip one bit of one element, on the last rank alone."""
    if dist.get_rank() == dist.get_world_size() - 1:
        of = tensor.detach().view(-1).view(torch.uint8)
        of[place * tensor.element_size() + bit // 8] ^= 1 << bit % 8


JOBS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "decay": decay,
    "memory": memory,
    "autotp": autotp,
    "evaluation": evaluation,
    "trace_check": trace_check,
    "refused": refused,
    "replicas": replicas,
}


def main() -> None:
    torch.set_num_threads(1)
    np.random.seed(0)
    platform.init_distributed(timeout_s=120)
    found = JOBS[sys.argv[1]](json.loads(sys.argv[3]))
    if dist.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
    platform.leave()


if __name__ == "__main__":
    main()
