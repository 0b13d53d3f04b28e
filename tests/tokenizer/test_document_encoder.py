"""GigaToken gives the ids of the tokenizer for every text, on the thread that asks; texts that it refuses get them too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from megabiomed.tokenizer import document_encoder
from megabiomed.tokenizer import interface as megabiomed
from megabiomed.tokenizer.document_encoder import DocumentEncoder
from megabiomed.tokenizer.files import open_tokenizer
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer
from tests.support.byte_level import SPECIAL, THINK, byte_level

SENTENCE = "The heart pumps blood; the kidney filters it.\n\nInsulin lowers glucose, 5.5 mmol/l.    naïve α-helix 中文 "
TRAPS = [
    "<s>",
    "</s>",
    "<unk>",
    "<0x41>",
    *SPECIAL,
    THINK,
    "\u2581",
    "\x00",
    "\ufeff",
    "\u200b",
    "e\u0301",
    "ﬁ",
    "\u3000",
]
CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXTS = (
    st.lists(st.sampled_from([*TRAPS, *SENTENCE.split(" "), " ", "  ", "\n", "\t", "\r\n"]), max_size=25).map("".join)
    | st.text(CHARACTERS, max_size=30)
    | st.builds(lambda text, times: text * times, st.text(CHARACTERS, max_size=3), st.integers(1, 400))
)
_LLAMA = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def splitting(file: Path, normalizer: normalizers.Normalizer | None) -> Path:
    """Let a byte-level tokenizer cut texts as Llama-3's and Qwen's do."""
    held = Tokenizer.from_file(str(file))
    split = pre_tokenizers.Split(Regex(_LLAMA), "isolated")
    held.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    if normalizer is not None:
        held.normalizer = normalizer
    held.save(str(file))
    return file


@pytest.fixture(scope="module", params=["SentencePiece", "GPT-2", "Llama-3", "Qwen"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> megabiomed.Tokenizer:
    folder = tmp_path_factory.mktemp("t")
    if request.param == "SentencePiece":
        return train_tokenizer(iter([SENTENCE * 20]), folder / "t.model", 340)
    file = byte_level(folder, vocab_size=340, text=SENTENCE)
    if request.param != "GPT-2":
        splitting(file, normalizers.NFC() if request.param == "Qwen" else None)
    return open_tokenizer(file)


@pytest.fixture(scope="module")
def encoder(tokenizer: megabiomed.Tokenizer) -> DocumentEncoder:
    return DocumentEncoder(tokenizer, tokenizer.text_json())


@settings(max_examples=250, deadline=None)
@given(texts=st.lists(TEXTS, max_size=4))
def test_documents_are_those_of_the_tokenizer(
    tokenizer: megabiomed.Tokenizer, encoder: DocumentEncoder, texts: list[str]
) -> None:
    expected = [tokenizer.encode(text, bos=True, eos=True) for text in texts]
    for dtype in (np.uint16, np.int32):
        assert [np.frombuffer(ids, dtype).tolist() for ids in encoder.encode(texts, dtype)] == expected
        assert [np.frombuffer(ids, dtype).tolist() for ids in tokenizer.encode_documents(texts, dtype)] == expected
    assert encoder.taken_refusals() == {}


@pytest.mark.parametrize("piece", ["a", " ", "\n", "é", "中", "<s>", "<|im_end|>", "ab c"])
def test_long_texts_that_repeat_one_thing_are_no_exception(
    tokenizer: megabiomed.Tokenizer, encoder: DocumentEncoder, piece: str
) -> None:
    text = piece * (30_000 // len(piece))
    (found,) = encoder.encode([text], np.uint16)
    assert np.frombuffer(found, np.uint16).tolist() == tokenizer.encode(text, bos=True, eos=True)


def test_loading_the_library_anew_changes_no_id(
    tokenizer: megabiomed.Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_encoder, "MAX_CHARACTERS", len(SENTENCE))
    loads = counted_loads(monkeypatch)
    texts = [SENTENCE, SENTENCE, "", SENTENCE * 2, "heart"]
    encoder = DocumentEncoder(tokenizer, tokenizer.text_json())
    assert encoder.encode(texts, np.int32) == tokenizer.encode_documents(texts, np.int32)
    assert len(loads) == 4  # at first, and before the second, the fourth and the fifth text


def counted_loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    loads: list[str] = []
    load = document_encoder.load_gigatoken
    monkeypatch.setattr(
        document_encoder, "load_gigatoken", lambda converted: loads.append(converted) or load(converted)
    )
    return loads


class PanicException(BaseException):
    """Named as that of the bridge between Rust and Python."""


@pytest.mark.parametrize("error", [RuntimeError("no bytes\nin line 5"), PanicException("no bytes")])
def test_what_the_library_refuses_the_tokenizer_encodes_and_it_is_counted(
    tokenizer: megabiomed.Tokenizer, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    load = document_encoder.load_gigatoken

    def refusing(converted: str) -> object:
        encode = load(converted)

        def encoded(text: str) -> object:
            if "kidney" in text:
                raise error
            return encode(text)

        return encoded

    monkeypatch.setattr(document_encoder, "load_gigatoken", refusing)
    encoder = DocumentEncoder(tokenizer, tokenizer.text_json())
    texts = ["heart", SENTENCE, "blood", SENTENCE]
    assert encoder.encode(texts, np.int32) == tokenizer.encode_documents(texts, np.int32)
    assert encoder.taken_refusals() == {"no bytes": 2}
    assert encoder.taken_refusals() == {}


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_an_interrupt_or_full_memory_is_no_refusal(
    tokenizer: megabiomed.Tokenizer, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    encoder = DocumentEncoder(tokenizer, tokenizer.text_json())

    def fail(_text: str) -> object:
        raise error

    monkeypatch.setattr(encoder, "_encode", fail)
    with pytest.raises(error):
        encoder.encode([SENTENCE], np.int32)


_FORKING = """
import json, os, sys
import numpy as np
from megabiomed.tokenizer.document_encoder import DocumentEncoder
from megabiomed.tokenizer.files import open_tokenizer

threads = lambda: len(os.listdir("/proc/self/task"))
tokenizer = open_tokenizer(sys.argv[1])
texts, before = ["the heart of the cell"] * 300, threads()
encoder = DocumentEncoder(tokenizer, tokenizer.text_json())
found, expected = encoder.encode(texts, np.int32), tokenizer.encode_documents(texts, np.int32)
started = threads() - before
child = os.fork()
if child == 0:
    os._exit(0 if encoder.encode(texts, np.int32) == tokenizer.encode_documents(texts, np.int32) == found else 1)
print(json.dumps([started, found == expected, os.waitpid(child, 0)[1]]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_no_library_starts_a_thread_so_a_worker_takes_one_core_and_can_be_forked(tmp_path: Path) -> None:
    file = byte_level(tmp_path)
    done = subprocess.run([sys.executable, "-c", _FORKING, file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == [0, True, 0]
