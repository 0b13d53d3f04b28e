"""Rows from the ranks that encode to the ranks that embed, and their gradients back, by one uneven all-to-all each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

from megabiomed.encoders.schedule import EncoderItem
from megabiomed.engine.mesh import Mesh


class Exchange:
    """The traffic of one global batch.

    All tensor ranks of the first stage of a replica get the rows of its items. Gradients with respect to embeddings are
    equal on them, so that only the first one sends them back.

    Args:
        owners: world rank that encodes each item.
    """

    def __init__(self, mesh: Mesh, items: Sequence[EncoderItem], owners: Sequence[int]) -> None:
        self.mesh = mesh
        self.items = items
        self.owners = owners
        self.mine = [number for number, owner in enumerate(owners) if owner == mesh.rank]
        self.consumed = self._consumed_by(mesh.rank)

    def _consumed_by(self, rank: int) -> list[int]:
        grid = self.mesh.grid
        if rank not in grid or grid.coordinate(rank, "pp") > 0:  # only the first stage embeds
            return []
        replica = grid.coordinate(rank, "replicas")
        return [number for number, item in enumerate(self.items) if item.consumer == replica]

    def deliver(self, rows: Tensor) -> Tensor:
        """Rows of my items (in their order) -> rows of the items that this rank embeds, in their order. Collective."""
        outgoing = [
            [n for n in self._consumed_by(r) if self.owners[n] == self.mesh.rank] for r in range(self.mesh.world)
        ]
        incoming = [[n for n in self.consumed if self.owners[n] == r] for r in range(self.mesh.world)]
        return self._exchange(rows, self.mine, outgoing, incoming, self.consumed)

    def give_back(self, gradients: Tensor) -> Tensor:
        """Gradients of the rows of `deliver` -> gradients of the rows of my items. Collective."""
        mesh = self.mesh
        first = [rank in mesh.grid and mesh.grid.coordinate(rank, "tp") == 0 for rank in range(mesh.world)]
        outgoing = [
            [n for n in self.consumed if self.owners[n] == r] if first[mesh.rank] else [] for r in range(mesh.world)
        ]
        incoming = [[n for n in self._consumed_by(r) if self.owners[n] == mesh.rank] if first[r] else []
                    for r in range(mesh.world)]  # fmt: skip
        return self._exchange(gradients, self.consumed, outgoing, incoming, self.mine)

    def _exchange(
        self, rows: Tensor, held: list[int], outgoing: list[list[int]], incoming: list[list[int]], wanted: list[int]
    ) -> Tensor:
        sizes = [self.items[n].rows_out for n in held]
        parts = dict(zip(held, rows.split(sizes))) if held else {}
        send = [parts[n] for group in outgoing for n in group]
        sent = torch.cat(send) if send else rows[:0]
        # Every rank knows all sizes from the plan, so none have to be sent.
        counts_out = [sum(self.items[n].rows_out for n in group) for group in outgoing]
        counts_in = [sum(self.items[n].rows_out for n in group) for group in incoming]
        received = rows.new_empty(sum(counts_in), rows.shape[1])
        dist.all_to_all_single(received, sent.contiguous(), counts_in, counts_out)
        # Received in the order of the senders, wanted in the order of the items.
        order = [n for group in incoming for n in group]
        ends = list(accumulate(self.items[n].rows_out for n in order))
        where = {n: received[end - self.items[n].rows_out : end] for n, end in zip(order, ends)}
        return torch.cat([where[n] for n in wanted]) if wanted else received[:0]
