"""Text that appears token by token is the text of all tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from megabiomed.tokenizer.files import open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer
from megabiomed.tokenizer.stream import StreamDecoder
from tests.support.byte_level import TEXT, byte_level


@pytest.fixture(scope="module", params=["json", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("t")
    if request.param == "json":
        return open_tokenizer(byte_level(folder))
    return train_tokenizer(iter([TEXT * 9]), Path(folder / "tokenizer.model"), 300)


@pytest.mark.parametrize(
    "text", ["the heart of the cell", "α-helix 中文 🧬🧬 e\u0301", "\ufffd odd \ufffd", "", " \n the"]
)
def test_no_half_characters_and_nothing_lost(tokenizer: Tokenizer, text: str) -> None:
    stream, ids = StreamDecoder(tokenizer), tokenizer.encode(text)
    shown = [stream.put([token]) for token in ids]
    assert all("\ufffd" not in part for part in shown) or "\ufffd" in text
    assert "".join([*shown, stream.end()]) == tokenizer.decode(ids)


def test_an_answer_that_stops_within_a_character_shows_that(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the 🧬")[:-1]
    stream = StreamDecoder(tokenizer)
    shown = "".join(stream.put([token]) for token in ids)
    assert shown == "the "
    assert shown + stream.end() == tokenizer.decode(ids)
