"""A checkpoint of a parallel run gives the same validation loss, and text, in one process; the export agrees."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.timeout(240)
def test_validation_text_plot_and_export_of_a_tensor_parallel_run(
    run_file: Path, command: Command, tmp_path: Path
) -> None:
    run = tmp_path / "r"
    trained = command("pretrain", run_file, f"run_dir={run}", "train.steps=3")
    reported = next(line for line in trained.stdout.splitlines() if "validation_loss" in line)
    loss = float(reported.split("validation_loss: ")[1].split()[0])
    alone = command("validate", run, "--samples", "4").stdout
    assert float(alone.split("validation_loss: ")[1].split()[0]) == pytest.approx(loss, abs=2e-4)
    text = command("generate", run, "--prompt", "The heart", "--max-new-tokens", "3").stdout
    assert text.startswith("The heart")
    command("plot", run, "--output", tmp_path / "curve.svg")
    assert "<svg" in (tmp_path / "curve.svg").read_text()
    command("checkpoint", "export-hf", run, tmp_path / "hf", "--dtype", "fp32")
    assert hugging_face_loss(tmp_path / "hf", run_file) == pytest.approx(loss, abs=2e-4)


def hugging_face_loss(folder: Path, run_file: Path) -> float:
    """The same four windows through transformers."""
    import torch
    from transformers import LlamaForCausalLM

    from megabiomed.config import load_config
    from megabiomed.data.loader import ValidationLoader
    from megabiomed.data.store import TokenStore

    config = load_config(run_file)
    assert config.data.validation is not None
    model = LlamaForCausalLM.from_pretrained(folder).float()
    total, count = 0.0, 0
    for batch in ValidationLoader(TokenStore.open(config.data.validation), config.data, 4).micro_batches():
        index = torch.arange(batch.tokens.numel())
        visible = (index[None, :] <= index[:, None]) & (index[None, :] >= batch.documents.start[:, None])
        with torch.no_grad():
            logits = model(
                input_ids=batch.tokens[None], attention_mask=visible[None, None], position_ids=batch.positions[None]
            ).logits[0]
        total += float(torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum"))
        count += batch.num_loss_tokens
    return total / count
