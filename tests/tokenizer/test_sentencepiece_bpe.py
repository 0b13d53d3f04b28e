"""Tokenizers in Llama-2's layout: pieces where Llama has them, nothing lost in a round trip, errors that say what to do."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import sentencepiece
from typer.testing import CliRunner

from megabiomed.corpus.cli_tokenizer import tokenizer_app
from megabiomed.ground.errors import TokenizerError
from megabiomed.tokenizer.files import open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer

SENTENCES = ["The heart pumps 5 litres of blood a minute.", "The kidney filters blood.", "Insulin lowers glucose 2024."]
ALPHABET = "".join(chr(0x4E00 + n) for n in range(1000))
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "tokenizer_32k" / "tokenizer.model"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(iter(SENTENCES * 10), tmp_path_factory.mktemp("t") / "tokenizer.model", 330)


def test_special_and_byte_pieces_have_the_ids_of_llama(tokenizer: Tokenizer) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    assert [processor.id_to_piece(n) for n in range(3)] == ["<unk>", "<s>", "</s>"]
    assert [processor.id_to_piece(3 + byte) for byte in range(256)] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert processor.pad_id() == -1
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (330, 1, 2)
    assert tokenizer.sha256 == hashlib.sha256(tokenizer.path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "text",
    ["blood", "two  spaces, a\ttab\n\nand lines", "\u00b5g \u2192 \u03b1-helix \U0001f9ec", "\ufb01brosis", " lead"],
)
def test_nothing_is_lost_or_normalised_in_a_round_trip(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert 0 not in ids
    assert tokenizer.encode(text, bos=True, eos=True) == [1, *ids, 2]


def test_numbers_are_split_into_digits(tokenizer: Tokenizer) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    pieces = [processor.id_to_piece(n) for n in range(259, tokenizer.vocab_size)]
    assert not [piece for piece in pieces if re.search(r"[0-9].", piece)]


def test_training_again_gives_the_same_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    again = train_tokenizer(iter(SENTENCES * 10), tmp_path / "tokenizer.model", 330)
    assert again.sha256 == tokenizer.sha256


def test_a_line_of_any_length_is_learnt_from(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(iter(["glucose phosphate " * 3000]), tmp_path / "t.model", 285)
    assert len(tokenizer.encode("glucose phosphate")) == 2


def test_the_largest_vocabulary_that_is_named_is_one_that_works(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"too small for this vocabulary.*at most (\d+)") as caught:
        train_tokenizer(iter(SENTENCES), tmp_path / "t.model", 5000)
    largest = int(re.findall(r"at most (\d+)", str(caught.value))[0])
    assert train_tokenizer(iter(SENTENCES), tmp_path / "t.model", largest).vocab_size == largest


def test_the_smallest_vocabulary_that_is_named_is_one_that_works(tmp_path: Path) -> None:
    assert train_tokenizer(iter([ALPHABET]), tmp_path / "t.model", 1260).vocab_size == 1260


@pytest.mark.parametrize(
    ("texts", "vocab_size", "problem"),
    [
        ([], 500, "there is no text"),
        ([" \n "], 500, "there is no text"),
        ([ALPHABET], 500, r"more different characters.*at least 1260"),  # 259, the alphabet and the space
        (SENTENCES, 259, "too small for byte fallback"),
    ],
)
def test_untrainable_requests_are_explained_and_leave_no_file(
    tmp_path: Path, texts: list[str], vocab_size: int, problem: str
) -> None:
    with pytest.raises(TokenizerError, match=problem):
        train_tokenizer(iter(texts), tmp_path / "t.model", vocab_size)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="is not there"):
        open_tokenizer(tmp_path / "none.model")
    (tmp_path / "tokenizer.model").write_text('{"version": "1.0"}')
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        open_tokenizer(tmp_path / "tokenizer.model")


def test_data_of_another_tokenizer_are_refused_with_both_hashes(tokenizer: Tokenizer) -> None:
    tokenizer.check_same("store", tokenizer.sha256, "nothing")
    with pytest.raises(
        TokenizerError, match=rf"store was made with another.*{'0' * 12}.*{tokenizer.sha256[:12]}.*build"
    ):
        tokenizer.check_same("store", "0" * 64, "build it again")


def test_the_commands_train_and_check(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES * 10))
    model, text = str(tmp_path / "t.model"), str(tmp_path / "text.txt")
    runner = CliRunner()
    trained = runner.invoke(
        tokenizer_app, ["train", text, "--output", model, "--vocab-size", "330"], catch_exceptions=False
    )
    assert "330 pieces" in trained.output
    checked = runner.invoke(tokenizer_app, ["check", model, text], catch_exceptions=False).output
    tokens, size = len(open_tokenizer(model).encode(Path(text).read_text())), len(Path(text).read_bytes())
    assert f"{tokens:,} tokens" in checked
    assert f"{size / tokens:.3f} bytes/token" in checked
    assert "round trip exact" in checked


@pytest.mark.skipif(not REAL.is_file(), reason="../shared/data is absent")
def test_a_real_tokenizer_of_32_000_pieces_is_read() -> None:
    tokenizer = open_tokenizer(REAL)
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (32000, 1, 2)
    assert tokenizer.decode(tokenizer.encode("phosphofructokinase \u03b2")) == "phosphofructokinase \u03b2"
