"""An architecture: a table of tensors and a configuration, and everything that follows from both. It needs no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import cached_property
from math import prod, sqrt
from typing import TYPE_CHECKING, ClassVar

from megabiomed.config.lora import LoraConfig
from megabiomed.config.models import ModelConfig, ModelKind
from megabiomed.ground.errors import ConfigError
from megabiomed.model.hf_format import HuggingFaceFormat
from megabiomed.model.tensors import LocalMatrix, LogicalTensor, TensorSpec, expand, matrices

if TYPE_CHECKING:
    from torch import nn

    from megabiomed.model.layers import Layers
    from megabiomed.model.rope import Rope


class Architecture(ModelKind):
    """A dense decoder at the sizes of one configuration.

    Another one is a subclass with its own `table`; the layers follow from it (`decoder.Block`).

    Attributes:
        table: every tensor, in forward order; `{i}` in the name marks those of the layers.
        hugging_face: how config.json describes it.
    """

    table: ClassVar[tuple[TensorSpec, ...]]
    hugging_face: ClassVar[HuggingFaceFormat]

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The symbols of the table: v vocabulary, h hidden, i intermediate, d one head, q query heads, kv key/value heads."""
        c = self.config
        return {
            "v": c.vocab_size,
            "h": c.hidden_size,
            "i": c.intermediate_size,
            "d": c.head_size,
            "q": c.num_attention_heads * c.head_size,
            "kv": c.num_key_value_heads * c.head_size,
        }

    def specs(self) -> tuple[TensorSpec, ...]:
        """The lines of the table that this configuration has: all, unless a subclass leaves some out."""
        return self.table

    @cached_property
    def _tied_specs(self) -> tuple[TensorSpec, ...]:
        """`specs`; with `tie_word_embeddings` the last line that is cut by the vocabulary is stored as the first."""
        specs = self.specs()
        rows = [spec for spec in specs if spec.cut == "vocabulary"]
        if not self.config.tie_word_embeddings or len(rows) < 2:
            return specs
        return tuple(replace(spec, stored_as=rows[0].name) if spec is rows[-1] else spec for spec in specs)

    @cached_property
    def tied(self) -> bool:
        """Whether the output head is the embedding: one logical tensor, the sum of whose gradients is trained."""
        return self.head is self.embedding

    @cached_property
    def tensors(self) -> dict[str, LogicalTensor]:
        """Every logical tensor by name, in forward order, which is the order of exports."""
        found = expand(self._tied_specs, self.sizes, self.config.num_hidden_layers)
        return {tensor.name: tensor for tensor in found if not tensor.spec.stored_as}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Full shape of every logical tensor, in forward order."""
        return shapes_of(self.tensors.values())

    @cached_property
    def matrices(self) -> dict[str, LocalMatrix]:
        """What a rank holds as one matrix, by its name: `model.layers.0.self_attn.qkv`."""
        return matrices(self.tensors.values())

    @property
    def embedding(self) -> LogicalTensor:
        """[v, h], before the layers."""
        return next(tensor for tensor in self.tensors.values() if tensor.cut == "vocabulary")

    @property
    def head(self) -> LogicalTensor:
        """[v, h], after the layers."""
        return next(tensor for tensor in reversed(self.tensors.values()) if tensor.cut == "vocabulary")

    @property
    def multiplied(self) -> list[LogicalTensor]:
        """The matrices that every token is multiplied by: not the embedding, whose rows are looked up, but a tied head."""
        found = [t for t in self.tensors.values() if len(t.shape) == 2 and t is not self.embedding]
        return [*found, self.head] if self.head is self.embedding else found

    @property
    def flops_per_pair(self) -> int:
        """FLOPs of attention forward for one (query, key) pair that see each other, over all layers: Q K^T and P V."""
        return 4 * self.config.num_hidden_layers * self.sizes["q"]

    @property
    def final_norm(self) -> LogicalTensor:
        """[h], between the layers and the head."""
        return next(tensor for tensor in reversed(self.tensors.values()) if tensor.cut == "whole")

    @classmethod
    def adapter_targets(cls) -> tuple[str, ...]:
        """See the base class."""
        return tuple(dict.fromkeys(spec.adapter for spec in cls.table if spec.adapter))

    def targets(self, lora: LoraConfig) -> tuple[str, ...]:
        """The targets of adapters, in forward order, whatever order the configuration has."""
        known = self.adapter_targets()
        return known if lora.targets is None else tuple(target for target in known if target in lora.targets)

    def adapted(self, lora: LoraConfig) -> list[LogicalTensor]:
        """The matrices that have an adapter."""
        targets = self.targets(lora)
        return [tensor for tensor in self.tensors.values() if tensor.spec.adapter in targets]

    def trained(self, lora: LoraConfig | None) -> dict[str, LogicalTensor]:
        """Every logical tensor that is trained: all of the model, or its adapters."""
        if lora is None:
            return self.tensors
        factors = [factor for tensor in self.adapted(lora) for factor in tensor.factors(lora.rank)]
        return {factor.name: factor for factor in factors}

    def trained_shapes(self, lora: LoraConfig | None) -> dict[str, tuple[int, ...]]:
        """Full shape of every tensor that is trained."""
        return shapes_of(self.trained(lora).values())

    def chunks(self, count: int) -> list[tuple[int, int]]:
        """Layers [first, last) of each of `count` parts; earlier parts take the remainder, because the last has the head."""
        share, extra = divmod(self.config.num_hidden_layers, count)
        edges = [index * share + min(index, extra) for index in range(count + 1)]
        return list(zip(edges[:-1], edges[1:]))

    def part(self, tensors: Iterable[LogicalTensor], ranges: Iterable[tuple[int, int]]) -> list[LogicalTensor]:
        """Those of the tensors that belong to some layer ranges; the ends of the model belong to its first and last layer."""
        edge = self.config.num_hidden_layers - 1
        held = {layer for first, last in ranges for layer in range(first, last)}
        return [tensor for tensor in tensors if min(max(tensor.layer, 0), edge) in held]

    def check_used(self, used: Collection[str], ranges: Iterable[tuple[int, int]]) -> None:
        """Refuse a table with a tensor that the layers do not compute with: it would be stored and never trained.

        Args:
            used: names of the tensors that the layers in `ranges` hold.

        Raises:
            ConfigError: naming the first of them.
        """
        for tensor in self.part(self.tensors.values(), ranges):
            # A tensor rank may hold nothing but padding of the vocabulary.
            if tensor.cut != "vocabulary" and tensor.name not in used:
                raise ConfigError(
                    f"model.kind {self.config.kind} has a tensor that its layers do not use", got=tensor.name,
                    do="take it out of the table, or override Architecture.block with layers that use it",
                )  # fmt: skip

    def check_tying(self) -> None:
        """Refuse a tensor that is stored as another one, unless it is the head, stored as the embedding.

        Raises:
            ConfigError: naming both.
        """
        for spec in self._tied_specs:
            if spec.stored_as and not (spec.cut == "vocabulary" and spec.stored_as == self.embedding.name):
                raise ConfigError(
                    f"model.kind {self.config.kind} has tied tensors that are not trained here",
                    got=f"{spec.name} stored as {spec.stored_as}", expected=f"the head stored as {self.embedding.name}",
                    do="give it values of its own",
                )  # fmt: skip

    def deviation(self, name: str) -> float:
        """Standard deviation of the fresh values of a matrix.

        What is added to the residual stream is scaled by 1/sqrt(2 * layers) (Radford et al. 2019, GPT-2, section 2.3; the
        default of Megatron-LM).
        """
        residual = self.tensors[name].spec.initial == "residual"
        scale = 1 / sqrt(2 * self.config.num_hidden_layers) if residual else 1.0
        return self.config.initializer_range * scale

    def rope(self) -> Rope:
        """How queries and keys are rotated."""
        from megabiomed.model.rope import rope_of

        return rope_of(self.config)

    def block(self, layers: Layers, index: int, recompute: str) -> nn.Module:
        """One decoder layer; see `decoder.Block` for what it takes and gives."""
        from megabiomed.model.decoder import Block

        return Block(self, layers, index, recompute)

    def parameters(self, lora: LoraConfig | None = None) -> int:
        """Number of trained parameters; without adapters all of them, embedding and output head included."""
        return sum(prod(tensor.shape) for tensor in self.trained(lora).values())


def shapes_of(tensors: Iterable[LogicalTensor]) -> dict[str, tuple[int, ...]]:
    """Name to full shape."""
    return {tensor.name: tensor.shape for tensor in tensors}
