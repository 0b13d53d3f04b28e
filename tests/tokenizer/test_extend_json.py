"""A byte-level BPE grows as a SentencePiece model does: old ids stay, text is cut as before and then joined further."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from megabiomed.corpus.cli_tokenizer import tokenizer_app
from megabiomed.ground.errors import TokenizerError
from megabiomed.tokenizer.extend_json import extend_json
from megabiomed.tokenizer.files import open_tokenizer
from megabiomed.tokenizer.hugging_face import HuggingFaceTokenizer
from tests.support.byte_level import TEXT, TURN_END, byte_level

MEDICAL = "Phosphofructokinase and phosphatase act in glycolysis; phosphatase naïvely does not. "


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(byte_level(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def extended(base: HuggingFaceTokenizer) -> tuple[HuggingFaceTokenizer, list[str]]:
    return extend_json(base, [MEDICAL * 5], base.path.parent / "bio", 60)


def test_new_ids_follow_and_stand_for_the_old_ids_of_their_text(
    base: HuggingFaceTokenizer, extended: tuple[HuggingFaceTokenizer, list[str]]
) -> None:
    tokenizer, pieces = extended
    assert tokenizer.vocab_size == base.vocab_size + len(pieces)
    assert " phosphatase" in pieces
    parts = tokenizer.parts_of_new_pieces(base)
    assert len(parts) == len(pieces)
    for text in (MEDICAL, TEXT, "phosphatasephosphatase 中文", "Don't"):
        ids = tokenizer.encode(text)
        old = [
            part
            for number in ids
            for part in ([number] if number < base.vocab_size else parts[number - base.vocab_size])
        ]
        assert old == base.encode(text)
        assert tokenizer.decode(ids) == text
    assert len(tokenizer.encode(MEDICAL)) < len(base.encode(MEDICAL)) / 2


def test_transformers_gives_the_same_ids_and_control_tokens_keep_theirs(
    base: HuggingFaceTokenizer, extended: tuple[HuggingFaceTokenizer, list[str]]
) -> None:
    tokenizer, pieces = extended
    theirs = AutoTokenizer.from_pretrained(tokenizer.path.parent)
    assert theirs(MEDICAL)["input_ids"] == tokenizer.encode(MEDICAL)
    assert theirs.convert_tokens_to_ids(TURN_END) == base.eos_id == tokenizer.eos_id
    whole = {piece: base.vocab_size + number for number, piece in enumerate(pieces) if "\ufffd" not in piece}
    assert {piece: tokenizer.encode(piece) for piece in whole} == {piece: [number] for piece, number in whole.items()}
    assert tokenizer.encode(f"a{TURN_END}") == base.encode(f"a{TURN_END}")


def test_what_is_no_extension_is_refused(base: HuggingFaceTokenizer, tmp_path: Path) -> None:
    other = HuggingFaceTokenizer(byte_level(tmp_path, text=MEDICAL))
    with pytest.raises(TokenizerError, match="is no extension of"):
        other.parts_of_new_pieces(base)
    assert open_tokenizer(base.path).parts_of_new_pieces(base) == []


def test_the_command_writes_a_folder_and_refuses_other_names(base: HuggingFaceTokenizer, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(MEDICAL * 5)
    arguments = ["extend", str(base.path.parent), str(tmp_path / "text.txt"), "--pieces", "20", "--output"]
    done = CliRunner().invoke(tokenizer_app, [*arguments, str(tmp_path / "bio")])
    assert f"{base.vocab_size + 20} pieces, 20 of them new" in done.output, done.output
    checked = CliRunner().invoke(tokenizer_app, ["check", str(tmp_path / "bio"), str(tmp_path / "text.txt")])
    assert "round trip exact" in checked.output
    models = ["--model", str(base.path), "--model", str(tmp_path / "bio")]
    report = CliRunner().invoke(tokenizer_app, ["report", str(tmp_path / "text.txt"), *models])
    assert report.output.count("words whole") == 2
    for output, message in (("bio.model", "expected a folder"), (str(base.path), "is the tokenizer to extend")):
        refused = CliRunner().invoke(tokenizer_app, [*arguments, output])
        assert isinstance(refused.exception, TokenizerError)
        assert message in str(refused.exception)
