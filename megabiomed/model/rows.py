"""Which tokens of a micro-batch a tensor rank holds between the matrix products."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenRows:
    """All tokens, or one of equal consecutive parts under sequence parallelism.

    Attributes:
        parts: parts that the tokens are cut in; 1 without sequence parallelism.
        number: the part of this rank.
    """

    parts: int = 1
    number: int = 0

    @classmethod
    def of(cls, tensor_size: int, tensor_rank: int, sequence_parallel: bool) -> TokenRows:
        """The tokens of one of the tensor ranks."""
        return cls(tensor_size, tensor_rank) if sequence_parallel else cls()

    def held(self, tokens: int) -> int:
        """Tokens of a micro-batch that this rank holds; the parts divide them (checked with the topology)."""
        return tokens // self.parts

    def first(self, held: int) -> int:
        """Number in the micro-batch of the first of `held` tokens of this rank."""
        return self.number * held
