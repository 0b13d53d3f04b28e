"""ESM-2 on packed proteins equals fair-esm and Hugging Face on padded ones, and reads both kinds of files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from megabiomed.encoders.esm2.alphabet import MASK, Protein, ProteinError, encode, read_protein
from megabiomed.encoders.esm2.config import Esm2Config
from megabiomed.encoders.esm2.model import Esm2, ProteinBatch
from megabiomed.encoders.esm2.weights import load_esm2
from megabiomed.ground.errors import CheckpointError, DataError

CONFIG = Esm2Config(num_layers=3, hidden_size=40, num_attention_heads=4)
SEQUENCES = ["MKTAYIAKQRQISFVKSHFSRQ", "M", "ACDEFGHIKLMNPQRSTVWYBUZOX", "GG" * 30]


@pytest.fixture
def fair() -> Any:
    import esm

    torch.manual_seed(0)
    model = esm.model.esm2.ESM2(3, 40, 4).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def official_file(fair: Any, path: Path) -> Path:
    """The layout of the published files: a Namespace and prefixed names."""
    held = {f"encoder.sentence_encoder.{k}": v for k, v in fair.state_dict().items() if not k.startswith("lm_head")}
    held |= {f"encoder.lm_head.{k[8:]}": v for k, v in fair.state_dict().items() if k.startswith("lm_head")}
    held = {k: v for k, v in held.items() if "contact_head" not in k}
    torch.save({"cfg": {"model": argparse.Namespace(encoder_layers=3)}, "model": held}, path)
    return path


def padded(fair: Any, proteins: list[Protein]) -> torch.Tensor:
    tokens = torch.full((len(proteins), max(p.rows for p in proteins)), 1)
    for row, protein in enumerate(proteins):
        tokens[row, : protein.rows] = torch.from_numpy(protein.tokens.astype("int64"))
    out = fair(tokens, repr_layers=[3])["representations"][3]
    return torch.cat([out[row, : p.rows] for row, p in enumerate(proteins)])


def test_it_equals_fair_esm_forward_and_backward(fair: Any, tmp_path: Path) -> None:
    proteins = [encode(s) for s in SEQUENCES]
    proteins[0].tokens[5:8] = MASK
    model = Esm2(CONFIG)
    load_esm2(model, official_file(fair, tmp_path / "esm2.pt"))
    ours, theirs = model(ProteinBatch.of(proteins)), padded(fair, proteins)
    assert float((ours - theirs).abs().max()) <= 1e-5
    weights = torch.randn_like(ours)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    reference = dict(fair.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        if "k_proj.bias" in name:  # analytically zero
            continue
        expected = reference[name].grad
        assert float((parameter.grad - expected).abs().max() / expected.abs().max()) <= 1e-5, name


def test_it_reads_hugging_face_folders(fair: Any, tmp_path: Path) -> None:
    from transformers import EsmConfig, EsmModel

    torch.manual_seed(1)
    config = EsmConfig(
        vocab_size=33, mask_token_id=32, pad_token_id=1, hidden_size=40, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=160, position_embedding_type="rotary", token_dropout=True, emb_layer_norm_before=False,
        layer_norm_eps=1e-5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    theirs = EsmModel(config, add_pooling_layer=False).eval()
    theirs.save_pretrained(tmp_path / "hf")
    model = Esm2(CONFIG)
    load_esm2(model, tmp_path / "hf")
    protein = encode(SEQUENCES[2])
    tokens = torch.from_numpy(protein.tokens.astype("int64"))[None]
    expected = theirs(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[0]
    assert float((model(ProteinBatch.of([protein])) - expected).abs().max()) <= 2e-5
    with pytest.raises(CheckpointError, match="number of heads"):
        load_esm2(Esm2(Esm2Config(num_layers=3, hidden_size=40, num_attention_heads=2)), tmp_path / "hf")


def test_tokens_are_those_of_fair_esm() -> None:
    import esm

    alphabet = esm.data.Alphabet.from_architecture("ESM-1b")
    for sequence in SEQUENCES:
        assert encode(sequence).tokens[1:-1].tolist() == alphabet.encode(sequence)
        assert encode(sequence.lower()).tokens.tolist() == encode(sequence).tokens.tolist()
    assert (alphabet.cls_idx, alphabet.eos_idx, alphabet.padding_idx, alphabet.mask_idx) == (0, 2, 1, MASK)


def test_rare_letters_and_bad_sequences() -> None:
    protein = encode("MJ*K*")
    assert protein.changed == 2
    assert protein.rows == 6
    assert encode("A" * 2000).truncated
    assert encode("A" * 2000).rows == 1024
    for text, reason in [
        ("", "empty"),
        ("M K 1", "invalid"),
        ("MÄ", "invalid"),
        ("*", "empty"),
        ("nan", "empty"),
        ("None ", "empty"),
    ]:
        with pytest.raises(ProteinError) as error:
            encode(text)
        assert error.value.reason == reason
    with pytest.raises(ProteinError, match="at most 10"):
        encode("A" * 11, max_residues=10, long="refuse")


def test_a_fasta_file_holds_one_sequence(tmp_path: Path) -> None:
    file = tmp_path / "p.fasta"
    for content, sequence in ((b"\xef\xbb\xbf>P1 name\nMKT\r\nAY\n", "MKTAY"), (b"MKT\nAY\n", "MKTAY")):
        file.write_bytes(content)
        assert read_protein(str(file)) == sequence
    file.write_bytes(b">a\nMK\n>b\nMT\n")
    with pytest.raises(DataError, match="several sequences: got 2, expected one"):
        read_protein(str(file))
    file.write_bytes(b">a\nM\xe9K\n")
    with pytest.raises(DataError, match="letters outside ASCII"):
        encode(read_protein(str(file)))


def test_rotary_angles_stay_fp32_in_a_bf16_module() -> None:
    model = Esm2(CONFIG).to(torch.bfloat16)
    assert model.inv_freq.dtype == torch.float32
    out = model(ProteinBatch.of([encode("A" * 600)]))
    assert out.dtype == torch.bfloat16
    assert torch.isfinite(out).all()


def test_no_protein_is_no_row() -> None:
    assert Esm2(CONFIG)(ProteinBatch.of([])).shape == (0, 40)
