"""`make bench-eval`: items/s of `megabiomed evaluate` against EleutherAI's lm-eval, on the same exported model and the same
items, in alternation, one CPU thread each; the choices must be the same.

Real questions and a 32,000-piece tokenizer where ../shared/data is there, else generated ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.record import store, table
from megabiomed.config.models import ModelConfig
from megabiomed.evaluate.contamination import Contaminated
from megabiomed.evaluate.settings import EvaluateSettings, parse_tasks
from megabiomed.evaluate.tasks import build_task
from megabiomed.model.fresh import SeededInit
from megabiomed.model.hf_export import export_hf
from megabiomed.samples.questions.generate import generate_questions
from megabiomed.tokenizer.files import open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer

TESTS = Path(__file__).resolve().parents[1]
REAL = TESTS.parents[1] / "shared" / "data"
VERSION = "0.4.13"


def tokenizer_and_questions(folder: Path) -> tuple[Tokenizer, dict[str, Path], str]:
    """What is asked, and what the figures should be called."""
    if (REAL / "tokenizer_32k").is_dir():
        files = {"pubmedqa": REAL / "pubmedqa" / "ori_pqal.json", "medmcqa": REAL / "medmcqa" / "dev.json"}
        return (
            open_tokenizer(REAL / "tokenizer_32k" / "tokenizer.model"),
            files,
            "PubMedQA test and MedMCQA dev, real files",
        )
    generate_questions(folder, 200, 200)
    files = {"pubmedqa": folder / "pubmedqa" / "ori_pqal.json", "medmcqa": folder / "medmcqa" / "test.jsonl"}
    texts = iter(path.read_text() for path in files.values())
    return train_tokenizer(texts, folder / "tokenizer.model", 1200), files, "generated questions"


def prepare(folder: Path, limit: int) -> tuple[list[str], str]:
    """Export the model; write each scenario for both sides."""
    tokenizer, files, what = tokenizer_and_questions(folder)
    model = ModelConfig(vocab_size=tokenizer.vocab_size, hidden_size=256, intermediate_size=704, num_hidden_layers=4,
                        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048)  # fmt: skip
    export_hf(SeededInit(model, 0), model, folder / "hf", "fp32", tokenizer.path)
    plain = {"pubmedqa": ("pubmedqa", None, 0), "medmcqa": ("medmcqa", None, 0), "medmcqa_cloze": ("medmcqa", "cloze", 0),
             "pubmedqa_3_shots": ("pubmedqa", None, 3)}  # fmt: skip
    for name, (data, template, shots) in plain.items():
        tasks = parse_tasks([f"{name}={files[data]}"], [f"{name}={template}"] if template else [], [])
        settings = EvaluateSettings(model=folder / "hf", tasks=tasks, shots=shots, limit=limit)
        (folder / f"{name}.json").write_text(settings.model_dump_json())
        items = build_task(tasks[0], settings, tokenizer, model.max_position_embeddings, Contaminated()).items
        lines = [{"prompt": i.encoded.text, "options": list(i.prompt.names), "label": i.record.label} for i in items]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return list(plain), what


def run(side: str, folder: Path, batch: int, scenarios: list[str]) -> dict[str, Any]:
    """One process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "bench.eval_worker", side, str(folder), str(batch), *scenarios]
    done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return found


def compared(name: str, sides: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of a scenario; ratios of the medians, ours over each setting of the peer."""
    ours, rows = sides["megabiomed"][0][name], []
    cpu = {side: statistics.median(run[name]["cpu_s"] for run in runs) for side, runs in sides.items()}
    wall = {side: statistics.median(run[name]["wall_s"] for run in runs) for side, runs in sides.items()}
    for side, runs in sides.items():
        theirs = runs[0][name]
        difference = max(
            abs(a - b)
            for x, y in zip(ours["logprobs"], theirs["logprobs"], strict=True)
            for a, b in zip(x, y, strict=True)
        )
        rows.append({
            "scenario": name, "candidate": side, "items": len(theirs["choices"]),
            "items/s (wall)": round(len(theirs["choices"]) / wall[side], 2),
            "items/s (CPU)": round(len(theirs["choices"]) / cpu[side], 2),
            "CPU time, theirs/ours": round(cpu[side] / cpu["megabiomed"], 2),
            "wall time, theirs/ours": round(wall[side] / wall["megabiomed"], 2),
            "same choices": sum(a == b for a, b in zip(ours["choices"], theirs["choices"], strict=True)),
            "largest difference, nats": f"{difference:.1e}",
        })  # fmt: skip
    return rows


def main() -> None:
    """Alternate, compare, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=100, help="questions of each scenario")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8], help="of lm-eval")
    chosen = parser.parse_args()
    try:
        import lm_eval

        found = lm_eval.__version__
    except ImportError:
        raise SystemExit(f"lm-eval is not installed: pip install 'lm-eval[hf]=={VERSION}'") from None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        scenarios, what = prepare(folder, chosen.limit)
        sides: dict[str, list[dict[str, Any]]] = {"megabiomed": []}
        sides |= {f"lm-eval, batch {size}": [] for size in chosen.batch_sizes}
        for number in range(chosen.rounds):
            for side, runs in sides.items():
                runs.append(run(side.split(",")[0], folder, int(side.split()[-1]) if "," in side else 0, scenarios))
                print(f"round {number + 1}: {side}", flush=True)
    rows = [row for name in scenarios for row in compared(name, sides)]
    print(table(rows))
    notes = [f"{what}; Llama of 4 layers, hidden size 256, random weights, fp32; one thread a side; lm-eval {found}; "
             f"median of {chosen.rounds} alternating rounds",
             "timed: reading, tokenizing, scoring and summarising; not loading the model"]  # fmt: skip
    print(f"written: {store('eval', rows, notes)}")


if __name__ == "__main__":
    main()
