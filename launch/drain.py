"""Asks the cluster to take bad nodes out of service, where its operator has said how (`drain_command`)."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megabiomed.launch import records

_TIME_S = 20.0
_PLACES = re.compile(r"\{(node|reason)\}")


def drain(run: Path, nodes: Mapping[str, str]) -> None:
    """Run the command for each node; what goes wrong is said in the job's log, and nothing else depends on it.

    Args:
        nodes: node -> why.
    """
    words = records.read_job(run).get("cluster", {}).get("drain_command") or []
    for node, why in nodes.items() if words else ():
        reason = " ".join(f"megabiomed {run.name}: {why}".split())[:200]
        values = {"node": node, "reason": reason}
        print(f"drain {node}: {_run(_filled(words, values))}", file=sys.stderr, flush=True)


def _filled(words: list[str], values: Mapping[str, str]) -> list[str]:
    # One pass: a reason that holds `{node}` by itself stays as it is.
    return [_PLACES.sub(lambda found: values[found[1]], word) for word in words]


def _run(words: list[str]) -> str:
    try:
        done: subprocess.CompletedProcess[Any] = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=_TIME_S, start_new_session=True
        )
    except subprocess.TimeoutExpired:
        return f"{words[0]} did not end within {_TIME_S:.0f} s"
    except (OSError, ValueError) as error:
        return f"{words[0]} cannot be run: {error}"
    said = " ".join((done.stdout + done.stderr).split())[:200]
    return f"exit code {done.returncode}" + (f": {said}" if said else "")
