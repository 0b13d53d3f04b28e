"""The part `scale` of `make bench-data`: the whole build with 1, 2 and 7 workers, and after kills, a process each."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from bench import data_build, data_peers
from megabiomed.corpus.build import BuildOptions, build_corpus
from megabiomed.corpus.clean import CleanRules

COPIES = 32
"""Source files: every second text, each with other ids and other first words."""
KILLS = 3


def rows(texts: list[str], model: Path, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Wall and CPU seconds of builds in turns, the best of several, and whether all wrote the same bytes."""
    folder.mkdir()
    write_sources(texts, folder)
    found: dict[int, list[dict[str, Any]]] = {1: [], 2: [], 7: []}
    for _ in range(rounds):
        for workers, runs in found.items():
            runs.append(finished(start(folder, model, workers)))
    expected = found[1][0]["hashes"]
    best = {workers: min(runs, key=lambda run: float(run["wall s"])) for workers, runs in found.items()}
    table = [
        {"candidate": f"megabiomed, whole build, {workers} workers", **shown(run),
         "scaling": round(best[1]["wall s"] / run["wall s"], 2),
         "same bytes": all(each["hashes"] == expected for each in found[workers])}
        for workers, run in best.items()
    ]  # fmt: skip
    own = best[1]["tokens"] / best[1]["CPU s"]
    table += [{**row, "1 worker / it": round(own / row["tokens/s/core"], 2)} for row in peers(folder, model, rounds)]
    killed = after_kills(folder, model)
    return [*table, {"candidate": f"megabiomed, killed {KILLS} times", **shown(killed),
                     "scaling": "-", "same bytes": killed["hashes"] == expected}]  # fmt: skip


def peers(folder: Path, model: Path, rounds: int) -> list[dict[str, Any]]:
    """The fastest of the peers' runs over the same files, one after another on one core."""
    missing = data_peers.missing()
    found = []
    for name in sorted(set(data_build.PEERS) - set(missing)):
        rates = []
        for number in range(rounds):
            tokens, before = 0, time.process_time()
            for source in sorted(folder.glob("*.jsonl")):
                target = folder / f"{name}-{number}-{source.stem}"
                target.mkdir()
                tokens += data_build.CANDIDATES[data_build.PEERS[name]](source, model, target)
            rates.append(tokens / (time.process_time() - before))
        found.append({"candidate": data_build.PEERS[name], "tokens": tokens, "tokens/s/core": round(max(rates))})
    return found


def shown(run: dict[str, Any]) -> dict[str, Any]:
    """The columns of a run."""
    rate = round(run["tokens"] / run["CPU s"])
    return {key: value for key, value in run.items() if key != "hashes"} | {"tokens/s/core": rate}


def write_sources(texts: list[str], folder: Path) -> None:
    """Write COPIES files of JSON lines with a `text`."""
    for copy in range(COPIES):
        with (folder / f"{copy:02}.jsonl").open("w", encoding="utf-8") as file:
            for number, text in enumerate(texts[copy % 2 :: 2]):
                row = {"text": f"Copy{copy} {text}", "paper_id": f"{copy:02}-{number}"}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def start(folder: Path, model: Path, workers: int, name: str = "corpus") -> subprocess.Popen[str]:
    """A build in a process group of its own."""
    line = [sys.executable, "-W", "ignore", "-m", "bench.data_scale", str(folder), str(model), str(workers), name]
    where = Path(__file__).resolve().parents[1]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=where, start_new_session=True)


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What the process printed."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the build ended with {process.returncode}")
    run: dict[str, Any] = json.loads(output.strip().rpartition("\n")[2])
    return run


def after_kills(folder: Path, model: Path) -> dict[str, Any]:
    """A build whose processes are killed after a part of the work, several times, and that is then finished."""
    for number in range(KILLS):
        process = start(folder, model, 2, "killed")
        marks = (number + 1) * COPIES // 2  # in the middle of cleaning, at its end, in the middle of tokenizing
        while process.poll() is None and len(list((folder / ".killed.building").glob("*/*/done.json"))) < marks:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return finished(start(folder, model, 2, "killed"))


class Watch(threading.Thread):
    """Looks at the processes below this one until it is left: workers are not its children, and getrusage does not see them.

    Attributes:
        cpu, peak: CPU seconds and largest resident memory in MB of each process, when it was last seen.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._left = threading.Event()
        self.cpu: dict[int, float] = {}
        self.peak: dict[int, float] = {}

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_failure: object) -> None:
        self._left.set()
        self.join()

    def run(self) -> None:
        while not self._left.wait(0.05):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    times = process.cpu_times()
                    self.cpu[process.pid] = times.user + times.system
                    self.peak[process.pid] = max(self.peak.get(process.pid, 0), process.memory_info().rss / 2**20)


def main(folder: Path, model: Path, workers: int, name: str) -> None:
    """Build and print what it took."""
    rules = CleanRules(require_medical_id=False, min_words=1)
    options = BuildOptions(
        sorted(folder.glob("*.jsonl")), folder / name, layout="text", tokenizer=model, workers=workers, rules=rules,
        validation_fraction=0.01, overwrite=True,
    )  # fmt: skip
    begun = time.monotonic()
    with Watch() as watch:
        report = build_corpus(options)
        wall = time.monotonic() - begun
    usage = resource.getrusage(resource.RUSAGE_SELF)
    stores = [json.loads((folder / name / split / "manifest.json").read_bytes()) for split in ("train", "validation")]
    run = {
        "tokens": sum(report[split]["tokens"] for split in ("train", "validation")),
        "wall s": round(wall, 2),
        "CPU s": round(usage.ru_utime + usage.ru_stime + sum(watch.cpu.values()), 2),
        "MB a worker": round(max([usage.ru_maxrss / 1024, *watch.peak.values()])),
        "hashes": [store["files"] for store in stores],
    }
    print(json.dumps(run))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
