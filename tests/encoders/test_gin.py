"""The GIN equals pretrain-gnns' operator written with torch-geometric, and its featuriser has no crashing input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from megabiomed.encoders.gin.config import GinConfig
from megabiomed.encoders.gin.featurise import MISC_ATOM, MoleculeError, featurise, least_atoms
from megabiomed.encoders.gin.gat import Gat
from megabiomed.encoders.gin.model import Gin, MoleculeBatch
from megabiomed.encoders.gin.reference import reference_gin
from megabiomed.encoders.gin.similarity import scaffold
from megabiomed.encoders.gin.weights import load_gin
from megabiomed.ground.errors import CheckpointError

SMILES = ["CCO", "[Na+]", "F/C=C/F", "N[C@@H](C)C(=O)O", "c1ccccc1C(=O)[O-].[Na+]", "*CCO", "[NH3]->[Cu]", "C$C"]


@pytest.fixture
def gin() -> Gin:
    torch.manual_seed(0)
    model = Gin(GinConfig(num_layers=3, hidden_size=24))
    for norm in model.batch_norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return model


def test_it_equals_torch_geometric_forward_and_backward(gin: Gin) -> None:
    batch = MoleculeBatch.of([featurise(s) for s in SMILES])
    ours, theirs = gin(batch), reference_gin(gin, batch)
    assert float((ours - theirs).abs().max()) <= 1e-5
    weights = torch.randn_like(ours)
    parameters = list(gin.parameters())
    for mine, other in zip(
        torch.autograd.grad((ours * weights).sum(), parameters),
        torch.autograd.grad((theirs * weights).sum(), parameters),
    ):
        assert float((mine - other).abs().max()) <= 1e-5 * max(1.0, float(other.abs().max()))


def test_a_molecule_is_encoded_the_same_alone_and_in_training_mode(gin: Gin) -> None:
    together = gin.train()(MoleculeBatch.of([featurise(s) for s in SMILES])).split([featurise(s).rows for s in SMILES])
    for smiles, rows in zip(SMILES, together):
        assert torch.allclose(gin(MoleculeBatch.of([featurise(smiles)])), rows, atol=1e-5)
    assert gin(MoleculeBatch.of([])).shape == (0, 24)


def test_a_batch_is_torch_geometrics(gin: Gin) -> None:
    from torch_geometric.data import Batch, Data

    molecules = [featurise(s) for s in SMILES]
    ready = [Data(*(torch.from_numpy(part.astype("int64")) for part in (m.atoms, m.edges, m.bonds))) for m in molecules]
    ours, theirs = MoleculeBatch.of(molecules).geometric(), Batch.from_data_list(ready)
    for key in ("x", "edge_index", "edge_attr", "batch", "ptr"):
        assert torch.equal(ours[key], theirs[key]), key


def test_graph_attention_gives_each_molecule_the_same_alone_and_together() -> None:
    torch.manual_seed(0)
    gat = Gat(GinConfig(kind="gat", num_layers=2, hidden_size=16))
    together = gat(MoleculeBatch.of([featurise(s) for s in SMILES])).split([featurise(s).rows for s in SMILES])
    for smiles, rows in zip(SMILES, together):
        assert torch.allclose(gat(MoleculeBatch.of([featurise(smiles)])), rows, atol=1e-5)
    assert gat(MoleculeBatch.of([])).shape == (0, 16)


def test_what_the_originals_crash_on_has_a_meaning() -> None:
    assert featurise("*CCO").atoms[0, 0] == MISC_ATOM
    assert featurise("[NH3]->[Cu]").bonds[0, 0] == 0
    assert featurise("[Na+]").edges.shape == (2, 0)
    assert {int(b) for b in featurise("F/C=C/F").bonds[:, 1]} > {0}
    assert featurise("CC(=O)[O-].[Na+]", salts="largest").rows == 4


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [("", "empty"), (" ", "empty"), ("C1CC", "invalid"), ("xyz", "invalid"), ("C(C)(C)(C)(C)C", "invalid"),
     ("C" * 257, "too_large")],
)  # fmt: skip
def test_what_gives_no_graph_is_refused_with_a_reason(smiles: str, reason: str) -> None:
    with pytest.raises(MoleculeError) as error:
        featurise(smiles)
    assert error.value.reason == reason


def test_atoms_are_counted_in_the_text_and_never_too_many() -> None:
    from rdkit import Chem

    more = [
        "[H]C([H])([H])Cl",
        "CCBr named Carbon",
        "C1.C1",
        "[2H]O[2H]",
        "[13CH3][C@@H](N)C(=O)O",
        "c1cc[nH]c1.[Na+].[Cl-]",
    ]
    for smiles in [*SMILES, *more]:
        atoms = Chem.MolFromSmiles(smiles).GetNumAtoms()
        assert atoms - 2 <= least_atoms(smiles) <= atoms
    assert (least_atoms("CCC.CC"), least_atoms("CCC.CC", whole=False), least_atoms(" ")) == (5, 3, 0)
    for salts, refused in (("keep", True), ("largest", False)):
        if refused:
            with pytest.raises(MoleculeError, match="too_large"):
                featurise("CCC.CC", 4, salts)
        else:
            assert featurise("CCC.CC", 4, salts).rows == 3


def test_a_scaffold_is_not_looked_for_in_what_is_too_large() -> None:
    assert scaffold("c1ccccc1CC") == "c1ccccc1"
    assert scaffold("c1ccccc1" + "C" * 600) == "c1ccccc1" + "C" * 600


def test_a_salt_is_refused_when_asked() -> None:
    with pytest.raises(MoleculeError, match="2 fragments"):
        featurise("CC(=O)[O-].[Na+]", salts="refuse")


def test_weights_load_without_executing_pickles(gin: Gin, tmp_path) -> None:  # type: ignore[no-untyped-def]
    torch.save(gin.state_dict(), tmp_path / "gin.pth")
    other = Gin(gin.config)
    load_gin(other, tmp_path / "gin.pth")
    batch = MoleculeBatch.of([featurise("CCO")])
    assert torch.equal(gin(batch), other(batch))
    torch.save({"gnns": nn.Linear(2, 2)}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="without executing"):
        load_gin(other, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_gin(Gin(GinConfig(num_layers=2, hidden_size=24)), tmp_path / "gin.pth")
