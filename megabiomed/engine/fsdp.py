"""torch FSDP2 as the data-parallel engine of one pipeline stage: ZeRO-3 sharding of the same plain-tensor blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from megabiomed.checkpoint.logical import Fragment, TensorSource
from megabiomed.checkpoint.reader import load_fragments
from megabiomed.config import RunConfig
from megabiomed.data.packing import MicroBatch
from megabiomed.engine.base import DataParallelEngine, Held, flat_fragments, set_steps, state_before_training
from megabiomed.engine.fused_adamw import FusedAdamW, clip_scale, optimizer_of
from megabiomed.engine.gradient_norms import GradientPart
from megabiomed.engine.mesh import Mesh
from megabiomed.engine.norm import clip_, global_grad_norm
from megabiomed.engine.stage import PipelineStage, optimizer_groups, set_rates
from megabiomed.processes import platform


class FsdpEngine(DataParallelEngine):
    """FSDP2 over the data-parallel ranks of one stage; masters are the fp32 shards, compute weights their bf16 gathers.

    The stage is called through this object and never handed to torch's PipelineStage, which would switch resharding off
    for an FSDPModule it can see and keep all parameters and gradients unsharded.
    """

    def __init__(self, config: RunConfig, mesh: Mesh) -> None:
        super().__init__(mesh)
        self.config = config
        # A whole stage in fp32 may exceed one device: memory comes after sharding, for this rank's part alone.
        with torch.device("meta"):
            self.stage = PipelineStage(config, mesh, torch.float32)
        device = platform.device()
        device_mesh = DeviceMesh.from_group(mesh.group("shards"), device.type)
        policy = MixedPrecisionPolicy()
        if config.train.compute_type == "bf16":
            # Gradients are summed over ranks in fp32, as under ZeRO (`communication_data_type`).
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        # Blocks first: the last call shards what no block holds (embedding, final norm, head).
        for chunk in self.stage.chunks:
            for block in chunk.blocks:
                fully_shard(block, mesh=device_mesh, mp_policy=policy)
        fully_shard(self.stage, mesh=device_mesh, mp_policy=policy)
        # Before memory is made: `to_empty` gives every use of a tied parameter memory of its own.
        shared = _shared(self.stage)
        self.stage.to_empty(device=device)
        for name, owner in shared:  # each use has become a parameter of its own
            module, _, key = name.rpartition(".")
            setattr(self.stage.get_submodule(module), key, self.stage.get_parameter(owner))
        groups = optimizer_groups(self.stage, config, mesh)
        self.rule = config.optimizer.rule
        self.optimizer = optimizer_of(groups, config)
        host = isinstance(self.optimizer, FusedAdamW)
        for parameter in self._trained().values():
            self.optimizer.state[parameter] = state_before_training(self.rule, parameter, count_on_host=host)

    def forward(self, chunk: int, x: Tensor | None, batch: MicroBatch, return_logits: bool = False) -> Tensor:
        """See the base class."""
        return cast(Tensor, self.stage(chunk, x, batch, return_logits))

    def begin_step(self) -> None:
        """See the base class."""
        self.stage.begin_step()
        self.optimizer.zero_grad()

    def step(self, lr: float) -> float:
        """See the base class."""
        set_rates(self.optimizer.param_groups, lr)
        pairs = [
            (_local(parameter.grad), self.stage.placements[name].replicated)
            for name, parameter in self.stage.named_parameters()
            if parameter.grad is not None
        ]
        self._show_gradients()
        norm = global_grad_norm(pairs, self.mesh, sharded=True)
        self.gradient_norms.add(self._gradients())
        value = self._update([gradient for gradient, _ in pairs], norm)
        self.optimizer.zero_grad()
        self.stage.weights_changed()
        return value

    def _gradients(self) -> Iterator[GradientPart]:
        for name, parameter in self._trained().items():
            if parameter.grad is not None and self._counts(name):
                start = self._first_row(parameter) * (parameter.numel() // parameter.shape[0])
                yield GradientPart(self.stage.placements[name], start, _local(parameter.grad))

    def _counts(self, name: str) -> bool:
        """Whether this tensor rank answers for its part of a parameter."""
        return self.mesh.coordinate("tp") == 0 or not self.stage.placements[name].replicated

    def _first_row(self, parameter: nn.Parameter) -> int:
        """FSDP2 cuts dimension 0 into chunks of ceil(rows / shards)."""
        return self.mesh.coordinate("shards") * -(-parameter.shape[0] // self.mesh.size("shards"))

    def _update(self, gradients: list[Tensor], norm: Tensor) -> float:
        """Clip and step, unless it is refused; returns the norm, for which the host waits, but not for the step."""
        optimizer, limit = self.optimizer, self.config.optimizer.clip_grad_norm
        if not isinstance(optimizer, FusedAdamW):
            clip_(gradients, norm, limit)
            # A step with a norm that is not finite is skipped, as DeepSpeed skips it in bf16.
            if torch.isfinite(norm) if self.gate.limits is None else self.gate.allows(norm):
                optimizer.step()
            return float(norm)
        optimizer.read_scale = lambda: self.gate.scaled(clip_scale(norm, limit), norm)
        # Asked for before the step is queued, so the host waits for the norm alone.
        known = platform.Later(norm)
        optimizer.begin_step()
        optimizer.step()
        value, verdict = known.read(), self.gate.verdict()
        if not math.isfinite(value) or (verdict and not verdict.applied):
            optimizer.forget_step()
        return value

    def held(self) -> Iterator[Held]:
        """See the base class."""
        for name, parameter in self.stage.named_parameters():
            groups = self.alike(name, over_shards=False)
            yield Held(name, _local(parameter), groups)
            if parameter.requires_grad:
                state = self.optimizer.state[parameter]
                yield from (Held(f"{name} ({kind})", _local(state[kind]), groups) for kind in self.rule.moments)

    def reduced_gradients(self) -> Iterator[Held]:
        """See the base class."""
        for name, parameter in self._trained().items():
            groups = self.alike(name, over_shards=False)
            if groups:
                gradient = None if parameter.grad is None else _local(parameter.grad)
                yield Held(f"gradient of {name}", gradient, groups)

    def train(self, mode: bool) -> None:
        """See the base class."""
        self.stage.train(mode)

    def fragments(self) -> list[Fragment]:
        """See the base class."""
        found: list[Fragment] = []
        for name, parameter in self._trained().items():
            state = self.optimizer.state[parameter]
            found.extend(self._fragments(name, parameter, {kind: _local(state[kind]) for kind in self.rule.moments}))
        return found

    def frozen_fragments(self) -> list[Fragment]:
        """See the base class: shards in fp32, as the trained ones."""
        frozen = [(name, p) for name, p in self.stage.named_parameters() if not p.requires_grad]
        return [fragment for name, parameter in frozen for fragment in self._fragments(name, parameter, {})]

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.stage.named_parameters() if p.requires_grad}

    def _fragments(self, name: str, parameter: nn.Parameter, moments: dict[str, Tensor]) -> Iterator[Fragment]:
        placement, local = self.stage.placements[name], _local(parameter)
        # With fewer rows than shards, the last ranks hold nothing.
        if local.numel() == 0:
            return
        start = self._first_row(parameter) * (parameter.numel() // parameter.shape[0])
        flats = {kind: view.detach().view(-1) for kind, view in {"param": local, **moments}.items()}
        yield from flat_fragments(placement, start, flats, owner=self._counts(name))

    @torch.no_grad()
    def publish(self, source: TensorSource) -> None:
        """See the base class. The shards are the weights; only padding of the vocabulary is left to zero."""
        self.stage.weights_changed()
        load_fragments(source, self.frozen_fragments(), ("param",))
        for name, parameter in self.stage.named_parameters():
            placement = self.stage.placements[name]
            rows = sum(piece.box.shape[0] for piece in placement.pieces)
            first, local = self._first_row(parameter), _local(parameter)
            # No source holds the padding, and `to_empty` may have left inf there.
            if first + local.shape[0] > rows:
                local[max(0, rows - first) :].zero_()
        assert isinstance(self.stage, FSDPModule)

    def set_step_count(self, step: int) -> None:
        """See the base class."""
        set_steps(self.optimizer, step)


def _shared(stage: nn.Module) -> list[tuple[str, str]]:
    """(further name, first name) of parameters that several modules use: a tied embedding and head."""
    first: dict[nn.Parameter, str] = {}
    names = ((name, first.setdefault(p, name)) for name, p in stage.named_parameters(remove_duplicate=False))
    return [(name, owner) for name, owner in names if name != owner]


def _local(tensor: Tensor | None) -> Tensor:
    assert isinstance(tensor, DTensor)
    return cast(Tensor, tensor.to_local())
