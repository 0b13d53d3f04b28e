"""The pieces that published scores count in place of words: those of a Hugging Face tokenizer, as ChEBI-20's of SciBERT.

MolT5 (Edwards et al. 2022), and after it most papers on ChEBI-20, compute BLEU and METEOR on the pieces of
`allenai/scibert_scivocab_uncased`. MolT5's script cuts texts after 512 pieces; here they are whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megabiomed.ground.errors import TokenizerError
from megabiomed.ground.files import read_json, sha256_file


class ScorePieces:
    """Cuts a text into the pieces of a tokenizer, without special ones.

    Args:
        path: vocab.txt of a BERT, tokenizer.json, or a folder with one of them.

    Attributes:
        name: which tokenizer it is, for tables and files.

    Raises:
        TokenizerError: there is no such file, or it is no tokenizer.
    """

    def __init__(self, path: Path) -> None:
        names = [path] if not path.is_dir() else [path / "tokenizer.json", path / "vocab.txt"]
        file = next((name for name in names if name.is_file()), None)
        if file is None:
            raise TokenizerError(f"{path} holds no tokenizer", do="give vocab.txt, tokenizer.json, or their folder")
        try:
            self._tokenizer, kind = _opened(file)
        except Exception as error:  # tokenizers raises bare Exception
            raise TokenizerError(
                f"{file} is no tokenizer that scores can use",
                got=error,
                expected="vocab.txt of a BERT, or tokenizer.json",
            ) from None
        self.name = f"{kind} pieces of {path.name}, sha256 {sha256_file(file)[:12]}"

    def __call__(self, text: str) -> list[str]:
        """The pieces of a text."""
        found: list[str] = self._tokenizer.encode(text, add_special_tokens=False).tokens
        return found


def _opened(file: Path) -> tuple[Any, str]:
    from tokenizers import Tokenizer
    from tokenizers.implementations import BertWordPieceTokenizer

    if file.suffix == ".json":
        tokenizer = Tokenizer.from_file(str(file))
        # Some files ask for truncation or padding; scores count whole texts.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer, type(tokenizer.model).__name__
    pieces = file.read_text(encoding="utf-8").splitlines()
    if "[UNK]" not in pieces:
        raise ValueError("no piece [UNK]")
    lower = _lower_case(file, pieces)
    return BertWordPieceTokenizer(str(file), lowercase=lower), f"WordPiece ({'un' if lower else ''}cased)"


def _lower_case(file: Path, pieces: list[str]) -> bool:
    """As tokenizer_config.json beside the file says, or else whether no piece has a capital."""
    config = file.with_name("tokenizer_config.json")
    said = read_json(config, dict).get("do_lower_case") if config.is_file() else None
    return said if isinstance(said, bool) else not any(c.isupper() for p in pieces if not p.startswith("[") for c in p)
