"""An optimizer from outside the package trains, saves and resumes on any topology as in one process."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from checkpoint.any_worker import SAVED, config_of
from support.spawn import run_ranks
from support.stores import make_store

from megabiomed.checkpoint.catalog import step_name
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import OptimizerConfig
from megabiomed.config.topology import check_run
from megabiomed.doctor.needs import stage_needs
from megabiomed.engine.build import TrainEngine
from megabiomed.ground.errors import CheckpointError, ConfigError
from megabiomed.model.flops import checkpoint_bytes, parameter_count, state_bytes_per_rank
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer

WORKER = Path(__file__).parents[1] / "checkpoint" / "any_worker.py"
MOMENTUM = {"kind": "support.momentum:MOMENTUM", "schedule": "support.momentum:root", "lr": 0.1}
TOPOLOGIES: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {"zero_stage": 0}),
    "dp2-zero1": (2, {"zero_stage": 1}),
    "tp2-zero3": (2, {"tensor_parallel_size": 2, "zero_stage": 3}),
    "dp2-fsdp2": (2, {"engine": "fsdp2"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("momentum")
    text = "\n".join(f"Patient {n} received {n * 3} mg of aspirin versus placebo." for n in range(400))
    train_tokenizer(iter([text]), found / "tokenizer.model", 300)
    make_store(found / "store", found / "tokenizer.model", [5, 40, 17, 3, 60, 24] * 12)
    (found / "table.json").write_text(json.dumps(TOPOLOGIES))
    for mode, world in product(("save", "load"), (1, 2)):
        command = [str(WORKER), mode, str(found / "table.json"), str(found), json.dumps(MOMENTUM)]
        run_ranks(world, command, found / "logs" / f"{mode}{world}", timeout_s=200)
    return found


@pytest.mark.timeout(500)
@pytest.mark.parametrize("reader", TOPOLOGIES)
@pytest.mark.parametrize("writer", TOPOLOGIES)
def test_every_pair_of_topologies_goes_on_as_one_process(folder: Path, writer: str, reader: str) -> None:
    alone = json.loads((folder / "one.json").read_text())
    continued = json.loads((folder / f"{reader}<{writer}.json").read_text())
    assert continued["ids"] == alone["ids"]
    for kind in ("loss", "grad_norm"):
        assert continued[kind] == pytest.approx(alone[kind], rel=1e-5), kind


@pytest.mark.timeout(500)
def test_a_checkpoint_holds_the_moment_of_the_optimizer_and_no_other(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder / "dp2-zero1" / step_name(SAVED))
    assert set(checkpoint.manifest.kinds()) == {"param", "momentum_buffer"}
    engine = object.__new__(TrainEngine)
    engine.config = config_of({}, "store")
    with pytest.raises(CheckpointError, match="another optimizer than adamw: got momentum_buffer, param"):
        engine.load_trained(checkpoint)


def test_memory_and_checkpoint_sizes_follow_the_optimizer() -> None:
    adamw, momentum = config_of({"zero_stage": 3}, "store"), config_of({"zero_stage": 3}, "store", MOMENTUM)
    count = parameter_count(adamw.model)
    for config, size in ((adamw, 12), (momentum, 8)):
        assert checkpoint_bytes(config.model, config.optimizer) == size * count
        assert state_bytes_per_rank(config, dp=2)["optimizer"] == size * count / 2
    needs = [stage_needs(c.model, c.parallel, 2, c.optimizer)[0].staging_bytes for c in (adamw, momentum)]
    assert needs[0] * 8 == needs[1] * 12


@pytest.mark.parametrize("key", ["kind", "schedule"])
def test_a_name_that_is_neither_shipped_nor_a_reference_is_refused_when_the_configuration_is_read(key: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown .*'adamv'.*package\.module:attribute"):
        OptimizerConfig.model_validate({key: "adamv"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "support.nowhere:MOMENTUM"}, "the optimizer 'support.nowhere:MOMENTUM' cannot be imported"),
        ({"kind": "support.momentum:root"}, r"is not a optimizer.*an instance of .*Optimizer"),
        ({"schedule": "support.momentum:MOMENTUM"}, "is not a learning-rate schedule"),
    ],
)
def test_what_cannot_serve_is_refused_before_a_process_starts(values: dict[str, str], message: str) -> None:
    config = config_of({}, "store", values)
    with pytest.raises(ConfigError, match=message):
        check_run(config, 1)
