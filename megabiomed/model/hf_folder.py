"""To and from Hugging Face Llama folders, one tensor at a time: config, weights as a source, streamed export."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Literal

import torch

from megabiomed.checkpoint.logical import Box, TensorSource
from megabiomed.checkpoint.tensorfile import LazyTensor, TensorFiles, write_tensors
from megabiomed.config.schema import ModelConfig
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import inside, new_folder, read_json, write_json
from megabiomed.model.llama.hf import hf_config, model_config_from_hf
from megabiomed.tokenizer.hf_tokenizer import special_ids, write_tokenizer

__all__ = ["HuggingFaceSource", "check_architecture", "export_hf", "logical_tensors", "model_config_from_hf"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_READABLE = ("F32", "BF16", "F16")
_ALIKE = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "rope_theta", "rms_norm_eps"),
)


def logical_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter of the model under its Hugging Face name, with its full shape, in forward order."""
    h, kv = config.hidden_size, config.num_key_value_heads * config.head_dim
    ffn, vocab = config.intermediate_size, config.vocab_size
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (h,),
        "self_attn.q_proj.weight": (h, h),
        "self_attn.k_proj.weight": (kv, h),
        "self_attn.v_proj.weight": (kv, h),
        "self_attn.o_proj.weight": (h, h),
        "post_attention_layernorm.weight": (h,),
        "mlp.gate_proj.weight": (ffn, h),
        "mlp.up_proj.weight": (ffn, h),
        "mlp.down_proj.weight": (h, ffn),
    }
    layers = {
        f"model.layers.{i}.{name}": shape for i in range(config.num_hidden_layers) for name, shape in layer.items()
    }
    return {EMBEDDING: (vocab, h), **layers, "model.norm.weight": (h,), HEAD: (vocab, h)}


class HuggingFaceSource:
    """The weights of a Hugging Face Llama folder as fp32; implements `TensorSource`. Optimizer moments read as zeros.

    A folder with tied embeddings answers for `lm_head.weight` with the embedding.

    Args:
        path: folder with model.safetensors, or with several of them and model.safetensors.index.json.

    Attributes:
        tied: whether the output head is the embedding.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._files = TensorFiles()
        self._where = _tensor_files(self.path, self._files)
        self.tied = bool(read_json(self.path / "config.json").get("tie_word_embeddings", False))

    def names(self) -> list[str]:
        """Names of the stored tensors, sorted."""
        return sorted(self._where)

    def describe(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Stored element type (`BF16`, ...) and shape of a tensor, from the header alone.

        Raises:
            CheckpointError: the folder has no such tensor.
        """
        return self._files.describe(self._file(self._stored(name)), self._stored(name))

    def read(self, box: Box, kind: str = "param") -> torch.Tensor:
        """Values of one box as fp32, shape `box.shape`; raises as `read_into`."""
        values = torch.empty(box.shape)
        self.read_into(box, values, kind)
        return values

    def read_into(self, box: Box, out: torch.Tensor, kind: str = "param") -> None:
        """Fill `out` with the values of one box; reads only the parts of the file that hold it.

        Raises:
            CheckpointError: the tensor is missing, has another shape or an element type other than fp32, bf16, fp16.
        """
        if kind != "param":
            out.zero_()
            return
        dtype, shape = self.describe(box.name)
        if shape != box.global_shape or dtype not in _READABLE:
            raise CheckpointError(
                f"{box.name} of {self.path} does not fit the model",
                got=f"{dtype} {shape}",
                expected=f"{' or '.join(_READABLE)} {box.global_shape}",
            )
        name = self._stored(box.name)
        part = box.slices_in(Box.whole(box.name, box.global_shape))
        self._files.read_into(self._file(name), name, part, out)

    def _stored(self, name: str) -> str:
        return EMBEDDING if name == HEAD and self.tied else name

    def _file(self, name: str) -> Path:
        if name not in self._where:
            raise CheckpointError(
                f"{self.path} has no tensor {name}",
                got=f"{len(self._where)} other tensors",
                do="check that the folder is a complete Llama checkpoint of this depth",
            )
        return self._where[name]


