"""The crash campaign: runs that are killed again and again must end as if nothing had happened.

python -m support.crash --kills 200 --record     (make test-crash)

Every run is real pretraining on two gloo processes. Ranks die by SIGKILL at random moments, most of them inside a save, or
freeze and wake up after a later incarnation took over. Between incarnations checkpoints are damaged and time stamps turned
round. After every start the campaign compares the step that the run resumed from with what the folder held, and at the end
losses and sample ids with those of a run that nobody touched.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megabiomed.checkpoint.catalog import list_checkpoints
from megabiomed.config import RunConfig
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer
from support import crash_damage, crash_ranks
from support.runs import events, losses
from support.stores import make_store

WORLD = 2
SAVE_EVERY = 2
TOPOLOGIES: dict[str, dict[str, Any]] = {
    "tp2-zero3": {"tensor_parallel_size": 2, "zero_stage": 3},
    "dp2-zero1": {"zero_stage": 1},
    "pp2-zero1": {"pipeline_parallel_size": 2, "zero_stage": 1},
    "dp2-fsdp2": {"engine": "fsdp2"},
}
ROTATING = "rotating"  # another topology at every start
MODEL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TEXT = "\n".join(f"Patient {n} received {n * 3} mg of aspirin; p < 0.0{n % 9 + 1} versus placebo." for n in range(400))


@dataclass
class Tally:
    """What the campaign saw."""

    kills: int = 0
    incarnations: int = 0
    most_steps_lost: int = 0
    survivors_killed: int = 0
    longest_exit_s: float = 0.0
    before_meeting: int = 0
    states: Counter[str] = field(default_factory=Counter)
    damages: Counter[str] = field(default_factory=Counter)
    topologies: Counter[str] = field(default_factory=Counter)
    woken: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Data:
    """What every run trains on, and for how many steps."""

    store: Path
    steps: int


def config_of(topology: str, data: Data, run_dir: Path) -> RunConfig:
    """A tiny run that saves at every second step and checks every byte when it resumes."""
    return RunConfig.model_validate(
        {
            "name": "crash",
            "seed": 11,
            "run_dir": str(run_dir),
            "model": MODEL,
            "parallel": TOPOLOGIES[topology],
            "data": {
                "train": [{"path": str(data.store)}],
                "seq_length": 32,
                "micro_batch_size": 2,
                "global_batch_size": 4,
            },
            "optimizer": {"lr": 1e-2, "eps": 1e-4, "weight_decay": 0.1, "clip_grad_norm": 0.5, "warmup_steps": 3},
            "train": {"steps": data.steps, "precision": "fp32", "log_every": 1},
            "checkpoint": {"save_every": SAVE_EVERY, "keep_last": 3, "verify": "hash"},
            "tracking": {"mlflow": False},
        }
    )


class Victim:
    """One run that is killed until its share of kills is used up, and then left to finish."""

    def __init__(self, topology: str, data: Data, folder: Path, rng: random.Random, tally: Tally) -> None:
        self.topology = topology
        self.data = data
        self.folder = folder
        self.rng = rng
        self.tally = tally
        self.checkpoints = folder / "checkpoints"
        self.frozen: list[crash_ranks.Ranks] = []
        self.typical_s = 4.0

    def survive(self, kills: int) -> None:
        """Kill `kills` incarnations, then let one finish."""
        while kills > 0:
            kills -= self._incarnation(crash_ranks.draw(self.rng, WORLD, self.typical_s))
            if events_of(self.folder)[-1:] == ["finished"]:
                return
        self._incarnation(None)
        assert events_of(self.folder)[-1] == "finished", self._logs()

    def _incarnation(self, strike: crash_ranks.Strike | None) -> bool:
        """One start of the run; True when it was struck."""
        expected = crash_damage.expected_step(self.checkpoints)
        seen = len(self._events())
        topology = self.rng.choice(list(TOPOLOGIES)) if self.topology == ROTATING else self.topology
        self.tally.incarnations += 1
        self.tally.topologies[topology] += 1
        began = time.monotonic()
        log_dir = self.folder / "logs" / f"{self.tally.incarnations:04d}"
        ranks = crash_ranks.start(config_of(topology, self.data, self.folder), WORLD, log_dir)
        found = None if strike is None else crash_ranks.hit(ranks, strike, self.checkpoints)
        if strike is not None and strike.freeze and found:
            self.frozen.append(ranks)
        else:
            self._see_out(ranks, log_dir, struck=found is not None)
        self._check_resume(expected, self._events()[seen:])
        self._wake()
        if found is None:
            self.typical_s = time.monotonic() - began
            assert set(ranks.codes.values()) == {0}, self._logs()
            return False
        self.tally.kills += 1
        self.tally.states["frozen: " + found if strike and strike.freeze else found] += 1
        self._note_loss()
        if self.rng.random() < 0.3 and not self.frozen:
            self.tally.damages[crash_damage.inflict(self.checkpoints, self.rng)] += 1
        return True

    def _see_out(self, ranks: crash_ranks.Ranks, log_dir: Path, struck: bool) -> None:
        """Wait until all ranks have ended. Survivors of a death must leave by themselves once all ranks had met; before,
        they wait for their partner as they should, and a launcher ends them."""
        began = time.monotonic()
        met = "resume:" in (log_dir / "rank_0.log").read_text()
        left = ranks.wait((crash_ranks.PATIENCE_S if met else 0.0) if struck else 240.0)
        if met and struck:
            self.tally.survivors_killed += not left
            self.tally.longest_exit_s = max(self.tally.longest_exit_s, time.monotonic() - began)
        self.tally.before_meeting += not met

    def _check_resume(self, expected: int, new: list[dict[str, Any]]) -> None:
        for event in new:
            if event["event"] in ("start", "resume"):
                assert event["step"] == expected, f"{event}, but the folder held step {expected}\n{self._logs()}"

    def _wake(self) -> None:
        """Let frozen incarnations go on once a later one has claimed the run; they must not commit anything."""
        for ranks in [ranks for ranks in self.frozen if self._taken_over(ranks)]:
            before = {item.path.name for item in list_checkpoints(self.checkpoints) if item.committed}
            ranks.signal(signal.SIGCONT, list(range(WORLD)))
            self.tally.survivors_killed += not ranks.wait()
            after = {item.path.name for item in list_checkpoints(self.checkpoints) if item.committed}
            assert after <= before, f"an incarnation that was taken over committed {after - before}"
            assert 0 not in ranks.codes.values(), ranks.codes
            self.tally.woken["refused"] += 1
            self.frozen.remove(ranks)

    def _taken_over(self, ranks: crash_ranks.Ranks) -> bool:
        owner = json.loads((self.folder / "fence.json").read_text())["token"]
        return f".{ranks.pids[0]}-" not in owner

    def _note_loss(self) -> None:
        """Steps that were trained and are not in a committed checkpoint."""
        newest = crash_damage.expected_step(self.checkpoints)
        done = max(losses(self.folder), default=0) if (self.folder / "metrics.jsonl").exists() else 0
        self.tally.most_steps_lost = max(self.tally.most_steps_lost, done - newest)

    def _events(self) -> list[dict[str, Any]]:
        return events(self.folder) if (self.folder / "events.jsonl").exists() else []

    def _logs(self) -> str:
        newest = sorted((self.folder / "logs").glob("*"))[-1]
        return "\n".join(path.read_text()[-3000:] for path in sorted(newest.glob("*.log")))


def events_of(folder: Path) -> list[str]:
    """Names of a run's events, in order."""
    return [event["event"] for event in events(folder)] if (folder / "events.jsonl").exists() else []


