"""A graph attention network of torch-geometric (GATv2, Brody et al. 2022) on the same molecule features as GIN."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from megabiomed.encoders.gin.config import GinConfig
from megabiomed.encoders.gin.model import ATOMS, BONDS, CHIRALITIES, DIRECTIONS, MoleculeBatch


class Gat(nn.Module):
    """Atom embeddings by `torch_geometric.nn.GAT`; bonds take part in the attention. No norm: a molecule stands for itself."""

    def __init__(self, config: GinConfig) -> None:
        super().__init__()
        from torch_geometric.nn import GAT

        width = config.hidden_size
        self.x_embedding1, self.x_embedding2 = nn.Embedding(ATOMS, width), nn.Embedding(CHIRALITIES, width)
        self.edge_embedding1, self.edge_embedding2 = nn.Embedding(BONDS, width), nn.Embedding(DIRECTIONS, width)
        # Self loops get a bond of zeros: the mean of the neighbours' is undefined for a lone atom.
        self.gnn = GAT(width, width, config.num_layers, out_channels=width, v2=True, edge_dim=width, fill_value=0.0)

    def forward(self, batch: MoleculeBatch) -> Tensor:
        """[n, w], one row an atom, molecules in order."""
        data = batch.geometric()
        x = self.x_embedding1(data.x[:, 0]) + self.x_embedding2(data.x[:, 1])
        bonds = self.edge_embedding1(data.edge_attr[:, 0]) + self.edge_embedding2(data.edge_attr[:, 1])
        return cast(Tensor, self.gnn(x, data.edge_index, edge_attr=bonds.to(x.dtype)))
