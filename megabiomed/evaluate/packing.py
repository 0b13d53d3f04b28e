"""Continuations to score, packed into windows in which nothing is computed twice.

A request is a prompt and a continuation; what has to be computed is prompt + continuation without its last token. A sequence
that begins another one is not computed itself (options of one token, e.g. yes, no, maybe, cost their prompt once), and
sequences with a long common beginning share it (options of several tokens; questions with the same few-shot examples). There
is one level of sharing: of a question's prompt and the examples before it, what saves more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from megabiomed.data.packing import IGNORE_INDEX, MicroBatch
from megabiomed.kernels.documents import Documents
from megabiomed.kernels.shared_prefix import Group, SharedPrefixes

SHORTEST_PREFIX = 16
"""Tokens from which on sharing a beginning pays."""
_NOTHING = torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True)
class Request:
    """Token ids of a prompt and of what may continue it; neither is empty."""

    prompt: list[int]
    continuation: list[int]


@dataclass(frozen=True)
class ScoreBatch:
    """A window of evaluation and what is looked up in its logits.

    Attributes:
        micro: the window; its `scored` names the n tokens whose logits are computed.
        row: [m] for each target the index into `scored`.
        target: [m] token ids.
        request: [m] number of the request that a target belongs to.
    """

    micro: MicroBatch
    row: Tensor
    target: Tensor
    request: Tensor

    def to(self, device: torch.device) -> ScoreBatch:
        """The same batch on a device."""
        return ScoreBatch(self.micro.to(device), self.row.to(device), self.target.to(device), self.request.to(device))


@dataclass
class _Sequence:
    """Tokens to compute and the requests that are scored on them."""

    tokens: tuple[int, ...]
    requests: list[int]


@dataclass
class _Family:
    """Sequences with a common beginning of `shared` tokens."""

    shared: int
    members: list[_Sequence]

    @property
    def tokens(self) -> int:
        """Tokens to compute."""
        return self.shared + sum(len(member.tokens) - self.shared for member in self.members)


def pack(requests: Sequence[Request], window: int, share: bool = True, multiple: int = 1) -> list[ScoreBatch]:
    """Windows of at most `window` tokens (more only for a sequence that is longer itself).

    Args:
        share: compute common beginnings once.
        multiple: windows are filled up to a multiple of so many tokens, as sequence_parallel needs it.
    """
    families = _families(_sequences(requests), window if share else 0)
    return [_batch(held, requests, multiple) for held in _fill(families, window)]


def _sequences(requests: Sequence[Request]) -> list[_Sequence]:
    """Sequences in ascending order, none of which begins another one."""
    made = sorted(((*r.prompt, *r.continuation[:-1]), number) for number, r in enumerate(requests))
    found: list[_Sequence] = []
    for tokens, number in reversed(made):
        # In ascending order everything that begins with `tokens` follows at once.
        if found and found[-1].tokens[: len(tokens)] == tokens:
            found[-1].requests.append(number)
        else:
            found.append(_Sequence(tokens, [number]))
    return found[::-1]


def _families(sequences: list[_Sequence], window: int) -> list[_Family]:
    found: list[_Family] = []
    for sequence in sequences:
        if not found or not _join(found[-1], sequence, window):
            found.append(_Family(0, [sequence]))
    return found


def _join(family: _Family, sequence: _Sequence, window: int) -> bool:
    """Add a sequence to a family if that saves tokens and the family still fits into a window."""
    first, alone = family.members[0].tokens, len(family.members) == 1
    limit = min(len(first), len(sequence.tokens)) - 1 if alone else family.shared
    shared = _common(first, sequence.tokens, limit)
    lost = 0 if alone else (len(family.members) - 1) * (family.shared - shared)
    if shared < SHORTEST_PREFIX or shared <= lost:
        return False
    joined = _Family(shared, [*family.members, sequence])
    if joined.tokens > window:
        return False
    family.shared, family.members = joined.shared, joined.members
    return True


def _common(a: Sequence[int], b: Sequence[int], limit: int) -> int:
    """Length of the common beginning, at most `limit`."""
    if a[:limit] == b[:limit]:
        return limit
    return next(place for place, (x, y) in enumerate(zip(a, b)) if x != y)


def _fill(families: list[_Family], window: int) -> Iterator[list[_Family]]:
    held: list[_Family] = []
    filled = 0
    for family in families:
        if held and filled + family.tokens > window:
            yield held
            held, filled = [], 0
        held.append(family)
        filled += family.tokens
    if held:
        yield held


def _batch(families: list[_Family], requests: Sequence[Request], multiple: int) -> ScoreBatch:
    tokens: list[int] = []
    positions: list[int] = []
    bounds: list[tuple[int, int]] = []  # of each piece
    groups: list[Group] = []
    wanted: list[tuple[int, int, int]] = []  # (token of the batch, target, request)

    def add(piece: Sequence[int], position: int) -> int:
        low = len(tokens)
        tokens.extend(piece)
        positions.extend(range(position, position + len(piece)))
        bounds.extend([(low, len(tokens))] * bool(piece))
        return low

    for family in families:
        shared = family.shared
        low = add(family.members[0].tokens[:shared], 0)
        for member in family.members:
            branch = add(member.tokens[shared:], shared)
            wanted += _targets(member, requests, low, branch, shared)
        groups.append(Group(low, shared, tuple(len(member.tokens) - shared for member in family.members)))
    if missing := -len(tokens) % multiple:
        groups.append(Group(add([0] * missing, 0), 0, (missing,)))
    prefixes = SharedPrefixes(groups) if any(group.prefix for group in groups) else None
    return _tensors(tokens, positions, bounds, wanted, prefixes)


def _targets(
    member: _Sequence, requests: Sequence[Request], low: int, branch: int, shared: int
) -> Iterator[tuple[int, int, int]]:
    for number in member.requests:
        request = requests[number]
        for place, target in enumerate(request.continuation, len(request.prompt) - 1):
            yield (low + place if place < shared else branch + place - shared), target, number


def _tensors(
    tokens: list[int], positions: list[int], bounds: list[tuple[int, int]], wanted: list[tuple[int, int, int]],
    prefixes: SharedPrefixes | None,
) -> ScoreBatch:  # fmt: skip
    columns = [torch.tensor(column, dtype=torch.int64) for column in zip(*wanted)] if wanted else [_NOTHING] * 3
    at, target, request = columns
    scored, row = torch.unique(at, sorted=True, return_inverse=True)
    lengths = [stop - start for start, stop in bounds]
    edges = np.array(bounds, dtype=np.int32).reshape(-1, 2)
    start, end = (torch.from_numpy(np.repeat(edges[:, side], lengths)) for side in (0, 1))  # [t]
    micro = MicroBatch(
        tokens=torch.tensor(tokens, dtype=torch.int64),
        labels=torch.full((len(tokens),), IGNORE_INDEX),
        documents=prefixes or Documents(start, end),
        positions=torch.tensor(positions, dtype=torch.int64),
        num_loss_tokens=0,
        scored=scored,
    )
    return ScoreBatch(micro, row, target, request)


def empty_batch(multiple: int = 1) -> ScoreBatch:
    """A window that asks for nothing: for a rank that has less to do than the others."""
    size = max(2, multiple)
    return _tensors([0] * size, list(range(size)), [(0, size)], [], None)
