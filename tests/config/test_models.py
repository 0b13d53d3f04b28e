"""Shipped models have the number of parameters that their authors publish with the weights."""

from __future__ import annotations

from pathlib import Path

from megabiomed.config import RunConfig, load_config, shipped
from megabiomed.model.flops import parameter_count

PUBLISHED = {
    "llama2-7b": 6_738_415_616, "llama2-13b": 13_015_864_320, "llama2-70b": 68_976_648_192,
    "llama3.1-8b": 8_030_261_248, "llama3.1-70b": 70_553_706_496,
    "llama3.2-1b": 1_235_814_400, "llama3.2-3b": 3_212_749_824,
    "mistral-7b-v0.3": 7_248_023_552, "mistral-nemo": 12_247_782_400,
    "qwen2.5-0.5b": 494_032_768, "qwen2.5-3b": 3_085_938_688, "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664, "deepseek-r1-distill-qwen-14b": 14_770_033_664,
    "qwen3-4b": 4_022_468_096, "qwen3-8b": 8_190_735_360,
    "tinyllama-1.1b": 1_100_048_384, "yi-6b": 6_061_035_520, "smollm2-135m": 134_515_008,
}  # fmt: skip
"""The totals that Hugging Face shows for the safetensors of each model; of Llama 2 without the rotary tables in its files."""
OURS = {"tiny", "tiny-30m"}


def test_the_parameters_of_every_shipped_model_are_those_published(tmp_path: Path) -> None:
    assert set(shipped.names("models")) == PUBLISHED.keys() | OURS
    file = tmp_path / "run.yaml"
    found = {}
    for name in PUBLISHED:
        file.write_text(f"name: x\nmodel: {name}\ntrain: {{steps: 1}}\n")
        found[name] = parameter_count(load_config(file, None, RunConfig).model)
    assert found == PUBLISHED
