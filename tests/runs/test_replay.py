"""One step of a run computed again: equal to the record, on any topology, and what is not finite is found."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.in_process import replay_of, train_here

from megabiomed.data.loader import TrainLoader
from megabiomed.ground.errors import CheckpointError, DataError, TopologyError
from megabiomed.runs.replay.compare import Compared, compare
from megabiomed.runs.replay.recorded import Recorded
from megabiomed.runs.replay.start import ReplayOptions, judge, prepare
from megabiomed.runs.replay.told import lines_of

VALUES: dict[str, Any] = {
    "model": {"base": "tiny", "vocab_size": 600, "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48},
    "optimizer": {"lr": 3e-3, "warmup_steps": 1}, "train": {"steps": 6, "precision": "fp32", "log_every": 1},
    "parallel": {"zero_stage": 0}, "checkpoint": {"save_every": 2, "keep_last": 9}, "tracking": {"mlflow": False},
    "health": {"record_gradients": "log", "spike": "skip", "window": 8},
}  # fmt: skip
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory, alone: None) -> Path:
    data = {"train": [{"path": str(corpus / "train")}], "seq_length": 64, "micro_batch_size": 2, "global_batch_size": 4}
    return train_here(tmp_path_factory.mktemp("run"), "r", {**VALUES, "data": data})


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(file): (file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(folder.rglob("*"))}


def test_a_step_comes_out_with_the_bits_that_were_recorded_and_the_run_folder_is_left_alone(
    run: Path, tmp_path: Path
) -> None:
    before = files_of(run)
    prepared = prepare(run, ReplayOptions(6), tmp_path)
    assert [(each.step, each.sample, each.applied) for each in prepared.plan.steps] == [(5, 16, True), (6, 20, True)]
    found = replay_of(prepared).compute()
    assert found is not None
    result = judge(prepared, found)
    assert (result["verdict"], result["exact_expected"], result["recorded_in"]) == ("equal", True, ["gradients.jsonl"])
    assert result["tensors"]["equal"] == result["tensors"]["compared"] == len(result["norms"]) == 21
    assert result["grad_norm"] == pytest.approx(math.sqrt(sum(norm**2 for norm in result["norms"].values())), rel=1e-6)
    text = "\n".join(lines_of(result))
    assert "result: equal: all figures have the bits that were recorded; equal bits are expected" in text
    assert "everything in the step is finite" in text
    assert files_of(run) == before


def test_two_tensor_ranks_come_within_the_stated_bound(run: Path, command: Callable[..., Any]) -> None:
    done = command("replay", run, "--step", 3, "--topology", "tp=2 zero=1", "--json")
    result = json.loads(done.stdout)
    assert (result["processes"], result["same_topology"], result["exact_expected"]) == (2, False, False)
    assert result["verdict"] in ("within", "equal")
    assert result["tensors"]["compared"] == 21
    assert "through 0" not in done.stderr
    assert f"replay: step 3 of {run}" in done.stderr


def document_with_a_token_of_its_own(loader: TrainLoader, first: int) -> tuple[int, int, str]:
    """(token, sample, paper) of a document whose token no other document of the step has."""
    seen: dict[int, list[tuple[int, str]]] = {}
    for sample, (source, _, window) in enumerate(loader.order.sample_ids(first, 4).tolist(), first):
        for document, low, high in loader.texts[source].pieces(window):
            paper = str(loader.stores[source].provenance(document)["paper_id"])
            for token in set(loader.stores[source].tokens(low, high).tolist()):
                seen.setdefault(token, []).append((sample, paper))
    token, (where,) = next((token, held) for token, held in seen.items() if len(held) == 1 and held[0][0] > first + 1)
    return token, *where


def test_a_weight_that_is_not_a_number_is_found_with_its_layer_and_document(run: Path, tmp_path: Path) -> None:
    prepared = prepare(run, ReplayOptions(3), tmp_path)
    replay = replay_of(prepared)
    loader = replay._data.loader
    assert isinstance(loader, TrainLoader)
    token, sample, paper = document_with_a_token_of_its_own(loader, 8)
    (embedding,) = [f for f in replay._engine.fragments() if f.box.name == EMBEDDING]
    with torch.no_grad():
        embedding.views["param"][token, 3] = math.nan
    found = replay.compute()
    assert found is not None
    result = judge(prepared, found)
    assert result["verdict"] == "differs"
    assert result["non_finite"]["before_step"] == [EMBEDDING]
    first = result["non_finite"]["layers"][0]
    assert (first["phase"], first["layer"], first["micro_batch"]) == ("forward", "model.embed_tokens", 1)
    assert [(each["sample"], each["paper_id"]) for each in first["documents"]] == [(sample, paper)]
    text = "\n".join(lines_of(result))
    assert f"document: {paper}, sample {sample} (source 0" in text
    assert "first value that is not finite: output of the forward pass of model.embed_tokens" in text


def test_a_gradient_that_is_not_a_number_is_found_with_its_layer_and_document(run: Path, tmp_path: Path) -> None:
    prepared = prepare(run, ReplayOptions(3), tmp_path)
    replay = replay_of(prepared)
    chunk: Any = replay._engine.data_parallel.stage.chunks[0]

    def spoil(module: Any, inputs: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        row = torch.tensor([70])
        output[1].register_hook(lambda gradient: gradient.index_fill(0, row, math.inf))

    chunk.blocks[0].register_forward_hook(spoil)
    found = replay.compute()
    assert found is not None
    result = judge(prepared, found)
    first = result["non_finite"]["layers"][0]
    assert (first["phase"], first["micro_batch"], first["documents"][0]["sample"]) == ("backward", 0, 9)
    assert first["layer"].startswith("model.layers.0")
    assert result["loss"] != "not finite"
    assert result["non_finite"]["gradient"].startswith("model.layers.0")  # not that of a later layer, which is finite


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (ReplayOptions(7), DataError, "did not come to step 7: got 6 steps so far"),
        (ReplayOptions(2), CheckpointError, r"no checkpoint before step 2 .*add --from-start to compute all 2 steps"),
        (ReplayOptions(5, attempt=2), DataError, "no such attempt"),
        (ReplayOptions(5, topology="tp=3"), TopologyError, "tensor_parallel_size does not divide"),
    ],
)
def test_what_cannot_be_replayed_is_refused_before_a_rank_is_started(
    run: Path, tmp_path: Path, options: ReplayOptions, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        prepare(run, options, tmp_path)


@pytest.fixture
def rewound(run: Path, tmp_path: Path) -> Path:
    """The same run, with events as if step 3 was skipped, and step 6 a spike that a rewind to step 4 passed over."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / "step_00000006")
    spike = {"event": "spike", "loss": 9.0, "grad_norm": 2.0}
    told = [
        {**spike, "step": 3, "policy": "skip", "samples": [8, 4]},
        {**spike, "step": 6, "policy": "rewind", "samples": [20, 4]},
        {"event": "rewind", "step": 6, "to_step": 4, "sample": 24},
        {"event": "save", "step": 6},
    ]
    with (copy / "events.jsonl").open("a") as file:
        file.write("".join(json.dumps(event) + "\n" for event in told))
    return copy


