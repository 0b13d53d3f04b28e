"""Scores of free answers: BLEU-2/4 and METEOR (nltk), ROUGE-1/2/L (rouge-score), exact match.

A score is only comparable with one that counts the same tokens, so each says what it counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megabiomed.align.score_pieces import ScorePieces

_COUNTED = ("bleu2", "bleu4", "meteor")
_WORDS = "words between white space"
_NO_SYNONYMS = "no synonyms"
Cut = Callable[[str], list[str]]


class TextScorer:
    """Scores answers on words and, where a tokenizer is given, on its pieces too.

    Attributes:
        names: of the scores, in the order of tables.
        counted: what each of them counts.
    """

    def __init__(self, pieces: ScorePieces | None = None) -> None:
        self._pieces = pieces
        self._meteor, synonyms = _meteor()
        of_pieces = [f"{name}_pieces" for name in _COUNTED] if pieces is not None else []
        self.names = ("bleu2", "bleu4", "rouge1", "rouge2", "rougeL", "meteor", *of_pieces, "exact")
        self.counted = dict.fromkeys(self.names, _WORDS) | {"exact": "whole texts"}
        self.counted |= dict.fromkeys(("rouge1", "rouge2", "rougeL"), "rouge-score's words, lower case, not stemmed")
        self.counted |= dict.fromkeys(of_pieces, pieces.name if pieces is not None else "")
        for name in self.names:
            self.counted[name] += f"; {synonyms}" if name.startswith("meteor") else ""

    def scores(self, answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Corpus BLEU-2 and BLEU-4, mean ROUGE F1, mean METEOR, share of exact answers."""
        from rouge_score.rouge_scorer import RougeScorer

        found = self._of_tokens(answers, references, str.split)
        scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
        rouge = [scorer.score(reference, answer) for answer, reference in zip(answers, references)]
        found |= {
            name: float(np.mean([score[name].fmeasure for score in rouge])) for name in ("rouge1", "rouge2", "rougeL")
        }
        if self._pieces is not None:
            of_pieces = self._of_tokens(answers, references, self._pieces)
            found |= {f"{name}_pieces": value for name, value in of_pieces.items()}
        found["exact"] = float(np.mean([a.strip() == r.strip() for a, r in zip(answers, references)]))
        return {name: found[name] for name in self.names}

    def _of_tokens(self, answers: Sequence[str], references: Sequence[str], cut: Cut) -> dict[str, float]:
        from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

        hypotheses, wanted = [cut(a) for a in answers], [[cut(r)] for r in references]
        # Without smoothing one missing 4-gram in a small set makes BLEU-4 zero.
        smooth = SmoothingFunction().method1
        return {
            "bleu2": corpus_bleu(wanted, hypotheses, weights=(0.5, 0.5), smoothing_function=smooth),
            "bleu4": corpus_bleu(wanted, hypotheses, weights=(0.25,) * 4, smoothing_function=smooth),
            "meteor": float(np.mean([self._meteor(r[0], h) for r, h in zip(wanted, hypotheses)])),
        }


def text_scorer(tokenizer: Path | None) -> TextScorer:
    """A scorer with the pieces of a tokenizer file, if one is given; `TokenizerError` as `ScorePieces`."""
    return TextScorer(ScorePieces(tokenizer) if tokenizer is not None else None)


def heading(name: str, counted: Mapping[str, str]) -> str:
    """Of a score in a table: METEOR says where it knows no synonyms."""
    shown = name.replace("_pieces", " (pieces)")
    return f"{shown}, {_NO_SYNONYMS}" if _NO_SYNONYMS in counted.get(name, "") else shown


def counted_lines(counted: Mapping[str, str]) -> list[str]:
    """Lines below a table: what the scores count."""
    names: dict[str, list[str]] = {}
    for name, said in counted.items():
        names.setdefault(said, []).append(name)
    return [f"{', '.join(held)}: {said}" for said, held in names.items()]


class _NoSynonyms:
    """Stands in for wordnet where nltk's corpus is not installed."""

    def synsets(self, word: str) -> list[Any]:
        return []


def installed_wordnet() -> Any:
    """nltk's wordnet; None where its data is not installed."""
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError:
        return None
    return wordnet


def _meteor() -> tuple[Callable[[list[str], list[str]], float], str]:
    """METEOR of a reference and an answer, and which matches it knows."""
    from nltk.translate.meteor_score import single_meteor_score

    synonyms = installed_wordnet()
    said = "exact, stem and synonym matches"
    if synonyms is None:
        synonyms = _NoSynonyms()
        said = f"exact and stem matches, {_NO_SYNONYMS}: wordnet is missing (python -m nltk.downloader wordnet)"
    return lambda reference, answer: float(single_meteor_score(reference, answer, wordnet=synonyms)), said
