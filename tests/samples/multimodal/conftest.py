"""A small tokenizer, and `multimodal build` in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from megabiomed.cli import app
from megabiomed.samples.multimodal.store import QaStore
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(iter(["the molecule is an alcohol that binds water in a protein " * 20]), path, 290)
    return path


@pytest.fixture
def build(tokenizer: Path, tmp_path: Path) -> Callable[..., QaStore]:
    """Builds one split of one file with the command itself; a traceback of the command is one of the test."""

    def run(file: Path, *flags: str) -> QaStore:
        output = tmp_path / f"out_{len(list(tmp_path.glob('out_*')))}"
        words = ["dataset", "build", str(file), "--output", str(output), "--tokenizer", str(tokenizer)]
        app([*words, "--split", "none", "--template", "plain", *flags], standalone_mode=False)
        return QaStore(output / "all")

    return run
