"""Scores of answers: BLEU-2/4 and METEOR (nltk), ROUGE-1/2/L (rouge-score), with a retrieval baseline and wrong items.

A model that reads its molecules and proteins must lose when they are exchanged; text scores alone do not show that it does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from megabiomed.align.chat import Chat, Sampling
from megabiomed.align.text_scores import text_scores
from megabiomed.encoders.schedule import MODALITIES
from megabiomed.ground.files import write_json
from megabiomed.samples.multimodal.records import QaRecord
from megabiomed.samples.multimodal.store import QaStore


def nearest_answer(store: QaStore, kind: int, text: str, question: str) -> str:
    """Retrieval baseline: the answer to the same question on the most similar item of the training split."""
    table = store.records
    best, found = -1.0, ""
    wanted = _features_of(kind, text)
    for record in range(len(store)):
        items = store.record_items(record)
        if not items or items[0][0] != kind or table["question"][record].as_py() != question:
            continue
        score = _similarity(kind, wanted, _features_of(kind, store.item_text(kind, items[0][1])))
        if score > best:
            best, found = score, table["answer"][record].as_py()
    return found


_CACHE: dict[tuple[int, str], Any] = {}


def _features_of(kind: int, text: str) -> Any:
    """Morgan fingerprint (radius 2, 2,048 bits), or the set of 3-mers of a sequence."""
    if (kind, text) not in _CACHE:
        if kind == 0:
            from rdkit import Chem, rdBase
            from rdkit.Chem import rdFingerprintGenerator

            generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
            with rdBase.BlockLogs():
                _CACHE[kind, text] = generator.GetFingerprint(Chem.MolFromSmiles(text))
        else:
            _CACHE[kind, text] = {text[i : i + 3] for i in range(max(1, len(text) - 2))}
    return _CACHE[kind, text]


def _similarity(kind: int, a: Any, b: Any) -> float:
    if kind == 0:
        from rdkit.DataStructs import TanimotoSimilarity

        return float(TanimotoSimilarity(a, b))
    return len(a & b) / max(1, len(a | b))


def evaluate_command(
    run: Path, split: Path, train: Path | None, samples: int, output: Path | None, max_new_tokens: int
) -> None:
    """Answer held-out questions, print the table, write the JSON."""
    chat, store = Chat(run), QaStore(split)
    sampling = Sampling(max_new_tokens)
    training = QaStore(train) if train else None
    rows = [_answer(chat, store, training, number, sampling)
            for number in track(range(min(samples, len(store))), "answer", transient=True)]  # fmt: skip
    result: dict[str, Any] = {
        "run": str(run),
        "split": str(split),
        "checkpoint": str(chat.parts.origin),
        "scores": {},
    }
    table = Table("questions", "answers by", *_NAMES, title=f"{len(rows)} held-out questions")
    for kind, modality in enumerate(MODALITIES):
        chosen = [row for row in rows if row["kind"] == kind]
        for column in ("model", "wrong_item", "retrieval"):
            if chosen and chosen[0].get(column) is not None:
                scores = text_scores([row[column] for row in chosen], [row["reference"] for row in chosen])
                result["scores"][f"{modality}/{column}"] = scores
                table.add_row(f"{len(chosen)} {modality}", column, *(f"{scores[name]:.3f}" for name in _NAMES))
    Console().print(table)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, {**result, "answers": rows})
        print(f"written: {output}")


_NAMES = ("bleu2", "bleu4", "rouge1", "rouge2", "rougeL", "meteor", "exact")


def _answer(chat: Chat, store: QaStore, training: QaStore | None, number: int, sampling: Sampling) -> dict[str, Any]:
    """One question answered with its own items, with those of another record of the same kind, and by retrieval."""
    ident, question, reference = store.text(number)
    items = store.record_items(number)
    kinds = [kind for kind, _, _ in items]
    texts = [store.item_text(kind, row) for kind, row, _ in items]
    record = QaRecord(ident, question, reference, [t for k, t in zip(kinds, texts) if k == 0],
                      [t for k, t in zip(kinds, texts) if k == 1])  # fmt: skip
    own = [store.features(kind, row) for kind, row, _ in items]
    other = next((store.record_items(r) for r in _others(store, number) if _kinds(store, r) == kinds
                  and store.record_items(r) != items), items)  # fmt: skip
    wrong = [store.features(kind, row) for kind, row, _ in other]
    found = {"id": ident, "kind": kinds[0] if kinds else -1, "question": question, "reference": reference}
    found["model"] = chat.answer(record, sampling, features=own)
    found["wrong_item"] = chat.answer(record, sampling, features=wrong)
    if training is not None and kinds:
        found["retrieval"] = nearest_answer(training, kinds[0], texts[0], question)
    return found


def _others(store: QaStore, number: int) -> list[int]:
    count = len(store)
    return [(number + count // 2 + step) % count for step in range(count)]


def _kinds(store: QaStore, record: int) -> list[int]:
    return [kind for kind, _, _ in store.record_items(record)]


def read_scores(path: Path) -> dict[str, Any]:
    """Scores that `evaluate_command` wrote."""
    found: dict[str, Any] = json.loads(path.read_text())["scores"]
    return found
