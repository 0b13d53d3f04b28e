"""One side of `make bench-eval` in a process of its own: `python -m bench.eval_worker megabiomed|lm-eval FOLDER BATCH`.

FOLDER holds hf/ (the model), SCENARIO.json (our task settings) and SCENARIO.jsonl (the same prompts and options for lm-eval).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# huggingface_hub would ask its server about every local data file.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


class Clock:
    """Wall and CPU seconds since it was made."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {"wall_s": time.perf_counter() - self.wall, "cpu_s": time.process_time() - self.cpu}


def megabiomed(folder: Path, scenarios: list[str]) -> dict[str, Any]:
    """Read, encode, score, keep predictions, summarise; the model is loaded before."""
    from megabiomed.evaluate.runner import Evaluation
    from megabiomed.evaluate.settings import EvaluateSettings
    from megabiomed.processes import platform
    from megabiomed.processes.signals import StopFlag

    platform.init_alone()
    found = {}
    for name in scenarios:
        settings = EvaluateSettings.model_validate(json.loads((folder / f"{name}.json").read_text()))
        with tempfile.TemporaryDirectory() as output:
            asked = settings.model_copy(update={"output": Path(output) / "r"})
            engine = Evaluation(asked, StopFlag()).engine  # loads the model and warms up what is cached by file
            clock = Clock()
            evaluation = Evaluation(asked, StopFlag())
            evaluation._engine = engine
            evaluation.run()
            took = clock.read()
            rows = evaluation.folder.read(name)
        found[name] = {**took, "choices": [r["prediction"] for r in rows], "logprobs": [r["logprobs"] for r in rows]}
    return found


def lm_eval(folder: Path, scenarios: list[str], batch: str) -> dict[str, Any]:
    """The same with lm-eval's Hugging Face model on the CPU; the model is loaded before."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    model = HFLM(str(folder / "hf"), device="cpu", dtype="float32", batch_size=int(batch), add_bos_token=True)
    found = {}
    for name in scenarios:
        task = {
            "task": name, "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
            "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}}, "doc_to_text": "{{prompt}}",
            "doc_to_choice": "{{options}}", "doc_to_target": "{{label}}", "target_delimiter": " ",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }  # fmt: skip
        clock = Clock()
        results = lm_eval.simple_evaluate(model, tasks=[task], bootstrap_iters=0, log_samples=True)
        took = clock.read()
        samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
        logprobs = [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples]
        found[name] = {**took, "choices": [p.index(max(p)) for p in logprobs], "logprobs": logprobs}
    return found


if __name__ == "__main__":
    side, place, size, *wanted = sys.argv[1:]
    out = megabiomed(Path(place), wanted) if side == "megabiomed" else lm_eval(Path(place), wanted, size)
    (Path(place) / "out.json").write_text(json.dumps(out))
    from megabiomed.processes import platform

    platform.leave()
