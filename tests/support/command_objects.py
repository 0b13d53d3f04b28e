"""Small objects of every kind that commands read, and for each parameter of a command a value that fits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megabiomed.checkpoint.commit import CheckpointWriter
from megabiomed.checkpoint.fence import Fence
from megabiomed.checkpoint.state import Topology, TrainerState
from megabiomed.config import RunConfig, load_config, to_yaml
from megabiomed.model.fresh import SeededInit
from megabiomed.model.hf_export import export_hf
from megabiomed.model.registry import architecture_of
from megabiomed.runs.effective import keep
from megabiomed.samples.multimodal.building import BuildSettings, build_dataset
from megabiomed.samples.questions.generate import generate_questions
from support import checkpoints
from support.command_values import Parameter
from support.runs import RUN

FIGURES = {"loss": 1.0, "tokens": 3, "store_sha256": "s", "seq_length": 8}
ROW = {
    "id": "1",
    "question_sha256": "q",
    "prompt_sha256": "p",
    "correct": True,
    "label": "A",
    "answer": "x",
    "generated": "x",
}
JOB: dict[str, Any] = {
    "job_id": "7", "chain": "c", "stage": "t", "kind": "pretrain", "after": [], "prepared": "2026-01-01T00:00:00+00:00",
    "time": "1:00:00", "cluster": {"grace_seconds": 60},
}  # fmt: skip


def make_objects(folder: Path, corpus: Path) -> dict[str, Path]:
    """Name -> path."""
    tokenizer = corpus / "tokenizer/tokenizer.model"
    (folder / "run.yaml").write_text(RUN.replace("CORPUS", str(corpus)) + f"run_dir: {folder / 'run'}\n")
    config = load_config(folder / "run.yaml")
    _make_run(config, tokenizer)
    shutil.copytree(folder / "run", folder / "run2")
    (folder / "words.txt").write_text("the heart binds the protein\n" * 50)
    generate_questions(folder / "questions", train=2, test=2)
    (folder / "items.csv").write_text("smiles,description\n" + "".join(f"{'C' * n}O,text {n}\n" for n in range(1, 9)))
    build_dataset([folder / "items.csv"], folder / "qa", tokenizer, "random", BuildSettings("plain"), None, 0)
    for name in ("results", "results2"):
        _write(folder / name / "settings.json", {"identity": "i", "model": "m"})
        _write(folder / name / "results.json", {"model": "m", "tasks": {"t": {}}, "perplexity": {"d": FIGURES}})
        _write(folder / name / "predictions_t.jsonl", ROW)
    return {
        "config": folder / "run.yaml", "run": folder / "run", "run2": folder / "run2", "corpus": corpus,
        "store": corpus / "validation", "tokenizer": tokenizer, "words": folder / "words.txt",
        "questions": folder / "questions/medmcqa/test.jsonl", "items": folder / "items.csv", "split": folder / "qa/train",
        "results": folder / "results", "results2": folder / "results2",
        "hf": export_hf(SeededInit(config.model, 5), config.model, folder / "hf", "fp32", tokenizer),
    }  # fmt: skip


def _make_run(config: RunConfig, tokenizer: Path) -> None:
    """A run folder as a submitted run of two steps leaves it."""
    folder, model = config.folder, config.model
    (fragments,) = checkpoints.cut_world(model, 1, [])
    checkpoints.fill([fragments], checkpoints.random_truth(model))
    for step in (1, 2):
        state = checkpoints.state(
            trainer=TrainerState(global_step=step, tokens_consumed=4096, topology=Topology(tensor=1, data=1)),
            architecture=model.model_dump(mode="json"), config_text=to_yaml(config),
            expected=architecture_of(model).shapes, tokenizer=tokenizer,
        )  # fmt: skip
        CheckpointWriter(folder / "checkpoints").save(step, fragments, state)
    Fence.claim(folder)
    keep(config)
    events = [
        {"event": "start", "step": 0, "total_steps": 6},
        {"event": "save", "step": 2},
        {"event": "resume", "step": 2},
    ]
    _write(folder / "events.jsonl", *events)
    _write(folder / "metrics.jsonl", *({"step": n, "train/loss": 2.0, "train/eta_s": 5.0} for n in (1, 2)))
    _write(folder / "slurm/job.json", JOB | {"members": [str(folder)], "controls": [str(folder)]})
    begun = {"kind": "begin", "incarnation": "1"}
    _write(
        folder / "slurm/incarnations.jsonl",
        begun,
        {"kind": "end", "incarnation": "1", "reason": "r", "decision": "fail"},
    )
    (folder / "logs/1").mkdir(parents=True)
    (folder / "logs/1/rank_0.log").write_text("hello\n")


def _write(file: Path, *values: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(value) + "\n" for value in values))


def fitting(command: str, parameters: Sequence[Parameter], objects: dict[str, Path], output: Path) -> dict[str, object]:
    """A value for every parameter that is required or would make the command long, and for those of `_OWN`."""
    named: dict[str, object] = {
        "run": objects["run"], "config": objects["config"], "output": output, "tokenizer": objects["tokenizer"],
        "prompt": "x", "cluster": "h100", "path": objects["run"], "checkpoint": objects["run"], "first": objects["run"],
        "second": objects["run2"], "a": objects["results"], "b": objects["results2"], "model": objects["run"],
        "keep_last": 1, "texts": objects["words"], "base": objects["tokenizer"], "files": objects["questions"],
        "file": objects["questions"], "split": objects["split"], "inputs": objects["words"],
    }  # fmt: skip
    short = {"dry_run": True, "max_new_tokens": 1, "samples": 1, "workers": 1, "epochs": 1, "no_loss": True}
    values = {each.name: named.get(each.name, objects["words"]) for each in parameters if each.required}
    values |= {each.name: short[each.name] for each in parameters if each.name in short}
    return values | {name: str(value).format(**objects) for name, value in _OWN.get(command, {}).items()}


_OWN: dict[str, dict[str, object]] = {
    "submit": {"run": "{config}"}, "validate": {"store": "{store}"}, "evaluate": {"perplexity": "a={store}"},
    "corpus generate": {"papers": 1}, "corpus inspect": {"path": "{corpus}"}, "tokenizer train": {"vocab_size": 300},
    "tokenizer extend": {"pieces": 3}, "tokenizer check": {"model": "{tokenizer}"},
    "tokenizer report": {"model": "{tokenizer}"},
    "data trace": {"step": 1}, "explain": {"step": 1},
    "checkpoint import-hf": {"path": "{hf}"}, "questions generate": {"train": 1, "test": 1},
    "bench kernels": {"op": "norm", "documents": "8", "repeats": 1}, "multimodal generate": {"proteins": 1},
    "multimodal build": {"files": "{items}"},
}  # fmt: skip
"""What single commands need besides; a name in braces stands for the path of that object."""
