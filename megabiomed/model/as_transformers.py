"""The whole model as transformers' own in this process: its generation has a key/value cache and sampling."""

from __future__ import annotations

from typing import Any

import torch

from megabiomed.checkpoint.logical import Box, TensorSource
from megabiomed.config.models import ModelConfig
from megabiomed.ground.errors import NonFiniteError
from megabiomed.model.hf_config import hf_config
from megabiomed.model.hf_files import EMBEDDING, HEAD
from megabiomed.model.registry import architecture_of
from megabiomed.processes import platform


def as_transformers(config: ModelConfig, source: TensorSource, dtype: torch.dtype, bos: int | None, eos: int) -> Any:
    """A causal language model of transformers with the weights of any source, on this process's device, for evaluation."""
    from transformers import AutoConfig, AutoModelForCausalLM

    architecture = architecture_of(config)
    values = hf_config(architecture, str(dtype).removeprefix("torch."), bos, eos)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
    state = {name: source.read(Box.whole(name, shape)).to(dtype) for name, shape in architecture.shapes.items()}
    if architecture.tied:
        state[HEAD] = state[EMBEDDING]
    model.load_state_dict(state, assign=True)
    model.tie_weights()  # what was assigned are two parameters; without effect where config.json does not tie
    # The rotary table is no parameter and was made without values.
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    return model.to(platform.device()).eval()


def refusing_nan() -> Any:
    """Logits processors for a generation in one process: `NonFiniteError` before a token is taken from logits with NaN."""
    from transformers import LogitsProcessorList

    return LogitsProcessorList([_refuse_nan])


def _refuse_nan(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    if bool(scores.isnan().any()):
        raise NonFiniteError("the model gives logits that are not numbers", do="take another checkpoint")
    return scores
