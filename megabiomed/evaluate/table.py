"""The results of an evaluation, or of two, on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from megabiomed.align.text_scores import counted_lines, heading
from megabiomed.ground.figures import NOT_FINITE, shown


def percent(found: dict[str, float]) -> str:
    """`51.4 [49.9, 52.9]`."""
    return f"{found['value']:.1%} [{found['low']:.1%}, {found['high']:.1%}]"


def print_table(results: dict[str, Any]) -> None:
    """Print all sets of questions, free answers and perplexities."""
    console = Console(width=None if Console().is_terminal else 140)
    choice = {name: task for name, task in results["tasks"].items() if "accuracy" in task}
    free = {name: task for name, task in results["tasks"].items() if "text" in task}
    if choice:
        columns = ("set", "items", "accuracy [95 %]", "normalised", "macro-F1", "majority", "without contaminated")
        table = Table(*columns, title=f"{results['model']}")
        for name, task in choice.items():
            more = [percent(task[key]) if key in task else "" for key in ("accuracy_normalised", "macro_f1")]
            clean = f"{percent(task['accuracy_clean'])} of {task['accuracy_clean']['items']}" \
                if "accuracy_clean" in task else ""  # fmt: skip
            table.add_row(name, str(task["items"]), percent(task["accuracy"]), *more, f"{task['majority']:.1%}", clean)
        console.print(table)
    if free:
        counted = next(iter(free.values()))["counted"]
        table = Table("set", "items", *(heading(score, counted) for score in counted))
        for name, task in free.items():
            table.add_row(name, str(task["items"]), *(f"{task['text'][score]:.3f}" for score in counted))
        console.print(table)
    if results["perplexity"]:
        table = Table("domain", "loss", "perplexity", "tokens")
        for name, found in results["perplexity"].items():
            table.add_row(
                name, shown(found["loss"], ".4f"), shown(found["perplexity"], ".3f"), f"{found['tokens']:,.0f}"
            )
        console.print(table)
    for name, task in results["tasks"].items():
        for line in remarks(task):
            console.print(f"{name}: {line}", highlight=False)
    for line in warnings(results):
        console.print(line, highlight=False)


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
