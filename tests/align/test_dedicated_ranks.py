"""Ranks with encoders alone: refused where they contradict, shown before the start, and a run like any other with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.alignment import align_config, global_batch, replica_batch
from support.runs import events, losses

from megabiomed.config.align import AlignRunConfig
from megabiomed.config.modalities import AdaptorConfig
from megabiomed.config.topology import check_run, default_world
from megabiomed.encoders.adaptors import adaptor_parameters, build_adaptor
from megabiomed.encoders.schedule import deal
from megabiomed.ground.errors import ConfigError, TopologyError
from megabiomed.model.fresh import SeededInit
from megabiomed.model.hf_export import export_hf
from megabiomed.runs.kinds import ALIGN, read_run

BESIDE = "align.dedicated_encoder_ranks"


def test_all_items_go_to_the_dedicated_ranks_which_are_the_last_of_the_world() -> None:
    case = {"stage": {}, "content": "mixed", "beside": 2}
    items = replica_batch(global_batch(case, 0), 0, 1).items
    assert set(deal(items, align_config(case), 6)) == {4, 5}


def test_what_contradicts_is_refused_with_the_way_out(align_file: Path) -> None:
    def config(*words: str) -> AlignRunConfig:
        return read_run(str(align_file), [f"{BESIDE}=2", *words])

    with pytest.raises(ConfigError, match="remove one of the two"):
        config("align.encoder_ranks=[0]")
    two_tensor = config("parallel.tensor_parallel_size=2").stage_run(0)
    check_run(two_tensor, 4)
    with pytest.raises(TopologyError, match=r"data n \+ 2 encoder ranks; start 6 processes"):
        check_run(two_tensor, 5)
    with pytest.raises(TopologyError, match="start 3 processes"):
        check_run(config(), 2)
    assert default_world(two_tensor.parallel, devices=8, extra=2) == 8


def test_the_dry_run_says_which_ranks_do_what_and_what_an_encoder_rank_holds() -> None:
    said = ALIGN.description(read_run("biomedgpt-10b", [f"{BESIDE}=4"]), 12)
    assert said[0] == "ranks: 0 to 7: language model; 8 to 11: encoders"
    # 2.8 G parameters x 16 bytes over 4 ranks are 10.6 GiB; the language model's ranks hold nothing of them.
    assert "language_model 6.28 GiB; per encoder rank: molecule 0.03 GiB, protein 10.5" in said[2]
    chosen = ALIGN.description(read_run("biomedgpt-10b", ["align.encoder_ranks=[1,3]"]), 8)
    assert chosen[0] == "ranks: 0 to 7: language model; 1, 3: encoders"


@pytest.mark.parametrize("kind", ["linear", "mlp", "resampler"])
def test_the_parameters_of_an_adaptor_are_counted(kind: Any) -> None:
    config = AdaptorConfig(kind=kind, num_queries=5)
    assert adaptor_parameters(config, 12, 24) == sum(p.numel() for p in build_adaptor(config, 12, 24).parameters())


# Stage, processes, what else: each start goes on where the one before it stopped.
STARTS: list[tuple[str, int, list[str]]] = [
    ("one", 2, [f"{BESIDE}=1", "train.stop_after=1"]),
    ("one", 2, ["parallel.tensor_parallel_size=2", "train.stop_after=1"]),
    ("one", 4, [f"{BESIDE}=2", "parallel.pipeline_parallel_size=2"]),
    ("two", 4, [f"{BESIDE}=2", "parallel.zero_stage=3", "align.protein.placement=zero3", "train.stop_after=1"]),
    ("two", 1, ["train.stop_after=1"]),
    ("two", 3, [f"{BESIDE}=1", "parallel.engine=fsdp2"]),
    ("three", 3, [f"{BESIDE}=1", "parallel.tensor_parallel_size=2", "train.stop_after=2"]),
    ("three", 3, [f"{BESIDE}=2"]),
    ("four", 3, [f"{BESIDE}=1", "parallel.zero_stage=3", "align.molecule.placement=zero3", "train.stop_after=1"]),
    ("four", 2, []),
]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_stages_go_on_with_and_without_dedicated_ranks_and_end_alike(
    command: Any, align_file: Path, questions: Path, tmp_path: Path
) -> None:
    """Losses, norms, consumed samples, validation and the language model's own evaluation; a certified start."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    text = _text(questions, tmp_path)
    words = ["train.eval_every=2", "eval.every=1", "eval.samples=4", f"eval.perplexity={{text: {text}}}"]
    model = read_run(str(align_file), []).model
    words += [f"model.init_from={export_hf(SeededInit(model, 5), model, tmp_path / 'hf', 'fp16')}"]
    command("align", align_file, f"run_dir={whole}", *words)
    for stage, processes, more in STARTS:
        said = command("align", align_file, f"run_dir={parts}", "--stage", stage, "--nproc", processes, *words, *more)
        assert "topology:" in said.stdout
    assert json.loads((parts / "one/import_certificate.json").read_text())["valid"]
    for stage in ("one", "two", "three", "four"):
        assert losses(parts / stage) == pytest.approx(losses(whole / stage), rel=2e-5), stage
        assert _last(parts / stage) == pytest.approx(_last(whole / stage), rel=1e-4), stage
        assert events(parts / stage)[-1]["ids_hash"] == events(whole / stage)[-1]["ids_hash"]


def _text(questions: Path, folder: Path) -> Path:
    """A token store with the tokenizer of the questions."""
    from megabiomed.corpus.build import BuildOptions, build_corpus
    from megabiomed.corpus.generate import write_records

    write_records(folder / "records.jsonl.gz", 8, 0)
    tokenizer = next(questions.parent.glob("*.model"))
    build_corpus(BuildOptions([folder / "records.jsonl.gz"], folder / "text", tokenizer=tokenizer, workers=1))
    return folder / "text" / "train"


def _last(run: Path) -> dict[str, float]:
    """The newest value of every figure that does not depend on speed or memory."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = {key: value for line in lines for key, value in line.items()}
    kept = ("train/grad_norm", "validation/", "evaluation/")
    return {key: value for key, value in found.items() if key.startswith(kept)}
