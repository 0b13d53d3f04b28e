"""Tokenizers as files: which implementation reads one, and under which name folders keep it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from megabiomed.ground.errors import TokenizerError
from megabiomed.ground.files import inside
from megabiomed.tokenizer.interface import Tokenizer

SENTENCEPIECE = "tokenizer.model"
FILE_NAMES = (SENTENCEPIECE,)
"""Names of a tokenizer in a folder; of several the first is taken."""


def open_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a file.

    Raises:
        TokenizerError: no such file, or not one of a tokenizer.
    """
    from megabiomed.tokenizer.sentencepiece_bpe import SentencePieceTokenizer

    return SentencePieceTokenizer(path)


def open_in(folder: Path) -> Tokenizer:
    """The tokenizer of a folder.

    Raises:
        TokenizerError: the folder has none.
    """
    return open_tokenizer(require_in(folder))


def find_in(folder: Path) -> Path | None:
    """The file of a folder's tokenizer, if it has one; a link that leads out of the folder is a `FileError`."""
    return next((inside(folder, name) for name in FILE_NAMES if (folder / name).is_file()), None)


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


def copy_into(folder: Path, source: Path) -> Path:
    """Copy a tokenizer into a folder, under the name that it has in folders; returns the copy."""
    # By suffix, so that a save need not read the tokenizer; a SentencePiece model may have any.
    target = folder / next((name for name in FILE_NAMES if Path(name).suffix == source.suffix), SENTENCEPIECE)
    shutil.copyfile(source, target)
    return target
