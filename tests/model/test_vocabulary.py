"""A folder with a larger vocabulary: new rows are the means of their old pieces, in every part that a rank may read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megabiomed.checkpoint.logical import Box
from megabiomed.config.models import ModelConfig
from megabiomed.ground.errors import CheckpointError, TokenizerError
from megabiomed.model.certificate import certify
from megabiomed.model.fresh import SeededInit
from megabiomed.model.hf_export import export_hf
from megabiomed.model.hf_folder import HuggingFaceSource
from megabiomed.model.registry import architecture_of
from megabiomed.model.start_from import check_start
from megabiomed.model.vocabulary import notes_on_tokenizer, open_folder, rows_of_new_pieces
from megabiomed.tokenizer.extend import extend_tokenizer
from megabiomed.tokenizer.files import open_tokenizer
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TEXT = "phosphofructokinase and phosphatase act in glycolysis; haemoglobin carries oxygen. "
SMALL = ModelConfig(
    vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, max_position_embeddings=64,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("t")
    old = train_tokenizer(iter([TEXT * 5]), folder / "tokenizer.model", 300)
    extend_tokenizer(old.path, [TEXT * 5], folder / "new.model", 60)
    return old.path, folder / "new.model"


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def grown(
    request: pytest.FixtureRequest, tokenizers: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> ModelConfig:
    folder = export_hf(SeededInit(SMALL, 1), SMALL, tmp_path_factory.mktemp("m") / "hf", request.param, tokenizers[0])
    size = open_tokenizer(tokenizers[1]).vocab_size
    return SMALL.model_copy(update={"vocab_size": size, "init_from": folder})


def test_a_new_row_is_the_mean_of_the_old_pieces_of_its_text(grown: ModelConfig, tokenizers: tuple[Path, Path]) -> None:
    from transformers import LlamaForCausalLM

    assert grown.init_from is not None
    model = LlamaForCausalLM.from_pretrained(grown.init_from, dtype="auto")
    old = open_tokenizer(tokenizers[0])
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizers[1]))
    words = {n: processor.id_to_piece(n) for n in range(300, grown.vocab_size)}
    assert any(piece[0] == "\u2581" for piece in words.values())
    source, _ = open_folder(grown, tokenizers[1])
    for name, weight in ((EMBEDDING, model.model.embed_tokens.weight), (HEAD, model.lm_head.weight)):
        found = source.read(Box.whole(name, (grown.vocab_size, 16)))
        assert torch.equal(found[:300], weight.float())
        for number, piece in words.items():
            if piece[0] == "\u2581":
                mean = weight[old.encode(piece[1:])].double().mean(0).to(weight.dtype).float()
                assert torch.equal(found[number], mean)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.tuples(st.integers(0, 319), st.integers(1, 320)), columns=st.tuples(st.integers(0, 15), st.integers(1, 16))
)
def test_any_box_is_that_part_of_the_whole(
    grown: ModelConfig, tokenizers: tuple[Path, Path], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    shape = (grown.vocab_size, 16)
    offset = (min(rows[0], shape[0] - 1), columns[0])
    size = (min(rows[1], shape[0] - offset[0]), min(columns[1], 16 - offset[1]))
    source, stored = open_folder(grown, tokenizers[1])
    part = source.read(Box(HEAD, shape, offset, size))
    where = tuple(slice(o, o + n) for o, n in zip(offset, size))
    assert torch.equal(part, source.read(Box.whole(HEAD, shape))[where])
    assert torch.equal(part, stored.raw(HEAD, where).float())


def test_a_certificate_covers_the_grown_model(grown: ModelConfig, tokenizers: tuple[Path, Path]) -> None:
    assert grown.init_from is not None
    source, stored = open_folder(grown, tokenizers[1])
    found = certify(grown.init_from, source, grown, "import", "grown", stored=stored)
    assert found.problems() == []


def test_an_exported_grown_model_is_one_that_transformers_loads(
    grown: ModelConfig, tokenizers: tuple[Path, Path], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, LlamaForCausalLM

    source, _ = open_folder(grown, tokenizers[1])
    export_hf(source, grown, tmp_path / "out", "fp32", tokenizers[1])
    model = LlamaForCausalLM.from_pretrained(tmp_path / "out")
    assert model.get_input_embeddings().weight.shape == model.lm_head.weight.shape == (grown.vocab_size, 16)
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("phosphatase glycolysis")["input_ids"]
    assert ids == open_tokenizer(tokenizers[1]).encode("phosphatase glycolysis", bos=True)
    assert max(ids) >= 300
    assert set(architecture_of(grown).shapes) == set(model.state_dict())


def test_of_a_tied_model_one_matrix_grows(tokenizers: tuple[Path, Path], tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    tied = SMALL.model_copy(update={"tie_word_embeddings": True})
    folder = export_hf(SeededInit(tied, 1), tied, tmp_path / "in", "fp32", tokenizers[0])
    size = open_tokenizer(tokenizers[1]).vocab_size
    larger = tied.model_copy(update={"vocab_size": size, "init_from": folder})
    source, stored = open_folder(larger, tokenizers[1])
    assert certify(folder, source, larger, "import", "grown", stored=stored).problems() == []
    model = LlamaForCausalLM.from_pretrained(export_hf(source, larger, tmp_path / "out", "fp32", tokenizers[1]))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, source.read(Box.whole(EMBEDDING, (size, 16))))


def test_new_pieces_in_the_padding_of_a_folder_get_rows_of_their_own(
    tokenizers: tuple[Path, Path], tmp_path: Path
) -> None:
    """A folder of 304 or more rows for 300 pieces: the first new pieces fall into rows that no text ever trained."""
    pieces = open_tokenizer(tokenizers[1]).vocab_size
    old = open_tokenizer(tokenizers[0])
    new = open_tokenizer(tokenizers[1]).parts_of_new_pieces(old)
    for rows in (304, pieces, pieces + 8):
        padded = SMALL.model_copy(update={"vocab_size": rows})
        folder = export_hf(SeededInit(padded, 1), padded, tmp_path / f"{rows}", "bf16", tokenizers[0])
        size = max(rows, pieces)
        grown = padded.model_copy(update={"vocab_size": size, "init_from": folder})
        source, stored = open_folder(grown, tokenizers[1])
        for name in (EMBEDDING, HEAD):
            there = HuggingFaceSource(folder).read(Box.whole(name, (rows, 16)))
            found = source.read(Box.whole(name, (size, 16)))
            for number, parts in enumerate(new, start=300):
                assert torch.equal(found[number], there[parts].double().mean(0).bfloat16().float())
            assert torch.equal(found[:300], there[:300])
            assert torch.equal(found[pieces:], there[pieces:])
            part = Box(name, (size, 16), (290, 3), (20, 9))
            assert torch.equal(source.read(part), found[290:310, 3:12])
        certify(folder, source, grown, "import", "grown", stored=stored).check()
        if rows < size:
            continue
        plain, _ = open_folder(grown, tokenizers[0])
        assert torch.equal(
            plain.read(Box.whole(HEAD, (rows, 16))), HuggingFaceSource(folder).read(Box.whole(HEAD, (rows, 16)))
        )
        check_start(folder, padded, grows=True, tokenizer=tokenizers[1])
        check_start(folder, padded, tokenizer=tokenizers[0])
        with pytest.raises(CheckpointError, match=r"no trained rows for all pieces .* got 300 pieces"):
            check_start(folder, padded, tokenizer=tokenizers[1])


def test_a_folder_whose_tokenizer_has_more_pieces_than_rows_is_refused(
    tokenizers: tuple[Path, Path], tmp_path: Path
) -> None:
    short = SMALL.model_copy(update={"vocab_size": 290})
    folder = export_hf(SeededInit(short, 1), short, tmp_path / "hf", "bf16")
    shutil.copyfile(tokenizers[0], folder / "tokenizer.model")
    assert notes_on_tokenizer(folder, 290)[0].startswith("the tokenizer has 300 pieces and the model 290 rows")
    with pytest.raises(TokenizerError, match="does not fit its weights: got 300 pieces and 290 rows"):
        open_folder(SMALL.model_copy(update={"init_from": folder}), tokenizers[0])


def test_added_tokens_that_are_not_read_are_named(tokenizers: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copyfile(tokenizers[0], tmp_path / "tokenizer.model")
    assert notes_on_tokenizer(tmp_path, 302) == []
    (tmp_path / "added_tokens.json").write_text('{"<mol>": 300}')
    decoder = {"1": {"content": "<s>"}, "301": {"content": "<prot>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    (note,) = notes_on_tokenizer(tmp_path, 302)
    assert note.startswith("2 tokens ('<mol>', '<prot>') that files beside tokenizer.model add are not read")


def test_what_is_no_extension_is_refused(grown: ModelConfig, tokenizers: tuple[Path, Path], tmp_path: Path) -> None:
    foreign = train_tokenizer(iter(["quite other words about the weather. " * 30]), tmp_path / "f.model", 290)
    with pytest.raises(TokenizerError, match="is no extension of"):
        open_folder(grown, foreign.path)
    with pytest.raises(TokenizerError, match=f"expected model.vocab_size = {grown.vocab_size}"):
        open_folder(grown.model_copy(update={"vocab_size": 301}), tokenizers[1])
    with pytest.raises(CheckpointError, match="another model"):
        open_folder(grown.model_copy(update={"hidden_size": 32}), tokenizers[1])
    with pytest.raises(TokenizerError, match=r"has no tokenizer.model"):
        rows_of_new_pieces(tmp_path, tokenizers[1])
