#!/usr/bin/env bash
# Biomedical questions, on this machine: records -> a small pretrained model -> generated questions in published layouts ->
# fine-tuning whole and with adapters -> accuracy before and after -> exports.
#   BIN   folder of the installed commands       RUNS  folder for everything that is made (default runs)
set -euo pipefail
BIN=${BIN:-.venv/bin}
RUNS=${RUNS:-runs}
say() { printf '\n== %s\n' "$*"; }
MB="$BIN/megabiomed"

rm -rf "$RUNS/qa-corpus" "$RUNS/qa-lm" "$RUNS/qa" "$RUNS/finetune-demo" "$RUNS/finetune-demo-lora" "$RUNS/finetune-demo-hf" \
    "$RUNS/finetune-demo-adapter" "$RUNS/qa-before" "$RUNS/qa-after" "$RUNS/qa-after-lora"
mkdir -p "$RUNS"
say "1. a small language model, pretrained on records that the project writes"
"$MB" corpus generate "$RUNS/qa-records.jsonl.gz" --papers 200
"$MB" corpus build "$RUNS/qa-records.jsonl.gz" --output "$RUNS/qa-corpus" --vocab-size 2048 --validation-fraction 0.1
"$MB" pretrain demo name=qa-lm run_dir="$RUNS/qa-lm" "data.train.0.path=$RUNS/qa-corpus/train" \
    "data.validation=$RUNS/qa-corpus/validation" train.steps=60 train.eval_every=0 checkpoint.save_every=0 \
    tracking.mlflow=false

say "2. questions in the published layouts; the findings in the abstract decide between yes, no and maybe"
"$MB" questions generate "$RUNS/qa"
QUESTIONS="$RUNS/qa/pubmedqa/ori_pqal.json"
DATA=("finetune.train.0.path=$QUESTIONS" "finetune.replay.0.path=$RUNS/qa-corpus/train")

say "3. fine-tuning, whole, on tensor parallel 2"
"$MB" finetune finetune-demo run_dir="$RUNS/finetune-demo" "finetune.start_from=$RUNS/qa-lm" "${DATA[@]}"

say "4. the same with adapters of rank 16, on data parallel 2"
"$MB" finetune finetune-demo name=finetune-demo-lora run_dir="$RUNS/finetune-demo-lora" "finetune.start_from=$RUNS/qa-lm" \
    "${DATA[@]}" lora.rank=16 optimizer.lr=1.0e-2 --nproc 2 parallel.tensor_parallel_size=1

say "5. accuracy on the held-out questions, before and after"
for pair in "before qa-lm" "after finetune-demo" "after-lora finetune-demo-lora"; do
    read -r name run <<<"$pair"
    "$MB" evaluate "$RUNS/$run" --task "pubmedqa=$QUESTIONS:test" --perplexity "papers=$RUNS/qa-corpus/validation" \
        --seq-length 256 --window 512 --output "$RUNS/qa-$name"
done
"$MB" compare "$RUNS/qa-before" "$RUNS/qa-after"

say "6. merged for transformers, and as an adapter for peft"
"$MB" checkpoint export-hf "$RUNS/finetune-demo-lora" "$RUNS/finetune-demo-hf"
"$MB" checkpoint export-peft "$RUNS/finetune-demo-lora" "$RUNS/finetune-demo-adapter"
say "done: run folders $RUNS/finetune-demo and $RUNS/finetune-demo-lora"
