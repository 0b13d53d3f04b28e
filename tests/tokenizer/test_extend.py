"""An extended tokenizer keeps old ids, reaches every new piece, shortens the text it learned from and decodes exactly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from megabiomed.corpus.cli_tokenizer import tokenizer_app
from megabiomed.ground.errors import TokenizerError
from megabiomed.tokenizer.extend import count_words, cut, extend_tokenizer, learn_pieces, piece_scores
from megabiomed.tokenizer.fertility import fertility
from megabiomed.tokenizer.interface import Tokenizer
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer

GENERAL = "the cat sat on the mat and the dog ran over the road to see the sun go down by the sea in 1999. "
MEDICAL = "phosphofructokinase and phosphatase act in glycolysis; haemoglobin carries oxygen, phosphatase does not. "


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(iter([GENERAL * 30, MEDICAL]), tmp_path_factory.mktemp("t") / "tokenizer.model", 320)


@pytest.fixture(scope="module")
def extended(base: Tokenizer) -> tuple[Tokenizer, list[str]]:
    return extend_tokenizer(base.path, [MEDICAL * 5], base.path.with_name("new.model"), 40)


def processor(tokenizer: Tokenizer) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))


def test_old_pieces_keep_their_ids_and_new_ones_follow(base: Tokenizer, extended: tuple[Tokenizer, list[str]]) -> None:
    old, new = processor(base), processor(extended[0])
    assert [new.id_to_piece(n) for n in range(base.vocab_size)] == [old.id_to_piece(n) for n in range(base.vocab_size)]
    assert [new.id_to_piece(n) for n in range(base.vocab_size, extended[0].vocab_size)] == extended[1]
    assert len(extended[1]) > 20


def test_sentencepiece_reaches_every_new_word(base: Tokenizer, extended: tuple[Tokenizer, list[str]]) -> None:
    tokenizer, pieces = extended
    words = {piece[1:]: base.vocab_size + n for n, piece in enumerate(pieces) if piece[0] == "\u2581"}
    assert "phosphatase" in words
    assert {word: tokenizer.encode(word) for word in words} == {word: [number] for word, number in words.items()}


@settings(max_examples=100, deadline=None)
@given(text=st.text("acehmnopst .,\n\u03b11", max_size=40) | st.text(max_size=20))
def test_new_ids_stand_for_their_old_pieces_and_nothing_else_changes(
    base: Tokenizer, extended: tuple[Tokenizer, list[str]], text: str
) -> None:
    text = text.encode("utf-8", "ignore").decode()
    tokenizer = extended[0]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == base.decode(base.encode(text))
    assert len(ids) <= len(base.encode(text))


def test_only_letters_are_joined(extended: tuple[Tokenizer, list[str]]) -> None:
    assert all(piece.lstrip("\u2581").isalpha() for piece in extended[1])


def test_merges_are_learned_in_the_order_of_their_frequency() -> None:
    words = Counter({"\u2581ab": 5, "\u2581abc": 3, "xyx": 2, "once": 1})
    assert learn_pieces(words, {}, 10) == ["ab", "\u2581ab", "\u2581abc", "xy", "xyx"]
    assert learn_pieces(words, {}, 1) == ["ab"]
    assert count_words(["ab abc", "ab-abc, 5ab"]) == {"\u2581ab": 2, "\u2581abc": 1, "abc": 1, "ab": 1}


def test_the_cut_is_that_of_sentencepiece(base: Tokenizer) -> None:
    from sentencepiece import sentencepiece_model_pb2

    scores = piece_scores(sentencepiece_model_pb2.ModelProto.FromString(base.path.read_bytes()))
    for word in set(f"{GENERAL}{MEDICAL}".split()):
        assert cut(f"\u2581{word}", scores) == processor(base).encode(word, out_type=str) or not word.isalpha()


def test_fertility_falls_and_is_reported_side_by_side(
    base: Tokenizer, extended: tuple[Tokenizer, list[str]], tmp_path: Path
) -> None:
    before, after = fertility(base, [MEDICAL]), fertility(extended[0], [MEDICAL])
    assert after.tokens < 0.7 * before.tokens
    assert (before.words, before.characters) == (len(MEDICAL.split()), len(MEDICAL))
    assert before.exact
    assert after.exact
    assert after.whole > before.whole
    assert before.worst[0][1] > 1
    (tmp_path / "a.txt").write_text(MEDICAL)
    runner, models = CliRunner(), ["--model", str(base.path), "--model", str(extended[0].path)]
    shown = runner.invoke(tokenizer_app, ["report", str(tmp_path / "a.txt"), *models], catch_exceptions=False).output
    assert f"{before.tokens_per_word:.3f} tokens/word" in shown
    assert f"({after.tokens / before.tokens:.1%} of the first)" in shown


def test_the_command_extends_and_refuses_texts_without_pairs(base: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(MEDICAL * 3)
    arguments = [
        "extend",
        str(base.path),
        str(tmp_path / "a.txt"),
        "--output",
        str(tmp_path / "n.model"),
        "--pieces",
        "5",
    ]
    shown = CliRunner().invoke(tokenizer_app, arguments, catch_exceptions=False).output
    assert f"{base.vocab_size + 5} pieces, 5 of them new" in shown
    with pytest.raises(TokenizerError, match="no pieces to join"):
        extend_tokenizer(base.path, ["1 2 3"], tmp_path / "x.model", 5)
    assert not (tmp_path / "x.model").exists()
