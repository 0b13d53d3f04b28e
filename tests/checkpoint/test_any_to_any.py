"""What any topology saved, any topology continues, in real processes, against the uninterrupted run.

A checkpoint does not say who wrote it, so each topology loads its own and those of four others that are cut differently;
the other ordered pairs are slow tests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoint.any_worker import config_of
from support.spawn import run_ranks
from support.stores import make_store

from megabiomed.doctor.needs import stage_needs
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer

TEXT = "\n".join(f"Patient {n} received {n * 3} mg of aspirin; p < 0.0{n % 9 + 1} versus placebo." for n in range(400))
WORKER = Path(__file__).with_name("any_worker.py")
TP2, PP2 = {"tensor_parallel_size": 2}, {"pipeline_parallel_size": 2}
INTERLEAVED = {**PP2, "pipeline_schedule": "interleaved", "virtual_pipeline_stages": 2}
TOPOLOGIES: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {"zero_stage": 0}),
    "tp2-sp": (2, {**TP2, "sequence_parallel": True, "zero_stage": 1}),
    "pp2": (2, {**PP2, "zero_stage": 1}),
    "pp2-interleaved": (2, {**INTERLEAVED, "zero_stage": 0}),
    "dp2-zero1": (2, {"zero_stage": 1}),
    "dp2-zero3": (2, {"zero_stage": 3}),
    "dp2-fsdp2": (2, {"engine": "fsdp2"}),
    "tp2-pp2": (4, {**TP2, **PP2, "zero_stage": 1}),
    "tp2-dp2-zero3": (4, {**TP2, "zero_stage": 3}),
    "pp2-dp2-zero3": (4, {**PP2, "zero_stage": 3}),
    "tp2-pp2-dp2-zero3": (8, {**TP2, **PP2, "zero_stage": 3}),
}
WORLDS = sorted({world for world, _ in TOPOLOGIES.values()})
APART = ("one", "tp2-sp", "dp2-fsdp2", "tp2-pp2-dp2-zero3")
WRITERS = {reader: [name for name in TOPOLOGIES if name in {reader, *APART}] for reader in TOPOLOGIES}
OTHERS = {reader: [name for name in TOPOLOGIES if name not in {reader, *APART}] for reader in TOPOLOGIES}


def run_worlds(mode: str, folder: Path) -> None:
    for world in WORLDS:
        command = [str(WORKER), mode, str(folder / "table.json"), str(folder)]
        run_ranks(world, command, folder / "logs" / f"{mode}{world}", timeout_s=280)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each world size is started twice: once to save, once to load what several sizes saved."""
    found = tmp_path_factory.mktemp("any")
    train_tokenizer(iter([TEXT]), found / "tokenizer.model", 300)
    make_store(found / "store", found / "tokenizer.model", [5, 40, 17, 3, 60, 24] * 12)
    (found / "table.json").write_text(json.dumps(TOPOLOGIES))
    (found / "pairs.json").write_text(json.dumps(WRITERS))
    run_worlds("save", found)
    run_worlds("load", found)
    return found


@pytest.fixture(scope="module")
def every_pair(folder: Path) -> Path:
    (folder / "pairs.json").write_text(json.dumps(OTHERS))
    run_worlds("load", folder)
    return folder


def result(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return found


def pairs(writers: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(writer, reader) for reader, names in writers.items() for writer in names]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("writer", "reader"), pairs(WRITERS))
def test_a_run_goes_on_as_if_never_interrupted(folder: Path, writer: str, reader: str) -> None:
    goes_on(folder, writer, reader)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("writer", "reader"), pairs(OTHERS))
def test_the_other_pairs_go_on_as_if_never_interrupted(every_pair: Path, writer: str, reader: str) -> None:
    goes_on(every_pair, writer, reader)


def goes_on(folder: Path, writer: str, reader: str) -> None:
    whole, continued = result(folder, writer), result(folder, f"{reader}<{writer}")
    assert continued["ids"] == whole["ids"]
    if reader == writer:
        assert continued["loss"] == whole["loss"]
        assert continued["grad_norm"] == whole["grad_norm"]
    for kind in ("loss", "grad_norm"):
        assert continued[kind] == pytest.approx(whole[kind], rel=1e-5), kind


@pytest.mark.timeout(900)
@pytest.mark.parametrize("reader", TOPOLOGIES)
def test_a_rank_reads_what_it_holds_and_hardly_more(folder: Path, reader: str) -> None:
    """Rows of 64 numbers cut in two are read whole, so tensor ranks read some matrices twice; real rows are longer."""
    for writer in WRITERS[reader]:
        for read, needed in result(folder, f"{reader}<{writer}")["costs"]:
            assert needed <= read <= (1.3 if "tp2" in reader else 1.01) * needed, writer


@pytest.mark.timeout(900)
@pytest.mark.parametrize("reader", TOPOLOGIES)
def test_the_doctor_knows_what_the_ranks_will_read(folder: Path, reader: str) -> None:
    world, parallel = TOPOLOGIES[reader]
    config = config_of(parallel, "store")
    foreseen = max(stage.read_bytes for stage in stage_needs(config.model, config.parallel, world, config.optimizer))
    needed = max(needed for _, needed in result(folder, f"{reader}<{reader}")["costs"])
    assert needed == pytest.approx(foreseen, rel=0.03)
