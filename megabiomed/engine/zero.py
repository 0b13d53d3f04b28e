"""DeepSpeed ZeRO 0-3 as the data-parallel engine of one pipeline stage."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from megabiomed.checkpoint.logical import Fragment, TensorSource
from megabiomed.config import RunConfig
from megabiomed.data.packing import MicroBatch
from megabiomed.engine import patches, workarounds, zero_gathers, zero_held, zero_parts, zero_step
from megabiomed.engine.base import (
    DataParallelEngine,
    Held,
    flat_fragments,
    read_local,
    set_steps,
    state_before_training,
)
from megabiomed.engine.deepspeed_settings import deepspeed_settings, import_deepspeed
from megabiomed.engine.fused_adamw import FusedAdamW, clip_scale, optimizer_of
from megabiomed.engine.gate import before_step, guard_step
from megabiomed.engine.main_gradients import MainGradients, zero1_bf16, zero3_bf16
from megabiomed.engine.mesh import DeepSpeedTopology, Mesh
from megabiomed.engine.norm import clip_, global_grad_norm
from megabiomed.engine.stage import PipelineStage, optimizer_groups, set_rates
from megabiomed.processes import platform


class ZeroEngine(DataParallelEngine):
    """One DeepSpeed engine over this rank's chunks; the schedule around it is not DeepSpeed's."""

    def __init__(self, config: RunConfig, mesh: Mesh) -> None:
        super().__init__(mesh)
        self.config = config
        self.stage_number = config.parallel.zero_stage
        self.rule = config.optimizer.rule
        deepspeed = import_deepspeed()
        patches.check("deepspeed", self.stage_number)
        workarounds.skip_shared_memory_build()
        workarounds.mask_on_device()
        settings = deepspeed_settings(config)
        with self._construction(deepspeed, settings), torch.device(platform.device()):
            self.stage = PipelineStage(config, mesh, platform.DTYPES[config.train.compute_type])
        if self.stage_number == 3:
            for name, parameter in self.stage.named_parameters():
                replicated = self.stage.placements[name].replicated
                # Before `initialize`, which reads the mark.
                workarounds.mark_replicated(parameter, replicated and mesh.coordinate("tp") == 0)
        groups = optimizer_groups(self.stage, config, mesh)
        with workarounds.barriers_among(mesh.everyone) if self.stage_number == 3 else nullcontext():
            self.deepspeed, *_ = deepspeed.initialize(
                model=self.stage,
                optimizer=optimizer_of(groups, config),
                config=settings,
                mpu=DeepSpeedTopology(mesh),
                dist_init_required=False,
            )
        self.optimizer: Any = self.deepspeed.optimizer
        self._norm = torch.tensor(float("nan"))
        self._known: platform.Later | None = None
        self._shown = False
        if self.stage_number == 0:
            workarounds.clip_with(self.deepspeed, self._clip_replicated)
        else:
            zero_step.before(self.optimizer, lambda: self.gradient_norms.add(zero_held.counted_gradients(self)))
        inner = self.torch_optimizer()
        if isinstance(inner, FusedAdamW):
            self._step_in_one_pass(inner)
        else:
            guard_step(inner, lambda: self.gate.allows(self._last_norm()))
        before_step(inner, self._show_once)
        self._lead: zero_gathers.HostLead | None = None
        if self.stage_number == 3:
            self._prepare_partitions()
        # After `initialize`, which moves the parameters' data and makes the buffers.
        self.gradients = self._main_gradients()
        self._create_moments()

    def _prepare_partitions(self) -> None:
        if self.mesh.size("shards") == 1:
            zero_gathers.keep_gathered(self.optimizer, self.stage)
        else:
            workarounds.check_traces_inside(self.optimizer, self.mesh.group("shards"))
            zero_gathers.gather_behind_the_host(self.optimizer)
            self._lead = zero_gathers.HostLead()
        if self.config.train.precision == "bf16":
            zero_step.norms_in_one_pass(self.optimizer, self.mesh)
            zero_step.reduce_behind_the_host(self.optimizer)

    def _main_gradients(self) -> MainGradients:
        """The engine's fp32 buffers that products accumulate in; fp32 runs and the host's optimizer keep DeepSpeed's hooks."""
        wanted, parallel = self.config.kernels.weight_gradient, self.config.parallel
        if wanted == "hook" or self.config.train.compute_type == "fp32" or parallel.offload_optimizer:
            return MainGradients()
        if self.stage_number == 3:
            return zero3_bf16(self.optimizer, self.stage, wanted, self.mesh.group("shards"))
        return zero1_bf16(self.optimizer, self.stage, wanted) if self.stage_number == 1 else MainGradients()

    def _construction(self, deepspeed: Any, settings: dict[str, Any]) -> AbstractContextManager[Any]:
        """Under ZeRO-3 every layer is partitioned as soon as it exists, so no rank ever holds its stage whole."""
        if self.stage_number < 3:
            return nullcontext()
        return deepspeed.zero.Init(
            data_parallel_group=self.mesh.group("shards"),
            config_dict_or_path=settings,
            mpu=DeepSpeedTopology(self.mesh),
        )

    def forward(self, chunk: int, x: Tensor | None, batch: MicroBatch, return_logits: bool = False) -> Tensor:
        """See the base class."""
        if self.stage_number == 0:
            # Stage 0 has nothing to do before step(), and DeepSpeed's hooks there refuse a backward that is not its own.
            return cast(Tensor, self.stage(chunk, x, batch, return_logits))
        if self._lead is not None:
            self._lead.begin()
        y: Tensor = self.deepspeed(chunk, x, batch, return_logits)
        return workarounds.mark_backward(y, self.optimizer) if self.stage_number >= 2 else y

    def begin_step(self) -> None:
        """See the base class."""
        self.stage.begin_step()
        self.gradients.begin_step()
        if self.stage_number == 3:
            workarounds.forget_old_gradients(self.optimizer, not self.gradients.held)

    def step(self, lr: float) -> float:
        """See the base class."""
        set_rates(self.optimizer.param_groups, lr)
        self.gradients.finish_step()
        # Stays None where DeepSpeed skips the step, because its norm is not finite.
        self._known = None
        inner = self.torch_optimizer()
        if isinstance(inner, FusedAdamW):
            inner.begin_step()
        self._shown = self.stage_number == 0  # before it clips
        self.deepspeed.step()
        if self.config.parallel.offload_optimizer and self.stage_number < 3:
            workarounds.drop_refused_gradients(self.optimizer)
        self._close_gate(inner)
        self.stage.weights_changed()
        if self._known is not None:
            return self._known.read()
        return float(self._norm if self.stage_number == 0 else self.deepspeed.get_global_grad_norm())

    def _close_gate(self, inner: torch.optim.Optimizer) -> None:
        if self.gate.limits is None:
            return
        # Nobody asked where DeepSpeed skipped the step, and other ranks may have.
        self.gate.refused(math.inf)
        verdict = self.gate.verdict()
        if isinstance(inner, FusedAdamW) and verdict and not verdict.applied:
            inner.forget_step()

    def _last_norm(self) -> Tensor:
        """The global norm of the step that DeepSpeed is in, [] on the device."""
        return self._norm if self.stage_number == 0 else zero_step.norm(self.optimizer)

    def _seen(self, norm: Tensor) -> Tensor:
        """A norm that the optimizer is about to use; the host may read it before the step that follows has run."""
        self._known = platform.Later(norm)
        return norm

    def _gated(self, scale: Tensor) -> Tensor:
        return self.gate.scaled(scale, self._last_norm())

    def held(self) -> Iterator[Held]:
        """See the base class."""
        return zero_held.held(self)

    def reduced_gradients(self) -> Iterator[Held]:
        """See the base class."""
        return zero_held.gradients(self)

    def train(self, mode: bool) -> None:
        """See the base class."""
        self.deepspeed.train(mode)

    def end(self) -> None:
        """See the base class: those that DeepSpeed registered with autograd."""
        self.deepspeed.destroy()

    def _show_once(self) -> None:
        """DeepSpeed steps ZeRO-3 group by group."""
        if not self._shown:
            self._shown = True
            self._show_gradients()

    def _clip_replicated(self) -> None:
        # Stage 0 in fp32: DeepSpeed clips by a norm that it does not report; ours is the rule of all engines.
        named = [(n, p) for n, p in self.stage.named_parameters() if p.grad is not None]
        pairs = [(_gradient(p), self.stage.placements[n].replicated) for n, p in named]
        self._show_gradients()
        self._norm = global_grad_norm(pairs, self.mesh, sharded=False)
        self.gradient_norms.add(zero_held.counted_gradients(self))
        if not isinstance(self.torch_optimizer(), FusedAdamW):
            clip_([g for g, _ in pairs], self._norm, self.config.optimizer.clip_grad_norm)

    def owns(self, name: str) -> bool:
        """Whether this rank answers for its part of a parameter, of those that hold the same part."""
        if self.mesh.coordinate("tp") and self.stage.placements[name].replicated:
            return False
        # Stage 0 keeps all state on every shard.
        return self.stage_number > 0 or self.mesh.coordinate("shards") == 0

    def _step_in_one_pass(self, optimizer: FusedAdamW) -> None:
        """Let the optimizer clip and cast, and DeepSpeed do neither."""
        limit, stage = self.config.optimizer.clip_grad_norm, self.stage_number
        if stage == 0:
            optimizer.read_scale = lambda: self._gated(clip_scale(self._seen(self._norm), limit))
            return
        optimizer.read_scale = lambda: self._gated(
            clip_scale(self._seen(self._last_norm()), limit, inverted=zero_step.inverts(self.optimizer))
        )
        optimizer.copies = zero_step.leave_to_optimizer(self.optimizer)

    def _master_partitions(self) -> list[Tensor]:
        """The fp32 tensors that the optimizer steps: parameters (stage 0) or flat partitions."""
        if self.stage_number == 3:
            return zero_parts.masters(self.optimizer)
        return [p for group in self.torch_optimizer().param_groups for p in group["params"]]

    def torch_optimizer(self) -> torch.optim.Optimizer:
        inner: torch.optim.Optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return inner

    def _create_moments(self) -> None:
        state = self.torch_optimizer().state
        for master in self._master_partitions():
            # Loading fills what is stored; vocabulary padding never is, and left uninitialised it can hold inf.
            master.detach().zero_()
            host = isinstance(self.torch_optimizer(), FusedAdamW)
            state[master] = state_before_training(self.rule, master, count_on_host=host)

    def set_step_count(self, step: int) -> None:
        """See the base class."""
        set_steps(self.torch_optimizer(), step)

    def fragments(self) -> list[Fragment]:
        """See the base class."""
        found: list[Fragment] = []
        for name, parameter in self.stage.named_parameters():
            if not parameter.requires_grad:
                continue
            placement = self.stage.placements[name]
            for start, flats in self.flat_state(parameter):
                found.extend(flat_fragments(placement, start, flats, self.owns(name)))
        return found

    def frozen_fragments(self) -> list[Fragment]:
        """See the base class: in the compute type; partitions under ZeRO-3, whole shards else."""
        found: list[Fragment] = []
        for name, parameter in self.stage.named_parameters():
            if parameter.requires_grad:
                continue
            start, flat = 0, parameter.detach()
            if self.stage_number == 3:
                start, length = zero_parts.partition(parameter, self.mesh.coordinate("shards"))
                flat = parameter.ds_tensor.detach()[:length]
            found.extend(flat_fragments(self.stage.placements[name], start, {"param": flat.view(-1)}, owner=False))
        return found

    def flat_state(self, parameter: nn.Parameter) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """(first element, flat fp32 views) of the part of one parameter that this rank owns; nothing if it owns none."""
        state = self.torch_optimizer().state
        if self.stage_number == 0:
            views = {"param": parameter.detach(), **{kind: state[parameter][kind] for kind in self.rule.moments}}
            yield 0, {kind: view.view(-1) for kind, view in views.items()}
            return
        held = zero_parts.held_part(self.optimizer, parameter, self.stage_number, self.mesh.coordinate("shards"))
        if held is not None:
            flats = {"param": held.master.detach(), **{kind: state[held.master][kind] for kind in self.rule.moments}}
            inside = slice(held.offset, held.offset + held.length)
            yield held.start, {kind: flat.view(-1)[inside] for kind, flat in flats.items()}

    @torch.no_grad()
    def publish(self, source: TensorSource) -> None:
        """See the base class. ZeRO-3 casts its own partition; the others hold whole shards and read those."""
        self.stage.weights_changed()
        if self.stage_number == 3:
            zero_gathers.publish_partitions(self, source)
            return
        for name, parameter in self.stage.named_parameters():
            read_local(source, self.stage.placements[name], parameter.data)


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
