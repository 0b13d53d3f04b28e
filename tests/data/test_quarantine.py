"""Documents of quarantine.jsonl are masked out of the loss; nothing else of the data changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megabiomed.config import DataConfig
from megabiomed.data.loader import StepBatch, TrainLoader
from megabiomed.data.packing import IGNORE_INDEX
from megabiomed.data.progress import DataProgress
from megabiomed.data.quarantine import QUARANTINE, Quarantine, add_entry, read_entries
from megabiomed.data.store import TokenStore
from megabiomed.data.trace import papers_of_step
from megabiomed.ground.errors import DataError

SIZE = 16


def loader(
    store: TokenStore, packing: str = "contiguous", rank: int = 0, ranks: int = 1, micro: int = 2
) -> TrainLoader:
    data = DataConfig(seq_length=SIZE, global_batch_size=8, micro_batch_size=micro, packing=packing, prefetch=0)  # type: ignore[arg-type]
    return TrainLoader([store], [1.0], data, seed=3, dp_rank=rank, dp_size=ranks)


def labels(step: StepBatch) -> np.ndarray:
    return np.concatenate([batch.labels.numpy() for batch in step.micro_batches])


@pytest.mark.parametrize("packing", ["contiguous", "best_fit"])
def test_exactly_the_labels_of_listed_papers_are_masked(store: TokenStore, tmp_path: Path, packing: str) -> None:
    clean, masked = loader(store, packing), loader(store, packing)
    for paper in ("p5", "p7"):
        assert add_entry(tmp_path, paper, "garbage")
    assert not add_entry(tmp_path, "p5", "again")
    masked.quarantine = Quarantine.of(tmp_path, masked.documents)
    sent = Quarantine.from_json(masked.quarantine.to_json())
    assert sent == masked.quarantine
    hidden = 0
    for first in range(0, 2 * clean.samples_per_epoch, 8):
        one, other = clean.batch_at(first), masked.batch_at(first)
        assert one.sample_ids.tolist() == other.sample_ids.tolist()
        owners = np.full(8 * SIZE, -1)
        for row, (_, _, window) in enumerate(one.sample_ids.tolist()):
            for part in clean.documents[0].parts(window):
                owners[row * SIZE + part.place : row * SIZE + part.place + part.size] = part.document
        listed = np.isin(owners, [d for d in range(store.num_documents) if store.paper_id(d) in ("p5", "p7")])
        assert (labels(other) == np.where(listed, IGNORE_INDEX, labels(one))).all()
        counted = sum(batch.num_loss_tokens for batch in other.micro_batches)
        assert counted == (labels(other) != IGNORE_INDEX).sum()
        assert sorted(other.marks) == sorted({place // SIZE for place in np.flatnonzero(listed).tolist()})
        hidden += int(listed.sum())
    assert hidden > 100


def test_masking_is_the_same_on_every_topology(store: TokenStore, tmp_path: Path) -> None:
    add_entry(tmp_path, "p5", "garbage")
    alone = loader(store)
    alone.quarantine = Quarantine.of(tmp_path, alone.documents)
    ranks = [loader(store, rank=rank, ranks=4, micro=1) for rank in range(4)]
    for each in ranks:
        each.quarantine = alone.quarantine
    for first in range(0, alone.samples_per_epoch, 8):
        together = np.concatenate([labels(each.batch_at(first)) for each in ranks])
        assert (together == labels(alone.batch_at(first))).all()


def test_the_hash_of_the_samples_tells_what_was_masked_however_they_are_cut(store: TokenStore, tmp_path: Path) -> None:
    add_entry(tmp_path, "p5", "garbage")
    marked = Quarantine.of(tmp_path, loader(store).documents)
    ids = loader(store).order.sample_ids(0, 200)
    whole = DataProgress().advance(ids, marked.marks(ids.tolist()))
    cut = DataProgress()
    for first in range(0, 200, 50):
        cut = cut.advance(ids[first : first + 50], marked.marks(ids[first : first + 50].tolist()))
    assert whole == cut
    assert whole.ids_hash != DataProgress().advance(ids).ids_hash
    assert whole.next_sample == 200
    held = replace(whole, quarantined=["p5"])
    assert DataProgress.from_dict(held.to_dict()) == held


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("p5", "line 2 names no paper: got p5, expected a JSON object"),
        ('{"paper": "p5"}', "line 2 names no paper"),
        ('{"paper_id": 5}', "line 2 names no paper"),
        ('{"paper_id": "p5", "why": "x"}', "line 2 has unknown keys: got why"),
        ('{"paper_id": "p99"}', "line 2: no training data of this run has the paper: got p99"),
    ],
)
def test_a_line_that_masks_nothing_is_refused(store: TokenStore, tmp_path: Path, line: str, text: str) -> None:
    (tmp_path / QUARANTINE).write_text(f'{{"paper_id": "p1"}}\n{line}\n\n')
    with pytest.raises(DataError, match=text):
        Quarantine.of(tmp_path, loader(store).documents)


def test_an_entry_is_added_behind_a_line_without_an_end(tmp_path: Path) -> None:
    (tmp_path / QUARANTINE).write_text('{"paper_id": "p1"}')
    add_entry(tmp_path, "p2", "x")
    assert read_entries(tmp_path / QUARANTINE) == {"p1": 1, "p2": 2}


def test_an_event_names_each_paper_of_a_step_with_its_pieces(store: TokenStore) -> None:
    load = loader(store)
    papers = papers_of_step(load, 8, 8)["papers"]
    pieces = sorted(piece for paper in papers for piece in paper["pieces"])
    assert sum(high - low for _, low, high in pieces) == 8 * SIZE
    assert {sample for sample, _, _ in pieces} == set(range(8, 16))
    assert len({paper["paper_id"] for paper in papers}) == len(papers)
