"""ESM-2 as fair-esm computes it, padded and unfused: the second opinion on the packed forward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from megabiomed.encoders.esm2.alphabet import PAD, Protein
from megabiomed.encoders.esm2.model import Esm2


def reference_esm2(model: Esm2, proteins: Sequence[Protein]) -> Tensor:
    """[t, w] of the same weights by fair-esm's ESM2, without the padding that it computes as well."""
    from esm.model.esm2 import ESM2

    config = model.config
    theirs = ESM2(config.num_layers, config.hidden_size, config.num_attention_heads).eval()
    unexpected = theirs.load_state_dict(model.state_dict(), strict=False).unexpected_keys
    assert not unexpected, unexpected
    for layer in theirs.layers:
        # Our state dict does not hold the frequencies, and fair-esm's own are not rounded.
        layer.self_attn.rot_emb.inv_freq = model.inv_freq.clone()
    tokens = torch.full((len(proteins), max(p.rows for p in proteins)), PAD)
    for row, protein in enumerate(proteins):
        tokens[row, : protein.rows] = torch.from_numpy(protein.tokens.astype("int64"))
    with torch.no_grad():
        last = theirs(tokens, repr_layers=[config.num_layers])["representations"][config.num_layers]
    return torch.cat([last[row, : protein.rows] for row, protein in enumerate(proteins)])


def reference_tokens(sequence: str) -> list[int]:
    """Token ids by fair-esm's alphabet, special tokens included; upper-case residues only."""
    from esm.data import Alphabet

    alphabet = Alphabet.from_architecture("ESM-1b")
    return [alphabet.cls_idx, *alphabet.encode(sequence), alphabet.eos_idx]
