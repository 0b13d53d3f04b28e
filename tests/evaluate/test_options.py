"""The option that a generated answer means is read from it, and letters inside texts are no choices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabiomed.evaluate.answers import first_answer
from megabiomed.evaluate.options import extract_option

MEDMCQA = Path(__file__).resolve().parents[3] / "shared" / "data" / "medmcqa" / "dev.json"
VERDICTS = ["yes", "no", "maybe"]
TEXTS = ["Aspirin", "Vitamin C", "Hepatitis B", "None of the above"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("B", 1), ("(C) because", 2), ("The answer is A. Not B.", 0), ("The correct option: d", None), ("a fever", None),
     ("It is skin, of course", 1), ("A or B", None), ("either of A, B", None), ("", None), ("Answer: D", 3),
     ("A patient with diabetes should take B", 1), ("Option A is wrong; the correct answer is C", 2), ("A) bone", 0),
     ("The answer is option (B)", 1), ("A because of C-reactive protein.", None), ("A because it is", 0)],
)  # fmt: skip
def test_an_option_is_read_from_a_generated_answer(text: str, expected: int | None) -> None:
    assert extract_option(text, "ABCD", ["bone", "skin", "vein", "hair"]) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("about 20%.", 0), ("Ca++", 2), ("give aspirin (ASA)", 3), ("Ca", 1), ("120%", None)]
)
def test_options_that_end_with_a_sign_are_found_in_the_text(text: str, expected: int | None) -> None:
    assert extract_option(text, "ABCD", ["20%", "Ca", "Ca++", "Aspirin (ASA)"]) == expected


def test_the_next_question_that_a_model_invents_after_examples_is_no_answer() -> None:
    text = "\nThe dose is unclear\n\nQuestion: What is 2?\nAnswer: B"
    assert first_answer(text, 3) == "The dose is unclear"
    assert extract_option(first_answer(text, 3), "ABCD", ["bone", "skin", "vein", "hair"]) is None
    assert first_answer(text, 0).endswith("Answer: B")


@pytest.mark.parametrize(
    ("text", "expected"), [("Yes, it does", 0), ("no", 1), ("It may not. Maybe.", 2), ("unknown", None)]
)
def test_a_verdict_is_read_in_any_case(text: str, expected: int | None) -> None:
    assert extract_option(text, VERDICTS, VERDICTS) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Vitamin C", 1), ("It is vitamin C.", 1), ("A patient with scurvy needs vitamin C", 1), ("The answer is Vitamin C", 1),
     ("The answer is (b)", 1), ("hepatitis B infection", 2), ("Answer: C", 2), ("C. Hepatitis B", 2), ("(d)", 3),
     ("vitamin A", None), ("type B, I believe", None), ("37 C", None), ("protein C or aspirin", 0), ("option b", 1),
     ("B or C", None), ("Aspirin, not vitamin C", None), ("none of the above", 3), ("the answer is B12", None),
     ("b", 1), (" b)", 1), ("'B'", 1), ("**c**.", 2), ("\N{FULLWIDTH LATIN CAPITAL LETTER B}", 1), ("e", None)],
)  # fmt: skip
def test_a_letter_that_belongs_to_a_name_is_no_choice(text: str, expected: int | None) -> None:
    assert extract_option(text, "ABCD", TEXTS) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("c", 1), ("C", 2), ("**c**", 1), ("**C**", 2), ("So the answer is C.", 2), ("the answer is c", 1), ("C. bc", 2),
     ("The correct answer is C. bc", 2), ("the answer is bc", 2), ("d) ad", 3), ("The answer is \"ad\".", 3)],
)  # fmt: skip
def test_an_option_whose_text_is_a_letter_is_told_from_that_letter(text: str, expected: int) -> None:
    assert extract_option(text, "ABCD", ["a", "c", "bc", "ad"]) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("There was no difference.", None), ("I say no.", 1), ("It is no, because", 1), ("No effect", 1)],
)
def test_no_before_a_noun_is_no_verdict(text: str, expected: int | None) -> None:
    assert extract_option(text, VERDICTS, VERDICTS) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("C. same", 2), ("d) same", 3), ("same", None), ("The answer is D: same", 3)]
)
def test_the_letter_decides_between_options_of_one_text(text: str, expected: int | None) -> None:
    assert extract_option(text, "ABCD", ["bone", "skin", "same", "same"]) == expected


words = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"]), min_size=1, max_size=12)


@given(st.lists(words, min_size=2, max_size=4, unique=True), st.data())
def test_the_text_of_an_option_never_reads_as_another_option(options: list[str], data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(options) - 1))
    assert extract_option(options[number], "ABCD"[: len(options)], options) in (number, None)


@pytest.mark.skipif(not MEDMCQA.is_file(), reason="MedMCQA's development split is not here")
def test_no_option_of_a_real_set_reads_as_another() -> None:
    rows = [json.loads(line) for line in MEDMCQA.read_text().splitlines()]
    read = wrong = 0
    for row in rows:
        options = [str(row[f"op{letter}"]) for letter in "abcd"]
        for number, text in enumerate(options):
            found = extract_option(text, "ABCD", options)
            read += found == number
            wrong += found not in (number, None) and options[found or 0].strip() != text.strip()
    assert wrong == 0
    assert read > 0.99 * 4 * len(rows)