def compare(folder: Path, whole: Path, steps: int, exact: bool) -> None:
    """Every loss that was ever logged, retrained steps too, and the final ids equal the untouched run's."""
    reference = losses(whole)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]
    assert {step for step, _ in logged} == set(range(1, steps + 1))
    for step, loss in logged:
        off = abs(loss - reference[step])
        assert off == 0 if exact else off <= 1e-5 * reference[step], f"step {step}: {loss}, not {reference[step]}"
    assert events(folder)[-1]["ids_hash"] == events(whole)[-1]["ids_hash"]


def campaign(kills: int, kills_per_run: int, seed: int, steps: int, folder: Path) -> Tally:
    """Kill until `kills` have been dealt, in runs over all topologies in turn."""
    train_tokenizer(iter([TEXT]), folder / "tokenizer.model", MODEL["vocab_size"])
    data = Data(make_store(folder / "store", folder / "tokenizer.model", [5, 40, 17, 3, 60, 24] * 12).path, steps)
    tally = Tally()
    rng = random.Random(seed)
    began = time.monotonic()
    number = 0
    while tally.kills < kills:
        topology = [ROTATING, *TOPOLOGIES][number % (len(TOPOLOGIES) + 1)]
        run_dir = folder / f"run{number:03d}-{topology}"
        Victim(topology, data, run_dir, rng, tally).survive(min(kills_per_run, kills - tally.kills))
        alone = next(iter(TOPOLOGIES)) if topology == ROTATING else topology
        whole = folder / f"whole-{alone}"
        if not whole.is_dir():
            Victim(alone, data, whole, rng, Tally()).survive(0)
        compare(run_dir, whole, steps, exact=topology != ROTATING)
        number += 1
        rate = (time.monotonic() - began) / tally.kills
        print(f"run {number} ({topology}): equal to the untouched one; kills: {tally.kills}/{kills} "
              f"eta: {rate * (kills - tally.kills) / 60:.1f} min", flush=True)  # fmt: skip
    return tally


def report(tally: Tally, seed: int, steps: int, seconds: float) -> dict[str, Any]:
    """The result as JSON values."""
    return {
        "seed": seed,
        "seconds": round(seconds),
        "steps_of_a_run": steps,
        "save_every": SAVE_EVERY,
        **{key: dict(value) if isinstance(value, Counter) else value for key, value in vars(tally).items()},
        "longest_exit_s": round(tally.longest_exit_s, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--kills-per-run", type=int, default=12)
    parser.add_argument("--steps", type=int, default=40, help="length of every run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks/crash.json")
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
    import deepspeed  # noqa: F401  (every fork starts with it)

    import megabiomed.runs.pretrain  # noqa: F401

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = campaign(arguments.kills, arguments.kills_per_run, arguments.seed, arguments.steps, Path(folder))
    result = report(tally, arguments.seed, arguments.steps, time.monotonic() - began)
    print(json.dumps(result, indent=1))
    assert tally.survivors_killed == 0, f"{tally.survivors_killed} times ranks did not leave after a death"
    if arguments.record:
        from bench import record

        record.store("crash", [result], ["SIGKILL and SIGSTOP on real ranks; see tests/support/crash.py"])
    sys.stdout.flush()


if __name__ == "__main__":
    main()
