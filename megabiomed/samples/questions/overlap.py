"""Held-out questions that a training question repeats, or nearly: the n-gram search of corpus/decontaminate on prompts.

Questions are shorter than papers, so n-grams are shorter too. On MedMCQA's dev split 99 % of the questions with one changed
word are found, 77 % with two, and 2 % as they are: the split holds near copies of its own questions (docs/evaluation.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from megabiomed.corpus.decontaminate import Contamination, HeldOutQuestion, prompt_words

NGRAM, SHARE = 5, 0.6
_COMMON, _FEWEST = 20, 3
"""N-grams of more than one in so many held-out prompts, and of more than so many, are the template's, or everybody's."""


@dataclass
class Repeated:
    """What was found.

    Attributes:
        searched: held-out prompts that are long enough to be looked for.
        found: held-out prompt -> (the training prompt that holds most of its n-grams, their share).
    """

    searched: int
    found: dict[int, tuple[int, float]] = field(default_factory=dict)


def find_repeated(held_out: Sequence[str], training: Iterable[str]) -> Repeated:
    """Look for held-out prompts of which a training prompt holds `SHARE` of the n-grams or more."""
    items = [HeldOutQuestion("", str(number), "", prompt_words(text)) for number, text in enumerate(held_out)]
    search = Contamination(items, NGRAM, SHARE, common=max(_FEWEST, len(items) // _COMMON))
    result = Repeated(search.searched)
    for place, text in enumerate(training):
        for number, share in search.find(text):
            if share > result.found.get(number, (0, 0.0))[1]:
                result.found[number] = place, share
    return result
