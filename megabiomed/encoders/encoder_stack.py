"""Encoders and adaptors beside the language model: replicated, or sharded over all ranks, with their own AdamW.

All ranks are those of the world, or the dedicated ones where the run has such: then the others hold nothing of this.
Gradients are SUMs over all ranks of the gradient of the global mean loss; there is no averaging anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from megabiomed.checkpoint.logical import Box, Fragment, PlacedBox, Placement
from megabiomed.config import OptimizerConfig
from megabiomed.config.align import AlignConfig, AlignmentStageConfig
from megabiomed.config.modalities import CachedEncoderConfig
from megabiomed.config.rates import factor_of
from megabiomed.encoders.build_encoders import build_encoders, without_files
from megabiomed.encoders.cache import FeatureCache
from megabiomed.encoders.encoder import Batch, Cacheable, encoder_of
from megabiomed.encoders.lora import is_lora, set_dropout
from megabiomed.encoders.schedule import encoding_ranks
from megabiomed.encoders.weights import fingerprint, function_hash
from megabiomed.engine.base import Held, flat_fragments, set_steps, state_before_training
from megabiomed.engine.gradient_norms import GradientPart
from megabiomed.kernels.dropout import Noise
from megabiomed.processes import platform

Shapes = dict[str, tuple[int, ...]]


class EncoderStack:
    """Everything besides the language model on one rank.

    Attributes:
        trained: modalities whose encoder, or its LoRA, is trained in this stage.
        held: whether this rank holds them; else it knows their names and shapes alone, and calls nothing.
        initial: hash of each encoder's weights before any training.
        encodes: whether the plan gives this rank encoder work.

    Args:
        group: of the ranks that hold them; None means the world.
    """

    def __init__(
        self,
        config: AlignConfig,
        stage: AlignmentStageConfig,
        optimizer: OptimizerConfig,
        hidden_size: int,
        seed: int,
        precision: str = "fp32",
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.config = config
        self.settings = optimizer
        self.precision = precision
        self.stage, self.parts = stage, {part.name: part for part in config.parts()}
        self.group = group
        self.world = dist.get_world_size(group)
        self.rank = dist.get_rank(group)
        self.held = self.rank >= 0  # torch's rank of a process in a group that it is not in is -1
        device = platform.device() if self.held else torch.device("meta")
        with torch.device("cpu" if self.held else "meta"):
            encoders, adaptors = build_encoders(config if self.held else without_files(config), hidden_size, seed)
        # Hashed while whole and on the CPU: sharded tensors would have to be gathered first.
        self.initial = {name: fingerprint(encoders[name]) for name in self.parts} if self.held else {}
        self.encoders, self.adaptors = encoders.to(device), adaptors.to(device)
        self.trained = {name for name in self.parts if stage.mode(name) != "frozen"}
        self.sharded = {name for name, part in self.parts.items() if part.encoder.placement == "zero3"}
        self.shapes = {name: tuple(p.shape) for name, p in self._named()}
        # By world rank: `rank` counts within the group.
        self.encodes = dist.get_rank() in encoding_ranks(config, dist.get_world_size())
        for name in self.parts:
            self._place(name, device)
        self._caches: dict[str, FeatureCache] = {}
        if self.held:
            self._make_optimizer()

    def _place(self, name: str, device: torch.device) -> None:
        encoder, mode = self.encoders[name], self.stage.mode(name)
        for key, parameter in encoder.named_parameters():
            parameter.requires_grad_(mode == "full" or (mode == "lora" and is_lora(f".{key}")))
        if name in self.sharded:
            if self.held:
                self._shard(name, self._device_mesh(device))
        elif mode == "frozen" and not self.encodes:
            encoder.to("meta")  # never called here, and in no collective

    def _device_mesh(self, device: torch.device) -> DeviceMesh:
        if self.group is None:
            return init_device_mesh(device.type, (self.world,))
        return DeviceMesh.from_group(self.group, device.type)

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        groups = (("encoder", self.encoders), ("adaptor", self.adaptors))
        return [(f"{prefix}.{name}", p) for prefix, modules in groups for name, p in modules.named_parameters()]

    def _shard(self, name: str, mesh: DeviceMesh) -> None:
        encoder = self.encoders[name]
        # Layers first: the last call shards what no layer holds.
        for layer in encoder_of(self.parts[name]).fsdp_layers(encoder):
            fully_shard(layer, mesh=mesh)
        fully_shard(encoder, mesh=mesh)

    def _make_optimizer(self) -> None:
        named = [(name, p) for name, p in self._named() if p.requires_grad]
        peaks = {"adaptor": self.stage.adaptor_lr, "encoder": self.stage.encoder_lr}
        found: dict[tuple[str, bool, bool, float], list[nn.Parameter]] = {}
        for name, p in named:  # one fused call cannot step sharded and whole parameters
            scale = factor_of(self.settings.lr_scales, [name])
            found.setdefault((name.split(".")[0], p.dim() > 1, isinstance(p, DTensor), scale), []).append(p)
        groups: list[dict[str, object]] = [
            {
                "params": chosen,
                "weight_decay": self.settings.weight_decay if matrices else 0.0,
                "peak": peaks[part] * scale,
            }
            for (part, matrices, _, scale), chosen in found.items()
        ]
        rule = self.settings.rule
        self.optimizer = rule.build(groups, self.settings)
        for _, parameter in named:
            self.optimizer.state[parameter] = state_before_training(rule, parameter)

    def encode(self, modality: str, batch: Batch, noises: Sequence[Noise] = ()) -> Tensor:
        """Rows of a batch of one modality, [t, w].

        Args:
            noises: of the items' dropout, one each; none means no dropout. A frozen encoder never drops.
        """
        encoder, settings = self.encoders[modality], self.parts[modality].encoder
        if next(encoder.parameters()).is_meta:
            # This rank has no weights, and the plan gives it no items.
            return torch.zeros(0, settings.hidden_size, device=platform.device())
        set_dropout(encoder, batch.rows, noises if modality in self.trained else ())
        if isinstance(settings, CachedEncoderConfig) and settings.cache is not None and modality not in self.trained:
            return self._encode_cached(modality, settings, batch)
        with self._compute_type():
            return cast(Tensor, encoder(batch.to(platform.device())))

    def _encode_cached(self, modality: str, settings: CachedEncoderConfig, batch: Batch) -> Tensor:
        """As `encode`, by one call for the items that the cache does not have."""
        assert isinstance(batch, Cacheable)
        cache = self._opened_cache(modality, settings)
        device = platform.device()
        keys = batch.keys()
        found = [cache.read(key) for key in keys]
        absent = [number for number, rows in enumerate(found) if rows is None]
        missing = batch.select(absent)
        with self._compute_type():
            fresh = self.encoders[modality](missing.to(device))
        for number, rows in zip(absent, fresh.split(missing.rows)):
            cache.write(keys[number], rows)
            found[number] = rows
        return torch.cat([fresh[:0], *(rows.to(device) for rows in found if rows is not None)])

    def _opened_cache(self, modality: str, settings: CachedEncoderConfig) -> FeatureCache:
        """Opened at the first use: only then are the weights those of the stage."""
        if modality not in self._caches:
            assert settings.cache is not None
            encoder, module = encoder_of(self.parts[modality]), self.encoders[modality]
            weights = function_hash(module, encoder.constants(module), encoder.function_text(settings))
            ranks = len(encoding_ranks(self.config, dist.get_world_size()))
            name, limit = f"{weights[:32]}-{self.precision}", settings.cache_gib * 2**30
            self._caches[modality] = FeatureCache(settings.cache, name, limit, 1 / ranks)
        return self._caches[modality]

    def adapt(self, modality: str, rows: Tensor, lengths: list[int]) -> Tensor:
        """Embeddings for the language model."""
        with self._compute_type():
            return cast(Tensor, self.adaptors[modality](rows, lengths))

    def _compute_type(self) -> torch.autocast:
        """bf16 products over fp32 weights when the run is in bf16."""
        return torch.autocast(platform.device().type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def reduce(self) -> Tensor:
        """Sum the gradients over the ranks; returns their norm, [] on the device. Collective."""
        replicated, sharded = self._gradients()
        if replicated:
            # One reduction for all: hundreds of small ones would cost their latency each.
            flat = torch.cat([gradient.reshape(-1) for gradient in replicated])
            dist.all_reduce(flat, group=self.group)
            for gradient, part in zip(replicated, flat.split([g.numel() for g in replicated])):
                gradient.copy_(part.view_as(gradient))
        # Replicated gradients are equal on all ranks by now and count once; parts of sharded ones are summed.
        squares = [_square(replicated), _square(sharded)]
        dist.all_reduce(squares[1], group=self.group)
        return (squares[0] + squares[1]).sqrt()

    def update(self, share_of_peak: float, norm: Tensor, applied: bool) -> None:
        """Clip the reduced gradients, step, and forget them.

        Args:
            share_of_peak: the schedule's value between 0 and 1; each group has its own peak.
            norm: from `reduce`.
            applied: False changes nothing but the gradients.
        """
        replicated, sharded = self._gradients()
        if self.settings.clip_grad_norm > 0:
            scale = (self.settings.clip_grad_norm / (norm + 1e-6)).clamp(max=1.0)
            for gradient in (*replicated, *sharded):
                gradient.mul_(scale)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share_of_peak
        if applied:
            self.optimizer.step()
        self.optimizer.zero_grad()

    def _gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """Local gradients of replicated and of sharded parameters; a rank without items of a modality has zeros."""
        replicated: list[Tensor] = []
        sharded: list[Tensor] = []
        for _, parameter in self._named():
            if not parameter.requires_grad:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            (sharded if isinstance(parameter, DTensor) else replicated).append(_local(parameter.grad))
        return replicated, sharded

    def gradient_parts(self) -> Iterator[GradientPart]:
        """The parts of the reduced gradients that this rank answers for."""
        for number, (name, parameter) in enumerate(self._named()):
            if parameter.requires_grad and parameter.grad is not None:
                placement, start, owner = self._part(number, name, parameter)
                if owner:
                    yield GradientPart(placement, start, _local(parameter.grad))

    def parts_held(self) -> Iterator[Held]:
        """Parameters and moments on this rank; what is whole is alike on all ranks that have it."""
        for name, parameter in self._named():
            groups = () if isinstance(parameter, DTensor) or self.world == 1 else (self.group or dist.group.WORLD,)
            yield Held(name, None if parameter.is_meta else _local(parameter), groups)
            if parameter.requires_grad:
                state = self.optimizer.state[parameter]
                yield from (
                    Held(f"{name} ({kind})", _local(state[kind]), groups) for kind in self.settings.rule.moments
                )

    def reduced(self) -> Iterator[Held]:
        """Gradients that all ranks hold alike, between `reduce` and `update`."""
        for name, parameter in self._named() if self.world > 1 else ():
            if parameter.requires_grad and not isinstance(parameter, DTensor):
                yield Held(f"gradient of {name}", parameter.grad, (self.group or dist.group.WORLD,))

    def gradient_scale(self, modality: str) -> float:
        """FSDP averages over its ranks; what enters it is multiplied by their number to be a sum."""
        return float(self.world) if isinstance(self.encoders[modality], FSDPModule) else 1.0

    def trained_shapes(self) -> Shapes:
        """Logical names and full shapes of what this stage trains, and so stores."""
        return {name: self.shapes[name] for name, p in self._named() if p.requires_grad}

    def fragments(self, trained_only: bool = True) -> list[Fragment]:
        """Boxes of parameters and moments on this rank."""
        found: list[Fragment] = []
        for number, (name, parameter) in enumerate(self._named()):
            if parameter.is_meta or (trained_only and not parameter.requires_grad):
                continue
            state = self.optimizer.state.get(parameter, {})
            views = {"param": parameter, **{kind: state[kind] for kind in self.settings.rule.moments if kind in state}}
            flats = {kind: _local(view).detach().view(-1) for kind, view in views.items()}
            placement, start, owner = self._part(number, name, parameter)
            if flats["param"].numel():
                found.extend(flat_fragments(placement, start, flats, owner))
        return found

    def _part(self, number: int, name: str, parameter: nn.Parameter) -> tuple[Placement, int, bool]:
        """Of a parameter: where it belongs, the first element that is here, and whether this rank answers for what is here."""
        shape = self.shapes[name]
        placement = Placement(shape, (PlacedBox(0, Box.whole(name, shape)),))
        if not isinstance(parameter, DTensor):
            # Owners take turns, so that all ranks write about equally much.
            return placement, 0, number % self.world == self.rank
        # FSDP2 cuts dimension 0 into chunks of ceil(rows / ranks).
        return placement, self.rank * -(-shape[0] // self.world) * (parameter.numel() // shape[0]), True

    def set_step_count(self, step: int) -> None:
        """AdamW's step number, after loading moments."""
        if self.held:
            set_steps(self.optimizer, step)


def _local(tensor: Tensor) -> Tensor:
    return cast(Tensor, tensor.to_local()) if isinstance(tensor, DTensor) else tensor


def _square(gradients: list[Tensor]) -> Tensor:
    if not gradients:
        return torch.zeros((), device=platform.device())
    return torch.stack([gradient.float().pow(2).sum() for gradient in gradients]).sum()
