"""What this rank asked of its process groups last, by torch's flight recorders."""

from __future__ import annotations

import json
from typing import Any

import torch

from megabiomed.processes import platform


def last_collectives(count: int = 12) -> list[dict[str, Any]]:
    """What this rank asked of its process groups last, from torch's flight recorders of NCCL and gloo; the newest last.

    Returns:
        name, number in its group, group, shape, kind (`collective`, or `p2p`, which only two ranks take part in), done.
        Of every group at least its newest collective.
    """
    entries: list[dict[str, Any]] = []
    for name in ("_dump_nccl_trace_json", "_dump_fr_trace_json"):
        dump = getattr(torch._C._distributed_c10d, name, None)
        if dump is not None and (platform.has_cuda() or "nccl" not in name):
            entries += json.loads(dump()).get("entries", [])
    entries.sort(key=lambda entry: entry["time_created_ns"])
    described = [_collective(entry) for entry in entries]
    newest = {entry["group"]: at for at, entry in enumerate(described) if entry["kind"] == "collective"}
    kept = {*newest.values(), *range(max(0, len(described) - count), len(described))}
    return [described[at] for at in sorted(kept)]


def _collective(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of a flight recorder. Gloo never says `completed`, but retires what is done."""
    p2p = bool(entry["is_p2p"])
    sizes = ", ".join(f"{size} {kind}" for size, kind in zip(entry["input_sizes"], entry["input_dtypes"]))
    return {
        "name": entry["profiling_name"],
        "number": entry["p2p_seq_id" if p2p else "collective_seq_id"],
        "group": " ".join(dict.fromkeys(reversed(entry["process_group"]))),
        "shape": sizes or "nothing",
        "kind": "p2p" if p2p else "collective",
        "done": bool(entry["retired"]) or entry["state"] == "completed",
    }
