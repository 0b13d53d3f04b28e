"""Entry point of one rank: `python -m megabiomed.evaluate.worker SETTINGS.json` under the launcher."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from megabiomed.checkpoint.files import read_json
from megabiomed.evaluate.settings import EvaluateSettings
from megabiomed.train.signals import StopFlag
from megabiomed.train.worker import join


def run(settings: EvaluateSettings) -> int:
    """Join the evaluation; returns the process's exit code."""

    def evaluate(stop: StopFlag) -> str:
        from megabiomed.evaluate.runner import Evaluation

        return Evaluation(settings, stop).run()

    return join(evaluate)


def leave(code: int) -> None:
    """End this process without waiting for other ranks' collectives."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(run(EvaluateSettings.model_validate(read_json(Path(sys.argv[1])))))
