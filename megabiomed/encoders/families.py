"""Which network a file of weights is of, by the names of its tensors: encoders that look alike are told apart by them."""

from __future__ import annotations

import re
from collections.abc import Iterable

GIN = "a GIN of pretrain-gnns or GraphMVP"
ESM2 = "an ESM-2"

_MARKS = (
    (r"\bgnns\.\d+\.mlp\.", GIN),
    (r"\bgnns\.\d+\.linear\.", "a GCN or GraphSAGE of pretrain-gnns (their tensors have the same names)"),
    (r"\bgnns\.\d+\.(att$|weight_linear\.)", "a GAT of pretrain-gnns"),
    (r"row_self_attention\.", "an MSA Transformer of fair-esm"),
    (r"\brot(ary)?_emb(eddings)?\.inv_freq", ESM2),
    (r"\bembed_positions\.", "an ESM-1 of fair-esm, whose positions are learned"),
    (r"\bembeddings\.position_embeddings\.", "a BERT, whose positions are learned"),
    (r"\bmodel\.layers\.\d+\.self_attn\.", "a language model"),
    (r"\b(embed_tokens|word_embeddings)\.weight$", ESM2),
)
"""A pattern that the name of a tensor matches, and what the file then is; the first one counts."""


def family_of(names: Iterable[str]) -> str | None:
    """What network the tensors of a file make, as far as their names tell; None for one that is not known."""
    held = list(names)
    return next((family for mark, family in _MARKS if any(re.search(mark, name) for name in held)), None)
