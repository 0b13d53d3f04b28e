"""`python -m megabiomed.launch.recovery RUN INCARNATION`: how long a run took from a failure to its next step.

Runs beside the ranks of a start, without torch: it waits for their first step, notes the times, and ends.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from megabiomed.checkpoint.fence import CLAIM, Fence
from megabiomed.ground.errors import UserError
from megabiomed.ground.json_lines import seconds_of
from megabiomed.launch import records
from megabiomed.launch.restart import fault_time

RECOVERY = "recovery"
"""Kind of the record."""
_PAUSE_S = 0.2


def failed_before(history: list[dict[str, Any]], incarnation: str) -> dict[str, Any]:
    """The end of the start before this one, if that failed; empty otherwise."""
    begins = [n for n, record in enumerate(history) if record["kind"] == "begin"]
    if not begins or history[begins[-1]].get("incarnation") != incarnation:
        return {}
    before = [record for record in history[: begins[-1]] if record["kind"] in ("begin", "end")]
    last = before[-1] if before else {}
    return last if last.get("kind") == "end" and not last.get("outcome") and not last.get("warned") else {}


def durations(run: Path, incarnation: str, failed: dict[str, Any], stepped: float) -> dict[str, Any]:
    """Seconds of a recovery, and of those the ones that the ranks needed for their imports.

    Args:
        failed: the end of the start that failed.
        stepped: when the first new step was seen, in seconds since 1970.
    """
    fault = fault_time(run, str(failed["incarnation"])) or seconds_of(str(failed["time"])) or stepped
    started = stepped
    with suppress(OSError, ValueError):
        started = float((run / "logs" / incarnation / "started").read_text())
    imports = records.last_event(run, "phases").get("phases", {}).get("imports", 0.0)
    return {
        "after": failed["incarnation"],
        "inside": failed.get("decision") == "again",
        "fault_to_start_s": round(started - fault, 1),
        "start_to_step_s": round(stepped - started, 1),
        "total_s": round(stepped - fault, 1),
        "imports_s": round(float(imports), 1),
    }


def words(record: dict[str, Any]) -> str:
    """A recovery for people."""
    return (
        f"recovered in {record['total_s']:.1f} s: fault seen, ranks started after {record['fault_to_start_s']:.1f} s, "
        f"first new step after {record['start_to_step_s']:.1f} s more (imports {record['imports_s']:.1f} s)"
    )


def main(run: Path, incarnation: str) -> None:
    """Wait for the first step of a start that follows a failed one; note and print how long that took."""
    history = records.history(run)
    failed = failed_before(history, incarnation)
    begin = records.last_begin(run)
    if not failed or records.read_job(run)["kind"] == records.COMMAND:
        return
    events, size = run / records.EVENTS, -1
    while True:
        with suppress(OSError):
            if (now := events.stat().st_size) != size:
                size = now
                if records.last_event(run, "phases").get(CLAIM, -1) == begin.get(CLAIM):
                    break
        time.sleep(_PAUSE_S)
    found = durations(run, incarnation, failed, time.time())
    with suppress(UserError, OSError):
        fence = Fence.inherit(run, incarnation.rpartition(".")[0])
        records.append(run, RECOVERY, fence, incarnation=incarnation, **found)
    stamp = datetime.now().astimezone().isoformat(timespec="seconds")
    print(f"{stamp} [{incarnation}] {words(found)}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
