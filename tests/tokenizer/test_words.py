"""Encoding word by word gives SentencePiece's ids for every text, and leaves models alone whose words depend on each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from megabiomed.tokenizer import words
from megabiomed.tokenizer.files import open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer
from megabiomed.tokenizer.words import WordEncoder, why_not

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "tokenizer_32k" / "tokenizer.model"
MORE = "Phosphofructokinase limits glycolysis; haemoglobin binds oxygen; the liver stores glycogen; neurons release dopamine; "
SENTENCE = "The heart pumps blood; the kidney filters it.\n\nInsulin lowers glucose, 5.5 mmol. "
TEXTS = st.text(st.sampled_from("aehinrst ek  .\n\n\t5(α-▁\u00a0\U0001f9ec<s>"), max_size=60) | st.text(max_size=30)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    if REAL.is_file():
        return open_tokenizer(REAL)
    return train_tokenizer(iter([SENTENCE * 20]), tmp_path_factory.mktemp("t") / "t.model", 330)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(TEXTS, max_size=5))
def test_documents_are_those_of_sentencepiece(tokenizer: Tokenizer, texts: list[str]) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    found = [np.frombuffer(ids, np.uint16).tolist() for ids in tokenizer.encode_documents(texts, np.uint16)]
    assert found == [tokenizer.encode(text, bos=True, eos=True) for text in texts]


def processor_of(tokenizer: Tokenizer) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))


def listening(encoder: WordEncoder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that SentencePiece is asked from now on."""
    asked: list[str] = []
    encode = encoder._encode
    monkeypatch.setattr(encoder, "_encode", lambda text: asked.append(text) or encode(text))
    return asked


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(TEXTS, max_size=8), chunk=st.integers(1, 5), limit=st.integers(1, 9))
def test_neither_what_is_encoded_together_nor_what_is_forgotten_changes_an_id(
    tokenizer: Tokenizer, texts: list[str], chunk: int, limit: int
) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    encoder = WordEncoder(processor_of(tokenizer), np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "CHUNK", chunk)
        patch.setattr(words, "MAX_WORDS", limit)
        for _ in range(2):
            found = [np.frombuffer(ids, np.int32).tolist() for ids in encoder.encode(texts)]
            assert found == [tokenizer.encode(text) for text in texts]


def test_ordinary_text_is_joined_from_remembered_words(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = processor_of(tokenizer)
    assert why_not(processor) == ""
    encoder = WordEncoder(processor, np.int32)
    asked = listening(encoder, monkeypatch)
    for _ in range(2):
        (found,) = encoder.encode([SENTENCE * 3])
        assert np.frombuffer(found, np.int32).tolist() == tokenizer.encode(SENTENCE * 3)
    assert len(asked) == 1  # all new words at once, and none again
    assert sorted(asked[0].split(" ")) == sorted({*SENTENCE.replace("\n", " \n").split(" ")} - {""})


def test_words_whose_ids_cannot_be_told_apart_are_asked_for_one_by_one(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = WordEncoder(processor_of(tokenizer), np.uint16)
    encoder._begins_word[:] = False  # as if no piece began with a space
    asked = listening(encoder, monkeypatch)
    (found,) = encoder.encode([SENTENCE])
    assert np.frombuffer(found, np.uint16).tolist() == tokenizer.encode(SENTENCE)
    assert "heart" in asked
    assert "\nInsulin" in asked


def test_an_encoder_goes_on_after_a_text_that_cannot_be_encoded(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = WordEncoder(processor_of(tokenizer), np.int32)
    with monkeypatch.context() as patch:
        patch.setattr(encoder, "_encode", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            encoder.encode([SENTENCE])
    assert np.frombuffer(encoder.encode([SENTENCE])[0], np.int32).tolist() == tokenizer.encode(SENTENCE)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"split_by_whitespace": False}, "goes on beyond a space"),
        ({"model_type": "unigram", "hard_vocab_limit": False}, "no BPE"),
        ({"normalization_rule_name": "nmt_nfkc"}, "normalises"),
        ({"add_dummy_prefix": False}, "no space before the first word"),
        ({"user_defined_symbols": ["heart pumps"]}, "user-defined"),
    ],
)
def test_a_model_whose_words_depend_on_each_other_is_asked_for_the_whole_text(
    tmp_path: Path, options: dict[str, object], reason: str
) -> None:
    settled = {
        "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False, "vocab_size": 300, "minloglevel": 2, **options,
    }  # fmt: skip
    lines = f"{MORE}{SENTENCE}".replace("\n", " ").split(";") * 20
    with (tmp_path / "m.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=file, **settled)
    tokenizer = open_tokenizer(tmp_path / "m.model")
    assert reason in why_not(processor_of(tokenizer))
    ids = np.frombuffer(tokenizer.encode_documents([SENTENCE], np.uint16)[0], np.uint16)
    assert ids.tolist() == tokenizer.encode(SENTENCE, bos=True, eos=True)
