"""Illegal topologies are refused when the configuration is read, with the reason and the nearest legal choice."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabiomed.config import RunConfig
from megabiomed.config.topology import check_run, data_parallel_size, default_world
from megabiomed.ground.errors import ConfigError, TopologyError

MODEL = {
    "hidden_size": 64,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 176,
    "num_hidden_layers": 4,
    "max_position_embeddings": 64,
}


def config(parallel: dict[str, Any], **data: Any) -> RunConfig:
    sizes = {"seq_length": 32, "global_batch_size": 8, **data}
    return RunConfig.model_validate(
        {"name": "t", "model": MODEL, "parallel": parallel, "data": sizes, "train": {"steps": 1, "precision": "fp32"}}
    )


REFUSED = [
    ({"tensor_parallel_size": 3}, 3, {}, "tensor_parallel_size=2"),
    ({"tensor_parallel_size": 16}, 16, {}, "tensor_parallel_size=8"),
    ({"tensor_parallel_size": 2}, 3, {}, "start 4 processes"),
    ({"data_parallel_size": 4}, 2, {}, "start 4 processes"),
    ({"sequence_parallel": True}, 1, {}, "sequence_parallel=false"),
    ({"pipeline_parallel_size": 8}, 8, {}, "at most 4"),
    ({"pipeline_parallel_size": 2, "virtual_pipeline_stages": 2}, 2, {}, "pipeline_schedule=interleaved"),
    ({"pipeline_parallel_size": 1, "pipeline_schedule": "interleaved"}, 1, {}, "pipeline_schedule=1f1b"),
    ({"pipeline_parallel_size": 4}, 4, {"global_batch_size": 2}, "global_batch_size=4"),
    ({"engine": "fsdp2", "offload_optimizer": True}, 2, {}, "engine=deepspeed"),
    ({"zero_stage": 0, "offload_optimizer": True}, 2, {}, "zero_stage=1"),
    ({}, 3, {}, "global_batch_size=6 or 9"),
    ({}, 1, {"seq_length": 65}, "RoPE"),
]


@pytest.mark.parametrize(("parallel", "world", "data", "hint"), REFUSED)
def test_refusal_names_the_way_out(parallel: dict[str, Any], world: int, data: dict[str, Any], hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        check_run(config(parallel, **data), world)


@settings(max_examples=300, deadline=None)
@given(
    tensor=st.integers(1, 9), pipeline=st.integers(1, 5), data=st.none() | st.integers(1, 5), batch=st.integers(1, 24),
    micro=st.integers(1, 3), schedule=st.sampled_from(["1f1b", "gpipe", "interleaved"]), world=st.integers(1, 40),
)  # fmt: skip
def test_whatever_a_refusal_advises_is_not_refused_for_the_same_or_another_reason(
    tensor: int, pipeline: int, data: int | None, batch: int, micro: int, schedule: str, world: int
) -> None:
    parallel = {
        "tensor_parallel_size": tensor, "pipeline_parallel_size": pipeline, "data_parallel_size": data,
        "pipeline_schedule": schedule, "virtual_pipeline_stages": 2 if schedule == "interleaved" else 1,
    }  # fmt: skip
    sizes = {"global_batch_size": batch, "micro_batch_size": micro}
    said = refusal(config(parallel, **sizes), world)
    for processes in re.findall(r"start (\d+) processes", said):
        assert not refusal(config(parallel, **sizes), int(processes))
    for size in re.findall(r"\d+", said.partition("set data.global_batch_size=")[2]):
        # The number of processes may be wrong as well.
        after = refusal(config(parallel, **{**sizes, "global_batch_size": int(size)}), world)
        assert not after or "number of processes" in after


def refusal(run: RunConfig, world: int) -> str:
    try:
        check_run(run, world)
    except ConfigError as error:
        return str(error)
    return ""


def test_the_advice_on_processes_waits_until_the_heads_divide() -> None:
    with pytest.raises(TopologyError, match="tensor_parallel_size does not divide"):
        check_run(config({"tensor_parallel_size": 513}), 1000)
    with pytest.raises(TopologyError, match="start 8 processes"):  # not 10: a batch of 8 has no 5 equal parts
        check_run(config({"tensor_parallel_size": 2}), 11)


def test_interleaved_fsdp2_and_bf16_zero0_are_refused() -> None:
    parallel = {"pipeline_parallel_size": 2, "pipeline_schedule": "interleaved", "virtual_pipeline_stages": 2}
    with pytest.raises(TopologyError, match="parity suite"):
        check_run(config({**parallel, "engine": "fsdp2"}), 2)
    zero0 = config({"zero_stage": 0})
    bf16 = zero0.model_copy(update={"train": zero0.train.model_copy(update={"precision": "bf16"})})
    with pytest.raises(TopologyError, match="zero_stage=1"):
        check_run(bf16, 2)


def test_the_world_is_derived_from_the_topology() -> None:
    parallel = config({"tensor_parallel_size": 2, "pipeline_parallel_size": 2}).parallel
    assert data_parallel_size(parallel, 8) == 2
    assert default_world(parallel, devices=0) == 4
    assert default_world(parallel, devices=8) == 8
    check_run(config({"tensor_parallel_size": 2, "pipeline_parallel_size": 2}), 8)
