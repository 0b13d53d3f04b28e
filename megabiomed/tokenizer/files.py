"""Tokenizers as files: which implementation reads one, what lies beside it, and under which name folders keep it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from megabiomed.ground.errors import FileError, TokenizerError
from megabiomed.ground.files import inside, read_json, sha256_file
from megabiomed.tokenizer.interface import Tokenizer

SENTENCEPIECE = "tokenizer.model"
JSON = "tokenizer.json"
FILE_NAMES = (SENTENCEPIECE, JSON)
"""Names of a tokenizer in a folder; `find_in` says which of several is taken."""
COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja")
"""What a Hugging Face folder says about its tokenizer besides: special tokens, ids that end an answer, chat template."""


def open_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a file, or of a folder that has one.

    Raises:
        TokenizerError: no such file, or not one of a tokenizer.
    """
    path = Path(path)
    if path.is_dir():
        return open_in(path)
    if path.suffix == ".json":
        from megabiomed.tokenizer.hugging_face import HuggingFaceTokenizer

        return HuggingFaceTokenizer(path)
    from megabiomed.tokenizer.sentencepiece_bpe import SentencePieceTokenizer

    return SentencePieceTokenizer(path)


def fingerprint(path: Path) -> str:
    """The hash by which data and checkpoints name the tokenizer that made them; see `Tokenizer.sha256`.

    Raises:
        TokenizerError: it is a .json and no tokenizer.
    """
    # A SentencePiece model is one file that nobody writes anew: its bytes are its identity.
    return open_tokenizer(path).sha256 if path.suffix == ".json" else sha256_file(path)


def open_in(folder: Path) -> Tokenizer:
    """The tokenizer of a folder.

    Raises:
        TokenizerError: the folder has none.
    """
    return open_tokenizer(require_in(folder))


def find_in(folder: Path) -> Path | None:
    """The file of a folder's tokenizer, if it has one: of two tokenizer.model, unless tokenizer.json says more.

    A link that leads out of the folder is a `FileError`.
    """
    held = [inside(folder, name) for name in FILE_NAMES if (folder / name).is_file()]
    if len(held) == 2 and _says_more(*held):
        return held[1]
    return held[0] if held else None


def open_if_any(folder: Path) -> Tokenizer | None:
    """The tokenizer of a folder, if it has one; a damaged or empty file is a `TokenizerError`."""
    found = find_in(folder)
    return None if found is None else open_tokenizer(found)


def _says_more(model: Path, json_file: Path) -> bool:
    """Whether tokenizer.json is to be read in place of tokenizer.model.

    So it is where the latter is no SentencePiece model (Llama-3 ships one of tiktoken under this name), and where chat
    models were given tokens that only tokenizer.json has. A token without a row in the model counts for nothing: copies of
    Llama-2 name a `<pad>` that their weights do not have.
    """
    import sentencepiece

    from megabiomed.tokenizer.hugging_face import added_ids

    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(model)).vocab_size()
        rows = _rows(json_file.parent)
        return any(pieces <= number and (rows is None or number < rows) for number in added_ids(json_file))
    except (RuntimeError, OSError):
        return True
    except TokenizerError:
        return False


def _rows(folder: Path) -> int | None:
    """Rows of the model beside a tokenizer, as config.json says; None where there is no such number."""
    try:
        found = read_json(inside(folder, "config.json"), dict).get("vocab_size")
    except FileError:
        return None  # a tokenizer may lie alone; whoever reads the model says what is wrong with a damaged file
    return found if type(found) is int else None


def require_in(folder: Path) -> Path:
    """The file of a folder's tokenizer.

    Raises:
        TokenizerError: the folder has none.
    """
    found = find_in(folder)
    if found is None:
        raise TokenizerError(f"{folder} has no {' or '.join(FILE_NAMES)}", do="put the tokenizer of the model there")
    return found


def name_among(names: Iterable[str]) -> str | None:
    """Of some relative paths, as a manifest lists them, the one of a tokenizer."""
    listed = {Path(name).name: name for name in names}
    return next((listed[name] for name in FILE_NAMES if name in listed), None)


def companions(path: Path) -> list[Path]:
    """The files beside a tokenizer that belong to it.

    Files beside a tokenizer of another name (`bio.model`) may belong to anything. Raises as `find_in`.
    """
    if path.name not in FILE_NAMES:
        return []
    return [inside(path.parent, name) for name in COMPANIONS if path.with_name(name).is_file()]


def copy_into(folder: Path, source: Path) -> Path:
    """Copy a tokenizer and its companions into a folder, under the names that they have in folders.

    Returns:
        the copy of the tokenizer; `companions` lists the others.
    """
    source = require_in(source) if source.is_dir() else source
    # By suffix, so that a save need not read the tokenizer; a SentencePiece model may have any.
    target = folder / (JSON if source.suffix == ".json" else SENTENCEPIECE)
    for file in companions(source):
        shutil.copyfile(file, folder / file.name)
    shutil.copyfile(source, target)
    return target
