"""Questions in published layouts."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from megabiomed.samples.questions.generate import generate_questions

    folder = tmp_path_factory.mktemp("questions")
    generate_questions(folder, train=24, test=16)
    return folder
