"""The language model as a configuration names it: kinds of architectures are registered, and each may bring further keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from megabiomed.config.base import Section, nested, parse
from megabiomed.config.rope import RopeScaling
from megabiomed.ground.registry import Registry

Size = Annotated[int, Field(ge=1, le=10**8)]
"""A width of the model: the bytes of a matrix of two of them fit into 63 bits, so that only memory can be too small."""


class ModelConfig(Section):
    """The architecture of the language model and its sizes. Names are those of Hugging Face's config.json.

    Keys that every architecture has; one with further keys has a subclass of this (`ModelKind.config_class`).
    """

    kind: str = "llama"
    """Architecture: llama (Llama 2 and 3), mistral (7B from v0.2 on, Nemo), qwen2 (also Qwen2.5), qwen3, or
    `package.module:Class` of your own."""
    vocab_size: Size = 32000
    """Rows of the embedding and of the output head; at least the tokenizer's number of pieces; rows beyond
    them (a padded vocabulary, added tokens) are never a label."""
    hidden_size: Size = 4096
    """Width h of the residual stream."""
    intermediate_size: Size = 11008
    """Width of the SwiGLU feed-forward layer."""
    num_hidden_layers: int = Field(32, ge=1, le=10_000)
    """Number of decoder blocks."""
    num_attention_heads: Size = 32
    """Query heads."""
    num_key_value_heads: Size = 32
    """Key/value heads; fewer than the query heads means grouped-query attention (GQA)."""
    head_dim: int | None = Field(None, ge=1, le=10**8)
    """Size of one attention head; null is hidden_size / num_attention_heads."""
    max_position_embeddings: int = Field(4096, ge=1, le=10**9)
    """Length of the RoPE table in tokens; data.seq_length may not exceed it."""
    rope_theta: float = Field(10000.0, gt=0)
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """Scaling of the rotary frequencies for long contexts; null is none."""
    rms_norm_eps: float = Field(1e-5, gt=0)
    """Epsilon inside RMSNorm."""
    initializer_range: float = Field(0.02, gt=0)
    """Standard deviation of freshly initialised weights (unused with init_from)."""
    tie_word_embeddings: bool | None = None
    """Whether the output head is the embedding (Press & Wolf 2017): one matrix, trained as one. null: as in the checkpoint or
    Hugging Face folder that the run begins with, else false. false for a tied folder trains a copy apart."""
    init_from: Path | None = None
    """Folder of a Hugging Face model of this kind to start from (safetensors, or else pytorch_model.bin, read without
    executing it); null starts from random weights."""

    @property
    def head_size(self) -> int:
        """Size d of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def identity(self) -> dict[str, Any]:
        """What makes two configurations the same model: not where its weights come from."""
        values = self.model_dump(mode="json", exclude={"init_from", "initializer_range"})
        # A head size that is left out and the same one written down are one model.
        return {**values, "head_dim": self.head_size, "tie_word_embeddings": bool(self.tie_word_embeddings)}

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}; "
                "change one of them, or set head_dim"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}; every key/value head must serve the same number of query heads"
            )
        if self.head_size % 2:
            raise ValueError(f"head size {self.head_size} is odd; RoPE rotates pairs, choose an even head size")
        return self


class ModelKind:
    """What a configuration needs to know of an architecture. `megabiomed.model.architecture.Architecture` adds the rest."""

    config_class: type[ModelConfig] = ModelConfig
    """Class of its keys."""

    @classmethod
    def adapter_targets(cls) -> tuple[str, ...]:
        """Short names of the matrices that can have low-rank adapters, in forward order."""
        return ()


MODELS: Registry[type[ModelKind]] = Registry(
    "model",
    {
        "llama": "megabiomed.model.llama.table:Llama",
        "mistral": "megabiomed.model.llama.table:Mistral",
        "qwen2": "megabiomed.model.qwen2.table:Qwen2",
        "qwen3": "megabiomed.model.qwen3.table:Qwen3",
    },
    lambda held: isinstance(held, type) and issubclass(held, ModelKind),
    "a subclass of megabiomed.model.architecture.Architecture",
)


def model_class(values: object) -> type[ModelConfig]:
    """The class of the keys of a model, of which `kind` counts.

    Raises:
        ConfigError: the kind is unknown or cannot be imported.
    """
    kind = values.get("kind") if isinstance(values, dict) else None
    return MODELS.find(kind).config_class if isinstance(kind, str) else ModelConfig


def model_section(values: object, mode: str) -> ModelConfig:
    """The keys of a model, checked by the class of its kind.

    Args:
        mode: of the validation of the section around it: "json" (strict) or "python".
    """
    return values if isinstance(values, ModelConfig) else nested(model_class(values), values, mode)


def stored_model(values: Any, source: str) -> ModelConfig:
    """The model of a checkpoint's manifest; those of earlier releases name no kind and are Llama.

    Args:
        source: where the values came from, for the message.
    """
    return parse(model_class(values), values, source)
