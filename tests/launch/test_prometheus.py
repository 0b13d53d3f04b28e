"""Prometheus takes what `status --prometheus` writes, names are the tracker's, and the dashboard asks for no other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.scheduling import program
from typer.testing import CliRunner

from megabiomed.cli import app
from megabiomed.config import RunConfig, TrackingConfig
from megabiomed.launch.prometheus import COUNTERS, GAUGES
from megabiomed.runs.tracking.base import Figures
from megabiomed.runs.tracking.prometheus_file import FILE, PrometheusFile

PROMTOOL = shutil.which("promtool")
FIGURES = {
    "train/loss": 2.5, "train/grad_norm": "not finite", "train/step_s": 0.5, "train/tokens": 1e6, "train/tokens_per_s": 1e5,
    "train/mfu": 0.4, "train/eta_s": 250.0, "ranks/slow": 1.0, "ranks/wait_s": 0.1,
}  # fmt: skip


def submitted(folder: Path, job_id: str) -> Path:
    """A run at step 500 of 1000 whose second start is under way."""
    (folder / "slurm").mkdir(parents=True)
    record = {
        "chain": 'c"x', "stage": "s", "kind": "pretrain", "job_id": job_id, "after": [], "controls": [],
        "time": "24:00:00", "prepared": "2026-01-01T00:00:00+00:00", "members": [str(folder)], "max_failures": 3,
        "cluster": {"grace_seconds": 600},
    }  # fmt: skip
    (folder / "slurm" / "job.json").write_text(json.dumps(record))
    (folder / "checkpoints" / "step_00000480").mkdir(parents=True)
    (folder / "checkpoints" / "step_00000480" / "COMMITTED").touch()
    events = [
        {"event": "resume", "total_steps": 1000}, {"event": "spike"}, {"event": "spike"},
        {"event": "slow_rank", "rank": 3, "host": "n3", "factor": 1.8},
        {"event": "gpu_health", "host": "n3", "gpu": 1, "fault": "xid 79", "text": "Xid 79: off", "bad": True},
    ]  # fmt: skip
    history = [
        {"kind": "begin", "incarnation": "7.0.1", "step": 0},
        {"kind": "end", "incarnation": "7.0.1", "decision": "requeue", "code": 1, "after": 480, "exclude": ["n2"]},
        {"kind": "begin", "incarnation": "7.1.2", "step": 480, "lost_steps": 17},
    ]  # fmt: skip
    metrics = {"step": 500, "time": "2026-01-01T00:00:00+00:00", **FIGURES}
    lines = {"events.jsonl": events, "slurm/incarnations.jsonl": history, "metrics.jsonl": [metrics]}
    for name, held in lines.items():
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in held))
    return folder


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Metrics of two runs of one name, and one in the queue from elsewhere."""
    mine = [submitted(tmp_path / "runs" / "lm", "7"), submitted(tmp_path / "runs" / "al" / "lm", "8")]
    other = submitted(tmp_path / "elsewhere" / "qa", "9")
    tools = tmp_path / "tools"
    rows = [
        f"JobId=7|JobState=RUNNING|Command={mine[0]}/slurm/job.sh",
        f"JobId=9|JobState=PENDING|Command={other}/slurm/job.sh",
    ]
    program(tools, "squeue", "\n".join(f"echo '{row}'" for row in rows))
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["status", "--prometheus", "all.prom"], catch_exceptions=False)
    assert (done.exit_code, done.output) == (0, "")
    assert Path("all.prom").stat().st_mode & 0o777 == 0o644
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["all.prom"]
    return Path("all.prom").read_text()


def values(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = tuple(
                value for _, value in sorted(sample.labels.items(), key=lambda label: (label[0] != "run", label))
            )
            assert key not in found.setdefault(sample.name, {})  # such a file would be refused whole
            found[sample.name][key] = sample.value
    return found


def test_everything_about_all_runs_is_there_once(text: str) -> None:
    found = values(text)
    assert set(found["megabiomed_step"]) == {("runs/lm",), ("al/lm",), ("qa",)}
    run = ("runs/lm",)
    assert found["megabiomed_train_loss"][run] == 2.5
    assert found["megabiomed_train_grad_norm"][run] != found["megabiomed_train_grad_norm"][run]
    assert (found["megabiomed_train_step_seconds"][run], found["megabiomed_train_mfu"][run]) == (0.5, 0.4)
    assert (found["megabiomed_up"][run], found["megabiomed_up"][("qa",)]) == (1, 0)
    states = {key[1]: value for key, value in found["megabiomed_run_state"].items() if key[0] == "qa"}
    assert [state for state, value in states.items() if value] == ["pending"]
    assert found["megabiomed_run_starts_total"][run] == 2
    assert found["megabiomed_run_failed_starts_total"][run] == 1
    assert found["megabiomed_run_lost_steps_total"][run] == 17
    assert found["megabiomed_events_total"][("runs/lm", "spike")] == 2
    assert found["megabiomed_bad_node"] == {(name, "n2"): 1 for name in ("runs/lm", "al/lm", "qa")}
    assert found["megabiomed_slow_rank_factor"][("runs/lm", "n3", "3")] == 1.8
    assert found["megabiomed_gpu_fault"][("runs/lm", "True", "xid 79", "1", "n3")] == 1
    assert found["megabiomed_run_remaining_seconds"][run] == 250
    assert found["megabiomed_checkpoint_timestamp_seconds"][run] > 1.7e9
    assert found["megabiomed_scheduler_up"][()] == 1


def test_names_follow_the_conventions_and_are_those_of_the_tracker(text: str, tmp_path: Path) -> None:
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for name, family in families.items():
        assert family.documentation
        assert re.fullmatch(r"megabiomed_[a-z][a-z0-9_]*", name)
        assert not re.search(r"_(s|ms|minutes|hours|total|count|sum|bucket|kilobytes|percent)$", name)
        assert all(sample.name == name + ("_total" if family.type == "counter" else "") for sample in family.samples)
    assert GAUGES.keys() | COUNTERS.keys() <= {name.removeprefix("megabiomed_") for name in families}
    (tmp_path / "lm").mkdir()
    tracker = PrometheusFile()
    config = RunConfig.model_construct(name="lm", run_dir=tmp_path / "lm", tracking=TrackingConfig())
    tracker.start(config)
    tracker.metrics(
        [Figures(500, 0.0, {name: float(value) for name, value in FIGURES.items() if value != "not finite"})]
    )
    tracker.event("spike", {})
    told = {family.name: family for family in text_string_to_metric_families((tmp_path / "lm" / FILE).read_text())}
    for name, family in told.items():
        if not name.endswith("_created"):
            assert (families[name].documentation, families[name].type) == (family.documentation, family.type), name


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_promtool_has_nothing_to_say(text: str) -> None:
    done = subprocess.run([str(PROMTOOL), "check", "metrics"], input=text, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_dashboard_asks_for_names_that_exist(text: str) -> None:
    dashboard = json.loads((Path(__file__).parents[2] / "docs" / "grafana-dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += [item["query"]["query"] for item in dashboard["templating"]["list"] if item["type"] == "query"]
    asked = {name for expression in expressions for name in re.findall(r"megabiomed_\w+", expression)}
    assert asked - set(values(text)) == set()
    places = [tuple(panel["gridPos"][key] for key in "xywh") for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert all(x + width <= 24 for x, _, width, _ in places)
