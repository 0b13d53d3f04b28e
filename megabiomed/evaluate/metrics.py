"""What predictions say together: accuracy with intervals, by subject, confusion, macro-F1, scores of free answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabiomed.align.text_scores import TextScorer

LEVEL = 0.95
RESAMPLES = 1000
Row = dict[str, Any]


def wilson(right: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927); (0, 1) when there is nothing."""
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, squared = right / total, z * z / total
    middle = share + squared / 2
    half = z * (share * (1 - share) / total + squared / (4 * total)) ** 0.5
    # At the edges rounding would leave the bound beside 0 or 1.
    low = 0.0 if right == 0 else (middle - half) / (1 + squared)
    return low, 1.0 if right == total else (middle + half) / (1 + squared)


def accuracy(rows: Sequence[Row], key: str = "correct") -> dict[str, float]:
    """Share of right answers with its interval; an answer that names no option is wrong."""
    right, total = sum(bool(row[key]) for row in rows), len(rows)
    low, high = wilson(right, total)
    return {"value": right / max(1, total), "low": low, "high": high, "right": right, "items": total}


def summarise(rows: Sequence[Row], kind: str, mode: str, scorer: TextScorer | None = None) -> dict[str, Any]:
    """All figures of one set from its predictions.

    Args:
        scorer: of free answers; None scores them on words.
    """
    if kind == "free":
        scorer = scorer or TextScorer()
        scores = scorer.scores([row["generated"] for row in rows], [row["answer"] for row in rows])
        return {"text": scores, "counted": scorer.counted, "answers_cut": answers_cut(rows)}
    found: dict[str, Any] = {"accuracy": accuracy(rows), "majority": majority(rows)}
    if mode == "choice":
        found["accuracy_normalised"] = accuracy(rows, "correct_normalised")
    else:
        found["answers_cut"] = answers_cut(rows)
        found["no_option_named"] = sum(row["prediction"] is None for row in rows)
    if any(row["contaminated"] for row in rows):
        if clean := [row for row in rows if not row["contaminated"]]:
            found["accuracy_clean"] = accuracy(clean)
        found["accuracy_contaminated"] = accuracy([row for row in rows if row["contaminated"]])
    subjects = defaultdict(list)
    for row in rows:
        subjects[row["subject"] or ""].append(row)
    if len(subjects) > 1:
        found["by_subject"] = {name or "(none)": accuracy(held) for name, held in sorted(subjects.items())}
    if kind == "pubmedqa":
        found |= verdicts(rows)
    return found


def answers_cut(rows: Sequence[Row]) -> int:
    """Generated answers that reached the largest number of tokens before the model ended them."""
    return sum(bool(row.get("cut")) for row in rows)


def majority(rows: Sequence[Row]) -> float:
    """Accuracy of always giving the most frequent right answer."""
    labels = [row["label"] for row in rows]
    return max(map(labels.count, set(labels))) / len(labels)


def verdicts(rows: Sequence[Row]) -> dict[str, Any]:
    """Confusion of the options (rows: right answer; columns: predicted, the last one: none named) and macro-F1."""
    names = rows[0]["options"]
    labels, predicted = _pairs(rows, len(names))
    table = _table(labels, predicted, len(names))
    rng, scores = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        chosen = rng.integers(0, len(rows), len(rows))
        scores.append(macro_f1(_table(labels[chosen], predicted[chosen], len(names))))
    low, high = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {
        "confusion": {"options": names, "table": table.tolist()},
        "macro_f1": {"value": macro_f1(table), "low": float(low), "high": float(high)},
    }


def _pairs(rows: Sequence[Row], options: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    predicted = [options if row["prediction"] is None else row["prediction"] for row in rows]
    return np.array([row["label"] for row in rows]), np.array(predicted)


def _table(labels: NDArray[np.int64], predicted: NDArray[np.int64], options: int) -> NDArray[np.int64]:
    """[options, options + 1] counts."""
    counts = np.bincount(labels * (options + 1) + predicted, minlength=options * (options + 1))
    return counts.reshape(options, options + 1)


def macro_f1(table: NDArray[np.int64]) -> float:
    """Mean F1 of the options; 0 for one that is neither right nor predicted anywhere."""
    options = table.shape[0]
    right = np.diag(table[:, :options]).astype(float)
    named = table.sum(axis=1) + table[:, :options].sum(axis=0)
    return float(np.mean(np.divide(2 * right, named, out=np.zeros(options), where=named > 0)))
