"""Two evaluations of the same questions: is the difference more than chance?

Exact McNemar test on the items that only one of both answers rightly, and a paired bootstrap interval of the difference.
Perplexities of the same text are set side by side; a figure that is not finite is never subtracted.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabiomed.evaluate.metrics import LEVEL, Row
from megabiomed.evaluate.results import ResultFolder
from megabiomed.ground.damage import reading
from megabiomed.ground.errors import DataError
from megabiomed.ground.figures import NOT_FINITE, Figure, perplexity, shown
from megabiomed.ground.files import write_json
from megabiomed.ground.tables import print_table

RESAMPLES = 10_000


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value that both are right equally often (McNemar 1947): binomial over the discordant items."""
    n, few = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(few + 1))
    return min(1.0, 2 * tail / 2**n)


def paired_bootstrap(a: NDArray[np.float64], b: NDArray[np.float64], seed: int = 0) -> tuple[float, float, float]:
    """(low, high, p): interval of mean(b) - mean(a) over resampled items, and the two-sided p-value of no difference.

    The p-value counts resamples of the difference on the other side of 0 (Efron & Tibshirani 1993), at least one.
    """
    difference = b - a
    rng = np.random.default_rng(seed)
    means = np.array([difference[rng.integers(0, len(a), len(a))].mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    tail = min((means <= 0).sum(), (means >= 0).sum())
    return float(low), float(high), float(min(1.0, 2 * max(1, tail) / RESAMPLES))


def compare_rows(a: list[Row], b: list[Row]) -> dict[str, Any]:
    """Figures of the items that both answered.

    Raises:
        DataError: the same id asks different questions, or no item is in both.
    """
    first, second = {row["id"]: row for row in a}, {row["id"]: row for row in b}
    shared = [ident for ident in first if ident in second]
    changed = [i for i in shared if first[i]["question_sha256"] != second[i]["question_sha256"]]
    if changed or not shared:
        found_ids = f"{len(changed)} of {len(shared)} shared ids differ"
        raise DataError(
            "the evaluations asked different questions",
            got=found_ids if shared else f"no id of {len(a)} and of {len(b)} in both",
            expected="the same file of questions",
        )
    pairs = [(first[ident], second[ident]) for ident in shared]
    scores = np.array([[float(row["correct"]) for row in pair] for pair in pairs])
    measure = "accuracy"
    if first[shared[0]]["label"] is None:
        measure, scores = "rougeL", np.array([[_rouge(row) for row in pair] for pair in pairs])
    low, high, p = paired_bootstrap(scores[:, 0], scores[:, 1])
    found: dict[str, Any] = {
        "items": len(shared), "only_in_one": len(first) + len(second) - 2 * len(shared), "measure": measure,
        "same_prompt": sum(x["prompt_sha256"] == y["prompt_sha256"] for x, y in pairs),
        "a": float(scores[:, 0].mean()), "b": float(scores[:, 1].mean()),
        "difference": float((scores[:, 1] - scores[:, 0]).mean()), "low": low, "high": high, "bootstrap_p": p,
    }  # fmt: skip
    if measure == "accuracy":
        only_a = int(((scores[:, 0] == 1) & (scores[:, 1] == 0)).sum())
        only_b = int(((scores[:, 0] == 0) & (scores[:, 1] == 1)).sum())
        found |= {"only_a_right": only_a, "only_b_right": only_b, "mcnemar_p": mcnemar(only_a, only_b)}
    return found


def _rouge(row: Row) -> float:
    from rouge_score.rouge_scorer import RougeScorer

    return float(RougeScorer(["rougeL"]).score(row["answer"], row["generated"])["rougeL"].fmeasure)


def compare_command(a: Path, b: Path, output: Path | None) -> None:
    """Compare the sets and the perplexities that two result folders share, print tables, write JSON."""
    folders = [ResultFolder(a), ResultFolder(b)]
    one, two = (folder.results() for folder in folders)
    names = [name for name in one["tasks"] if name in two["tasks"]]
    with reading(b, "evaluate again, into a new folder"):
        domains = compare_perplexities(one["perplexity"], two["perplexity"])
    if not names and not domains:
        held = [[*found["tasks"], *found["perplexity"]] for found in (one, two)]
        raise DataError("the evaluations share no set of questions and no domain", got=f"{held[0]} and {held[1]}")
    rows = {name: (folders[0].read(name), folders[1].read(name)) for name in names}
    with reading(b, "evaluate again, into a new folder"):
        found = {name: compare_rows(*pair) for name, pair in rows.items()}
    title = f"A: {one['model']}\nB: {two['model']}"
    if found:
        _print_sets(found, title)
    if domains:
        _print_domains(domains, "" if found else title)
    if output is not None:
        write_json(output, {"a": str(a), "b": str(b), "sets": found, "perplexity": domains})
        print(f"written: {output}")


def compare_perplexities(a: dict[str, Any], b: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Losses of the domains that both measured; without a difference, and with the reason, where it would mean nothing."""
    found: dict[str, dict[str, Any]] = {}
    for name in (name for name in a if name in b):
        one, two = a[name], b[name]
        losses: list[Figure] = [one["loss"], two["loss"]]
        found[name] = {"a": losses[0], "b": losses[1]}
        # Of other text, windows or tokens (another tokenizer) a loss a token says nothing.
        same = [(each.get("store_sha256"), each.get("seq_length"), each["tokens"]) for each in (one, two)]
        if NOT_FINITE in losses:
            found[name]["not_compared"] = NOT_FINITE
        elif same[0] != same[1] or None in same[0]:
            found[name]["not_compared"] = "other text or windows"
        else:
            found[name]["difference"] = float(losses[1]) - float(losses[0])
    return found


def _print_domains(found: dict[str, dict[str, Any]], title: str) -> None:
    rows = []
    for name, row in found.items():
        if "difference" in row:
            more = [f"{row['difference']:+.4f}", shown(perplexity(row["difference"]), ".3f")]
        else:
            more = [row["not_compared"], ""]
        rows.append([name, shown(row["a"], ".4f"), shown(row["b"], ".4f"), *more])
    print_table(["domain", "loss A", "loss B", "B - A", "perplexity B / A"], rows, title)


def _print_sets(found: dict[str, Any], title: str) -> None:
    columns = ("set", "items", "measure", "A", "B", "B - A [95 %]", "McNemar p", "bootstrap p")
    rows = []
    for name, row in found.items():
        span = f"{row['difference']:+.1%} [{row['low']:+.1%}, {row['high']:+.1%}]"
        exact = f"{row['mcnemar_p']:.4g}" if "mcnemar_p" in row else ""
        rows.append([name, str(row["items"]), row["measure"], f"{row['a']:.1%}", f"{row['b']:.1%}", span, exact,
                     f"{row['bootstrap_p']:.4g}"])  # fmt: skip
    print_table(columns, rows, title)
    for name, row in found.items():
        if row["only_in_one"]:
            print(f"{name}: {row['only_in_one']} items are in one evaluation only")
        if row["same_prompt"] < row["items"]:
            print(f"{name}: {row['items'] - row['same_prompt']} items were asked with different prompts")
