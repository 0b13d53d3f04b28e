"""Tokenizers as the files of a Hugging Face folder, made anew for SentencePiece, with the same ids for the same text.

transformers 5 rebuilds a fast tokenizer from tokenizer.model with merges in the order of the ids, which cuts runs of
spaces differently from SentencePiece. Therefore tokenizer.json is made here, with merges in the order of the scores.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE

from megabiomed.ground.errors import TokenizerError
from megabiomed.ground.files import write_json
from megabiomed.tokenizer.companions import read_companions
from megabiomed.tokenizer.files import JSON, companions, copy_into
from megabiomed.tokenizer.hugging_face import HuggingFaceTokenizer, Values, restricted
from megabiomed.tokenizer.probes import CONTROL, NORMAL, UNKNOWN, USER_DEFINED, probe_texts

_CONFIG = "tokenizer_config.json"
_BPE = 2


def _load(model: Path) -> Any:
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(model))
    except (OSError, RuntimeError) as error:
        raise TokenizerError(f"{model} is no SentencePiece model", got=f"{error}") from None


def write_tokenizer(model: Path, folder: Path, vocab_size: int, context: int) -> None:
    """Write tokenizer.model, tokenizer.json and tokenizer_config.json, the latter with the model's chat template.

    Raises:
        TokenizerError: more pieces than the model has rows; no BPE; or the conversion gives other ids
            than SentencePiece on any of the texts that `probes` makes of its pieces.
    """
    processor = _load(model)
    _check_rows(model, processor.get_piece_size(), vocab_size)
    tokenizer = converted(model)
    _require_same_ids(tokenizer, processor, list(probe_texts(_read(model).pieces)), model)
    copy_into(folder, model)
    tokenizer.save(str(folder / JSON))
    held = read_companions(model)
    # The control tokens of a template are in the text that transformers encodes, and are not to be split there.
    chat = {"chat_template": held.chat_template, "split_special_tokens": False} if held.chat_template else {}
    write_json(folder / _CONFIG, {**_tokenizer_config(processor, context), **chat})


def write_as_it_is(tokenizer: HuggingFaceTokenizer, folder: Path, vocab_size: int, context: int) -> None:
    """Copy a tokenizer.json and the files beside it; nothing has to be converted.

    Raises:
        TokenizerError: more ids than the model has rows.
    """
    _check_rows(tokenizer.path, tokenizer.vocab_size, vocab_size)
    copied = companions(copy_into(folder, tokenizer.path))
    if not any(file.name == _CONFIG for file in copied):
        names = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
        named = {name: tokenizer.piece(number) for name, number in names.items() if number is not None}
        write_json(
            folder / _CONFIG, {"tokenizer_class": "PreTrainedTokenizerFast", **named, "model_max_length": context}
        )


def _check_rows(file: Path, pieces: int, rows: int) -> None:
    if pieces > rows:
        raise TokenizerError(
            f"{file} does not fit the model", got=f"{pieces} pieces", expected=f"at most {rows}, the rows of the model"
        )


def _require_same_ids(tokenizer: Tokenizer, processor: Any, texts: list[str], model: Path) -> None:
    tokenizer.encode_special_tokens = True  # as split_special_tokens makes transformers do
    ours = processor.encode(texts)
    for text, ids, encoding in zip(texts, ours, tokenizer.encode_batch(texts)):
        if encoding.ids != [processor.bos_id(), *ids]:
            raise TokenizerError(
                f"{model} cannot be converted exactly for Hugging Face",
                got=f"{encoding.ids[1:9]} for {text[:60]!r}", expected=f"{ids[:8]}, as SentencePiece",
                do="export without a tokenizer (--no-tokenizer) and encode with SentencePiece",
            )  # fmt: skip


def _tokenizer_config(processor: Any, context: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": processor.id_to_piece(processor.bos_id()),
        "eos_token": processor.id_to_piece(processor.eos_id()),
        "unk_token": processor.id_to_piece(processor.unk_id()),
        "clean_up_tokenization_spaces": False,
        # "<s>" in a text is text to SentencePiece, three characters, and no end of anything.
        "split_special_tokens": True,
        "model_max_length": context,
    }


def _read(model: Path) -> Any:
    return sentencepiece_model_pb2.ModelProto.FromString(model.read_bytes())  # type: ignore[attr-defined]


def converted(model: Path) -> Tokenizer:
    """The library's tokenizer of a SentencePiece model.

    Raises:
        TokenizerError: it is no BPE.
    """
    proto = _read(model)
    vocab = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    return _convert(proto, model, vocab, _merges(proto.pieces, vocab))


def converted_without_control(model: Path) -> Values:
    """The content of a tokenizer.json of a SentencePiece model, as `restricted` leaves it where control tokens go.

    Raises:
        TokenizerError: it is no BPE.
    """
    proto = _read(model)
    numbered = [(piece.piece, piece.type, i) for i, piece in enumerate(proto.pieces)]
    # All but pieces and merges is taken from a tokenizer without ordinary pieces: the library takes its time to read and to
    # write tens of thousands.
    whole = {text: i for text, kind, i in numbered if kind in (UNKNOWN, CONTROL, USER_DEFINED)}
    held = json.loads(_convert(proto, model, whole, []).to_str())
    values = restricted(held, lambda token: not token["special"])
    vocab = {text: i for text, kind, i in numbered if kind != CONTROL}
    values["model"] |= {"vocab": vocab, "merges": _merges(proto.pieces, vocab)}
    return values


def _convert(proto: Any, model: Path, vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    if proto.trainer_spec.model_type != _BPE:
        raise TokenizerError(f"{model} is no BPE model", do="export without a tokenizer")
    pieces = [piece for piece in proto.pieces if piece.type in (UNKNOWN, CONTROL, USER_DEFINED)]
    unk = proto.pieces[proto.trainer_spec.unk_id].piece
    tokenizer = Tokenizer(BPE(vocab, merges, unk_token=unk, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = _normalizer(proto.normalizer_spec)
    tail = [decoders.Strip(content=" ", left=1)] if proto.normalizer_spec.add_dummy_prefix else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *tail])
    # SentencePiece looks for pieces of a user in the normalised text. A prefix would be taken for a part of the piece.
    normalized = not proto.normalizer_spec.add_dummy_prefix
    special = [AddedToken(piece.piece, normalized=False) for piece in pieces if piece.type in (UNKNOWN, CONTROL)]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([AddedToken(p.piece, normalized=normalized) for p in pieces if p.type == USER_DEFINED])
    bos = proto.trainer_spec.bos_id
    first = proto.pieces[bos].piece
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A",
        pair=f"{first} $A {first}:1 $B:1",
        special_tokens=[(first, bos)],
    )
    return tokenizer


def _normalizer(spec: Any) -> normalizers.Normalizer:
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        # normalizers.Strip would take tabs and line ends too; SentencePiece takes its own sign for a space at the end.
        steps += [normalizers.Replace(Regex(r"\A +|[ ▁]+\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])


def _merges(pieces: Iterable[Any], vocab: dict[str, int]) -> list[tuple[str, str]]:
    """All ways to join two pieces into a third, the best score first (SentencePiece joins in this order)."""
    plain = {piece.piece: (-piece.score, vocab[piece.piece]) for piece in pieces if piece.type == NORMAL}
    found: list[tuple[str, str]] = []
    for text in sorted(plain, key=plain.__getitem__):
        pairs = [
            (head, tail)
            for cut in range(1, len(text))
            if (head := text[:cut]) in plain and (tail := text[cut:]) in plain
        ]
        found += pairs if len(pairs) < 2 else sorted(pairs, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    return found
