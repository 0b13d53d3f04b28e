"""One table of the kinds of runs serves every command; the wrong command names the right one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from megabiomed.cli import main
from megabiomed.config import shipped, to_yaml
from megabiomed.config.kinds import SHIPPED as READ
from megabiomed.config.kinds import stored_run
from megabiomed.ground.errors import ConfigError
from megabiomed.runs.kinds import SHIPPED, Kind, check_kind, kind_of_config, kind_of_file, read_run

Command = Callable[..., subprocess.CompletedProcess[str]]
OUTSIDE = """
from megabiomed.config import RunConfig
from megabiomed.runs.kinds import PRETRAIN, Kind

def check(config, world):
    print(f"checked on {world}")

def describe(config, world):
    return [f"echo: {config.name}"]

def train(config, part, stop):
    print(f"trained: {config.name}", flush=True)
    return "finished"

ECHO = Kind("echo", "", RunConfig, "an echo", "own_kind:train", "own_kind:check", "own_kind:describe")
"""


@pytest.fixture
def own_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_file: Path) -> Path:
    (tmp_path / "own_kind.py").write_text(OUTSIDE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.syspath_prepend(tmp_path)
    run_file.write_text(f"kind: own_kind:ECHO\n{run_file.read_text()}")
    return run_file


def test_every_kind_that_can_be_read_can_be_trained() -> None:
    assert {kind.name for kind in READ} == set(SHIPPED)


@pytest.mark.parametrize("name", shipped.names("runs"))
def test_a_stored_configuration_is_of_the_kind_of_its_file(name: str) -> None:
    kind = kind_of_file(name, [])
    config = read_run(name, [])
    assert kind_of_config(config) is kind
    stored = stored_run(to_yaml(config), "stored")
    assert (type(stored), stored) == (kind.config, config)


@pytest.mark.parametrize(
    ("command", "run", "message"),
    [
        ("pretrain", "align-demo", "align-demo is an alignment run; use `megabiomed align align-demo` or"),
        ("finetune", "demo", "demo is a pretraining run; use `megabiomed pretrain demo` or `megabiomed run demo`"),
        ("align", "finetune-demo", "finetune-demo is a fine-tuning run; use `megabiomed finetune finetune-demo`"),
        ("run", "biomedgpt", "biomedgpt is a chain of runs; use `megabiomed submit biomedgpt --cluster CLUSTER`"),
    ],
)
def test_the_command_of_another_kind_names_the_right_one(
    command: str, run: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["megabiomed", command, run, "--dry-run"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_run_takes_any_kind() -> None:
    for name in ("demo", "align-demo", "finetune-demo"):
        check_kind(kind_of_file(name, []), name, None)


def test_the_key_kind_may_say_what_the_sections_say_and_nothing_else(run_file: Path) -> None:
    assert kind_of_file(str(run_file), ["kind=pretrain"]).name == "pretrain"
    with pytest.raises(ConfigError, match="missing key 'align'"):
        read_run(str(run_file), ["kind=align"])
    with pytest.raises(ConfigError, match="did you mean 'align'"):
        read_run(str(run_file), ["kind=aling"])


def test_only_an_alignment_has_stages(run_file: Path, command: Command) -> None:
    assert read_run("align-demo", []).parts == ["s1-adaptors", "s2-encoders", "s3-language-model"]
    done = command("run", run_file, "--stage", "one", "--dry-run", code=2)
    assert "no such stage: got 'one', expected no stage: only alignment runs have stages" in done.stderr


def test_a_kind_from_outside_is_started_by_the_public_command(own_kind: Path, command: Command, tmp_path: Path) -> None:
    said = command("run", own_kind, "--dry-run").stdout
    assert "checked on 2" in said
    assert "echo: t" in said
    said = command("run", own_kind, f"run_dir={tmp_path / 'r'}").stdout
    assert "kind: own_kind:ECHO" in said
    assert said.count("trained: t") == 1
    assert "t is an echo; use `megabiomed run" in command("pretrain", own_kind, code=2).stderr.replace(
        str(own_kind), "t"
    )


def test_what_is_no_kind_is_refused(run_file: Path) -> None:
    with pytest.raises(ConfigError, match="is not a kind of run"):
        kind_of_file(str(run_file), ["kind=math:pi"])
    assert isinstance(kind_of_file(str(run_file), []), Kind)
