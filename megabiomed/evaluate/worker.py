"""Entry point of one rank: `python -m megabiomed.evaluate.worker SETTINGS.json OUTCOME.json` under the launcher."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from megabiomed.evaluate.settings import EvaluateSettings
from megabiomed.ground.files import read_json
from megabiomed.processes.ranks import VERDICT, join
from megabiomed.processes.signals import StopFlag

STOPPED = 128 + 15
"""Exit code of an evaluation that was asked to leave before its end: a shell or a chain must not take it for done."""


def run(settings: EvaluateSettings) -> int:
    """Join the evaluation; returns the process's exit code."""
    outcome = ""

    def evaluate(settings: EvaluateSettings, stop: StopFlag) -> str:
        nonlocal outcome
        from megabiomed.evaluate.runner import Evaluation

        outcome = Evaluation(settings, stop).run()
        return outcome

    return join(lambda: settings, evaluate) or (STOPPED if outcome == "stopped" else 0)


if __name__ == "__main__":
    from megabiomed.processes import platform

    os.environ[VERDICT] = sys.argv[2]
    code = run(EvaluateSettings.model_validate(read_json(Path(sys.argv[1]))))
    # The launcher reads from the file how it ended, and takes any other code for a death that ends the other ranks.
    platform.leave(0 if code == STOPPED else code)
