"""The GIN of pretrain-gnns and GraphMVP (5 layers, 300 wide in BioMedGPT), same keys, in plain torch.

torch-geometric's GINEConv is another operator (it has a ReLU in the message). BatchNorm always uses its running
statistics, in training too: batch statistics would make a molecule's embedding depend on its neighbours in the batch, fail
for one atom, and be updated twice when the encoder is recomputed for the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from megabiomed.encoders.gin.config import GinConfig
from megabiomed.encoders.gin.featurise import Molecule

# Rows of pretrain-gnns' tables, which include masked atoms, masked bonds and self loops.
ATOMS = 120
CHIRALITIES = 3
BONDS = 6
DIRECTIONS = 3
_SELF_LOOP = 4


@dataclass(frozen=True)
class MoleculeBatch:
    """Molecules side by side as one graph.

    Attributes:
        atoms: [n, 2] int64.  edges: [2, e] int64.  bonds: [e, 2] int64.
        rows: atoms of each molecule.
    """

    atoms: Tensor
    edges: Tensor
    bonds: Tensor
    rows: list[int]

    @classmethod
    def of(cls, molecules: Sequence[Molecule]) -> MoleculeBatch:
        """Concatenate; no molecule gives an empty graph."""
        if not molecules:
            none = torch.zeros(0, 2, dtype=torch.int64)
            return cls(none, none.T.contiguous(), none, [])
        rows = [molecule.rows for molecule in molecules]
        offsets = np.cumsum([0, *rows[:-1]])
        edges = [m.edges.astype(np.int64) + offset for m, offset in zip(molecules, offsets)]
        return cls(
            torch.from_numpy(np.concatenate([m.atoms for m in molecules]).astype(np.int64)),
            torch.from_numpy(np.concatenate(edges, axis=1)),
            torch.from_numpy(np.concatenate([m.bonds for m in molecules]).astype(np.int64)),
            rows,
        )

    def geometric(self) -> Any:
        """The same graph as torch-geometric's `Batch` (x, edge_index, edge_attr, batch, ptr), for its operators and models."""
        from torch_geometric.data import Batch

        ends = torch.tensor([0, *accumulate(self.rows)])
        graph = torch.repeat_interleave(torch.arange(len(self.rows)), torch.tensor(self.rows, dtype=torch.int64))
        device = self.atoms.device
        return Batch(
            x=self.atoms, edge_index=self.edges, edge_attr=self.bonds, batch=graph.to(device), ptr=ends.to(device)
        )

    def to(self, device: torch.device) -> MoleculeBatch:
        """The same batch on a device."""
        return MoleculeBatch(self.atoms.to(device), self.edges.to(device), self.bonds.to(device), self.rows)


class GinConv(nn.Module):
    """h_i' = MLP(sum over neighbours and itself of h_j + bond embedding) (Xu et al. 2019; Hu et al. 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.edge_embedding1 = nn.Embedding(BONDS, width)
        self.edge_embedding2 = nn.Embedding(DIRECTIONS, width)
        nn.init.xavier_uniform_(self.edge_embedding1.weight)
        nn.init.xavier_uniform_(self.edge_embedding2.weight)

    def forward(self, x: Tensor, edges: Tensor, bonds: Tensor) -> Tensor:
        """x [n, w], edges [2, e], bonds [e, 2] -> [n, w]."""
        message = x.index_select(0, edges[0]) + self.edge_embedding1(bonds[:, 0]) + self.edge_embedding2(bonds[:, 1])
        # A self loop is a bond of a kind of its own, without direction.
        loop = self.edge_embedding1.weight[_SELF_LOOP] + self.edge_embedding2.weight[0]
        return self.mlp((x + loop).index_add(0, edges[1], message.to(x.dtype)))  # [n, w]


class Gin(nn.Module):
    """Atom embeddings of molecules; parameters and buffers have the keys of pretrain-gnns."""

    def __init__(self, config: GinConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.x_embedding1, self.x_embedding2 = nn.Embedding(ATOMS, width), nn.Embedding(CHIRALITIES, width)
        nn.init.xavier_uniform_(self.x_embedding1.weight)
        nn.init.xavier_uniform_(self.x_embedding2.weight)
        self.gnns = nn.ModuleList(GinConv(width) for _ in range(config.num_layers))
        self.batch_norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(config.num_layers))
        self.train(False)

    def train(self, mode: bool = True) -> Gin:
        """BatchNorm keeps its running statistics in both modes."""
        super().train(mode)
        for norm in self.batch_norms:
            norm.train(False)
        return self

    def forward(self, batch: MoleculeBatch) -> Tensor:
        """[n, w], one row an atom, molecules in order."""
        x = self.x_embedding1(batch.atoms[:, 0]) + self.x_embedding2(batch.atoms[:, 1])  # [n, w]
        last = len(self.gnns) - 1
        for index, (conv, norm) in enumerate(zip(self.gnns, self.batch_norms)):
            x = norm(conv(x, batch.edges, batch.bonds))
            x = x if index == last else torch.relu(x)
        return x  # [n, w]
