"""The results of an evaluation, or of two, on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from megabiomed.align.text_scores import counted_lines, heading
from megabiomed.ground.figures import NOT_FINITE, shown
from megabiomed.ground.tables import print_table


def percent(found: dict[str, float]) -> str:
    """`51.4 [49.9, 52.9]`."""
    return f"{found['value']:.1%} [{found['low']:.1%}, {found['high']:.1%}]"


def print_results(results: dict[str, Any]) -> None:
    """Print all sets of questions, free answers and perplexities."""
    choice = {name: task for name, task in results["tasks"].items() if "accuracy" in task}
    free = {name: task for name, task in results["tasks"].items() if "text" in task}
    if choice:
        columns = ("set", "items", "accuracy [95 %]", "normalised", "macro-F1", "majority", "without contaminated")
        print_table(columns, [_choice(name, task) for name, task in choice.items()], results["model"])
    if free:
        counted = next(iter(free.values()))["counted"]
        rows = [
            [name, str(task["items"]), *(f"{task['text'][score]:.3f}" for score in counted)]
            for name, task in free.items()
        ]
        print_table(["set", "items", *(heading(score, counted) for score in counted)], rows)
    if results["perplexity"]:
        figures = [
            [name, shown(found["loss"], ".4f"), shown(found["perplexity"], ".3f"), f"{found['tokens']:,.0f}"]
            for name, found in results["perplexity"].items()
        ]
        print_table(["domain", "loss", "perplexity", "tokens"], figures)
    console = Console()
    said = [f"{name}: {line}" for name, task in results["tasks"].items() for line in remarks(task)]
    for line in [*said, *warnings(results)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _choice(name: str, task: dict[str, Any]) -> list[str]:
    """The row of a set of questions with options."""
    more = [percent(task[key]) if key in task else "" for key in ("accuracy_normalised", "macro_f1")]
    clean = (
        f"{percent(task['accuracy_clean'])} of {task['accuracy_clean']['items']}" if "accuracy_clean" in task else ""
    )
    return [name, str(task["items"]), percent(task["accuracy"]), *more, f"{task['majority']:.1%}", clean]


def warnings(results: dict[str, Any]) -> list[str]:
    """One line for each perplexity that is no number."""
    broken = [name for name, found in results["perplexity"].items() if NOT_FINITE in found.values()]
    return [f"warning: the perplexity of {name} is {NOT_FINITE}: take another checkpoint, or --precision fp32"
            for name in broken]  # fmt: skip


def remarks(task: dict[str, Any]) -> list[str]:
    """What a reader of the figures must know."""
    lines = [*task["notes"]]
    if task["left_out"]:
        lines.append("left out: " + ", ".join(f"{count} {reason}" for reason, count in task["left_out"].items()))
    if task["contexts_cut"]:
        lines.append(f"{task['contexts_cut']} contexts cut by {task['words_cut']} words to fit the window")
    if task["examples_cut"]:
        lines.append(f"{task['examples_cut']} few-shot examples left out to fit the window")
    if task["contaminated_dropped"]:
        lines.append(f"{task['contaminated_dropped']} contaminated items dropped")
    lines += counted_lines(task.get("counted", {}))
    if task.get("answers_cut"):
        lines.append(f"{task['answers_cut']} answers reached --max-new-tokens and are scored as far as they go")
    if task.get("no_option_named"):
        lines.append(f"{task['no_option_named']} answers name no option and count as wrong")
    if task["contamination_checked"] != "yes":
        lines.append(f"training data searched for these questions: {task['contamination_checked']}")
    return lines
