"""The architecture of docs/models.md, outside the package, works as it is printed: trained, compared, resumed, exported."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy

from megabiomed.checkpoint.locate import locate
from megabiomed.checkpoint.logical import Box
from megabiomed.config import RunConfig
from megabiomed.config.kinds import stored_run
from megabiomed.data.loader import TrainLoader
from megabiomed.data.packing import IGNORE_INDEX, MicroBatch
from megabiomed.data.store import TokenStore
from megabiomed.model.as_transformers import as_transformers
from megabiomed.model.fresh import SeededInit
from megabiomed.model.registry import architecture_of

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
# Adam's first steps are sign-like: with a tiny eps they would turn fp32 rounding into visible differences.
RUN = """
name: outside
data: {train: [{path: CORPUS/train}], seq_length: 64, micro_batch_size: 2, global_batch_size: 8, prefetch: 0}
optimizer: {lr: 1.0e-2, eps: 1.0e-4, weight_decay: 0.1, clip_grad_norm: 0.5, schedule: constant, warmup_steps: 0}
train: {steps: 5, precision: fp32}
checkpoint: {save_every: 0}
tracking: {mlflow: false}
"""


@pytest.fixture
def run_file(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of the model that the page prints, with the page's module on PYTHONPATH."""
    (module,) = re.findall(r"^```python\n# my_models.py\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (keys,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "my_models.py").write_text(module)
    (tmp_path / "run.yaml").write_text(RUN.replace("CORPUS", str(corpus)) + keys)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "run.yaml"


def logged(run: Path, key: str) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record[key] for record in records if key in record]


def loss_sum(model: Any, batch: MicroBatch) -> torch.Tensor:
    index = torch.arange(batch.tokens.numel())
    visible = (index <= index[:, None]) & (index >= batch.documents.start[:, None])  # [t, t]
    logits = model(
        input_ids=batch.tokens.long()[None], attention_mask=visible[None, None],
        position_ids=batch.positions.long()[None],
    ).logits[0]  # fmt: skip
    return cross_entropy(logits, batch.labels.long(), ignore_index=IGNORE_INDEX, reduction="sum")


def reference(config: RunConfig) -> tuple[list[float], list[float], Any]:
    """Losses, gradient norms and the model of transformers after the steps of a run in one process."""
    model = as_transformers(config.model, SeededInit(config.model, config.seed), torch.float32, 1, 2).train()
    assert type(model).__name__ == "Qwen3ForCausalLM"
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": config.optimizer.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    settings = config.optimizer
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=settings.eps)
    store = TokenStore.open(config.data.train[0].path)
    losses, norms = [], []
    for _, step in zip(range(5), TrainLoader([store], [1.0], config.data, config.seed)):
        count = sum(batch.num_loss_tokens for batch in step.micro_batches)
        total = 0.0
        for batch in step.micro_batches:
            loss = loss_sum(model, batch) / count
            loss.backward()
            total += float(loss)
        losses.append(total)
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_grad_norm)))
        optimizer.step()
        optimizer.zero_grad()
    return losses, norms, model


@pytest.mark.timeout(300)
def test_a_model_from_outside_equals_transformers_on_tensor_ranks_then_pipeline_stages(
    run_file: Path, command: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    tensor = ["parallel.tensor_parallel_size=2", "parallel.sequence_parallel=true", "parallel.zero_stage=1"]
    command("pretrain", run_file, f"run_dir={run}", *tensor, "train.stop_after=3")
    command("pretrain", run_file, f"run_dir={run}", "parallel.pipeline_parallel_size=2", "parallel.zero_stage=3")
    checkpoint = locate(run).open()
    config = stored_run(checkpoint.config_text, "the run")
    assert config.model.kind == "my_models:Qwen3"
    assert yaml.safe_load(checkpoint.config_text)["model"]["attention_bias"] is True
    losses, norms, model = reference(config)
    assert logged(run, "train/loss") == pytest.approx(losses, abs=1e-5)
    assert logged(run, "train/grad_norm") == pytest.approx(norms, abs=1e-5)
    parameters = dict(model.named_parameters())
    assert set(parameters) == set(architecture_of(config.model).tensors) == set(checkpoint.shapes)
    for name, parameter in parameters.items():
        ours = checkpoint.read(Box.whole(name, tuple(parameter.shape)))
        assert float((ours - parameter).abs().max()) <= 1e-5, name

    exported = command("checkpoint", "export-hf", run, tmp_path / "hf", "--dtype", "fp32")
    assert "certificate: valid" in exported.stdout
    from transformers import AutoModelForCausalLM

    again = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert type(again) is type(model)
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, checkpoint.read(Box.whole(name, tuple(parameter.shape)))), name


def test_its_own_keys_are_checked_like_others(run_file: Path, command: Callable[..., CompletedProcess[str]]) -> None:
    refused = command("pretrain", run_file, "model.atention_bias=true", code=2)
    assert "did you mean 'model.attention_bias'?" in refused.stderr
    refused = command("pretrain", run_file, "model.kind=my_models:Qwen4", code=2)
    assert "the model 'my_models:Qwen4' cannot be imported" in refused.stderr
    refused = command("pretrain", run_file, "model.kind=lama", code=2)
    assert "did you mean 'llama'?" in refused.stderr
