"""`megabiomed bench kernels` through the public command."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megabiomed.ground.errors import ConfigError
from megabiomed.kernels.cli import default_shapes

Command = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ["--documents", "20,1,11", "--heads", "2", "--head-dim", "16", "--intermediate", "24", "--vocabulary", "50"]


def test_it_prints_the_choice_its_reason_and_every_candidate(command: Command, tmp_path: Path) -> None:
    output = tmp_path / "rows.json"
    shown = command("bench", "kernels", *SMALL, "--dtype", "fp32", "--repeats", 1, "--output", output).stdout
    assert "roofline here" in shown
    assert "* per_document" in shown or "* triton" in shown
    assert "chosen: " in shown
    rows = json.loads(output.read_text())["rows"]
    assert {row["op"] for row in rows} == {"attention", "norm", "swiglu", "loss", "adamw"}
    for op in ("attention", "norm", "swiglu", "loss", "adamw"):
        (chosen,) = [row for row in rows if row["op"] == op and row["chosen"]]
        assert chosen["forward_ms"] > 0
        assert op == "adamw" or chosen["backward_ms"] > 0
    silent = {row["candidate"]: row["note"] for row in rows if row["forward_ms"] is None}
    assert {"transf. engine", "liger"} <= set(silent)
    assert all(silent.values())  # every candidate without a figure says why
    assert not [row for row in rows if row["note"].startswith("failed")]


@pytest.mark.parametrize(
    ("documents", "dtype", "sizes", "message"),
    [
        ("a,b", None, {}, "--documents is not a list of lengths: got a,b"),
        (None, "int8", {}, "unknown type in --dtype: got int8"),
        (None, None, {"heads": 4, "kv_heads": 3}, "not a multiple of key/value heads: got 4 and 3"),
    ],
)
def test_wrong_options_are_refused(
    documents: str | None, dtype: str | None, sizes: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        default_shapes(documents, dtype, False, dict(sizes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the choices of a CPU")
def test_a_forced_backend_that_cannot_serve_stops_the_dry_run(command: Command, run_file: Path) -> None:
    shown = command("pretrain", run_file, "--dry-run").stdout
    assert "kernels: attention per_document, norm cpu, swiglu cpu, loss cpu" in shown
    refused = command("pretrain", run_file, "kernels.attention=varlen", "--dry-run", code=2)
    assert "kernels.attention=varlen cannot serve this run: needs a GPU" in refused.stderr
