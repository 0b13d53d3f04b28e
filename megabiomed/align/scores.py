"""Scores of answers: BLEU-2/4 and METEOR (nltk), ROUGE-1/2/L (rouge-score), with a retrieval baseline and wrong items.

A model that reads its items must lose when they are exchanged; text scores alone do not show that it does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.progress import track

from megabiomed.align.chat import Chat, Sampling
from megabiomed.align.text_scores import counted_lines, heading, text_scorer
from megabiomed.ground.files import write_json
from megabiomed.ground.tables import print_table
from megabiomed.samples.multimodal.records import MultimodalQuestion
from megabiomed.samples.multimodal.store import QaStore, StoredItem


class Nearest:
    """Retrieval baseline: answers of the most similar items of the training split."""

    def __init__(self, store: QaStore) -> None:
        self.store = store
        self._fingerprints: dict[tuple[str, str], Any] = {}

    def answer(self, name: str, text: str, question: str) -> str:
        """The answer to the same question on the most similar item of a modality; "" where nobody asked it."""
        store = self.store
        best = -1.0
        found = ""
        wanted = self._fingerprint(name, text)
        for record in range(len(store)):
            items = store.record_items(record)
            _, asked, answer = store.text(record)
            if not items or items[0].modality != name or asked != question:
                continue
            other = self._fingerprint(name, store.item_text(name, items[0].row))
            score = store.modalities[name].similarity(wanted, other)
            if score > best:
                best, found = score, answer
        return found

    def _fingerprint(self, name: str, text: str) -> Any:
        # Every question is compared with the same training items.
        if (name, text) not in self._fingerprints:
            self._fingerprints[name, text] = self.store.modalities[name].fingerprint(text)
        return self._fingerprints[name, text]


def evaluate_command(
    run: Path, split: Path, train: Path | None, samples: int, output: Path | None, max_new_tokens: int,
    score_tokenizer: Path | None = None,
) -> None:  # fmt: skip
    """Answer held-out questions, print the table, write the JSON.

    Args:
        score_tokenizer: BLEU and METEOR count its pieces too.
    """
    scorer = text_scorer(score_tokenizer)
    chat, store = Chat(run), QaStore(split)
    sampling = Sampling(max_new_tokens)
    training = Nearest(QaStore(train)) if train else None
    rows = [_answer(chat, store, training, number, sampling)
            for number in track(range(min(samples, len(store))), "answer", transient=True)]  # fmt: skip
    result: dict[str, Any] = {
        "run": str(run),
        "split": str(split),
        "checkpoint": str(chat.parts.origin),
        "scores": {},
        "counted": scorer.counted,
    }
    lines = []
    for modality in store.modalities:
        chosen = [row for row in rows if row["modality"] == modality]
        for column in ("model", "wrong_item", "retrieval"):
            if chosen and chosen[0].get(column) is not None:
                scores = scorer.scores([row[column] for row in chosen], [row["reference"] for row in chosen])
                result["scores"][f"{modality}/{column}"] = scores
                figures = (f"{scores[name]:.3f}" for name in scorer.names)
                lines.append([f"{modality}, {len(chosen)}", column, *figures])
    headings = [heading(name, scorer.counted) for name in scorer.names]
    print_table(["questions", "answers by", *headings], lines, f"{len(rows)} held-out questions")
    for line in counted_lines(scorer.counted):
        print(line)
    result["answers_cut"] = sum(row["cut"] for row in rows)
    if result["answers_cut"]:
        print(f"{result['answers_cut']} answers reached {max_new_tokens} tokens and are scored as far as they go")
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, {**result, "answers": rows})
        print(f"written: {output}")


def _answer(chat: Chat, store: QaStore, training: Nearest | None, number: int, sampling: Sampling) -> dict[str, Any]:
    """One question answered with its own items, with those of another record of the same kind, and by retrieval."""
    ident, question, reference = store.text(number)
    items = store.record_items(number)
    record = MultimodalQuestion(ident, question, reference, store.item_texts(number))
    own = [store.features(item.modality, item.row) for item in items]
    wrong = [store.features(item.modality, item.row) for item in _wrong_items(store, number)]
    name = items[0].modality if items else None
    found = {"id": ident, "modality": name, "question": question, "reference": reference}
    answer = chat.answer(record, sampling, features=own)
    found["model"], found["cut"] = answer.text, answer.cut
    found["wrong_item"] = chat.answer(record, sampling, features=wrong).text
    if training is not None and name is not None:
        found["retrieval"] = training.answer(name, store.item_text(name, items[0].row), question)
    return found


def _wrong_items(store: QaStore, number: int) -> list[StoredItem]:
    """Items of another record that has as many of each modality in the same order; its own where there is none."""
    own, count = store.record_items(number), len(store)
    others = (store.record_items((number + count // 2 + step) % count) for step in range(count))
    kinds = [item.modality for item in own]
    return next((other for other in others if other != own and [item.modality for item in other] == kinds), own)
