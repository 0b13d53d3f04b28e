#!/usr/bin/env bash
# Molecules and proteins join a language model, on this machine: records -> a small pretrained model -> questions that the
# project computes -> three alignment stages on two processes, stopped and resumed -> answers -> scores.
#   BIN   folder of the installed commands       RUNS  folder for everything that is made (default runs)
set -euo pipefail
BIN=${BIN:-.venv/bin}
RUNS=${RUNS:-runs}
say() { printf '\n== %s\n' "$*"; }

rm -rf "$RUNS/align-corpus" "$RUNS/align-lm" "$RUNS/align-qa" "$RUNS/align-demo" "$RUNS/align-export"
mkdir -p "$RUNS"
say "1. a small language model, pretrained on records that the project writes"
"$BIN/megabiomed" corpus generate "$RUNS/align-records.jsonl.gz" --papers 200
"$BIN/megabiomed" corpus build "$RUNS/align-records.jsonl.gz" --output "$RUNS/align-corpus" --vocab-size 2048 \
    --validation-fraction 0.1
"$BIN/megabiomed" pretrain demo name=align-lm run_dir="$RUNS/align-lm" "data.train.0.path=$RUNS/align-corpus/train" \
    "data.validation=$RUNS/align-corpus/validation" data.seq_length=128 train.steps=60 train.eval_every=0 \
    checkpoint.save_every=0 tracking.mlflow=false

say "2. questions on molecules (computed by rdkit) and proteins (counted in the sequence)"
"$BIN/megabiomed" multimodal generate "$RUNS/align-questions.json"
"$BIN/megabiomed" multimodal build "$RUNS/align-questions.json" --output "$RUNS/align-qa" --template plain \
    --tokenizer "$RUNS/align-corpus/tokenizer/tokenizer.model"

OVERRIDES=(run_dir="$RUNS/align-demo" "align.language_model=$RUNS/align-lm" "align.train.0.path=$RUNS/align-qa/train"
    "align.validation=$RUNS/align-qa/validation" "align.replay=$RUNS/align-corpus/train")
say "3. stage 1 and 2 on tensor parallel 2"
"$BIN/megabiomed" align align-demo "${OVERRIDES[@]}" --stage s1-adaptors
"$BIN/megabiomed" align align-demo "${OVERRIDES[@]}" --stage s2-encoders

say "4. stage 3 on data parallel 2: the checkpoints know no topology"
"$BIN/megabiomed" align align-demo "${OVERRIDES[@]}" --nproc 2 parallel.tensor_parallel_size=1 --stage s3-language-model

say "5. ask"
"$BIN/megabiomed" chat "$RUNS/align-demo" --molecule "CCCCBr" --question "What does this molecule contain?"
"$BIN/megabiomed" chat "$RUNS/align-demo" --protein MWWWWAWWWGWWLWWW --question "Which residue is frequent?"

say "6. held-out questions: the model, the same model with wrong molecules and proteins, and a retrieval baseline"
"$BIN/megabiomed" evaluate "$RUNS/align-demo" --split "$RUNS/align-qa/test" --retrieval "$RUNS/align-qa/train" \
    --max-new-tokens 32 --output "$RUNS/align-demo/scores"
say "7. one folder that needs no run: transformers reads the language model, chat the whole"
"$BIN/megabiomed" align-export "$RUNS/align-demo" "$RUNS/align-export"
"$BIN/megabiomed" chat "$RUNS/align-export" --molecule "CCCCBr" --question "What does this molecule contain?"
say "done: run folder $RUNS/align-demo"
