"""The name under which jobs that an earlier version queued start a rank. It goes with the next release."""

from __future__ import annotations

import runpy

if __name__ == "__main__":
    runpy.run_module("megabiomed.runs.worker", run_name="__main__", alter_sys=True)
