"""`python -m megabiomed.launch.selftest.several CONFIG...`: ranks that join once and do one run after another.

One start for many topologies: importing torch and DeepSpeed takes longer than the steps of the small model.
"""

from __future__ import annotations

import sys

from megabiomed.processes import platform
from megabiomed.processes.ranks import join
from megabiomed.processes.signals import StopFlag
from megabiomed.runs.kinds import kind_of_config, read_run


def run_all(files: list[str], stop: StopFlag) -> str:
    """Do the runs in order; the first that fails ends the start, and says by its events which it was."""
    outcome = "finished"
    for file in files:
        config = read_run(file, [])
        outcome = kind_of_config(config).train(config, None, stop)
    return outcome


if __name__ == "__main__":
    platform.leave(join(lambda: sys.argv[1:], run_all))