def test_steps_that_were_skipped_or_rewound_are_computed_as_they_were(rewound: Path, tmp_path: Path) -> None:
    refused = prepare(rewound, ReplayOptions(6), tmp_path)  # the one with an event
    assert [(each.step, each.sample) for each in refused.plan.steps] == [(5, 16), (6, 20)]
    assert refused.recorded.judged is not None
    assert any("computed 2 times" in note for note in refused.notes)
    anew = prepare(rewound, ReplayOptions(6, attempt=2), tmp_path)
    assert [(each.step, each.sample) for each in anew.plan.steps] == [(5, 24), (6, 28)]
    shutil.rmtree(rewound / "checkpoints" / "step_00000004")
    skipped = prepare(rewound, ReplayOptions(4), tmp_path)
    assert [(each.step, each.applied) for each in skipped.plan.steps] == [(3, False), (4, True)]
    first = prepare(rewound, ReplayOptions(4, from_start=True), tmp_path)
    assert (first.plan.checkpoint, len(first.plan.steps)) == (None, 4)


def test_what_the_run_masked_at_a_step_is_masked_again(rewound: Path, tmp_path: Path) -> None:
    replay = replay_of(prepare(rewound, ReplayOptions(3), tmp_path))
    loader = replay._data.loader
    source, _, window = loader.order.sample_ids(8, 1)[0].tolist()
    paper = str(loader.documents[source].origin(loader.documents[source].parts(window)[0].document)["paper_id"])
    with (rewound / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": "resume", "step": 2, "sample": 8, "quarantined": [paper]}) + "\n")
    masked = prepare(rewound, ReplayOptions(3), tmp_path)
    assert [each.quarantined for each in masked.plan.steps] == [[paper]]
    found, before = replay_of(masked).compute(), replay.compute()
    assert found is not None
    assert before is not None
    assert found["loss_tokens"] < before["loss_tokens"]


def test_the_first_difference_is_the_one_nearest_to_the_loss() -> None:
    order = ["embed", "layer.0", "layer.1", "head"]
    found = {"loss": 2.0, "grad_norm": 1.0, "norms": {"embed": 5.0, "layer.0": 1.1, "layer.1": 1.0, "head": 1.0 + 1e-6}}
    record = Recorded(2.0, 1.0 + 1e-7, {"embed": 1.0, "layer.0": 1.0, "layer.1": 1.0, "head": 1.0})
    elsewhere = compare(found, record, order, "fp32", exact=False)
    assert (elsewhere.verdict, elsewhere.first and elsewhere.first.name) == ("differs", "layer.0")
    here = compare(found, record, order, "fp32", exact=True)
    assert here.first is not None
    assert here.first.name == "head"  # a changed bit counts
    assert [each.verdict for each in elsewhere.figures] == ["equal", "within"]
    assert compare(found, Recorded(), order, "bf16", exact=True).verdict == "nothing recorded"
    assert Compared.of("x", "not finite", "not finite", 0.0).verdict == "equal"
    assert Compared.of("x", 1.0, "not finite", 1e9).verdict == "differs"
