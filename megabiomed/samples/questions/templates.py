"""Prompt templates: how a question becomes a prompt, what its options are called, what the answer is.

A rendered prompt is head + context + tail, so that a long context can be cut without touching the question.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from megabiomed.ground.errors import ConfigError
from megabiomed.samples.questions.layouts import LETTERS
from megabiomed.samples.questions.records import Kind, QuestionRecord

SHOT_SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Template:
    """One way to ask.

    Attributes:
        origin: where it comes from.
        kinds: datasets that it can ask.
        body: text with {context}, {question} and {options}; the answer follows it.
        context: how a context is shown, with {context}; nothing is shown where there is none.
        option: how an option is listed, with {letter} and {text}; "" lists none.
        answers: the options are scored by their letter, or by their text.
        system: text before everything else, once, also before few-shot examples.
        before: what stands between prompt and answer.
    """

    origin: str
    kinds: tuple[Kind, ...]
    body: str
    context: str = ""
    option: str = ""
    answers: Literal["letter", "text"] = "letter"
    system: str = ""
    before: str = " "


@dataclass(frozen=True)
class Prompt:
    """A rendered question.

    Attributes:
        head, context, tail: the prompt in three parts; only `context` may be cut.
        system: what precedes all of it, and few-shot examples.
        options: continuations to score, each with what separates it from the prompt.
        answer: the right continuation.
        names: the options without the separator, for tables and length normalisation.
    """

    head: str
    context: str
    tail: str
    options: tuple[str, ...]
    answer: str
    system: str = ""
    names: tuple[str, ...] = field(default=())

    @property
    def text(self) -> str:
        """The whole prompt without system text."""
        return self.head + self.context + self.tail


_ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
)
_DOCTOR = (
    "You're a doctor, kindly address the medical queries according to the patient's account. "
    "Answer with the best option directly."
)
_LM_EVAL = "EleutherAI lm-evaluation-harness 0.4.13"
_PMC = "PMC-LLaMA's README (chaoyi-wu/PMC-LLaMA), with the space that is missing there after `context.`"
_CHOICES: tuple[Kind, ...] = ("medmcqa", "medqa")

TEMPLATES: dict[str, Template] = {
    "pubmedqa": Template(
        f"{_LM_EVAL}, tasks/pubmedqa",
        ("pubmedqa",), "{context}Question: {question}\nAnswer:", context="Abstract: {context}\n", answers="text",
    ),
    "medmcqa": Template(
        f"{_LM_EVAL}, tasks/medmcqa",
        _CHOICES, "Question: {question}\nChoices:\n{options}Answer:", option="{letter}. {text}\n",
    ),
    "medqa": Template(
        f"{_LM_EVAL}, tasks/medqa",
        _CHOICES, "Question: {question}\n{options}Answer:", option="{letter}. {text}\n",
    ),
    "cloze": Template(
        "options scored by their text, as ARC is asked since Brown et al. 2020",
        ("medmcqa", "medqa", "pubmedqa"), "{context}Question: {question}\nAnswer:", context="{context}\n",
        answers="text",
    ),
    "free": Template(
        "question and answer, the form of lm-evaluation-harness's open questions",
        ("free",), "{context}Question: {question}\nAnswer:", context="Context: {context}\n", answers="text",
    ),
    "pmc-llama": Template(
        _PMC,
        ("medmcqa", "medqa"),
        _ALPACA + "### Instruction:\n" + _DOCTOR
        + "\n\n### Input:\n###Question: {question} ###Options: {options}\n\n### Response:",
        option="{letter}. {text} ",
    ),
    "pmc-llama-pubmedqa": Template(
        f"the frame of {_PMC} around PubMedQA's abstract; its authors' own wording for PubMedQA was not found",
        ("pubmedqa",),
        _ALPACA + "### Instruction:\nAnswer the question about the abstract with yes, no or maybe."
        "\n\n### Input:\n{context}###Question: {question}\n\n### Response:",
        context="###Abstract: {context} ", answers="text",
    ),
    "meditron": Template(
        "MEDITRON's exam prompt (Chen et al. 2023, epfLLM/meditron) without its chat markers",
        _CHOICES, "Question: {question}\nOptions:\n{options}Answer:", option="({letter}) {text}\n",
        system="You are a medical doctor answering real-world medical entrance exam questions. Based on your understanding "
        "of basic and clinical science, medical knowledge, and mechanisms underlying health, disease, patient care, and "
        "modes of therapy, answer the following multiple-choice question. Select one correct answer from A to D. Base your "
        "answer on the current and standard practices referenced in medical guidelines.\n",
    ),
}  # fmt: skip

DEFAULT_TEMPLATE: dict[Kind, str] = {"pubmedqa": "pubmedqa", "medmcqa": "medmcqa", "medqa": "medqa", "free": "free"}


def find_template(name: str | None, kind: Kind) -> tuple[str, Template]:
    """A template by name, checked against the dataset; None takes the dataset's own.

    Raises:
        ConfigError: no such template, or one that cannot ask this dataset's questions.
    """
    fits = [known for known, template in TEMPLATES.items() if kind in template.kinds]
    chosen = name or DEFAULT_TEMPLATE[kind]
    if chosen not in fits:
        raise ConfigError(f"there is no template for {kind} by this name", got=chosen, expected=", ".join(fits))
    return chosen, TEMPLATES[chosen]


def render(template: Template, record: QuestionRecord) -> Prompt:
    """The prompt of a record, its continuations and the right answer."""
    listed = "".join(
        template.option.format_map({"letter": letter, "text": text}) for letter, text in zip(LETTERS, record.options)
    )
    shown = bool(record.context and template.context)
    # Text around the context goes to head and tail, so that cutting the context leaves it alone.
    before, after = template.context.split("{context}") if shown else ("", "")
    low, _, high = template.body.partition("{context}") if "{context}" in template.body else ("", "", template.body)
    values = {"options": listed, "question": record.question}
    # In one pass: a question may hold "{options}" itself.
    tail = re.sub(r"\{(options|question)\}", lambda found: values[found[1]], after + high)
    names = tuple(LETTERS[: len(record.options)]) if template.answers == "letter" else record.options
    right = record.answer if record.label is None else names[record.label]
    return Prompt(
        low + before, record.context if shown else "", tail, tuple(template.before + name for name in names),
        template.before + right, template.system, names,
    )  # fmt: skip
