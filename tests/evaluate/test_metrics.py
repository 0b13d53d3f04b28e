"""Figures of hand-made predictions whose answers are known, and paired tests against their textbook values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from megabiomed.evaluate.compare import compare_rows, mcnemar, paired_bootstrap
from megabiomed.evaluate.metrics import macro_f1, majority, summarise, wilson
from megabiomed.ground.errors import DataError

OPTIONS = ["yes", "no", "maybe"]


def row(label: int, prediction: int | None, number: int = 0, **more: Any) -> dict[str, Any]:
    return {"id": f"q{number}", "label": label, "prediction": prediction, "prediction_normalised": prediction,
            "correct": label == prediction, "correct_normalised": label == prediction, "subject": "s", "options": OPTIONS,
            "contaminated": False, "prompt_sha256": "p", "question_sha256": f"h{number}", **more}  # fmt: skip


def test_wilson_intervals_have_their_published_values() -> None:
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(10, 10)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


def test_confusion_and_macro_f1_count_answers_that_name_no_option() -> None:
    rows = [row(0, 0), row(0, 0), row(0, 1), row(1, 1), row(1, None), row(2, 0)]
    found = summarise(rows, "pubmedqa", "generate")
    table = found["confusion"]["table"]
    assert table == [[2, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0]]
    assert macro_f1(np.array(table)) == found["macro_f1"]["value"]
    assert macro_f1(np.array(table)) == pytest.approx((2 * 2 / (3 + 3) + 2 * 1 / (2 + 2) + 0) / 3)
    assert majority(rows) == 0.5
    assert found["accuracy"]["value"] == 0.5
    assert found["no_option_named"] == 1
    assert found["macro_f1"]["low"] < found["macro_f1"]["value"] < found["macro_f1"]["high"]


def test_accuracy_is_given_with_and_without_contaminated_items_and_by_subject() -> None:
    rows = [row(0, 0, contaminated=True), row(1, 1, contaminated=True), row(1, 0, subject="t"), row(2, 2)]
    found = summarise(rows, "medmcqa", "choice")
    assert (found["accuracy"]["value"], found["accuracy_clean"]["value"], found["accuracy_contaminated"]["value"]) == (
        0.75,
        0.5,
        1,
    )
    assert "accuracy_clean" not in summarise(rows[:2], "medmcqa", "choice")
    assert {name: held["items"] for name, held in found["by_subject"].items()} == {"s": 3, "t": 1}


def test_mcnemar_is_the_binomial_test_of_the_discordant_items() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 9) == pytest.approx(0.021484375)
    assert mcnemar(6, 6) == 1.0
    assert mcnemar(900, 1100) == pytest.approx(8.5e-6, rel=0.1)


def test_the_paired_bootstrap_finds_a_difference_only_where_there_is_one() -> None:
    rng = np.random.default_rng(0)
    a = (rng.random(400) < 0.5).astype(float)
    better = np.maximum(a, (rng.random(400) < 0.3).astype(float))
    low, high, p = paired_bootstrap(a, better)
    assert 0 < low < better.mean() - a.mean() < high
    assert p < 0.01
    shuffled = rng.permutation(a)
    low, high, p = paired_bootstrap(a, shuffled)
    assert low < 0 < high
    assert p > 0.05


def test_evaluations_are_paired_by_question() -> None:
    a = [row(0, 0, 1), row(0, 1, 2), row(0, 1, 3)]
    b = [row(0, 0, 3), row(0, 0, 2), row(0, 1, 1), row(0, 0, 4)]
    found = compare_rows(a, b)
    assert (found["items"], found["only_in_one"], found["only_a_right"], found["only_b_right"]) == (3, 1, 1, 2)
    assert found["difference"] == pytest.approx(1 / 3)
    with pytest.raises(DataError, match="different questions"):
        compare_rows(a, [row(0, 0, 1, question_sha256="other")])
