"""`megabiomed encoder check` says the settings of a file, and refuses what its authors' program computes otherwise."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from megabiomed.cli import app
from megabiomed.encoders.check import check_encoder
from megabiomed.encoders.gin.config import GinConfig
from megabiomed.encoders.gin.model import Gin, GinConv
from megabiomed.ground.errors import CheckpointError


@pytest.fixture
def gin_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(
        {f"gnn.{k}": v for k, v in Gin(GinConfig(num_layers=2, hidden_size=12)).state_dict().items()},
        tmp_path / "g.pth",
    )
    return tmp_path / "g.pth"


def test_a_gin_is_compared_with_torch_geometric(gin_file: Path) -> None:
    done = CliRunner().invoke(app, ["encoder", "check", str(gin_file)])
    assert done.exit_code == 0, done.output
    assert "align.molecule: {num_layers: 2, hidden_size: 12}" in done.output
    assert "difference to GINConv on torch-geometric" in done.output


def test_another_result_is_refused(gin_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = GinConv.forward
    monkeypatch.setattr(GinConv, "forward", lambda self, x, edges, bonds: forward(self, x, edges, bonds) * 1.01)
    with pytest.raises(CheckpointError, match="another result"):
        check_encoder(gin_file, {})


def test_an_official_esm2_file_is_compared_with_fair_esm(tmp_path: Path) -> None:
    from esm.model.esm2 import ESM2

    torch.manual_seed(0)
    state = {f"encoder.sentence_encoder.{k}": v for k, v in ESM2(2, 40, 4).state_dict().items() if "head" not in k}
    torch.save({"cfg": {"model": argparse.Namespace(encoder_layers=2)}, "model": state}, tmp_path / "esm2.pt")
    lines = check_encoder(tmp_path / "esm2.pt", {"num_attention_heads": 4})
    assert lines[0] == "align.protein: {num_layers: 2, hidden_size: 40, num_attention_heads: 4}"
    assert lines[3].startswith("difference to fair-esm: ")


def test_other_weights_are_no_encoder(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="of no known encoder"):
        check_encoder(tmp_path / "other.pt", {})
