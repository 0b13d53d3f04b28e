"""Protein letters to ESM-2's 33 tokens, by one table look-up for a whole sequence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from megabiomed.encoders.modality import ItemError
from megabiomed.ground.errors import DataError

# The order is fair-esm's: rows of the embedding are found by it.
CLS = 0
PAD = 1
EOS = 2
UNK = 3
MASK = 32
TOKENS = ("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>")
Long = Literal["truncate", "refuse"]
_MISSING = frozenset({"nan", "NaN", "None", "null"})
"""How programs spell a value that is missing. Every letter of them is a residue."""


class ProteinError(ItemError):
    """A sequence that gives no tokens; the reason is one of empty, invalid, too_long."""

    modality = "protein"

    def __init__(self, reason: str, sequence: str, detail: str) -> None:
        super().__init__(reason, f"{sequence[:40]!r}", detail)


def _table() -> NDArray[np.uint8]:
    table = np.full(256, UNK, np.uint8)
    for index, token in enumerate(TOKENS):
        if len(token) == 1:
            table[ord(token)] = table[ord(token.lower())] = index
    # fair-esm knows neither: J (leucine or isoleucine) is read as any residue, a stop as a gap.
    table[ord("J")] = table[ord("j")] = TOKENS.index("X")
    table[ord("*")] = TOKENS.index("-")
    return table


_TABLE = _table()


@dataclass(frozen=True)
class Protein:
    """Tokens of one protein: [n] uint8 with <cls> first and <eos> last; `changed` counts letters read as X, - or unknown."""

    tokens: NDArray[np.uint8]
    changed: int = 0
    truncated: bool = False

    @property
    def rows(self) -> int:
        """Embeddings that the encoder makes of it."""
        return len(self.tokens)

    def resized(self, rows: int) -> Protein:
        """So many tokens: residues repeated or cut off between <cls> and <eos>."""
        inner = np.resize(self.tokens[1:-1], max(1, rows - 2))
        return Protein(np.concatenate((self.tokens[:1], inner, [EOS])).astype(np.uint8))


def encode(sequence: str, max_residues: int = 1022, long: Long = "truncate") -> Protein:
    """Tokens of a sequence; white space and a final stop are dropped, case does not matter.

    Args:
        max_residues: residues that are kept (ESM-2 was trained with at most 1,022 and two special tokens).
        long: what to do with longer sequences.

    Raises:
        ProteinError: empty, not letters, or too long under `refuse`.
    """
    text = "".join(sequence.split()).removesuffix("*")
    if not text:
        raise ProteinError("empty", sequence, "no residues")
    if text in _MISSING:
        raise ProteinError("empty", sequence, "a missing value that was written as text")
    try:
        letters = np.frombuffer(text.encode("ascii"), np.uint8)
    except UnicodeEncodeError:
        raise ProteinError("invalid", text, "letters outside ASCII") from None
    found = _TABLE[letters]
    if (found == UNK).any():
        raise ProteinError("invalid", text, f"{chr(int(letters[found == UNK][0]))!r} is no residue")
    if len(found) > max_residues and long == "refuse":
        raise ProteinError("too_long", text, f"{len(found)} residues, at most {max_residues}")
    kept = found[:max_residues]
    changed = int(np.isin(letters[:max_residues], np.frombuffer(b"Jj*", np.uint8)).sum())
    return Protein(np.concatenate(([CLS], kept, [EOS])).astype(np.uint8), changed, len(found) > max_residues)


def read_protein(text: str) -> str:
    """A sequence, or the one of a FASTA file.

    Raises:
        DataError: the file holds several, or cannot be read.
    """
    path = Path(text)
    # Longer than a file name can be: certainly a sequence, and asking for such a path may raise.
    if len(text) > 255 or not path.is_file():
        return text
    try:
        # Names in a FASTA file may be in any encoding; only the residues count.
        lines = path.read_text("utf-8-sig", "surrogateescape").split(">")
    except OSError as error:
        raise DataError(f"{path} cannot be read", got=error.strerror) from None
    if len(lines) > 2:
        raise DataError(
            f"{path} holds several sequences", got=len(lines) - 1, expected="one", do="give a file for each"
        )
    first = lines[1] if len(lines) > 1 else lines[0]
    return "".join(first.splitlines()[1 if len(lines) > 1 else 0 :])
