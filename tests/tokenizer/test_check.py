"""All data of a run and its model belong to one tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from megabiomed.ground.errors import TokenizerError
from megabiomed.tokenizer.check import check_tokenizer
from megabiomed.tokenizer.files import open_tokenizer
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer


@dataclass
class Store:
    path: Path
    tokenizer_path: Path
    tokenizer_sha256: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    """A store of each of two tokenizers."""
    folder = tmp_path_factory.mktemp("tokenizers")
    found = []
    for name, text in (("a", "the heart of the cell"), ("b", "a protein binds a molecule")):
        tokenizer = train_tokenizer(iter([text * 50]), folder / f"{name}.model", 280)
        found.append(Store(folder / name, tokenizer.path, tokenizer.sha256))
    return found[0], found[1]


def test_the_tokenizer_of_the_first_store_is_that_of_the_run(made: tuple[Store, Store]) -> None:
    first, _ = made
    assert check_tokenizer([first, first], open_tokenizer(first.tokenizer_path).vocab_size).path == first.tokenizer_path


def test_data_of_another_tokenizer_are_named_with_both_hashes_and_what_to_do(made: tuple[Store, Store]) -> None:
    first, second = made
    wanted = (
        f"{second.path} was made with another tokenizer than {first.tokenizer_path}: "
        f"got {second.tokenizer_sha256[:12]}, expected {first.tokenizer_sha256[:12]}; build it again with"
    )
    with pytest.raises(TokenizerError, match=wanted):
        check_tokenizer([first, second], 280)
    with pytest.raises(TokenizerError, match=f"{first.path} was made with another"):
        check_tokenizer([first], 280, given=second.tokenizer_path)


def test_a_model_with_fewer_rows_than_pieces_is_refused(made: tuple[Store, Store]) -> None:
    pieces = open_tokenizer(made[0].tokenizer_path).vocab_size
    wanted = (
        rf"does not fit the model: got {pieces} pieces in .*, expected at most model\.vocab_size = {pieces - 1}; build"
    )
    with pytest.raises(TokenizerError, match=wanted):
        check_tokenizer([made[0]], pieces - 1)


def test_rows_beyond_the_pieces_are_normal_and_say_nothing(made: tuple[Store, Store]) -> None:
    tokenizer = open_tokenizer(made[0].tokenizer_path)
    assert check_tokenizer([made[0]], tokenizer.vocab_size + 56).path == tokenizer.path
    ids = tokenizer.encode("the heart")
    assert tokenizer.decode([*ids, tokenizer.vocab_size, tokenizer.vocab_size + 55]) == "the heart"
