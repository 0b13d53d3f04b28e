"""A SentencePiece BPE model as the tokenizer files of a Hugging Face folder, with the same ids for the same text.

transformers 5 rebuilds a fast tokenizer from tokenizer.model with merges in the order of the ids, which cuts runs of
spaces differently from SentencePiece. Therefore tokenizer.json is made here, with merges in the order of the scores.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE

from megabiomed.ground.errors import TokenizerError
from megabiomed.ground.files import write_json
from megabiomed.tokenizer.files import SENTENCEPIECE

_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5
_BPE = 2
_PROBES = (
    "",
    "Hello world",
    " two  spaces   and more    ",
    "line\nbreak\t\ttab",
    "BRCA1 binds α-helix at 3.14 µM (p < 0.05)",
    "CC(=O)Oc1ccccc1C(=O)O",
    "MKTAYIAKQRQISFVKSHFSRQ",
    "naïve 中文 🧬 \u200bzero width",
)


def _load(model: Path) -> Any:
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(model))
    except (OSError, RuntimeError) as error:
        raise TokenizerError(f"{model} is no SentencePiece model", got=f"{error}") from None


def write_tokenizer(model: Path, folder: Path, vocab_size: int, context: int) -> None:
    """Write tokenizer.model, tokenizer.json and tokenizer_config.json.

    Raises:
        TokenizerError: more pieces than the model has rows; no BPE; or the conversion gives other ids
            than SentencePiece on any of a set of difficult texts.
    """
    processor = _load(model)
    if processor.get_piece_size() > vocab_size:
        raise TokenizerError(
            f"{model} does not fit the model",
            got=f"{processor.get_piece_size()} pieces", expected=f"at most {vocab_size}, the rows of the model",
        )  # fmt: skip
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.read_bytes())  # type: ignore[attr-defined]
    tokenizer = _convert(proto, model)
    for text in _PROBES:
        ids = tokenizer.encode(text).ids
        if ids != [processor.bos_id(), *processor.encode(text)]:
            raise TokenizerError(
                f"{model} cannot be converted exactly for Hugging Face",
                got=f"other ids for {text!r}",
                do="export without a tokenizer and encode with SentencePiece",
            )
    shutil.copyfile(model, folder / SENTENCEPIECE)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", _tokenizer_config(processor, context))


def _tokenizer_config(processor: Any, context: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": processor.id_to_piece(processor.bos_id()),
        "eos_token": processor.id_to_piece(processor.eos_id()),
        "unk_token": processor.id_to_piece(processor.unk_id()),
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
    }


def _convert(proto: Any, model: Path) -> Tokenizer:
    if proto.trainer_spec.model_type != _BPE:
        raise TokenizerError(f"{model} is no BPE model", do="export without a tokenizer")
    pieces = list(proto.pieces)
    vocab = {piece.piece: i for i, piece in enumerate(pieces)}
    unk = pieces[proto.trainer_spec.unk_id].piece
    tokenizer = Tokenizer(BPE(vocab, _merges(pieces, vocab), unk_token=unk, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = _normalizer(proto.normalizer_spec)
    tail = [decoders.Strip(content=" ", left=1)] if proto.normalizer_spec.add_dummy_prefix else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *tail])
    added = [piece for piece in pieces if piece.type in (_CONTROL, _USER_DEFINED)]
    tokenizer.add_tokens([AddedToken(piece.piece, normalized=False, special=piece.type == _CONTROL) for piece in added])
    bos = proto.trainer_spec.bos_id
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{pieces[bos].piece} $A",
        pair=f"{pieces[bos].piece} $A {pieces[bos].piece}:1 $B:1",
        special_tokens=[(pieces[bos].piece, bos)],
    )
    return tokenizer


def _normalizer(spec: Any) -> normalizers.Normalizer:
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])


def _merges(pieces: list[Any], vocab: dict[str, int]) -> list[tuple[str, str]]:
    """All ways to join two pieces into a third, the best score first (SentencePiece joins in this order)."""
    plain = {piece.piece: piece for piece in pieces if piece.type not in (_CONTROL, _USER_DEFINED, _UNUSED)}
    found = []
    for text, piece in plain.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in plain and right in plain:
                found.append((-piece.score, vocab[text], vocab[left], vocab[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]
