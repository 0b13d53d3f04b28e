"""A small real token store for the data tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.stores import make_store

from megabiomed.data.store import TokenStore
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer

TEXT = "The heart pumps blood. The kidney filters the blood and produces urine. Insulin lowers blood glucose. " * 30


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(iter([TEXT]), path, 300)
    return path


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> TokenStore:
    return make_store(tmp_path_factory.mktemp("s") / "train", tokenizer_file, [5, 1, 40, 33, 7, 90, 2, 61] * 4)
