"""The plan of a self-test, the comparison of its runs, and the verdict that an operator reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megabiomed.config.cluster import ClusterConfig
from megabiomed.ground.errors import ConfigError, LaunchError
from megabiomed.launch.change import Change, changed
from megabiomed.launch.selftest import driver, storage
from megabiomed.launch.selftest.plan import PHASES, Shape, Topology, configuration, plan, resumed, topologies
from megabiomed.launch.selftest.results import Figure, Result
from megabiomed.launch.selftest.steps import Site, run_step
from megabiomed.launch.selftest.submit import lines_of_plan, selftest_job
from megabiomed.launch.selftest.training import compare
from megabiomed.launch.selftest.verdict import Verdict, html_of, write
from megabiomed.launch.submit import prepare

TWO_BY_TWO = Shape(2, 2, 0)
CURVE = {step: (4.0 / step, 1.0 / step) for step in range(1, 7)}


def refused(shape: Shape) -> dict[str, str]:
    return {check.name: check.refusal for check in plan(shape) if check.refusal}


def test_every_topology_fits_two_nodes_of_two_ranks_and_only_gpus_are_missing() -> None:
    assert refused(TWO_BY_TWO) == {"host and device": "the nodes have no GPUs"}
    assert {check.phase for check in plan(TWO_BY_TWO)} == set(PHASES)


def test_two_nodes_of_one_rank_skip_what_needs_more_with_the_words_of_the_refusal() -> None:
    found = refused(Shape(2, 1, 0))
    assert set(found) == {"within a node", "host and device", "pp2-tp2-zero3"}
    assert "the number of processes does not fit the topology: got 2 processes" in found["pp2-tp2-zero3"]


def test_one_process_is_compared_with_itself_under_every_engine_that_fits() -> None:
    one = Shape(1, 1, 0)
    skipped = refused(one)
    assert {"read", "between nodes", "tp2-zero1", "pp2-zero1", "tp2-sp-zero3"} <= set(skipped)
    assert "dp-zero2" not in skipped
    assert resumed(one).name == "dp-zero3"


def test_a_node_of_eight_gpus_is_one_tensor_group_too() -> None:
    shape = Shape(2, 8, 8)
    assert "tp8-zero1" in [each.name for each in topologies(shape)]
    assert refused(shape) == {}


@pytest.mark.parametrize("nodes", [1, 2, 3, 12])
def test_the_batch_divides_into_replicas_of_any_number_of_nodes(nodes: int, tmp_path: Path) -> None:
    shape = Shape(nodes, 8, 8)
    config = configuration(tmp_path / "run", tmp_path / "store", shape, Topology("dp-zero1", {"zero_stage": 1}))
    assert config.data.global_batch_size % shape.ranks == 0
    assert config.data.global_batch_size // shape.ranks >= 2
    assert "dp-zero1" not in refused(shape)


@pytest.mark.parametrize(
    ("precision", "apart", "problem"),
    [
        ("fp32", 5e-6, None),
        ("fp32", 5e-5, "loss of step 3 is 5e-05 from that of one process, relative: at most 1e-05"),
        ("bf16", 5e-4, None),
        ("bf16", 5e-3, "loss of step 3 is 0.005 from that of one process, relative: at most 0.002"),
    ],
)
def test_a_topology_is_judged_by_its_bound(precision: str, apart: float, problem: str | None) -> None:
    ours = {**CURVE, 3: (CURVE[3][0] * (1 + apart), CURVE[3][1])}
    result = compare(Topology("dp", {}, precision), ours, CURVE)
    assert (result.reason or None) == problem
    assert result.figures[0].value == pytest.approx(apart)


@pytest.mark.parametrize(("precision", "status"), [("fp32", "failed"), ("bf16", "passed")])
def test_gradient_norms_of_later_steps_are_judged_in_fp32_alone(precision: str, status: str) -> None:
    ours = {**CURVE, 4: (CURVE[4][0], CURVE[4][1] * 1.02)}
    assert compare(Topology("dp", {}, precision), ours, CURVE).status == status


@pytest.mark.parametrize("ours", [{**CURVE, 2: (float("nan"), 1.0)}, {1: CURVE[1]}])
def test_a_loss_that_is_no_number_or_missing_is_a_failure(ours: dict[int, tuple[float, float]]) -> None:
    assert compare(Topology("dp", {}), ours, CURVE).status == "failed"


def verdict(*results: Result) -> Verdict:
    return Verdict("selftest-x", ("n1", "n2"), plan(TWO_BY_TWO), results, 61.0, {"commit": "abc"})


def all_passed() -> list[Result]:
    return [
        Result.skip(check.name, check.refusal) if check.refusal else Result.of(check.name, None)
        for check in plan(TWO_BY_TWO)
    ]


def test_a_cluster_passes_when_nothing_failed(tmp_path: Path) -> None:
    line = write(tmp_path, verdict(*all_passed()))
    assert line == f"selftest passed: 23 passed, 0 failed, 1 skipped in 61 s: {tmp_path / 'verdict.html'}"
    page = (tmp_path / "verdict.html").read_text()
    assert "What to do" not in page
    assert "the nodes have no GPUs" in page


def test_the_page_names_what_failed_why_and_what_to_do(tmp_path: Path) -> None:
    broken = Result("all-reduce", "failed", "the sum over all ranks is wrong: got <3>", [Figure("bus", 12.5, "GB/s")])
    results = [broken if result.name == "all-reduce" else result for result in all_passed()]
    line = write(tmp_path, verdict(*results))
    assert line.startswith("selftest failed: 22 passed, 1 failed, 1 skipped (all-reduce)")
    page = (tmp_path / "verdict.html").read_text()
    assert "What to do" in page
    assert "got &lt;3&gt;" in page
    assert "NCCL_SOCKET_IFNAME" in page
    assert "12.5" in page
    assert "GB/s" in page
    stored = json.loads((tmp_path / "verdict.json").read_text())
    (told,) = (check for check in stored["checks"] if check["status"] == "failed")
    assert (told["name"], told["phase"], "NCCL" in told["do"]) == ("all-reduce", "links", True)
    assert stored["bounds"]["loss"] == {"fp32": 1e-5, "bf16": 2e-3}


def test_a_check_without_a_result_counts_as_failed() -> None:
    found = verdict(*all_passed()[:-1])
    assert found.status == "failed"
    assert "not done" in html_of(found)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    cluster = ClusterConfig.model_validate({"tasks_per_node": 2})
    return Site(tmp_path, ("n1", "n2"), cluster, "python", "7.0.1")


def test_a_phase_that_breaks_fails_alone_and_the_next_ones_are_done(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(site: Site) -> Any:
        yield Result.of("write", None)
        raise LaunchError("the folder is gone")

    def passes(phase: str) -> Any:
        names = [check.name for check in plan(TWO_BY_TWO) if check.phase == phase]
        return lambda site: iter([Result.of(name, None) for name in names])

    for phase in driver.CHECKS:
        monkeypatch.setitem(driver.CHECKS, phase, breaks if phase == "storage" else passes(phase))
    monkeypatch.setattr(driver.machine, "preflight", lambda site: (Result.of("preflight", None), {}))
    monkeypatch.setattr(driver.training, "is_built", lambda site: True)
    results = {result.name: result for result in driver.Driver(site).run()}
    assert list(results) == [check.name for check in plan(TWO_BY_TWO)]
    failed = {name: result.reason for name, result in results.items() if result.status == "failed"}
    assert failed == dict.fromkeys(("read", "metadata"), "the folder is gone")


def test_a_bad_node_is_left_out_of_the_later_checks_and_a_slow_one_is_not(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(bad: dict[str, str]) -> tuple[str, ...]:
        result = Result.of("preflight", "bad nodes")
        monkeypatch.setattr(driver.machine, "preflight", lambda site: (result, bad))
        tested = driver.Driver(site)
        (found,) = tested._phase("preflight")
        assert found.status == "failed"
        return tested.site.nodes

    assert told({"n2": "no answer"}) == ("n1",)
    assert told({"n1": "no answer", "n2": "no answer"}) == ("n1", "n2")
    assert told({"n2": "slow matrix product: 2.0000 s, usual 0.5000 s"}) == ("n1", "n2")


def test_a_step_that_cannot_start_and_one_that_hangs_are_words(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    (tools / "srun").write_text(
        "#!/bin/bash\necho 'srun: error: n2: task 3: Exited with exit code 127' >&2\nexit 127\n"
    )
    (tools / "srun").chmod(0o755)
    why = run_step(site, "links", ["some.module"], 60.0)
    assert why is not None
    assert "rank 3 on n2 failed first: Exited with exit code 127" in why
    (tools / "srun").write_text("#!/bin/bash\nexec sleep 600\n")
    late = run_step(site, "links", ["some.module"], 0.5)
    assert late is not None
    assert late.startswith("no end within 0 s, the step was ended: ")


def test_storage_is_read_back_from_another_node_and_other_bytes_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 9 * 2**20 + 5
    for node, other in (("n1", "n2"), ("n2", "n1")):
        (tmp_path / f"{other}.written").touch()
        (tmp_path / f"{other}.bin").write_bytes(b"".join(storage.blocks(other, size)))
        monkeypatch.setenv("SLURMD_NODENAME", node)
        storage.main(tmp_path, size, ["n1", "n2"])
    assert {"write_bytes_per_s", "fsync_s", "metadata_per_s", "read_bytes_per_s"} == set(
        json.loads((tmp_path / "n1.json").read_text())
    )
    (tmp_path / "n2.bin").write_bytes(b"".join(storage.blocks("n1", size)))
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    with pytest.raises(Exception, match="has other bytes than n2 wrote"):
        storage.main(tmp_path, size, ["n1", "n2"])


def test_the_plan_of_a_submission_shows_each_check_and_where_the_page_will_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cluster = ClusterConfig.model_validate(
        {"tasks_per_node": 1, "spare_nodes": 1, "environment": {"NCCL_DEBUG": "INFO"}}
    )
    job = selftest_job("sites/here.yaml", cluster, 2, {"qos": "high"})
    lines = list(lines_of_plan(job))
    assert lines[0] == "selftest: 2 nodes x 1 = 2 ranks, CPUs, 01:00:00 at most"
    assert lines[-1] == f"  page: {job.stage.folder / 'verdict.html'}"
    assert any("pp2-tp2-zero3: skipped: the number of processes does not fit" in line for line in lines)
    assert "#SBATCH --nodes=2\n" in job.script  # no spare node beside the tested ones
    assert "#SBATCH --qos=high\n" in job.script
    assert "export NCCL_DEBUG=INFO" in job.script
    prepare(job, [job.stage.folder])
    with pytest.raises(LaunchError, match=r"is a self-test, whose job is not changed; megabiomed submit --selftest"):
        changed(job.stage.folder, Change(nodes=1))
    short = selftest_job("here.yaml", cluster.model_copy(update={"time": "30:00"}), 1, {})
    assert "#SBATCH --time=30:00\n" in short.script
    (tmp_path / "a b").mkdir()
    monkeypatch.chdir(tmp_path / "a b")
    with pytest.raises(ConfigError, match="cannot be used in an #SBATCH line"):
        selftest_job("here.yaml", cluster, 2, {})


def test_the_command_refuses_a_run_beside_the_selftest_and_nothing_at_all(command: Any) -> None:
    assert "has its own run" in command("submit", "demo", "--selftest", "--cluster", "cpu-test", code=2).stderr
    assert "submit needs a run" in command("submit", "--cluster", "cpu-test", code=2).stderr
    assert (
        "dry run: nothing was written" in command("submit", "--selftest", "--cluster", "cpu-test", "--dry-run").stdout
    )
