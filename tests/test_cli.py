"""Every command explains itself with an example, and answers before torch could be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megabiomed import __version__
from megabiomed.cli import app

COMMANDS = [
    ["run"],
    ["pretrain"],
    ["align"],
    ["finetune"],
    ["generate"],
    ["validate"],
    ["evaluate"],
    ["compare"],
    ["questions", "inspect"],
    ["plot"],
    ["corpus", "build"],
    ["corpus", "generate"],
    ["corpus", "inspect"],
    ["corpus", "datasheet"],
    ["data", "trace"],
    ["tokenizer", "train"],
    ["tokenizer", "check"],
    ["checkpoint", "inspect"],
    ["checkpoint", "verify"],
    ["checkpoint", "import-hf"],
    ["checkpoint", "export-hf"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(command: list[str]) -> None:
    shown = CliRunner().invoke(app, [*command, "--help"], terminal_width=200)
    assert shown.exit_code == 0
    assert f"megabiomed {' '.join(command)}" in " ".join(shown.output.split())


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output.strip() == __version__


def test_help_imports_neither_torch_nor_deepspeed() -> None:
    code = "import sys, megabiomed.cli; print([m for m in ('torch', 'deepspeed', 'megatron') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_old_name_of_evaluate_split_works_for_one_release_and_says_so(tmp_path: Path) -> None:
    assert "align-evaluate" not in CliRunner().invoke(app, ["--help"], terminal_width=200).output
    result = CliRunner().invoke(app, ["align-evaluate", str(tmp_path), "--split", str(tmp_path)])
    (line,) = result.stderr.splitlines()
    assert line.startswith("align-evaluate is deprecated: use `megabiomed evaluate RUN --split")
    assert "expected an alignment run" in str(result.exception)


@pytest.mark.parametrize(("old", "new"), [("qa", "questions"), ("dataset", "multimodal")])
def test_groups_still_answer_to_the_names_of_the_last_release(old: str, new: str) -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert f" {new} " in shown
    assert f" {old} " not in shown
    assert CliRunner().invoke(app, [old, "build", "--help"]).exit_code == 0


@pytest.mark.parametrize(
    "option", ["--temperature=inf", "--temperature=nan", "--temperature=1e-320", "--seed=-1", f"--seed={2**70}"]
)
@pytest.mark.parametrize("command", [["generate", "run", "--prompt", "x"], ["chat", "run", "--question", "x"]])
def test_numbers_that_no_generator_takes_are_refused_before_anything_is_read(command: list[str], option: str) -> None:
    done = CliRunner().invoke(app, [*command, option])
    assert done.exit_code == 2
    assert option.partition("=")[0] in done.output
