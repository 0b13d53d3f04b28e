"""The evaluation that every topology and transformers do in the tests."""

from __future__ import annotations

from pathlib import Path

from megabiomed.evaluate.settings import EvaluateSettings, parse_tasks

TOPOLOGIES = {"tp2": {"tensor_parallel_size": 2}, "pp2": {"pipeline_parallel_size": 2}, "dp2": {}}


def settings(run: Path, questions: Path, output: Path, **more: object) -> EvaluateSettings:
    """The evaluation that all topologies and transformers do."""
    names = {"pubmedqa": "pubmedqa/ori_pqal.json", "medmcqa": "medmcqa/test.jsonl", "cloze": "medqa/test.jsonl"}
    tasks = parse_tasks([f"{name}={questions / file}" for name, file in names.items()], ["cloze=cloze"], [])
    return EvaluateSettings.model_validate({"model": run, "tasks": tasks, "output": output, "window": 512, **more})
