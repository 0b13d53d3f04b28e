"""The demonstration's own program runs: what the README's first command starts is code that no import test sees."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "launch" / "demo.sh"


@pytest.mark.timeout(120)
def test_the_small_model_to_start_from_is_made_from_a_shipped_configuration(tmp_path: Path) -> None:
    (program,) = re.findall(r"<<'PYTHON'\n(.*?)^PYTHON$", DEMO.read_text(), re.MULTILINE | re.DOTALL)
    command = [sys.executable, "-W", "ignore", "-", str(tmp_path / "hf")]
    done = subprocess.run(command, input=program, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == "llama"
