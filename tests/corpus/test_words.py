"""Encoding word by word gives SentencePiece's ids for every text, and leaves models alone whose words depend on each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from megabiomed.corpus import words
from megabiomed.corpus.tokenizer import Tokenizer, train_tokenizer
from megabiomed.corpus.words import WordEncoder, why_not

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "tokenizer_32k" / "tokenizer.model"
MORE = "Phosphofructokinase limits glycolysis; haemoglobin binds oxygen; the liver stores glycogen; neurons release dopamine; "
SENTENCE = "The heart pumps blood; the kidney filters it.\n\nInsulin lowers glucose, 5.5 mmol. "
TEXTS = st.text(st.sampled_from("aehinrst ek  .\n\n\t5(α-▁\u00a0\U0001f9ec<s>"), max_size=60) | st.text(max_size=30)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    if REAL.is_file():
        return Tokenizer(REAL)
    return train_tokenizer(iter([SENTENCE * 20]), tmp_path_factory.mktemp("t") / "t.model", 330)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(TEXTS, max_size=5))
def test_documents_are_those_of_sentencepiece(tokenizer: Tokenizer, texts: list[str]) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    found = [np.frombuffer(ids, np.uint16).tolist() for ids in tokenizer.encode_documents(texts, np.uint16)]
    assert found == [tokenizer.encode(text, bos=True, eos=True) for text in texts]


def test_ordinary_text_is_joined_from_remembered_words(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    assert why_not(processor) == ""
    encoder = WordEncoder(processor, np.int32)
    text = SENTENCE * 3
    asked: list[str] = []
    monkeypatch.setattr(encoder._known, "_encode", lambda word: asked.append(word) or processor.encode(word))
    for _ in range(2):
        assert np.frombuffer(encoder.encode(text), np.int32).tolist() == tokenizer.encode(text)
    assert "heart" in asked
    assert len(asked) == len(set(asked)) < len(text.split())
    monkeypatch.setattr(words, "MAX_WORDS", 5)  # forgets and learns anew
    assert np.frombuffer(encoder.encode(f"{text}more"), np.int32).tolist() == tokenizer.encode(f"{text}more")


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
    tokenizer = Tokenizer(tmp_path / "m.model")
    assert reason in why_not(sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path)))
    ids = np.frombuffer(tokenizer.encode_documents([SENTENCE], np.uint16)[0], np.uint16)
    assert ids.tolist() == tokenizer.encode(SENTENCE, bos=True, eos=True)
