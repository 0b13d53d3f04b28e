"""To how many nodes a run may shrink: planned from its topology and batch alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs import RUN
from support.scheduling import planned

from megabiomed.config import RunConfig, load_config
from megabiomed.config.topology import check_run, data_parallel_size
from megabiomed.ground.errors import ConfigError
from megabiomed.launch.chain import ComponentConfig
from megabiomed.launch.directives import directives
from megabiomed.launch.sizes import obstacle, smaller_sizes, with_sizes, without_replicas
from megabiomed.launch.submit import describe, render


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    file = tmp_path_factory.mktemp("run") / "run.yaml"
    file.write_text(RUN)
    return load_config(str(file), ["model.num_attention_heads=4", "model.num_key_value_heads=4"])


def shaped(config: RunConfig, batch: tuple[int, int], parallel: dict[str, Any]) -> RunConfig:
    data = config.data.model_copy(update=dict(zip(("global_batch_size", "micro_batch_size"), batch)))
    return config.model_copy(update={"data": data, "parallel": config.parallel.model_copy(update=parallel)}, deep=False)


@given(
    st.sampled_from([1, 2, 4]), st.sampled_from([1, 2]), st.integers(1, 8), st.integers(2, 12), st.integers(1, 12),
    st.integers(1, 48), st.integers(1, 4),
)  # fmt: skip
def test_a_smaller_size_keeps_the_model_and_the_global_batch(
    tiny: RunConfig, tp: int, pp: int, ranks_per_node: int, nodes: int, least: int, batch: int, micro: int
) -> None:
    parallel = {"tensor_parallel_size": tp, "pipeline_parallel_size": pp, "data_parallel_size": 7, "zero_stage": 1}
    config = shaped(tiny, (batch * micro, micro), parallel)
    sizes = smaller_sizes(config, nodes, ranks_per_node, least)
    assert list(sizes) == sorted(set(sizes), reverse=True)
    for count in range(least, nodes):
        replicas, rest = divmod(count * ranks_per_node, tp * pp)
        # By hand: whole replicas, whole micro-batches, enough of them for the pipeline's stages.
        fits = rest == 0 and replicas > 0 and batch % replicas == 0 and batch // replicas >= pp
        assert (count in sizes) == fits
        if fits:
            free = without_replicas(config)
            check_run(free, count * ranks_per_node)
            assert data_parallel_size(free.parallel, count * ranks_per_node) == replicas
            assert obstacle(config, count * ranks_per_node) is None


@pytest.mark.parametrize(
    ("nodes", "words", "cluster", "expected"),
    [
        (4, ["data.global_batch_size=24"], {}, (4, 3, 2)),
        (4, ["data.global_batch_size=24"], {"min_nodes": 1}, (4, 3, 2, 1)),
        (4, ["data.global_batch_size=24", "parallel.data_parallel_size=4"], {"min_nodes": 3}, (4, 3)),
        (4, ["data.global_batch_size=8"], {}, (4, 2)),
        (4, [], {"shrink_after": None, "min_nodes": 9}, ()),
        (1, [], {"min_nodes": 9}, ()),
        (4, ["data.global_batch_size=8"], {"min_nodes": 3},
         "3 nodes do not fit tensor 2 x pipeline 1: .*lower min_nodes to 2"),
        (2, [], {"min_nodes": 2}, "min_nodes 2 of 2 nodes, expected at most 1"),
        (2, ["parallel.tensor_parallel_size=4"], {"tasks_per_node": 2},
         "1 nodes do not fit tensor 4 x pipeline 1: the number of processes does not fit the topology.*shrink_after: null"),
    ],
)  # fmt: skip
def test_a_stage_is_planned_with_its_sizes_or_refused_with_the_reason(
    run_file: Path, tmp_path: Path, nodes: int, words: list[str], cluster: dict[str, Any], expected: object
) -> None:
    from megabiomed.config.cluster import ClusterConfig
    from megabiomed.launch.stage import load_stages

    profile = ClusterConfig(**{"tasks_per_node": 2, "shrink_after": 60, "preflight": True} | cluster)
    heads = ["model.num_attention_heads=4", "model.num_key_value_heads=4"]

    def load() -> Any:
        return load_stages(str(run_file), profile, [f"run_dir={tmp_path / 'run'}", *heads, *words], nodes)[0]

    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=f"stage pretrain cannot go on with fewer nodes.*{expected}"):
            load()
        return
    stage = load()
    assert stage.sizes == expected
    job = render(stage)
    asked = f"--nodes={expected[-1]}-{nodes}" if expected else f"--nodes={nodes}"  # type: ignore[index]
    assert asked in directives(stage)
    assert ('--nodelist="$chosen"' in job.script) == bool(expected)
    assert describe(job, [])["sizes"] == list(expected)  # type: ignore[call-overload]
    assert stage.config.parallel.data_parallel_size is None


def test_nodes_of_several_kinds_cannot_shrink(run_file: Path, tmp_path: Path) -> None:
    stage = planned(run_file, tmp_path / "run").stage
    cluster = stage.cluster.model_copy(update={"shrink_after": 60})
    with pytest.raises(ConfigError, match="nodes of several kinds"):
        with_sizes(replace(stage, cluster=cluster, components=(ComponentConfig(),)))
