"""Logits equal transformers' Llama for MHA and GQA at tensor parallel 1, 2 and 4, from its own saved folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.spawn import run_ranks

WORKER = Path(__file__).with_name("logits_worker.py")
SHAPES = {"mha": 8, "gqa": 4, "fewer heads than ranks": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from transformers import LlamaConfig, LlamaForCausalLM

    found = {}
    for name, kv_heads in SHAPES.items():
        torch.manual_seed(kv_heads)
        config = LlamaConfig(
            vocab_size=250, hidden_size=64, intermediate_size=176, num_hidden_layers=3, num_attention_heads=8,
            num_key_value_heads=kv_heads, max_position_embeddings=64, initializer_range=0.08,
        )  # fmt: skip
        model = LlamaForCausalLM(config).float().eval()
        found[name] = tmp_path_factory.mktemp(name.replace(" ", "_"))
        model.save_pretrained(found[name])
        tokens = torch.arange(40).mul(7).remainder(250)
        with torch.no_grad():
            torch.save({"tokens": tokens, "logits": model(tokens[None]).logits[0]}, found[name] / "expected.pt")
    return found


@pytest.mark.timeout(180)
@pytest.mark.parametrize("tensor_parallel_size", [1, 2, 4])
def test_logits_equal_transformers_and_weights_the_file_to_the_bit(
    folders: dict[str, Path], tensor_parallel_size: int, tmp_path: Path
) -> None:
    command = [str(WORKER), str(tensor_parallel_size), *(str(folder) for folder in folders.values())]
    run_ranks(tensor_parallel_size, command, tmp_path)
    for name, folder in folders.items():
        expected = torch.load(folder / "expected.pt", weights_only=True)["logits"]
        ours = torch.load(folder / f"tp{tensor_parallel_size}.pt", weights_only=True)
        assert float((ours - expected).abs().max()) <= 1e-5, name
