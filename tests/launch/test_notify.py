"""An operator is told what happens to a run, once, whatever the receiver does, and no secret leaks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.receivers import TOKEN, Web, hook
from support.scheduling import program
from typer.testing import CliRunner

from megabiomed.checkpoint.fence import Fence
from megabiomed.cli import app
from megabiomed.config.cluster import load_cluster
from megabiomed.config.notify import NotifyConfig, unusable
from megabiomed.ground.errors import ConfigError
from megabiomed.launch import records
from megabiomed.launch.notify import delivery, eta
from megabiomed.launch.notify.delivery import deliver, pending
from megabiomed.launch.notify.messages import messages
from megabiomed.launch.stage import load_stages
from megabiomed.launch.submit import prepare, render


def now(offset: float = 0.0) -> str:
    return datetime.fromtimestamp(time.time() + offset, UTC).isoformat(timespec="seconds")


def a_run(folder: Path, receivers: list[NotifyConfig], members: list[Path] | None = None) -> Path:
    """A submitted run that job 7 has begun."""
    (folder / records.SLURM).mkdir(parents=True)
    job = {
        "kind": "pretrain", "max_failures": 3, "ranks": 2, "job_id": "7", "controls": [], "stage": folder.name, "after": [],
        "members": [str(member) for member in members or [folder]], "chain": "c", "prepared": now(-100), "time": "01:00:00",
        "cluster": {"notify": [each.model_dump(mode="json") for each in receivers], "grace_seconds": 60},
    }  # fmt: skip
    (folder / records.SLURM / records.JOB).write_text(json.dumps(job))
    records.append(folder, "begin", Fence.claim(folder, "7.0"), incarnation="7.0.1", step=0)
    return folder


def note(run: Path, kind: str = "end", **values: Any) -> None:
    records.append(run, kind, Fence.inherit(run, "7.0"), **{"incarnation": "7.0.1", **values})


def event(run: Path, kind: str, offset: float = 0.0, **values: Any) -> None:
    with (run / records.EVENTS).open("a") as file:
        file.write(json.dumps({"time": now(offset), "event": kind, **values}) + "\n")


def told(web: Web) -> list[str]:
    return [held["event"] for _, _, held in web.posts]


def test_what_happened_is_told_once_to_whoever_wants_it_also_after_a_requeue(web: Web, tmp_path: Path) -> None:
    run = a_run(tmp_path / "demo", [hook(), hook(webhook="slack", events=["give-up"])])
    event(run, "spike", -1000, step=3)  # before the submission: no news
    event(run, "save", step=5)
    assert list(deliver(run)) == []
    assert web.posts == []
    (run / "logs" / "7.0.1").mkdir(parents=True)
    (run / "logs" / "7.0.1" / "hang.md").touch()
    note(run, outcome="", after=5, decision="requeue", reason="failure 1 of 3", exclude=["n2"])
    event(run, "corruption", step=7, hosts=["n3"], tensors=["w"])
    note(run, outcome="", after=5, decision="fail", reason="failure 3 of 3", incarnation="7.0.2")
    assert list(deliver(run)) == []
    assert sorted(held.get("event", "slack") for _, _, held in web.posts) == [
        "bad-node", "bad-node", "give-up", "hang", "slack",
    ]  # fmt: skip
    (first,) = [held for _, _, held in web.posts if held.get("event") == "give-up"]
    assert first["title"] == "demo: gave up"
    assert first["text"].startswith("failure 3 of 3\n")
    assert first["job"] == "7"
    web.posts.clear()
    Fence.claim(run, "7.1")
    assert list(deliver(run)) == []
    assert web.posts == []
    assert pending(run) == {}


def test_one_ended_on_request_has_not_given_up_and_the_last_stage_tells_of_the_chain(web: Web, tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in ("first", "second"))
    for folder in (first, second):
        a_run(folder, [hook()], [first, second])
    note(first, outcome="ended", decision="fail", reason="ended by its kill switch")
    note(first, "refused", decision="fail", reason="the kill switch is set (control/end)")
    assert list(deliver(first)) == []
    assert web.posts == []
    for folder in (first, second):
        event(folder, "finished")
        note(folder, outcome="finished", decision="done", reason="finished")
        assert list(deliver(folder)) == []
    assert list(deliver(first)) == []
    assert told(web) == ["run-done", "run-done", "chain-done"]
    assert [held["title"] for _, _, held in web.posts] == [
        "c/first: finished",
        "c/second: finished",
        "c: the chain is done",
    ]


def test_a_receiver_that_is_away_is_named_once_and_told_later(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(tmp_path / "demo", [hook()])
    note(run, outcome="", decision="fail", reason="disk\x07full")
    monkeypatch.setenv("HOOK", f"{web.url}/busy/{TOKEN}")
    (line,) = deliver(run)
    assert line == "notify: json ($HOOK): HTTP 503: ok: it is tried again: demo: gave up"
    assert list(deliver(run)) == []
    assert len(web.posts) == 1  # its pause is not over
    assert list(deliver(run, all_at_once=True)) == []  # and said is said
    assert len(web.posts) == 2
    assert pending(run) == {"json ($HOOK)": 1}
    monkeypatch.setenv("HOOK", f"{web.url}/ok/{TOKEN}")
    assert list(deliver(run, all_at_once=True)) == ["notify: json ($HOOK): answers again"]
    assert list(deliver(run, all_at_once=True)) == []
    assert len(web.posts) == 3
    held = "".join(file.read_text() for file in run.rglob("*") if file.is_file())
    assert "Secret" not in held


@pytest.mark.parametrize("way", ["slow", "a requeue in the middle"])
def test_what_may_have_arrived_is_not_sent_again(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    run = a_run(tmp_path / "demo", [hook()])
    note(run, outcome="", decision="fail", reason="why")
    if way == "slow":
        monkeypatch.setenv("HOOK", f"{web.url}/slow/x")
        (line,) = deliver(run)
        assert "it may have arrived and is not sent again" in line
    else:
        (message,) = messages(run)
        delivery._note(run, hook(), [message.key], "sending", "give-up", "")
    web.posts.clear()
    monkeypatch.setenv("HOOK", f"{web.url}/ok/x")
    assert list(deliver(run, all_at_once=True)) == []
    assert web.posts == []


def test_messages_of_one_kind_go_together_and_no_end_of_a_start_waits_for_them(web: Web, tmp_path: Path) -> None:
    run = a_run(tmp_path / "demo", [hook()])
    for step in range(8):
        event(run, "spike", step=step, loss=9.5, grad_norm=1.0, policy="skip")
    assert list(deliver(run)) == []
    ((_, _, held),) = web.posts
    assert held["title"] == "demo: a spike of loss or gradient norm, 8 times"
    assert held["text"].startswith("3 more before these\n")
    event(run, "rewind", step=9, to_step=4)
    assert list(deliver(run)) == []
    assert len(web.posts) == 1  # ten minutes apart
    (line,) = deliver(run, until=time.monotonic(), all_at_once=True)
    assert "no time left" in line
    assert len(web.posts) == 1


def test_an_end_that_slips_is_noted_once_for_each_time(tmp_path: Path) -> None:
    run = a_run(tmp_path / "demo", [])

    def expect(step: int, left: float, at: float) -> list[str]:
        (run / "metrics.jsonl").write_text(json.dumps({"step": step, "train/loss": 1.0, "train/eta_s": left}) + "\n")
        eta.note_slip(run, at)
        return [message.title for message in messages(run)]

    start = time.time()
    assert expect(5, 3000.0, start) == []  # too early to say
    assert expect(30, 3000.0, start) == []
    assert expect(40, 2900.0, start + 1000) == []  # later by a quarter of an hour
    assert expect(50, 2800.0, start + 7200) == ["demo: its end is 1 h 57 min later than expected"]
    assert len(expect(51, 2790.0, start + 7210)) == 1
    assert len(expect(52, 9000.0, start + 7220)) == 2


def test_the_watcher_beside_the_batch_script_leaves_when_it_is_asked_to(web: Web, tmp_path: Path) -> None:
    run = a_run(tmp_path / "demo", [hook()])
    command = [sys.executable, "-m", "megabiomed.launch.notify.watch", str(run), "7.0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
        event(run, "rewind", step=9, to_step=4)
        while not web.posts and watcher.poll() is None:
            time.sleep(0.05)
        watcher.send_signal(signal.SIGTERM)  # of SLURM, to every process of the job
        note(run, outcome="", decision="fail", reason="why")
        watcher.send_signal(signal.SIGUSR2)
        said = watcher.communicate(timeout=120)[0]
    assert (watcher.returncode, said) == (0, "")
    assert told(web) == ["spike", "give-up"]


def test_only_a_job_with_receivers_has_a_watcher_and_no_secret(run_file: Path, tmp_path: Path, web: Web) -> None:
    cluster = load_cluster("cpu-test")
    scripts = []
    for receivers in ([], [hook()]):
        profile = cluster.model_copy(update={"notify": receivers})
        (stage,) = load_stages(str(run_file), profile, [f"run_dir={tmp_path}/run"], 1)
        scripts.append(render(stage).script)
    assert "notify.watch" not in scripts[0]
    assert '-m megabiomed.launch.notify.watch "$run" "$incarnation") &' in scripts[1]
    assert 'export HOOK="${HOOK:-}"' in scripts[1]
    assert "Secret" not in scripts[1]


def test_a_job_that_gives_up_tells_it_before_its_script_ends(run_file: Path, tools: Path, tmp_path: Path) -> None:
    """The whole script, with stand-ins for SLURM's commands."""
    told, run = tmp_path / "told", tmp_path / "run"
    page = ["bash", "-c", f'echo "$0" >> {told}', "{event} {title}"]
    profile = load_cluster("cpu-test").model_copy(
        update={"notify": [NotifyConfig(command=page)], "snapshot": False, "max_failures": 1}
    )
    (stage,) = load_stages(str(run_file), profile, [f"run_dir={run}"], 1)
    job = render(stage)
    prepare(job, [run])
    program(
        tools, "scontrol", '[ "$2" = hostnames ] && echo n1 || echo "JobId=7 JobState=RUNNING Restarts=0 Command=x"'
    )
    program(tools, "srun", "exit 1")
    given = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n1",
        "PATH": f"{tools}:/usr/bin:/bin",
        "PYTHONPATH": str(Path.cwd()),
    }
    done = subprocess.run(["bash", job.path], env=given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "give up: failure 1 of 1" in done.stdout
    assert told.read_text() == "give-up run: gave up\n"
    assert pending(run) == {}


def test_the_command_sends_a_test_and_shows_the_answers(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("notify:\n  - {webhook: slack, url_env: HOOK}\n  - {webhook: json, url_env: OTHER}\n")
    monkeypatch.setenv("OTHER", f"{web.url}/gone/{TOKEN}")
    done = CliRunner().invoke(app, ["notify", "--test", "--cluster", str(site)])
    assert done.output.splitlines()[:2] == ["slack ($HOOK): sent: HTTP 200: ok", "json ($OTHER): refused: HTTP 404: ok"]
    assert done.exit_code != 0
    assert "Secret" not in done.output
    assert web.posts[0][2]["text"].startswith("*megabiomed: test*")
    monkeypatch.delenv("OTHER")
    (error,) = unusable(load_cluster(str(site)).notify)
    assert str(error) == "notify: OTHER is not set; export it, then submit again"
    run = a_run(tmp_path / "demo", [hook()])
    note(run, outcome="", decision="fail", reason="why")
    assert CliRunner().invoke(app, ["notify", str(run)]).output == "json ($HOOK): 1 of 1 messages delivered\n"
    with pytest.raises(ConfigError, match="either a run folder"):
        CliRunner().invoke(app, ["notify"], catch_exceptions=False)
