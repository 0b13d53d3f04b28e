"""A tokenizer.json gives the ids of transformers, except that no text of a user becomes a control token."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from megabiomed.ground.errors import TokenizerError
from megabiomed.ground.files import read_json
from megabiomed.tokenizer.check import check_tokenizer
from megabiomed.tokenizer.files import copy_into, find_in, fingerprint, open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer
from tests.support.byte_level import END, SPECIAL, TEXT, THINK, THOUGHT, TURN_END, byte_level

PLAIN = (TEXT, "", "  two\n\n\tspaces ", "naïve 中文 🧬", "<|im_end", "a < b | c > d")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_level(tmp_path_factory.mktemp("t")).parent


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return open_tokenizer(folder)


def test_text_has_the_ids_that_transformers_gives_it_and_comes_back(folder: Path, tokenizer: Tokenizer) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in PLAIN:
        ids = tokenizer.encode(text)
        assert ids == theirs(text)["input_ids"]
        assert tokenizer.decode(ids) == text
    assert (tokenizer.eos_id, tokenizer.bos_id) == (theirs.eos_token_id, None)
    assert tokenizer.stop_ids == theirs.convert_tokens_to_ids([TURN_END, END])


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("said", [None, False, True])
def test_texts_begin_with_bos_where_those_of_transformers_do(tmp_path: Path, bos: bool, said: bool | None) -> None:
    file = byte_level(tmp_path, bos=bos)
    config = read_json(tmp_path / "tokenizer_config.json") | {"bos_token": END}
    config |= {} if said is None else {"add_bos_token": said}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ids = open_tokenizer(file).encode("the heart", bos=True)
    assert ids == AutoTokenizer.from_pretrained(tmp_path)("the heart")["input_ids"]
    assert open_tokenizer(file).start == ids[:bos]


@settings(max_examples=150, deadline=2000)
@given(
    parts=st.lists(
        st.sampled_from([token[:end] for token in (*SPECIAL, THINK, THOUGHT) for end in range(1, len(token) + 1)])
        | st.text("<|>im_end /\n", max_size=4)
    )
)
def test_no_text_becomes_a_control_token(tokenizer: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert {token.id for token in tokenizer.control_tokens.values()}.isdisjoint(ids)
    # The model itself may think, and can no more than a user end its turn by words.
    special = {token.id for token in tokenizer.control_tokens.values() if token.special}
    assert special.isdisjoint(tokenizer.encode_answer(text))


def test_control_tokens_among_the_pieces_are_no_pieces_of_texts(tmp_path: Path) -> None:
    """Files of SmolLM list them in the vocabulary too, and Llama-3's takes every word whole that the vocabulary has."""
    file = byte_level(tmp_path)
    held = read_json(file)
    added = {token["content"]: token["id"] for token in held["added_tokens"]}
    held["model"] |= {"ignore_merges": True, "vocab": held["model"]["vocab"] | added}
    held["added_tokens"].append({**held["added_tokens"][0], "id": max(added.values()) + 1, "content": "endofturn"})
    held["model"]["vocab"]["endofturn"] = max(added.values()) + 1
    file.write_text(json.dumps(held))
    tokenizer = open_tokenizer(file)
    assert tokenizer.vocab_size - 1 == tokenizer.control_tokens["endofturn"].id
    assert tokenizer.vocab_size - 1 not in tokenizer.encode("endofturn")
    assert tokenizer.decode(tokenizer.encode("endofturn")) == "endofturn"


def test_a_batch_of_documents_is_the_documents(tokenizer: Tokenizer) -> None:
    found = [np.frombuffer(ids, np.int32).tolist() for ids in tokenizer.encode_documents(PLAIN, np.int32)]
    assert found == [tokenizer.encode(text, bos=True, eos=True) for text in PLAIN]


def test_special_tokens_and_rows_beyond_the_pieces_vanish(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.eos_id, *tokenizer.encode("heart"), tokenizer.vocab_size, tokenizer.vocab_size + 270]
    assert tokenizer.decode(ids) == "heart"
    assert tokenizer.until_stop([*ids[1:2], tokenizer.stop_ids[1], 3]) == ids[1:2]


def test_the_fingerprint_is_of_what_decides_ids(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/tokenizer.json").read_bytes() != (folder / "tokenizer.json").read_bytes()
    held = read_json(tmp_path / "again/tokenizer.json")
    held["model"]["merges"] = [" ".join(pair) for pair in held["model"]["merges"]]  # as older versions write them
    (tmp_path / "again/tokenizer.json").write_text(json.dumps(held))
    assert fingerprint(tmp_path / "again/tokenizer.json") == tokenizer.sha256
    # Another end of texts makes other documents.
    copy = copy_into(tmp_path, folder)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
    assert fingerprint(copy) != tokenizer.sha256


def test_a_model_with_fewer_rows_than_ids_is_refused(folder: Path, tokenizer: Tokenizer) -> None:
    class Store:
        path = folder
        tokenizer_path = folder / "tokenizer.json"
        tokenizer_sha256 = tokenizer.sha256

    assert check_tokenizer([Store], tokenizer.vocab_size + 271).path == folder / "tokenizer.json"
    with pytest.raises(TokenizerError, match=f"got {tokenizer.vocab_size} pieces"):
        check_tokenizer([Store], tokenizer.vocab_size - 1)


def test_all_files_travel_and_an_exported_folder_is_read_by_transformers(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    (tmp_path / "source/special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": TURN_END}}))
    shutil.copy(folder / "tokenizer.json", tmp_path / "source")
    (tmp_path / "out").mkdir()
    tokenizer = open_tokenizer(tmp_path / "source")
    tokenizer.write_hugging_face(tmp_path / "out", 400, 64)
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"}
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs(TEXT)["input_ids"] == tokenizer.encode(TEXT)
    assert (theirs.eos_token_id, theirs.model_max_length) == (tokenizer.eos_id, 64)
    size = tokenizer.vocab_size
    with pytest.raises(TokenizerError, match=f"does not fit the model: got {size} pieces, expected at most {size - 1}"):
        tokenizer.write_hugging_face(tmp_path / "out", size - 1, 64)


def test_of_two_files_the_one_that_has_all_tokens_is_read(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")  # tiktoken's, which Llama-3 ships
    assert find_in(tmp_path) == tmp_path / "tokenizer.json"
    train_tokenizer(iter([TEXT * 9]), tmp_path / "tokenizer.model", 280)
    assert find_in(tmp_path) == tmp_path / "tokenizer.json"  # its added tokens are no pieces of the model
    (tmp_path / "config.json").write_text('{"vocab_size": 280}')  # and the model has no rows for them
    assert find_in(tmp_path) == tmp_path / "tokenizer.model"
    (tmp_path / "config.json").write_text('{"vocab_size": 100000}')
    assert find_in(tmp_path) == tmp_path / "tokenizer.json"
    held = read_json(tmp_path / "tokenizer.json") | {"added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(held))
    assert find_in(tmp_path) == tmp_path / "tokenizer.model"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}}}, "is no BPE: got WordPiece"),
        ({"model": None}, "is no tokenizer.json"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}, "cannot be read"),
        ({}, r"nothing says which token of .* ends a text"),
    ],
)
def test_what_is_no_usable_tokenizer_is_named(folder: Path, tmp_path: Path, change: object, message: str) -> None:
    assert isinstance(change, dict)
    (tmp_path / "tokenizer.json").write_text(json.dumps({**read_json(folder / "tokenizer.json"), **change}))
    with pytest.raises(TokenizerError, match=message):
        open_tokenizer(tmp_path / "tokenizer.json")
