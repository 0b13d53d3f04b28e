"""What `make bench-health` says: one table each of what was noticed, of what policies cost, and of false alarms."""

from __future__ import annotations

from typing import Any

NAMES = {
    "nan": "a loss that is NaN or infinite on one rank", "garbage": "a batch of random tokens",
    "parameter": "one bit of one weight on one rank", "gradient": "one bit of one gradient", "moment": "one bit of one moment",
    "stopped": "a rank stopped (SIGSTOP)", "slowed": "a rank slowed", "disk_full": "disk full for a while",
    "eio": "EIO of the device on one rank",
}  # fmt: skip
NOTES = [
    "a Llama of 2 layers, hidden size 32, 600 pieces, fp32, 8 windows of 32 tokens per step from generated papers; real runs "
    "with all hooks, 1 thread per rank, gloo; zero1 and zero3: 2 ranks; tp2: 4 ranks, tensor parallel 2, ZeRO-1",
    "events are injected by the benchmark's own hooks; spikes by the shipped settings (6 standard deviations, 128 steps)",
    "exact: the last loss is equal to the bit to that of a run which never read what was passed over (saves: of a run "
    "without failures), and so are all weights and moments of the last checkpoint",
    "the hang guard and the pauses after failed saves have scaled-down times; after an event the guard goes on instead of "
    "ending the process",
]


def detections(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each kind and engine."""
    return [
        {
            "event": NAMES[found["kind"]], "engine": found["engine"], "injected": found["events"],
            "noticed": found["found"], "missed": found["events"] - found["found"], "false alarms": found["alarms"],
            "steps": found.get("steps", ""), "noticed after": _after(found), "exact": _yes(found.get("exact")),
        }
        for found in results.values() if found["kind"] in NAMES and found["policy"] in ("", "skip")
    ]  # fmt: skip


def policies(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What an event costs under each policy."""
    return [
        {
            "policy": found["policy"], "event": NAMES[found["kind"]], "engine": found["engine"], "events": found["events"],
            "noticed": found["found"], "steps lost for each": found["lost_steps"], "seconds lost for each": found["lost_s"],
            "a step, s": found["step_s"], "exact": _yes(found["exact"]),
        }
        for found in results.values() if found["policy"]
    ]  # fmt: skip


def alarms(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Steps in which nothing was wrong."""
    return [
        {"engine": found["engine"], "clean steps": found["steps"], "alarms": found["alarms"], "a step, s": found["step_s"]}
        for found in results.values() if found["kind"] == "clean"
    ]  # fmt: skip


def _after(found: dict[str, Any]) -> str:
    if found.get("after_s") is not None:
        return f"{found['after_s']} s"
    if found.get("after_steps") is not None:
        return f"{found['after_steps']:.1f} steps"
    if found["kind"] == "slowed":
        return "three windows"
    return "the same step" if found["policy"] else "the same save"


def _yes(exact: bool | None) -> str:
    return "" if exact is None else "yes" if exact else "NO"
