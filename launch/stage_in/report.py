"""`python -m megabiomed.launch.stage_in.report LOGS NODES`: what the nodes of a start read from their own storage."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from megabiomed.ground.errors import MegabiomedError
from megabiomed.ground.files import read_json, write_json
from megabiomed.ground.staged import note_of, unread_of
from megabiomed.launch import scheduler
from megabiomed.launch.stage_in.figures import duration, size

RECORD = "stage_in"
"""Key of what is wanted in the record of a submission."""
FOLDER = "staged"
"""In the logs of a start: the notes of its nodes, and SUMMARY."""
SUMMARY = ".summary.json"
SILENT = "no answer"
_UNFINISHED = "its copy was not finished when copying ended"


def summary(folder: Path, nodes: list[str]) -> dict[str, Any]:
    """`nodes`, `local` (how many read nothing from the shared storage), `shared` (node -> what and why), seconds and bytes."""
    found: dict[str, Any] = {
        "nodes": len(nodes),
        "local": 0,
        "bytes": 0,
        "copied_bytes": 0,
        "seconds": 0.0,
        "shared": {},
    }
    for node in nodes:
        try:
            note = read_json(note_of(folder, node), dict)
            copies, seconds = note["copies"], float(note["seconds"])
            left = [f"{copy['key']}: {copy['why']}" for copy in copies if copy["local"] is None]
            left += [f"{key}: {_UNFINISHED}" for key in note["unfinished"]]
            there = {copy["source"]: (copy["bytes"], copy["reused"]) for copy in copies if copy["local"] is not None}
        except (MegabiomedError, KeyError, TypeError, ValueError):
            found["shared"][node] = [SILENT]
            continue
        found["bytes"] = max(found["bytes"], sum(count for count, _ in there.values()))
        found["copied_bytes"] += sum(count for count, reused in there.values() if not reused)
        found["seconds"] = max(found["seconds"], seconds)
        found["local"] += not left
        if left:
            found["shared"][node] = left
    return found


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A summary for the log of the batch script."""
    if not (found["bytes"] or found["shared"]):
        yield "staged in: nothing was to be copied"
        return
    there = "all of it there already" if found["bytes"] else "nothing was copied"
    copied = f"{size(found['copied_bytes'])} copied" if found["copied_bytes"] else there
    yield (
        f"staged in: {found['local']} of {found['nodes']} nodes read {size(found['bytes'])} from their own storage "
        f"({copied}, {duration(found['seconds'])})"
    )
    by_reason: dict[str, list[str]] = {}
    for node, left in found["shared"].items():
        by_reason.setdefault("; ".join(left), []).append(node)
    for reason, nodes in by_reason.items():
        yield f"staged in: {', '.join(nodes)} read the shared storage: {reason}"


def shown(found: dict[str, Any]) -> str:
    """A summary for `status`."""
    if not found:
        return "copying to the nodes"
    text = f"staged on {found['local']} of {found['nodes']} nodes"
    if not found["shared"]:
        return text
    node, left = next(iter(found["shared"].items()))
    more = f" and {len(found['shared']) - 1} more" if len(found["shared"]) > 1 else ""
    return f"{text}, shared storage on {node}{more} ({left[0]})"


def of_start(logs: Path) -> dict[str, Any] | None:
    """The summary of a start, with what its ranks could not use since.

    None where nothing is staged, empty while the nodes copy.
    """
    file = logs / FOLDER / SUMMARY
    if (logs / FOLDER).is_dir() and not file.is_file() and not (logs / "started").is_file():
        return {}
    try:
        found = read_json(file, dict) if file.is_file() else {}
    except MegabiomedError:
        return None
    kinds = {"nodes": int, "local": int, "shared": dict}
    whole = all(isinstance(found.get(key), kind) for key, kind in kinds.items())
    if not whole or not all(isinstance(left, list) and left for left in found["shared"].values()):
        return None
    for node, why in _unread(logs / FOLDER).items():
        found["local"] -= node not in found["shared"]
        found["shared"].setdefault(node, []).append(why)
    return found


def _unread(folder: Path) -> dict[str, str]:
    """Node -> the first copy there that its ranks could not use, and why."""
    found = {}
    for file in sorted(folder.glob(unread_of(note_of(Path(), "*")).name)):
        with suppress(MegabiomedError, KeyError):
            told = read_json(file, dict)
            found[file.stem] = f"{told['key']}: {told['why']}"
    return found


def copied_seconds(logs: Path) -> float:
    """How long the nodes of a start copied; 0 where nothing is staged, or nobody knows."""
    seconds = (of_start(logs) or {}).get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else 0.0


def main(logs: Path, nodes: str) -> None:
    """Print the lines, and note the summary for `status`."""
    found = summary(logs / FOLDER, scheduler.hostnames(nodes))
    for line in lines(found):
        print(line, flush=True)
    write_json(logs / FOLDER / SUMMARY, found)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except (MegabiomedError, OSError) as error:  # the ranks start all the same
        print(f"staged in: what the nodes read cannot be told: {error}")
