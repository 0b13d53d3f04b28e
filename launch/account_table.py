"""The account of runs for people and for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megabiomed.launch.account import RECORDS, Account, as_dict, total

COLUMNS = (
    *("run", "stage", "starts", "hours", "GPU-h", "node-h", "CPU-h", "queue", "useful", "lost steps", "cost", "from"),
)


def rows(found: Sequence[Account]) -> list[tuple[str, ...]]:
    """Cells of the table; the sum is last, where there is more than one stage."""
    return [_row(each) for each in ([*found, total(found)] if len(found) > 1 else found)]


def _row(account: Account) -> tuple[str, ...]:
    cost = f"{account.cost:,.2f} {account.currency or ''}".strip() if account.cost is not None else "-"
    return (
        Path(account.run).name or account.stage, account.stage if account.run else "", str(account.starts),
        *(f"{hours:,.2f}" for hours in (account.hours, account.gpu_hours, account.node_hours, account.cpu_hours)),
        f"{account.queue_hours:,.2f}" if account.queue_hours is not None else "-",
        f"{account.useful:.1%}" if account.useful is not None else "-", f"{account.lost_steps:,}", cost, account.source,
    )  # fmt: skip


def notes(found: Sequence[Account]) -> list[str]:
    """What a reader of the table has to know."""
    said = ["Times in hours; queue: without the wait for earlier stages. useful: allocated time in steps that count."]
    if any(each.source == RECORDS for each in found):
        said.append("records: times from the run's own records, because sacct does not know all of its jobs.")
    return said


def as_csv(found: Sequence[Account]) -> str:
    """A line for each stage, without the sum, which a spreadsheet makes itself."""
    text = io.StringIO()
    lines: list[dict[str, Any]] = [as_dict(each) for each in found]
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
