"""Every command explains itself with an example, and answers before torch could be imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from megabiomed import __version__
from megabiomed.cli import app

COMMANDS = [
    ["pretrain"],
    ["generate"],
    ["validate"],
    ["evaluate"],
    ["compare"],
    ["qa", "inspect"],
    ["plot"],
    ["corpus", "build"],
    ["corpus", "generate"],
    ["corpus", "inspect"],
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
