"""Citations go with their brackets, and what is left of the sentence is whole."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from megabiomed.corpus.citation_marks import MARK, mark_unmarked
from megabiomed.corpus.clean import CleanRules, clean
from megabiomed.corpus.records import Paper, Span

LOOSE = CleanRules(min_words=1)
OFF = CleanRules(min_words=1, unmarked_citations=False)


def marked(text: str, rules: CleanRules = OFF) -> str | None:
    """Clean a text whose citation spans are given between "<" and ">"."""
    spans = []
    plain = ""
    for number, piece in enumerate(text.replace(">", "<").split("<")):
        if number % 2:
            spans.append(Span(len(plain), len(plain) + len(piece)))
        plain += piece
    return clean(Paper("1", {"pmc": "1"}, "", None, plain, {"bibref": spans}, "a", 1, 0), rules, Counter())


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("It is so <(Roe 2004;> <Doe et al. 2005a> ). It is.", "It is so. It is."),
        ("It is so (reviewed in <Roe 2000>). It is.", "It is so. It is."),
        ("It is hard (e.g., <[1]> , <[2]> ). Hence", "It is hard. Hence"),
        ("It is ( Fig. 1A ; <Roe 1999;> <Doe 2000)> (we saw it)", "It is (Fig. 1A) (we saw it)"),
        ("in the lobe <(Roe et al. 1992> <(Roe et al. , 1997> <Doe 2002)> . Two", "in the lobe. Two"),
        ("-LacZ <(Roe 2001> <(Doe and Poe 1996)> , UAS", "-LacZ, UAS"),
        ("such as X, <[4]> <[5]> [6] Y", "such as X, [6] Y"),
        ("carriers. <15,> <16> They", "carriers. They"),
        ("a form (see <[22,> Example 2] ), which", "a form, which"),
        ("to space (see <[22]> for details). So", "to space. So"),
        ("Similar to <[10]> , we follow <Doe and Roe (1997)> .", "Similar to [10], we follow Doe and Roe (1997)."),
        ("In addition, <[20]> showed it. See <[2]> and <[3]> .", "In addition, [20] showed it. See [2] and [3]."),
        ("as defined in <(1)> . Not f(x) or (n = 3)", "as defined in (1). Not f(x) or (n = 3)"),
        ("cows [15, <[17]> <[18]> 37] . In", "cows. In"),
    ],
)
def test_brackets_go_with_their_citations_whatever_the_spans_cover(text, left):
    assert marked(text) == left
    assert MARK not in (marked(f"{MARK} ({MARK}) {text}") or "")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Seen before [12]. And [3, 4–6] so.", "Seen before. And so."),
        ("Seen (Roe et al., 2010) here (e.g., [1], [2]).", "Seen here."),
        ("Seen (KLH; Roe, 2003; van der Doe & Poe, 2007a,b).", "Seen (KLH)."),
        ("Seen (reviewed in Roe, 1998; see also O'Neill 2001) here.", "Seen here."),
        ("In Roe et al. (2005) and in [12] we see 1-[2-chloro] and [0, 1].",) * 2,
        ("(95% CI [14, 31]) [IQR, 2.1–3.8 h] pyrazolo[1,5-a] [2.0-8.0]",) * 2,
        ("In (2006) and (May 2011) (2019-nCoV) (as of 6 February 2020) (IBM Corp., New York)",) * 2,
        ("First (1) this, then (2) that, by (3).",) * 2,
    ],
)
def test_citations_without_spans_are_known_by_their_form(text, left):
    assert marked(text, LOOSE) == left
    assert marked(text) == text  # the rule can be switched off


def test_numbers_in_round_brackets_are_citations_where_they_form_a_bibliography():
    cited = " ".join(f"As seen ({n}, {n + 1})." for n in range(1, 14))
    assert marked(f"{cited} Is (4) so: (1) yes; (2) no.", LOOSE) == f"{'As seen. ' * 13}Is so: (1) yes; (2) no."


def test_raised_numbers_are_citations_where_they_form_a_bibliography():
    cited = " ".join(f"As seen. {n}, {n + 1} Then it was 5." for n in range(1, 14))
    assert marked(cited, LOOSE) == " ".join(["As seen. Then it was 5."] * 13)


def test_what_rules_remove_adds_up():
    counts: Counter[str] = Counter()
    text = "It is (Roe et al., 2010) so [3, 4]; (Fig. 1; Doe, 2001) and we know."
    assert len(mark_unmarked(text, counts)) == len(text) - counts["characters: unmarked citations"] + 3
    kept = clean(Paper("1", {"pmc": "1"}, "", None, text, {}, "a", 1, 0), LOOSE, counts := Counter())
    removed = sum(
        n for name, n in counts.items() if name.startswith("characters: ") and name.split(": ")[1] not in ("in", "out")
    )
    assert counts["characters: in"] - removed == counts["characters: out"] == len(kept or "")
    assert counts["citations: unmarked, removed"] == 3


@pytest.mark.parametrize(
    "line",
    ["(" * 40_000, "(A" * 20_000, "(Roe, Doe, " * 8_000, "[1, " * 20_000, "A. 1999 " * 10_000, "et al 1999;" * 9_000],
)
def test_hostile_lines_take_no_quadratic_time(line):
    started = time.process_time()
    mark_unmarked(line + ")", Counter())
    marked(line + f"<{line[:50]}>)", LOOSE)
    # A search from every place to the end of the line would take minutes.
    assert time.process_time() - started < 20
