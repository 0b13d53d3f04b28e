"""The exported tokenizer gives the ids that SentencePiece gives, and a wrong one is not exported."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoTokenizer

from megabiomed.config.models import ModelConfig
from megabiomed.ground.errors import TokenizerError
from megabiomed.model.fresh import SeededInit
from megabiomed.model.hf_export import export_hf
from megabiomed.tokenizer.hf_tokenizer import write_tokenizer
from megabiomed.tokenizer.probes import NORMAL, probe_texts

PIECES = 420
WORDS = [
    *("protein", "binds", "receptor", "of", "the", "in", "vivo", "kinase", "p53", "α-helix", "5'"),
    *("CC(=O)O", "MKT", "inhibits", "", "expression\tcells", "3.14"),
]


def config(pieces: int = PIECES) -> ModelConfig:
    return ModelConfig(
        vocab_size=pieces, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip


def train(folder: Path, **options: Any) -> Path:
    chosen = random.Random(0)
    sentences = [" ".join(chosen.choices(WORDS, k=12)) for _ in range(400)]
    defaults = {
        "model_type": "bpe",
        "vocab_size": PIECES,
        "hard_vocab_limit": False,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "byte_fallback": True,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_prefix=str(folder / "tokenizer"), **{**defaults, **options}
    )
    return folder / "tokenizer.model"


@pytest.fixture(scope="module", params=["a prefix", "pieces of a user"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("tokenizer")
    own = {"user_defined_symbols": ["<mol>", "<mol><x>", "▁▁"], "add_dummy_prefix": False}
    chosen = own if request.param == "pieces of a user" else {"control_symbols": ["[INST]"]}
    model = train(folder, allow_whitespace_only_pieces=True, **chosen)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    mine = config(processor.get_piece_size())
    export_hf(SeededInit(mine, 0), mine, folder / "hf", tokenizer=model)
    return processor, AutoTokenizer.from_pretrained(folder / "hf")


NAMES = ["<s>", "</s>", "<unk>", "[INST]", "<mol>", "<mol><x>", "<mo", "<0x41>", "▁"]
TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from([*WORDS, " ", "\n"]), max_size=20).map(" ".join),
    st.lists(st.sampled_from([*WORDS, *NAMES, "  "]), max_size=12).map("".join),
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=TEXTS)
def test_transformers_gives_the_ids_of_sentencepiece(exported: tuple[Any, Any], text: str) -> None:
    processor, theirs = exported
    assert theirs(text)["input_ids"] == [processor.bos_id(), *processor.encode(text)]


def test_special_tokens_keep_their_ids(exported: tuple[Any, Any]) -> None:
    processor, theirs = exported
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id) == (1, 2, 0)
    for name in ("<mol>", "[INST]"):
        if processor.piece_to_id(name):
            assert theirs.convert_tokens_to_ids(name) == processor.piece_to_id(name)
    assert theirs.decode(theirs(" two  spaces")["input_ids"], skip_special_tokens=True) == " two  spaces"


def test_extra_spaces_are_removed_where_sentencepiece_removes_them(tmp_path: Path) -> None:
    model = train(tmp_path, remove_extra_whitespaces=True)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    (tmp_path / "hf").mkdir()
    write_tokenizer(model, tmp_path / "hf", processor.get_piece_size(), 64)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    for text in ("\ta  protein \n", "  A\u3000B", "binds ▁ kinase ▁ "):
        assert theirs(text)["input_ids"] == [1, *processor.encode(text)]


@pytest.mark.parametrize(
    "options",
    [
        {"normalization_rule_name": "nmt_nfkc"},  # Hugging Face composes characters by another rule
        {"user_defined_symbols": ["<mol>"]},  # and puts no prefix before a text that begins with such a piece
    ],
    ids=str,
)
def test_what_would_give_other_ids_is_refused_with_a_text_that_shows_it(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    model = train(tmp_path, **options)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model)).get_piece_size()
    with pytest.raises(TokenizerError, match=r"cannot be converted exactly .* got \[.*\] for '.*', expected \["):
        write_tokenizer(model, tmp_path, pieces, 64)
    assert not (tmp_path / "tokenizer.json").exists()


def test_probes_hold_every_piece_that_is_never_split_and_its_beginning(tmp_path: Path) -> None:
    symbols = {"user_defined_symbols": ["<mol>", "▁▁"], "control_symbols": ["[INST]"]}
    file = train(tmp_path, **symbols).read_bytes()
    pieces = sentencepiece_model_pb2.ModelProto.FromString(file).pieces
    texts = set(probe_texts(pieces))
    assert {
        "<mol>",
        "a<mol>b",
        "<mol",
        "a<mol<mol>",
        "  ",
        "[INST]",
        "</s>",
        "<unk>",
        "<0x00>",
        "\u3000",
        "\x00",
    } <= texts
    assert {piece.piece.replace("▁", " ") for piece in pieces if piece.type == NORMAL} <= texts


def test_a_tokenizer_of_another_size_is_not_exported(tmp_path: Path) -> None:
    model = train(tmp_path)
    with pytest.raises(TokenizerError, match="does not fit the model"):
        export_hf(SeededInit(config(99), 0), config(99), tmp_path / "hf", tokenizer=model)
    assert not (tmp_path / "hf").exists()


def test_a_unigram_model_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    model = train(tmp_path, model_type="unigram")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model)).get_piece_size()
    with pytest.raises(TokenizerError, match="is no BPE model"):
        write_tokenizer(model, tmp_path, pieces, 64)
    model.write_bytes(b"not a model")
    with pytest.raises(TokenizerError, match="is no SentencePiece model"):
        write_tokenizer(model, tmp_path, pieces, 64)
