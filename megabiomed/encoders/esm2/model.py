"""ESM-2 (Lin et al. 2023, Science 379:1123) on packed proteins, with fair-esm's keys.

Only the trunk: no language-model head and no contact head, whose parameters would never get a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from megabiomed.encoders.esm2.alphabet import MASK, PAD, TOKENS, Protein
from megabiomed.encoders.esm2.config import Esm2Config
from megabiomed.kernels.segment_attention import segment_attention

_MASK_RATIO_TRAIN = 0.15 * 0.8  # share of <mask> tokens in pretraining; token dropout rescales by it


@dataclass(frozen=True)
class ProteinBatch:
    """Proteins one after the other: tokens [t] int64, `rows` tokens of each."""

    tokens: Tensor
    rows: list[int]

    @classmethod
    def of(cls, proteins: Sequence[Protein]) -> ProteinBatch:
        """Concatenate."""
        flat = np.concatenate([np.zeros(0, np.int64), *(p.tokens.astype(np.int64) for p in proteins)])
        return cls(torch.from_numpy(flat.astype(np.int64)), [protein.rows for protein in proteins])

    def keys(self) -> list[bytes]:
        """Tokens of each protein, as they name its rows in a cache."""
        return [part.to(torch.uint8).cpu().numpy().tobytes() for part in self.tokens.split(self.rows)]

    def select(self, numbers: Sequence[int]) -> ProteinBatch:
        """The batch of some of the proteins."""
        parts = self.tokens.split(self.rows)
        tokens = torch.cat([self.tokens[:0], *(parts[number] for number in numbers)])
        return ProteinBatch(tokens, [self.rows[number] for number in numbers])

    def to(self, device: torch.device) -> ProteinBatch:
        """The same batch on a device."""
        return ProteinBatch(self.tokens.to(device), self.rows)


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        # Modules have fair-esm's names, so that its files load as they are.
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)


class Esm2Layer(nn.Module):
    """Pre-norm transformer layer with rotary positions and exact GELU."""

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.head_dim = config.num_attention_heads, width // config.num_attention_heads
        self.self_attn = _Attention(width)
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, rows: list[int]) -> Tensor:
        """x [t, w], cos and sin [t, d] fp32 -> [t, w]."""
        attn, h = self.self_attn, self.self_attn_layer_norm(x)
        shape = (-1, self.heads, self.head_dim)
        q, k, v = (p(h).view(shape) for p in (attn.q_proj, attn.k_proj, attn.v_proj))  # [t, heads, d]
        mixed = segment_attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v, rows).flatten(1)  # [t, w]
        x = x + attn.out_proj(mixed)
        h = self.fc1(self.final_layer_norm(x))  # [t, 4 w]
        return x + self.fc2(h * 0.5 * (1.0 + torch.erf(h / math.sqrt(2.0))))


class Esm2(nn.Module):
    """Residue embeddings of proteins, <cls> and <eos> included.

    Attributes:
        inv_freq: [d/2] fp32, loaded from the file when it has it (official files hold values that were rounded to fp16,
            with which the weights were trained); never cast with the module.
    """

    inv_freq: Tensor

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(len(TOKENS), config.hidden_size, padding_idx=PAD)
        self.layers = nn.ModuleList(Esm2Layer(config) for _ in range(config.num_layers))
        self.emb_layer_norm_after = nn.LayerNorm(config.hidden_size)
        dim = config.hidden_size // config.num_attention_heads
        # Real values even where the module is built on the meta device: no file has to bring them.
        with torch.device("cpu"):
            frequencies = 1.0 / 10000 ** (torch.arange(0, dim, 2, dtype=torch.int64).float() / dim)
        # A plain attribute: a buffer would be cast to bf16 with the module and lose half of all positions.
        self.inv_freq = frequencies

    def forward(self, batch: ProteinBatch) -> Tensor:
        """[t, w], one row a token, proteins in order."""
        x = self._embed(batch)
        cos, sin = self._angles(batch.rows, x.device)
        for layer in self.layers:
            if self.config.activation_checkpointing and torch.is_grad_enabled():
                # Dropout is a function of the item, so no random state has to be kept for the second pass.
                x = checkpoint(layer, x, cos, sin, batch.rows, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer(x, cos, sin, batch.rows)
        return self.emb_layer_norm_after(x)  # [t, w]

    def _embed(self, batch: ProteinBatch) -> Tensor:
        """Token embeddings with token dropout's rescaling: (1 - 0.12) / (1 - share of <mask> in the protein)."""
        masked = batch.tokens == MASK
        # fair-esm zeroes <mask> before it rescales.
        x = self.embed_tokens(batch.tokens).masked_fill(masked.unsqueeze(-1), 0.0)
        shares = [part.float().mean() for part in masked.split(batch.rows)] if batch.rows else []
        if not shares:
            return x
        scale = (1 - _MASK_RATIO_TRAIN) / (1 - torch.stack(shares))  # [proteins]
        lengths = torch.tensor(batch.rows, device=x.device)
        return x * torch.repeat_interleave(scale, lengths).unsqueeze(-1).to(x.dtype)  # [t, w]

    def _angles(self, rows: list[int], device: torch.device) -> tuple[Tensor, Tensor]:
        longest = max(rows, default=0)
        angle = torch.outer(torch.arange(longest).float(), self.inv_freq)
        angle = torch.cat((angle, angle), dim=-1)  # [longest, d]
        packed = torch.cat([angle[:n] for n in rows]) if rows else angle  # [t, d]
        return packed.cos().to(device), packed.sin().to(device)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021) in fp32 of [t, heads, d]."""
    wide = x.float()
    low, high = wide.chunk(2, dim=-1)
    turned = torch.cat((-high, low), dim=-1)
    return (wide * cos.unsqueeze(1) + turned * sin.unsqueeze(1)).to(x.dtype)