def _tensor_files(folder: Path, files: TensorFiles) -> dict[str, Path]:
    """Which file of a Hugging Face folder holds which tensor."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} is no Hugging Face model folder", expected="config.json in it")
    if (folder / INDEX).is_file():
        weight_map = read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{folder / INDEX} is damaged", expected="a weight_map")
        return {name: inside(folder, file) for name, file in weight_map.items()}
    if (folder / SINGLE).is_file():
        return dict.fromkeys(files.keys(folder / SINGLE), folder / SINGLE)
    pickled = sorted(path.name for path in folder.glob("*.bin")) or sorted(path.name for path in folder.glob("*.pt*"))
    if pickled:
        raise CheckpointError(
            f"{folder} holds pickled weights, which can run code when read",
            got=pickled[0],
            expected="safetensors",
            do="convert them once where you trust them: LlamaForCausalLM.from_pretrained(folder).save_pretrained(new)",
        )
    raise CheckpointError(f"{folder} holds no weights", expected=f"{SINGLE} or {INDEX}")


def check_architecture(path: str | Path, config: ModelConfig) -> None:
    """Check from headers alone that a Hugging Face folder holds exactly the model of the configuration.

    Raises:
        CheckpointError: listing the values of config.json that differ, or the first tensor that is missing, unknown or
            of another shape.
    """
    found = model_config_from_hf(path)
    differ = [name for name in _ALIKE if getattr(found, name) != getattr(config, name)]
    if differ:
        raise CheckpointError(
            f"{path} holds another model",
            got=", ".join(f"{name} {getattr(found, name)}" for name in differ),
            expected=", ".join(f"{getattr(config, name)}" for name in differ),
            do="set these keys of `model:` to the values of the folder",
        )
    source, wanted = HuggingFaceSource(path), logical_tensors(config)
    # Old checkpoints store the rotary table, which every program computes itself.
    unknown = [name for name in source.names() if name not in wanted and not name.endswith("rotary_emb.inv_freq")]
    if unknown:
        raise CheckpointError(
            f"{path} holds tensors that Llama2 does not have", got=f"{unknown[0]} (one of {len(unknown)})"
        )
    for name, shape in wanted.items():
        dtype, stored = source.describe(name)
        if stored != shape or dtype not in _READABLE:
            raise CheckpointError(
                f"{name} of {path} does not fit its config.json", got=f"{dtype} {stored}", expected=f"{shape}"
            )


def export_hf(
    source: TensorSource,
    config: ModelConfig,
    folder: str | Path,
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16",
    tokenizer: Path | None = None,
    max_shard_bytes: int = 5_000_000_000,
    inspect: Callable[[Path], None] = lambda folder: None,
    tick: Callable[[], None] = lambda: None,
) -> Path:
    """Write a folder that `transformers` loads as LlamaForCausalLM, with one tensor in memory at a time.

    The folder appears under its name only when it is complete. One file is named model.safetensors; several follow the
    index convention of Hugging Face.

    Args:
        tokenizer: SentencePiece tokenizer.model to add, together with the tokenizer.json made from it.
        max_shard_bytes: limit of one weight file; a single tensor larger than this has a file of its own.
        inspect: called with the complete folder while it still has a temporary name; what it raises undoes the export.
        tick: called for each tensor.

    Raises:
        CheckpointError: the target exists, or the source lacks a tensor.
        TokenizerError: the tokenizer does not fit the vocabulary, or cannot be converted exactly.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} already exists", do="choose another folder or delete this one")
    with new_folder(folder) as temporary:
        bos, eos = special_ids(tokenizer) if tokenizer else (1, 2)
        if tokenizer:
            write_tokenizer(tokenizer, temporary, config)
        _write_weights(source, plan_shards(config, dtype, max_shard_bytes), temporary, DTYPES[dtype], tick)
        write_json(temporary / "config.json", hf_config(config, DTYPES[dtype], bos, eos))
        write_json(temporary / "generation_config.json", {"bos_token_id": bos, "eos_token_id": eos})
        inspect(temporary)
    return folder


def plan_shards(config: ModelConfig, dtype: str, max_shard_bytes: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """Which tensors, with their shapes, an export puts into which file."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in logical_tensors(config).items():
        size = prod(shape) * DTYPES[dtype].itemsize
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += size
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {f"model-{i:05d}-of-{len(shards):05d}.safetensors": shard for i, shard in enumerate(shards, start=1)}


def _write_weights(
    source: TensorSource,
    plan: dict[str, dict[str, tuple[int, ...]]],
    folder: Path,
    dtype: torch.dtype,
    tick: Callable[[], None],
) -> None:
    total = 0
    for file, shapes in plan.items():
        tensors = [
            LazyTensor(name, dtype, shape, partial(_load, source, Box.whole(name, shape), dtype, tick))
            for name, shape in shapes.items()
        ]
        write_tensors(folder / file, tensors, {"format": "pt"})
        total += sum(tensor.nbytes for tensor in tensors)
    if len(plan) > 1:
        weight_map = {name: file for file, shapes in plan.items() for name in shapes}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def _load(source: TensorSource, box: Box, dtype: torch.dtype, tick: Callable[[], None]) -> torch.Tensor:
    tick()
    return source.read(box).to(dtype)
