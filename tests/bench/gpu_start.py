"""A start of `megabiomed pretrain` on a GPU: seconds from the command to each phase and to the first step.

python -m bench.gpu_start [--tiny] --layers=6 OUTPUT UNIT...
"""

from __future__ import annotations

import argparse
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.gpu_step_worker import config_of
from bench.lines import Lines
from megabiomed.config import to_yaml
from megabiomed.data.store_writer import TokenStoreWriter
from megabiomed.processes import platform

PHASE = re.compile(r"^(?P<phase>[a-z][a-z ,-]*): (?P<seconds>[\d.]+) s\b")


def sentencepiece_model(pieces: int) -> bytes:
    """A SentencePiece BPE model (its protobuf) of so many pieces: control, bytes, and words that are only counted."""
    texts = [("<unk>", 2), ("<s>", 3), ("</s>", 3), *((f"<0x{byte:02X}>", 6) for byte in range(256))]
    texts += [(f"\u2581w{number}", 1) for number in range(pieces - len(texts))]
    encoded = b"".join(_field(1, _piece(text, kind, -float(n))) for n, (text, kind) in enumerate(texts))
    trainer = bytes([3 << 3, 2]) + bytes([35 << 3 & 0x7F | 0x80, 35 << 3 >> 7, 1])  # model_type BPE, byte_fallback
    return encoded + _field(2, trainer)


def _piece(text: str, kind: int, score: float) -> bytes:
    return _field(1, text.encode()) + bytes([2 << 3 | 5]) + struct.pack("<f", score) + bytes([3 << 3, kind])


def _field(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def make_run(folder: Path, layers: int) -> Path:
    """A run file of random documents, with a store of its own."""
    config = config_of(layers, {"zero_stage": 1})
    tokenizer = folder / "tokenizer.model"
    tokenizer.write_bytes(sentencepiece_model(config.model.vocab_size))
    rng, tokens = np.random.default_rng(0), config.data.seq_length
    with TokenStoreWriter(folder / "store", tokenizer, config.model.vocab_size) as writer:
        for number in range(64):
            words = rng.integers(3, config.model.vocab_size, tokens // 3)
            writer.add(words, {"paper_id": f"p{number}", "line": number})
    values = config.model_dump()
    values["data"] |= {"train": [{"path": str(folder / "store")}]}
    values |= {"run_dir": str(folder / "runs"), "tracking": {"mlflow": False}}
    values["train"] |= {"steps": 1000, "log_every": 1}
    file = folder / "run.yaml"
    file.write_text(to_yaml(type(config).model_validate(values)))
    return file


def start(lines: Lines, unit: str, file: Path) -> None:
    """Start it, read its lines up to the second step, and stop it."""
    command = [sys.executable, "-W", "ignore", "-m", "megabiomed.cli", "pretrain", str(file), f"name={unit.split()[0]}"]
    left_out = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {key: value for key, value in os.environ.items() if key not in left_out}
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said: list[str] = []
    try:
        for line in process.stdout:
            after = time.monotonic() - began
            said.append(line.rstrip())
            phase = PHASE.match(line)
            if phase:
                _row(lines, unit, phase["phase"], after, float(phase["seconds"]))
            step = re.match(r"step: (\d+)/", line)
            if step:
                _row(lines, unit, f"step {step[1]} done", after)
            if step and int(step[1]) >= 2:
                return
        raise RuntimeError("it ended before its second step: " + " / ".join(said)[-190:])
    finally:
        process.kill()  # its ranks die with it
        process.wait()


def _row(lines: Lines, unit: str, what: str, after: float, seconds: float | None = None) -> None:
    took = {} if seconds is None else {"seconds": seconds}
    lines.row(case=unit, candidate=what, **{"seconds after the command": round(after, 2)}, **took)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--tiny", action="store_true")
    options.add_argument("--layers", type=int, required=True)
    options.add_argument("output", type=Path)
    options.add_argument("units", nargs="+")
    asked = options.parse_args()
    lines = Lines(asked.output)
    with tempfile.TemporaryDirectory() as name:
        file = make_run(Path(name), asked.layers)
        print(f"   {platform.describe()}", flush=True)
        lines.each(asked.units, lambda unit: start(lines, unit, file))


if __name__ == "__main__":
    main()
