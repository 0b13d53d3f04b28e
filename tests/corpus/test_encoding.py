"""Tokenizing in several processes: the same documents in the same order, bounded memory, and no hang when one dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from megabiomed.corpus.encoding import BATCH, BATCHES_IN_FLIGHT, encode_documents
from megabiomed.corpus.tokenizer import train_tokenizer
from megabiomed.errors import WorkerError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return train_tokenizer(iter(["The heart pumps blood. The kidney filters it."] * 9), path, 290).path


def documents(count: int, read: list[int] | None = None) -> Iterator[dict[str, Any]]:
    for number in range(count):
        if read is not None:
            read.append(number)
        yield {"text": f"blood {number}", "paper_id": str(number)}


@pytest.mark.timeout(120)
def test_several_processes_give_what_one_gives_and_read_only_a_little_ahead(tokenizer: Path) -> None:
    count, read = BATCH * 12 + 3, []
    alone = [(ids.tolist(), rest) for ids, rest in encode_documents(documents(count), tokenizer, 1)]
    shared = encode_documents(documents(count, read), tokenizer, 2)
    first = next(shared)
    assert len(read) <= BATCH * BATCHES_IN_FLIGHT * 2
    assert [(ids.tolist(), rest) for ids, rest in (first, *shared)] == alone
    assert [rest for _, rest in alone] == [{"paper_id": str(number)} for number in range(count)]
    assert all((ids[0], ids[-1]) == (1, 2) for ids, _ in alone)


@pytest.mark.timeout(120)
def test_a_killed_process_is_an_error_and_no_hang(tokenizer: Path) -> None:
    shared = encode_documents(documents(BATCH * 200), tokenizer, 2)
    next(shared)
    for child in multiprocessing.active_children():
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="a tokenizing process died"):
        list(shared)
