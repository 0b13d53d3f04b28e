"""Questions that the project makes itself, in every published layout, from the fact tables of the corpus generator.

They are learnable by rule: whoever learned the training questions can answer the test questions, which ask about other
pairs of substance and use, or show other choices. PubMedQA's layout: the abstract reports a trial, its findings decide
between yes, no and maybe. MedMCQA's and MedQA's: one option is of the kind that is asked for.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megabiomed.corpus.facts_biology import AMINO_ACIDS, HORMONES, VITAMINS
from megabiomed.corpus.facts_molecules import MOLECULES
from megabiomed.ground.errors import DataError
from megabiomed.ground.files import write_atomic, write_json
from megabiomed.samples.questions.readers import GROUND_TRUTH

_FINDINGS = {
    "yes": ("Symptoms improved significantly compared with placebo.", "The effect was large and significant."),
    "no": ("Symptoms did not differ from placebo.", "There was no effect at any dose."),
    "maybe": ("The results were inconsistent and the trial was small.", "Findings were mixed and remain uncertain."),
}
_YEARS = range(1998, 2020)


def _uses() -> list[tuple[str, str]]:
    """(substance, use), e.g. ("aspirin", "relieve pain and fever")."""
    start = "used to "
    return [(m.name, m.statement.removeprefix(start)) for m in MOLECULES if m.statement.startswith(start)]


def pubmedqa_entries(count: int, seed: int) -> dict[str, dict[str, Any]]:
    """Entries of PQA-L's layout by id; each pair of substance and use occurs once."""
    rng, uses = random.Random(seed), _uses()
    names, purposes = [name for name, _ in uses], sorted({use for _, use in uses})
    pairs = [(name, use) for name in names for use in purposes]
    if count > len(pairs):
        raise DataError("there are not so many different questions", got=count, expected=f"at most {len(pairs)}")
    found = {}
    for number, (name, use) in enumerate(rng.sample(pairs, count)):
        verdict = rng.choice(list(_FINDINGS))
        patients = rng.randrange(20, 400)
        # Far above PubMed's ids, so that no real abstract has one of them.
        found[str(90_000_000 + number)] = {
            "QUESTION": f"Does {name} {use}?",
            "CONTEXTS": [f"We gave {name} or placebo to {patients} patients to {use}.", rng.choice(_FINDINGS[verdict])],
            "LABELS": ["METHODS", "RESULTS"],
            "MESHES": [],
            "YEAR": str(rng.choice(_YEARS)),
            "LONG_ANSWER": f"Whether {name} can {use} was answered by this trial: {verdict}.",
            "final_decision": verdict,
        }
    return found


def _families() -> dict[str, list[str]]:
    """Kinds of things and their members."""
    return {
        "an amino acid": [acid.name for acid in AMINO_ACIDS],
        "a vitamin": [row[0] for row in VITAMINS],
        "a hormone": [row[0] for row in HORMONES],
        "a medicine": [name for name, _ in _uses()],
    }


def choice_entries(count: int, seed: int, options: int = 4) -> list[tuple[str, list[str], int, str]]:
    """(question, options, right option, subject), all different."""
    rng, families = random.Random(seed), _families()
    # By question and options, because training and test questions must differ.
    found: dict[tuple[str, ...], tuple[str, list[str], int, str]] = {}
    while len(found) < count:
        wanted = rng.choice(list(families))
        right = rng.choice(families[wanted])
        own = set(families[wanted])
        others = sorted({name for names in families.values() for name in names} - own)
        shown = rng.sample(others, options - 1)
        label = rng.randrange(options)
        shown.insert(label, right)
        subject = wanted.split()[-1]
        found[wanted, *shown] = (f"Which of these is {wanted}?", shown, label, subject)
    return list(found.values())


def _medmcqa(rows: list[tuple[str, list[str], int, str]], prefix: str) -> str:
    keys = ("opa", "opb", "opc", "opd")
    return _lines(
        {"question": question, "exp": None, "cop": label + 1, **dict(zip(keys, options)), "subject_name": subject,
         "topic_name": None, "id": f"{prefix}-{number}", "choice_type": "single"}
        for number, (question, options, label, subject) in enumerate(rows)
    )  # fmt: skip


def _medqa(rows: list[tuple[str, list[str], int, str]], prefix: str) -> str:
    return _lines(
        {"question": question, "answer": options[label], "options": dict(zip("ABCDE", options)),
         "meta_info": ("step1", "step2&3")[number % 2], "answer_idx": "ABCDE"[label]}
        for number, (question, options, label, _) in enumerate(rows)
    )  # fmt: skip


def _free(rows: list[tuple[str, list[str], int, str]], prefix: str) -> str:
    return _lines(
        {"id": f"{prefix}-{number}", "question": f"{question} {', '.join(options)}", "answer": options[label]}
        for number, (question, options, label, _) in enumerate(rows)
    )


def _lines(rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


_WRITERS: dict[str, tuple[Callable[[list[tuple[str, list[str], int, str]], str], str], int]] = {
    "medmcqa": (_medmcqa, 4), "medqa": (_medqa, 5), "free": (_free, 4),
}  # fmt: skip


def generate_questions(folder: Path, train: int = 600, test: int = 100, seed: int = 0) -> list[Path]:
    """Write pubmedqa/ori_pqal.json with test_ground_truth.json, and medmcqa, medqa and free as train.jsonl and test.jsonl.

    Returns:
        the files to evaluate, one a dataset.
    """
    entries = pubmedqa_entries(train + test, seed)
    held = list(entries)[train:]
    (folder / "pubmedqa").mkdir(parents=True, exist_ok=True)
    written = [folder / "pubmedqa" / "ori_pqal.json"]
    write_json(written[0], entries)
    write_json(folder / "pubmedqa" / GROUND_TRUTH, {name: entries[name]["final_decision"] for name in held})
    for number, (name, (text, options)) in enumerate(_WRITERS.items(), 1):
        rows = choice_entries(train + test, seed + number, options)
        (folder / name).mkdir(exist_ok=True)
        write_atomic(folder / name / "train.jsonl", text(rows[:train], f"{name}-train"))
        write_atomic(folder / name / "test.jsonl", text(rows[train:], f"{name}-test"))
        written.append(folder / name / "test.jsonl")
    return written
