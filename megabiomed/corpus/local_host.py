"""Runs datatrove's executors one after another in one process, whose imports serve all steps of a build.

`LocalEngine` starts it and sends it the folders of the executors, a JSON text a line.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

import dill

from megabiomed.processes.local import die_with_parent

PICKLED, ENDED = "executor.pik", "ended"


def main() -> None:
    """Until the input ends: run the executor in each folder, then write the file that says so."""
    # Workers, and the manager of their queue: each would wait for ever for one that was killed.
    os.register_at_fork(after_in_child=die_with_parent)
    for line in sys.stdin:
        place = Path(json.loads(line))
        try:
            # As trustworthy as the code: this build has just written it.
            dill.loads((place / PICKLED).read_bytes()).run()
        except Exception:
            traceback.print_exc()  # jobs without a result are noticed by who waits for them
        (place / ENDED).touch()


if __name__ == "__main__":
    main()
