#!/usr/bin/env bash
# The whole pipeline on this machine: corpus -> tokenizer -> Hugging Face import -> pretraining on two processes
# (tensor parallel 2, ZeRO-3) -> interruption -> resume -> validation -> text -> Hugging Face export.
#   BIN   folder of the installed commands       RUNS  folder for everything that is made (default runs)
#   DATA  S2ORC .jsonl.gz files; empty: records that the project generates itself (no network)
set -euo pipefail
BIN=${BIN:-.venv/bin}
RUNS=${RUNS:-runs}
DATA=${DATA:-}
say() { printf '\n== %s\n' "$*"; }

# A fresh demo each time; only what an earlier demo made is removed.
rm -rf "$RUNS/demo" "$RUNS/demo-corpus" "$RUNS/demo-hf" "$RUNS/demo-export"
mkdir -p "$RUNS"
if [ -z "$DATA" ]; then
    say "1. records: written by the project, in the layout of S2ORC"
    DATA=$RUNS/demo-records.jsonl.gz
    "$BIN/megabiomed" corpus generate "$DATA" --papers 600
else
    say "1. records: $DATA"
fi

say "2. corpus: select, clean, train a tokenizer, tokenize"
# shellcheck disable=SC2086  # DATA may be a list of files
"$BIN/megabiomed" corpus build $DATA --output "$RUNS/demo-corpus" --vocab-size 2048 --validation-fraction 0.1

say "3. a small Hugging Face Llama to start from (model.init_from takes any)"
"$BIN/python" - "$RUNS/demo-hf" <<'PYTHON'
import sys, torch, yaml
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging
from megabiomed.config import shipped

logging.disable_progress_bar()
torch.manual_seed(0)
shape = yaml.safe_load(shipped.find("models", "tiny").read_text())
LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(sys.argv[1])
PYTHON
"$BIN/megabiomed" checkpoint import-hf "$RUNS/demo-hf"

OVERRIDES=(run_dir="$RUNS/demo" "data.train.0.path=$RUNS/demo-corpus/train" "data.validation=$RUNS/demo-corpus/validation"
    "model.init_from=$RUNS/demo-hf")
say "4. continued pretraining on two processes, interrupted after 100 of 200 steps"
"$BIN/megabiomed" pretrain demo "${OVERRIDES[@]}" train.stop_after=100

say "5. the same command resumes at the next sample"
"$BIN/megabiomed" pretrain demo "${OVERRIDES[@]}"

say "6. validation loss and text of the last checkpoint, in one process"
"$BIN/megabiomed" validate "$RUNS/demo" --samples 32
"$BIN/megabiomed" generate "$RUNS/demo" --prompt "The molecular formula of" --max-new-tokens 40

"$BIN/megabiomed" plot "$RUNS/demo" --output "$RUNS/demo/curve.svg"

say "7. export for transformers"
"$BIN/megabiomed" checkpoint export-hf "$RUNS/demo/checkpoints/step_00000200" "$RUNS/demo-export"
say "done: run folder $RUNS/demo, Hugging Face folder $RUNS/demo-export"
