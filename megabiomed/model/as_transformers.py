"""The whole model as transformers' LlamaForCausalLM in this process: its generation has a key/value cache and sampling."""

from __future__ import annotations

from typing import Any

import torch

from megabiomed.checkpoint.logical import Box, TensorSource
from megabiomed.config.schema import ModelConfig
from megabiomed.model.hf_folder import logical_tensors
from megabiomed.processes import platform


def as_transformers(config: ModelConfig, source: TensorSource, dtype: torch.dtype, bos: int, eos: int) -> Any:
    """A LlamaForCausalLM with the weights of any source, on this process's device, for evaluation."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = config.model_dump(exclude={"init_from", "initializer_range"})
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**shape, bos_token_id=bos, eos_token_id=eos))
    state = {name: source.read(Box.whole(name, size)).to(dtype) for name, size in logical_tensors(config).items()}
    model.load_state_dict(state, assign=True)
    # The rotary table is no parameter and was made without values.
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    return model.to(platform.device()).eval()
