"""Nothing is computed twice, and every target keeps the history it has when scored alone."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest

from megabiomed.data.packing import MicroBatch
from megabiomed.evaluate.packing import Request, pack
from megabiomed.kernels.documents import Documents


def history(batch: MicroBatch, place: int) -> list[int]:
    """Tokens that a place sees, its own last."""
    tokens = batch.tokens.tolist()
    if isinstance(batch.documents, Documents):
        return tokens[int(batch.documents.start[place]) : place + 1]
    group = next(g for g in reversed(batch.documents.groups) if g.low <= place)
    if place < group.low + group.prefix:
        return tokens[group.low : place + 1]
    branches = accumulate(group.branches, initial=group.low + group.prefix)
    first = max(edge for edge in branches if edge <= place)
    return tokens[group.low : group.low + group.prefix] + tokens[first : place + 1]


def random_requests(seed: int) -> list[Request]:
    rng = random.Random(seed)
    shots = [rng.randrange(9) for _ in range(rng.choice((0, 5, 40)))]
    found = []
    for _ in range(rng.randrange(1, 12)):
        prompt = [1, *shots, *(rng.randrange(4) for _ in range(rng.randrange(1, 30)))]
        found += [
            Request(prompt, [rng.randrange(4) for _ in range(rng.randrange(1, 5))]) for _ in range(rng.randrange(1, 5))
        ]
    return found


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_every_target_is_scored_once_after_its_own_history(seed: int, share: bool) -> None:
    requests = random_requests(seed)
    found: dict[int, list[tuple[tuple[int, ...], int]]] = {n: [] for n in range(len(requests))}
    for batch in pack(requests, 128, share, multiple=4):
        assert batch.micro.tokens.numel() % 4 == 0
        for row, target, request in zip(batch.row.tolist(), batch.target.tolist(), batch.request.tolist()):
            assert batch.micro.scored is not None
            place = int(batch.micro.scored[row])
            seen = history(batch.micro, place)
            assert int(batch.micro.positions[place]) == len(seen) - 1
            found[request].append((tuple(seen), target))
    for number, request in enumerate(requests):
        expected = [
            (tuple(request.prompt + request.continuation[:place]), token)
            for place, token in enumerate(request.continuation)
        ]
        assert sorted(found[number], key=lambda pair: len(pair[0])) == expected


def test_options_of_one_token_cost_their_prompt_once_and_examples_are_computed_once() -> None:
    prompt = list(range(50))
    single = [Request(prompt, [token]) for token in (60, 61, 62)]
    assert sum(batch.micro.tokens.numel() for batch in pack(single, 512)) == 50
    several = [Request(prompt, [token, 7, 8]) for token in (60, 61, 62)]
    assert sum(batch.micro.tokens.numel() for batch in pack(several, 512)) == 50 + 3 * 2
    examples = [Request([*prompt, 90 + number, 5], [6]) for number in range(4)]
    assert sum(batch.micro.tokens.numel() for batch in pack(examples, 512)) == 50 + 4 * 2
    assert sum(batch.micro.tokens.numel() for batch in pack(examples, 512, share=False)) == 4 * 52
