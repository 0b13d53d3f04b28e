"""GigaToken is chosen only where it gives the ids of the tokenizer; else it is said why not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from megabiomed.ground.files import read_json
from megabiomed.tokenizer import choose_encoder as module
from megabiomed.tokenizer.choose_encoder import choose_encoder
from megabiomed.tokenizer.document_encoder import DocumentEncoder
from megabiomed.tokenizer.files import open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer
from tests.support.byte_level import byte_level

SENTENCE = "The heart pumps blood; the kidney filters it.\n\nInsulin lowers glucose, 5.5 mmol/l. "
MORE = "Phosphofructokinase limits glycolysis; haemoglobin binds oxygen; the liver stores glycogen; neurons release dopamine; "


def sentencepiece_model(folder: Path, **options: object) -> Tokenizer:
    """A model whose options differ from those of a tokenizer that is trained here."""
    settled = {
        "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False, "vocab_size": 300, "minloglevel": 2, **options,
    }  # fmt: skip
    lines = f"{MORE}{SENTENCE}".replace("\n", " ").split(";") * 20
    with (folder / "m.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=file, **settled)
    return open_tokenizer(folder / "m.model")


def without_a_byte(folder: Path) -> Tokenizer:
    """As SmolLM2's, which lacks 21 of the 256 bytes."""
    held = read_json(byte_level(folder))
    del held["model"]["vocab"]["\u0104"]  # how byte-level vocabularies write byte 4
    (folder / "tokenizer.json").write_text(json.dumps(held))
    return open_tokenizer(folder)


def with_single_digits(folder: Path) -> Tokenizer:
    held = read_json(byte_level(folder))
    digits = {"type": "Digits", "individual_digits": True}
    held["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, held["pre_tokenizer"]]}
    (folder / "tokenizer.json").write_text(json.dumps(held))
    return open_tokenizer(folder)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"split_by_whitespace": False},
        {"add_dummy_prefix": False},
        {"split_digits": True, "allow_whitespace_only_pieces": True},
    ],
)
def test_a_model_that_it_reads_exactly_is_encoded_by_it(tmp_path: Path, options: dict[str, object]) -> None:
    tokenizer = sentencepiece_model(tmp_path, **options)
    choice = choose_encoder(tokenizer, [SENTENCE, MORE])
    assert choice.reason == ""
    account = choice.account()
    assert account["library"].startswith("gigatoken ")
    assert account["reference"] == f"sentencepiece {sentencepiece.__version__}"
    assert account["texts_compared"] == account["probes_compared"] + 2 > 1000


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (without_a_byte, r"GigaToken cannot read it: .*no single-byte vocab entry for byte 0x04"),
        (with_single_digits, r"GigaToken cannot read it: Unsupported pre_tokenizer"),
        (lambda folder: sentencepiece_model(folder, model_type="unigram", hard_vocab_limit=False), "is no BPE"),
        (lambda folder: sentencepiece_model(folder, normalization_rule_name="nmt_nfkc"), "other ids for"),
        (lambda folder: sentencepiece_model(folder, remove_extra_whitespaces=True), "Unsupported Replace normalizer"),
        (lambda folder: sentencepiece_model(folder, byte_fallback=False), "vocab has no <0xHH> byte tokens"),
        (
            lambda folder: sentencepiece_model(folder, user_defined_symbols=["heart pumps"]),
            "other ids for 'heart pumps'",
        ),
        (lambda folder: sentencepiece_model(folder, treat_whitespace_as_suffix=True), "other ids for"),
    ],
)
def test_a_tokenizer_that_it_does_not_read_exactly_encodes_by_itself(
    tmp_path: Path, make: Callable[[Path], Tokenizer], reason: str
) -> None:
    tokenizer = make(tmp_path)
    choice = choose_encoder(tokenizer, [SENTENCE])
    assert choice.converted is None
    assert re.search(reason, choice.reason)
    found = DocumentEncoder(tokenizer, choice.converted).encode([SENTENCE, ""], np.uint16)
    expected = [tokenizer.encode(text, bos=True, eos=True) for text in (SENTENCE, "")]
    assert [np.frombuffer(ids, np.uint16).tolist() for ids in found] == expected


def test_a_text_of_the_sample_with_other_ids_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = open_tokenizer(byte_level(tmp_path))
    load = module.load_gigatoken

    def wrong(converted: str) -> Callable[[str], object]:
        encode = load(converted)
        return lambda text: encode(text)[: 3 if text == SENTENCE else None]

    monkeypatch.setattr(module, "load_gigatoken", wrong)
    choice = choose_encoder(tokenizer, ["heart", SENTENCE, "liver"])
    assert choice.converted is None
    assert choice.reason == f"other ids for {SENTENCE[:60]!r}"
    assert choice.account() == {
        "library": choice.reference, "reference": choice.reference, "reason": choice.reason,
        "texts_compared": choice.probes + 2, "probes_compared": choice.probes,
    }  # fmt: skip
