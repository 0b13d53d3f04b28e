"""Watches the GPUs of a node while ranks train there: a thread that asks the node's tools now and then, never in a step's way.

Also `python -m megabiomed.processes.gpu_health FOLDER SECONDS`: one look, after the ranks of a start have died. What is found
stands in FOLDER/gpu_health/NODE.jsonl, where rank 0 and the launcher read it. No torch: the launcher reads it, too.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from megabiomed.ground.json_lines import read_objects, seconds_of
from megabiomed.ground.node import node_name
from megabiomed.processes import gpu_tools
from megabiomed.processes.gpu_tools import Finding

FOLDER = "gpu_health"
_TOOL_S = 8.0
"""Seconds after which a tool is ended: a GPU that is lost may block it."""
_CSV = "--format=csv,noheader,nounits"


class GpuHealth:
    """The tools of one node, and what they have said since the start.

    Args:
        since: seconds since 1970; older lines of the kernel log are of another job.
        say: told once of each tool that is not there or does not work.
    """

    def __init__(self, since: float, say: Callable[[str], object] = lambda _: None) -> None:
        self._since, self._say = since, say
        self._gone: set[str] = set()
        self._told: set[tuple[int | None, str]] = set()
        self._index_of: dict[str, int] = {}
        self._links: dict[tuple[int, int, str], int] | None = None

    def look(self) -> list[Finding]:
        """What is new since the last look."""
        found = [finding for finding in self._all() if (finding.gpu, finding.kind) not in self._told]
        self._told |= {(finding.gpu, finding.kind) for finding in found}
        return found

    def _all(self) -> Iterator[Finding]:
        smi = self._ask("nvidia-smi", f"--query-gpu={','.join(gpu_tools.GPU_FIELDS)}", _CSV)
        if smi is not None:
            self._index_of |= {bus: index for index, bus, _ in gpu_tools.gpu_rows(smi)}
            yield from gpu_tools.smi_findings(smi)
        remaps = self._ask("nvidia-smi", f"--query-remapped-rows={','.join(gpu_tools.REMAP_FIELDS)}", _CSV)
        yield from gpu_tools.remap_findings(remaps or "", self._index_of)
        links = gpu_tools.nvlink_counts(self._ask("nvidia-smi", "nvlink", "-e") or "")
        self._links = links if self._links is None else self._links
        yield from gpu_tools.nvlink_findings(self._links, links)
        yield from gpu_tools.xid_findings(self._kernel_log(), self._index_of)
        yield from gpu_tools.dcgm_findings(self._ask("dcgmi", "health", "-g", "0", "-c") or "")

    def _kernel_log(self) -> str:
        text = self._ask("dmesg", "--time-format=iso")
        if text is not None:
            return "\n".join(line for line in text.splitlines() if _time_of(line) >= self._since)
        options = (f"--since=@{int(self._since)}", "--no-pager", "--quiet", "--output=short-iso")
        return self._ask("journalctl", "--dmesg", *options) or ""

    def _ask(self, *words: str) -> str | None:
        """What a tool says; None when it is not there, or failed. One that failed is not asked again, but nvidia-smi is."""
        name = words[0] if words[0] != "nvidia-smi" else " ".join(words[:2]).partition("=")[0]
        if name in self._gone or words[0] in self._gone:
            return None
        if shutil.which(words[0]) is None:
            self._gone.add(words[0])
            self._say(f"GPU health: {words[0]} is not there, and is not asked")
            return None
        try:
            done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=_TOOL_S)
        except subprocess.TimeoutExpired:
            self._gone.add(words[0])  # with other words it would block as well
            self._leave(name, f"no answer within {_TOOL_S:.0f} s")
            return None
        except OSError as error:
            self._leave(name, str(error))
            return None
        said = done.stdout + done.stderr
        if done.returncode and not any(gpu_tools.lost(said)):
            self._leave(name, " ".join(said.split())[:200] or f"exit code {done.returncode}")
            return None
        return said

    def _leave(self, name: str, why: str) -> None:
        self._gone.add(name)
        self._say(f"GPU health: {name} cannot be asked: {why}")


class Watch:
    """The thread of one rank of a node, and on rank 0 the findings of all nodes.

    Args:
        folder: of the start's logs.
        gathers: whether this is rank 0.
    """

    def __init__(self, folder: Path, every_s: float, gathers: bool, say: Callable[[str], object]) -> None:
        self._folder = folder / FOLDER
        self._every_s, self._gathers = every_s, gathers
        self._health = GpuHealth(time.time(), say)
        self._leave = threading.Event()
        self._lines: dict[str, int] = {}
        self._news: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._began = time.time()
        self._thread = threading.Thread(target=self._run, name="gpu health", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; an attempt that is under way is not waited for."""
        self._leave.set()

    def news(self) -> list[dict[str, Any]]:
        """What all nodes have found since the last call: node, gpu, kind, text, bad. Reads no file."""
        news = []
        with suppress(Empty):
            while True:
                news.append(self._news.get_nowait())
        return news

    def _run(self) -> None:
        while not self._leave.is_set():
            with suppress(OSError):  # a run folder that is full or away for a while
                write(self._folder, node_name(), self._health.look())
                if self._gathers:
                    self._gather()
            self._leave.wait(self._every_s)

    def _gather(self) -> None:
        for file in sorted(self._folder.glob("*.jsonl")):
            lines = list(read_objects(file))
            for line in lines[self._lines.get(file.name, 0) :]:
                if float(line.get("time", 0.0)) >= self._began:  # an earlier start by hand has the same folder
                    self._news.put(line)
            self._lines[file.name] = len(lines)


def write(folder: Path, node: str, found: list[Finding]) -> None:
    """Add findings to the node's own file: no other node writes there."""
    if found:
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            {"node": node, "gpu": each.gpu, "kind": each.kind, "text": each.text, "bad": each.bad, "time": time.time()}
            for each in found
        ]
        with (folder / f"{node}.jsonl").open("a") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))


def bad_nodes(logs: Path) -> dict[str, str]:
    """Node -> why, of those whose GPUs need a reset or worse, by what was found during a start.

    Args:
        logs: folder of the start's logs.
    """
    found: dict[str, list[str]] = {}
    for file in sorted((logs / FOLDER).glob("*.jsonl")):
        for line in read_objects(file):
            if line.get("bad") is True and isinstance(line.get("node"), str):
                gpu = line.get("gpu")
                text = str(Finding(gpu if isinstance(gpu, int) else None, "", str(line.get("text")), True))
                if text not in found.setdefault(line["node"], []):
                    found[line["node"]].append(text)
    return {node: ", ".join(texts[:3]) for node, texts in found.items()}


def _time_of(line: str) -> float:
    """Seconds since 1970 of a line of `dmesg --time-format=iso`: `2026-01-01T12:00:00,123456+01:00 text`."""
    return seconds_of(line.partition(" ")[0].replace(",", ".")) or 0.0


def main(logs: Path, since: float) -> None:
    """One look at this node."""
    health = GpuHealth(since, print)
    found = health.look()
    known = {(line.get("gpu"), line.get("kind")) for line in read_objects(logs / FOLDER / f"{node_name()}.jsonl")}
    new = [each for each in found if (each.gpu, each.kind) not in known]
    write(logs / FOLDER, node_name(), new)
    for each in new:
        print(f"{node_name()}: {each}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
