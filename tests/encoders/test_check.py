"""`megabiomed encoder check` says the settings of a file, and refuses what its authors' program computes otherwise."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from megabiomed.cli import app
from megabiomed.encoders.check import check_encoder
from megabiomed.encoders.esm2.config import Esm2Config
from megabiomed.encoders.esm2.model import Esm2
from megabiomed.encoders.esm2.weights import load_esm2
from megabiomed.encoders.gin.config import GinConfig
from megabiomed.encoders.gin.model import Gin, GinConv
from megabiomed.encoders.gin.weights import load_gin
from megabiomed.ground.errors import CheckpointError

_ESM2 = Esm2Config(num_layers=1, hidden_size=40, num_attention_heads=20)


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


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_both_formats_of_torch_are_read_for_both_encoders(tmp_path: Path, zipped: bool) -> None:
    torch.manual_seed(0)
    states = {
        "align.molecule: {num_layers: 1, hidden_size: 8}": Gin(GinConfig(num_layers=1, hidden_size=8)).state_dict(),
        "align.protein: {num_layers: 1, hidden_size: 40, num_attention_heads: 20}": Esm2(_ESM2).state_dict(),
    }
    for said, state in states.items():
        torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        assert check_encoder(tmp_path / "w.pth", {})[0] == said


def test_a_pickle_of_the_older_format_builds_nothing_but_tensors(tmp_path: Path) -> None:
    torch.save({"model": CliRunner()}, tmp_path / "evil.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="cannot be read without executing it"):
        check_encoder(tmp_path / "evil.pth", {})
    torch.save(torch.zeros(3), tmp_path / "tensor.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="no tensors by name"):
        check_encoder(tmp_path / "tensor.pth", {})


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["gnn.x_embedding1.weight", "gnn.gnns.0.linear.weight"], "got a GCN or GraphSAGE of pretrain-gnns"),
        (["x_embedding1.weight", "gnns.0.weight_linear.weight", "gnns.0.att"], "got a GAT of pretrain-gnns"),
        (["encoder.sentence_encoder.embed_tokens.weight", "encoder.sentence_encoder.embed_positions.weight"],
         "got an ESM-1 of fair-esm"),
        (["embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"], "got a BERT"),
        (["embed_tokens.weight", "layers.0.row_self_attention.layer.k_proj.weight"], "got an MSA Transformer"),
        (["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"], "got a language model"),
    ],
)  # fmt: skip
def test_another_network_is_called_by_its_name(tmp_path: Path, names: list[str], said: str) -> None:
    torch.save({name: torch.zeros(4, 60) for name in names}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=said):
        check_encoder(tmp_path / "w.pth", {})
    for load, model in ((load_gin, Gin(GinConfig(num_layers=1, hidden_size=8))), (load_esm2, Esm2(_ESM2))):
        with pytest.raises(CheckpointError, match=said):
            load(model, tmp_path / "w.pth")


def test_other_weights_are_no_encoder(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="of no known encoder"):
        check_encoder(tmp_path / "other.pt", {})
