"""What is known about one tensor of a model: its name, its shape, how tensor ranks cut it. No torch is needed for that.

A table of `TensorSpec` describes an architecture in symbols. With the sizes of one model it becomes `LogicalTensor`s, and
those that a rank holds as one matrix (q, k and v) become a `LocalMatrix`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

Cut = Literal["rows", "columns", "vocabulary", "whole"]
"""Over the tensor ranks: equal parts of the rows or columns, rows rounded up to equal parts, or a copy on each rank."""
Initial = Literal["normal", "residual", "ones", "zeros"]
"""Fresh values: normal(0, initializer_range), or that over sqrt(2 * layers) for what is added to the residual stream."""
LAYER = "{i}"


@dataclass(frozen=True)
class TensorSpec:
    """One line of an architecture's table.

    Attributes:
        name: logical name, which is the Hugging Face name; `{i}` stands for the layer.
        shape: symbols of `Architecture.sizes`, one per dimension.
        cut: how tensor ranks share it.
        fused: name of the local matrix that holds it together with others, in the order of the table; empty when it is alone.
        adapter: name in `lora.targets`; empty when it cannot have an adapter.
        initial: its fresh values.
        rotated: RoPE rotates pairs of its rows.
        stored_as: another tensor of the table that holds its values (a tied head); empty when it has its own.
    """

    name: str
    shape: tuple[str, ...]
    cut: Cut
    fused: str = ""
    adapter: str = ""
    initial: Initial = "normal"
    rotated: bool = False
    stored_as: str = ""


@dataclass(frozen=True)
class LogicalTensor:
    """A tensor of the complete model at given sizes.

    Attributes:
        layer: index of its decoder layer; -1 before the first layer, the number of layers after the last.
        spec: the line of the table; that of the matrix when this is a factor of its adapter.
    """

    name: str
    shape: tuple[int, ...]
    cut: Cut
    layer: int
    spec: TensorSpec

    @property
    def replicated(self) -> bool:
        """Whether every tensor rank holds all of it."""
        return self.cut == "whole"

    def share(self, ranks: int) -> int:
        """Elements on the tensor rank that holds most."""
        if self.cut == "whole":
            return prod(self.shape)
        if self.cut == "vocabulary":
            return -(-self.shape[0] // ranks) * prod(self.shape[1:])
        return prod(self.shape) // ranks

    @property
    def module(self) -> str:
        """Name without `weight` or `bias`."""
        return self.name.rpartition(".")[0]

    @property
    def local_matrix(self) -> str:
        """Name of the matrix of a rank that holds it: `model.layers.0.self_attn.qkv`."""
        return f"{self.module.rpartition('.')[0]}.{self.spec.fused}" if self.spec.fused else self.module

    def factors(self, rank: int) -> tuple[LogicalTensor, LogicalTensor]:
        """A [rank, inputs] and B [outputs, rank] of its adapter; names are those of peft, without its prefix.

        Of a matrix cut by rows every tensor rank has all of A, of one cut by columns all of B.
        """
        outputs, inputs = self.shape
        a_cut: Cut = "columns" if self.cut == "columns" else "whole"
        b_cut: Cut = "rows" if self.cut == "rows" else "whole"
        return (
            LogicalTensor(f"{self.module}.lora_A.weight", (rank, inputs), a_cut, self.layer, self.spec),
            LogicalTensor(f"{self.module}.lora_B.weight", (outputs, rank), b_cut, self.layer, self.spec),
        )


@dataclass(frozen=True)
class LocalMatrix:
    """Logical matrices that lie one below the other in one matrix of a rank, and their biases.

    Attributes:
        name: `model.layers.0.self_attn.qkv`.
        weights: at least one, of equal inputs and cut.
        biases: one for each weight, or none. Where the weights are cut by columns every rank has all of the bias.
    """

    name: str
    weights: tuple[LogicalTensor, ...]
    biases: tuple[LogicalTensor, ...]

    @property
    def cut(self) -> Cut:
        """Of the weights."""
        return self.weights[0].cut

    @property
    def inputs(self) -> int:
        """Columns of the complete matrix."""
        return self.weights[0].shape[1]

    @property
    def outputs(self) -> int:
        """Rows of the complete matrix."""
        return sum(weight.shape[0] for weight in self.weights)


def extended(table: Iterable[TensorSpec], added: Mapping[str, Iterable[TensorSpec]]) -> tuple[TensorSpec, ...]:
    """A table with further lines.

    Args:
        added: the name of a line to the lines that follow it.
    """
    return tuple(spec for held in table for spec in (held, *added.get(held.name, ())))


def expand(table: Iterable[TensorSpec], sizes: Mapping[str, int], layers: int) -> Iterator[LogicalTensor]:
    """The tensors of a model in forward order: what precedes the layers, each layer's, what follows them."""
    specs = list(table)
    inside = [number for number, spec in enumerate(specs) if LAYER in spec.name]
    first, last = inside[0], inside[-1]
    for spec in specs[:first]:
        yield _at(spec, sizes, -1)
    for layer in range(layers):
        for spec in specs[first : last + 1]:
            yield _at(spec, sizes, layer)
    for spec in specs[last + 1 :]:
        yield _at(spec, sizes, layers)


def _at(spec: TensorSpec, sizes: Mapping[str, int], layer: int) -> LogicalTensor:
    shape = tuple(sizes[symbol] for symbol in spec.shape)
    return LogicalTensor(spec.name.replace(LAYER, str(layer)), shape, spec.cut, layer, spec)


def matrices(tensors: Iterable[LogicalTensor]) -> dict[str, LocalMatrix]:
    """The matrices that ranks hold, by name."""
    weights: dict[str, list[LogicalTensor]] = {}
    biases: dict[str, list[LogicalTensor]] = {}
    for tensor in tensors:
        if len(tensor.shape) == 1:
            biases.setdefault(tensor.local_matrix, []).append(tensor)
        # The ends of the model have layers of their own.
        elif tensor.cut != "vocabulary":
            weights.setdefault(tensor.local_matrix, []).append(tensor)
    return {name: LocalMatrix(name, tuple(held), tuple(biases.get(name, ()))) for name, held in weights.items()}
