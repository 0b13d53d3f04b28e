"""Scores of free answers: BLEU-2/4 and METEOR (nltk), ROUGE-1/2/L (rouge-score), exact match."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def text_scores(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU-2 and BLEU-4, mean ROUGE F1, mean METEOR (exact and stem matches; synonyms when nltk has wordnet)."""
    from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu
    from rouge_score.rouge_scorer import RougeScorer

    hypotheses, wanted = [a.split() for a in answers], [[r.split()] for r in references]
    smooth = SmoothingFunction().method1
    found = {
        "bleu2": corpus_bleu(wanted, hypotheses, weights=(0.5, 0.5), smoothing_function=smooth),
        "bleu4": corpus_bleu(wanted, hypotheses, weights=(0.25,) * 4, smoothing_function=smooth),
    }
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    rouge = [scorer.score(reference, answer) for answer, reference in zip(answers, references)]
    found |= {
        name: float(np.mean([score[name].fmeasure for score in rouge])) for name in ("rouge1", "rouge2", "rougeL")
    }
    meteor = _meteor()
    found["meteor"] = float(np.mean([meteor(r[0], h) for r, h in zip(wanted, hypotheses)]))
    found["exact"] = float(np.mean([a.strip() == r.strip() for a, r in zip(answers, references)]))
    return found


class _NoSynonyms:
    """Stands in for wordnet where nltk's corpus is not installed."""

    def synsets(self, word: str) -> list[Any]:
        return []


def _meteor() -> Callable[[list[str], list[str]], float]:
    from nltk.corpus import wordnet
    from nltk.translate.meteor_score import single_meteor_score

    try:
        wordnet.ensure_loaded()
        synonyms: Any = wordnet
    except LookupError:
        synonyms = _NoSynonyms()
    return lambda reference, answer: float(single_meteor_score(reference, answer, wordnet=synonyms))
