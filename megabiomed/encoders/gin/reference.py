"""The GIN of pretrain-gnns as its authors wrote it, on torch-geometric's message passing: the second opinion on ours."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import add_self_loops

from megabiomed.encoders.gin.model import Gin, MoleculeBatch


def reference_gin(gin: Gin, batch: MoleculeBatch) -> Tensor:
    """[n, w] of the same weights, by GINConv of pretrain-gnns (chem/model.py), self loops added as edges of kind 4."""
    data = batch.geometric()
    x = gin.x_embedding1(data.x[:, 0]) + gin.x_embedding2(data.x[:, 1])
    for index, (conv, norm) in enumerate(zip(gin.gnns, gin.batch_norms)):
        x = norm(_Convolution(conv)(x, data.edge_index, data.edge_attr))
        x = x if index == len(gin.gnns) - 1 else torch.relu(x)
    return x


class _Convolution(MessagePassing):
    def __init__(self, ours: nn.Module) -> None:
        super().__init__(aggr="add")
        self.ours = ours

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        edge_index, _ = add_self_loops(edge_index, num_nodes=x.size(0))
        loops = torch.zeros(x.size(0), 2, dtype=edge_attr.dtype)
        loops[:, 0] = 4
        attr = torch.cat((edge_attr, loops))
        embedded = self.ours.edge_embedding1(attr[:, 0]) + self.ours.edge_embedding2(attr[:, 1])
        return self.propagate(edge_index, x=x, edge_attr=embedded)

    def message(self, x_j: Tensor, edge_attr: Tensor) -> Tensor:
        return x_j + edge_attr

    def update(self, aggr_out: Tensor) -> Tensor:
        return self.ours.mlp(aggr_out)
