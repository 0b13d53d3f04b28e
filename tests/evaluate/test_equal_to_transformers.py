"""The sharded checkpoint, on any topology, scores as transformers scores its export."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.evaluation import TOPOLOGIES, settings
from support.runs import RUN, losses
from support.spawn import run_ranks

TASKS = ("pubmedqa", "medmcqa", "cloze")
HERE = Path(__file__).parent


def rows(folder: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"predictions_{task}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def evaluated(corpus: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run/ with a checkpoint of tensor 2 and ZeRO-3, out/TOPOLOGY, and hf/."""
    from megabiomed.checkpoint.locate import locate
    from megabiomed.config.models import ModelConfig
    from megabiomed.model.hf_export import export_hf

    folder = tmp_path_factory.mktemp("evaluated")
    (folder / "run.yaml").write_text(RUN.replace("CORPUS", str(corpus)))
    places = map(str, (folder / "run.yaml", folder / "run", questions, folder / "out"))
    run_ranks(2, [str(HERE / "evaluate_worker.py"), *places], folder / "logs", timeout_s=500)
    checkpoint = locate(folder / "run").open()
    export_hf(checkpoint, ModelConfig(**checkpoint.architecture), folder / "hf", "fp32", checkpoint.tokenizer)
    return folder


@pytest.fixture(scope="module")
def by_transformers(evaluated: Path, questions: Path) -> dict[str, list[list[float]]]:
    """Log-likelihoods of every option, one forward pass an option, nothing packed and nothing shared."""
    import torch
    from transformers import LlamaForCausalLM

    from megabiomed.evaluate.model import open_model
    from megabiomed.evaluate.runner import build_tasks

    model = LlamaForCausalLM.from_pretrained(evaluated / "hf").float().eval()
    found = {}
    for task in build_tasks(settings(evaluated / "hf", questions, evaluated), open_model(evaluated / "hf")):
        found[task.name] = [
            [_logprob(model, r.prompt, r.continuation, torch) for r in item.requests()] for item in task.items
        ]
    return found


def _logprob(model: Any, prompt: list[int], continuation: list[int], torch: Any) -> float:
    with torch.no_grad():
        logprobs = model(torch.tensor([prompt + continuation])).logits[0].log_softmax(-1)
    return sum(float(logprobs[len(prompt) - 1 + place, token]) for place, token in enumerate(continuation))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_topology_agrees_with_transformers_on_the_export(
    evaluated: Path, by_transformers: dict[str, list[list[float]]], topology: str
) -> None:
    for task in TASKS:
        found, expected = rows(evaluated / "out" / topology, task), by_transformers[task]
        assert len(found) == len(expected) == 16
        for row, logprobs in zip(found, expected):
            assert row["logprobs"] == pytest.approx(logprobs, abs=1e-4)
            assert row["prediction"] == logprobs.index(max(logprobs))
    results = [json.loads((evaluated / "out" / name / "results.json").read_text()) for name in (topology, "dp2")]
    losses = [result["perplexity"]["held_out"]["loss"] for result in results]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.timeout(600)
def test_the_command_evaluates_the_export_and_compares_it_with_the_checkpoint(
    evaluated: Path, questions: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    out = evaluated / "exported"
    shown = command("evaluate", evaluated / "hf", "--task", f"pubmedqa={questions / 'pubmedqa' / 'ori_pqal.json'}",
                    "--output", out).stdout  # fmt: skip
    assert "pubmedqa 16/16" in shown
    assert "accuracy" in shown
    page = (out / "results.html").read_text()
    assert "<svg" in page
    assert "src=" not in page
    compared = command("compare", evaluated / "out" / "tp2", out, "--output", evaluated / "compared.json").stdout
    assert "McNemar" in compared
    found = json.loads((evaluated / "compared.json").read_text())["sets"]["pubmedqa"]
    assert (found["items"], found["difference"], found["mcnemar_p"], found["same_prompt"]) == (16, 0.0, 1.0, 16)


def test_evaluations_between_the_steps_change_no_bit_of_the_losses(evaluated: Path) -> None:
    assert losses(evaluated / "run-watched") == losses(evaluated / "run")
    lines = [json.loads(line) for line in (evaluated / "run-watched" / "metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: line for line in lines if "evaluation/general_perplexity" in line}
    assert sorted(found) == [0, 1, 2, 3]
    wanted = {
        "general_perplexity",
        "biomedical_perplexity",
        "abstracts_accuracy",
        "abstracts_answer_loss",
        "open_answer_loss",
    }
    assert {f"evaluation/{name}" for name in wanted} <= set(found[3])
    assert found[3]["evaluation/general_loss"] < found[0]["evaluation/general_loss"]
