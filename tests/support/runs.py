"""What a run folder says about a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def losses(run_dir: Path) -> dict[int, float]:
    """step -> training loss, as metrics.jsonl holds it to the last bit."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {r["step"]: r["train/loss"] for r in records if "train/loss" in r}


def events(run_dir: Path) -> list[dict[str, Any]]:
    """The events of a run."""
    return [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
