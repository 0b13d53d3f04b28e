"""What an encoder is: the one description by which everything else builds, feeds, shards, counts and checks it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from megabiomed.config.modalities import MODALITIES, EncoderConfig, EncoderKind, Part
from megabiomed.ground.errors import ConfigError

if TYPE_CHECKING:  # a configuration is read without torch
    import torch
    from torch import Tensor, nn

C = TypeVar("C", bound=EncoderConfig)
Shapes = Mapping[str, tuple[int, ...]]


class Batch(Protocol):
    """Items side by side, as an encoder takes them.

    Attributes:
        rows: rows that the encoder makes of each item.
    """

    @property
    def rows(self) -> list[int]: ...

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        ...


@runtime_checkable
class Cacheable(Protocol):
    """A batch whose items can be told apart, for encoders with a `CachedEncoderConfig`."""

    def keys(self) -> list[bytes]:
        """What each item holds, and nothing else: the name of its rows in the cache."""
        ...

    def select(self, numbers: Sequence[int]) -> Batch:
        """The batch of some of the items."""
        ...


@dataclass(frozen=True)
class FileCheck:
    """What `megabiomed encoder check` found in a file.

    Attributes:
        settings: keys of the encoder that fit the file.
        difference: largest difference of the embeddings to the authors' program over their largest value.
        against: that program.
    """

    settings: dict[str, int]
    parameters: int
    sha256: str
    difference: float
    against: str


class Encoder(EncoderKind, ABC, Generic[C]):
    """A kind of encoder. Register an instance in its modality, or name it in `align.<modality>.kind`.

    The module that `build` makes takes a batch of the modality and gives [sum of rows, hidden_size], the rows of all items
    in order. It must compute an item alike whatever stands next to it: items are dealt to ranks by their cost.
    """

    @abstractmethod
    def build(self, config: C) -> nn.Module:
        """The module with random weights, whole, on torch's default device."""

    @abstractmethod
    def flops(self, config: C, rows: int) -> float:
        """FLOPs of one forward pass of an item of so many rows; items are dealt to ranks by it. Always above zero."""

    def load(self, module: nn.Module, config: C, path: Path) -> None:
        """Fill the module from a file of weights, if `reads_weights`.

        Raises:
            CheckpointError: the file is missing, damaged, or of another size.
        """
        raise NotImplementedError

    def parameters(self, config: C) -> int:
        """Number of parameters without low-rank updates, counted on a module without memory."""
        import torch

        with torch.device("meta"):
            return sum(parameter.numel() for parameter in self.build(config).parameters())

    def lora_matrices(self, config: C) -> Collection[str]:
        """Last parts of the names of the linear layers that get low-rank updates, if `takes_lora`."""
        return ()

    def fsdp_layers(self, module: nn.Module) -> Sequence[nn.Module]:
        """Layers that are gathered one at a time when the encoder is sharded."""
        return ()

    def constants(self, module: nn.Module) -> dict[str, Tensor]:
        """Tensors that the rows depend on besides parameters and buffers; an export holds them."""
        return {}

    def set_constants(self, module: nn.Module, values: Mapping[str, Tensor]) -> None:
        """Inverse of `constants`."""

    def function_text(self, config: C) -> str:
        """Settings that the rows depend on beyond the weights; part of the name of cached rows."""
        return ""

    def check(self, path: Path, shapes: Shapes, given: Mapping[str, int]) -> FileCheck | None:
        """Compare a file of weights with its authors' program; None for a file of another encoder.

        Args:
            shapes: of the tensors in the file, under the file's names.
            given: keys of the encoder that the file does not say.
        """
        return None


def encoder_of(part: Part) -> Encoder[Any]:
    """The encoder of a part of a run.

    Raises:
        ConfigError: what is registered is only half an encoder.
    """
    found = MODALITIES.find(part.kind).encoder(part.encoder.kind)
    if not isinstance(found, Encoder):
        raise ConfigError(f"{part.encoder.kind} is not an encoder", got=repr(found), expected=Encoder.__module__)
    return found


def shipped_encoders() -> Iterator[tuple[str, str, Encoder[Any]]]:
    """(modality, kind, encoder) of everything that is registered by a short name."""
    for name in MODALITIES.names():
        encoders = MODALITIES.find(name).encoders
        for kind in encoders.names():
            found = encoders.find(kind)
            assert isinstance(found, Encoder)
            yield name, kind, found
