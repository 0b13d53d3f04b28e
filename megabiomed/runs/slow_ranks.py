"""Which ranks hold the others up: their own work takes longer than that of their peers, window after window.

All ranks of a synchronous step take the same time; they differ in how much of it they work and how much they wait. The slow
rank is the one that works longest. Only ranks with the same work are compared: those of one pipeline stage, or encoder ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from megabiomed.runs.step_times import Times

LEAST_S = 0.005
"""Seconds of a step below which nothing counts: Python's own threads make such differences."""


@dataclass(frozen=True)
class Peer:
    """A rank and where it runs.

    Attributes:
        work: the same for ranks with the same work: "stage 0", "encoders".
    """

    rank: int
    host: str
    work: str


@dataclass(frozen=True)
class SlowRank:
    """A rank that holds the others up.

    Attributes:
        own_s, peers_s: seconds of a step in its own work, and the median of its peers.
        lost: share of a step for which its peers wait for it.
        part: "compute" or "data": what of it takes longer.
    """

    peer: Peer
    own_s: float
    peers_s: float
    lost: float
    part: str

    @property
    def factor(self) -> float:
        """How many times as long as its peers it works."""
        return self.own_s / max(self.peers_s, 1e-9)

    def text(self) -> str:
        """`rank 3 on n7 takes 1.8 x as long as its peers (compute), 44% of each step is lost`."""
        return (
            f"rank {self.peer.rank} on {self.peer.host} takes {self.factor:.3g} x as long as its peers ({self.part}), "
            f"{self.lost:.0%} of each step is lost"
        )


@dataclass
class Watch:
    """Tells slow ranks from those that are slow for a moment.

    Args:
        share: of a step that peers must wait for a rank.
        windows: in a row in which they must.
    """

    peers: Sequence[Peer]
    share: float
    windows: int
    _counts: dict[int, int] = field(default_factory=dict)

    def judge(self, times: Sequence[Times]) -> list[SlowRank]:
        """The slow ranks after one more window, worst first.

        Args:
            times: of each peer.
        """
        found = [slow for number in range(len(times)) if (slow := self._of(number, times)) is not None]
        self._counts = {slow.peer.rank: self._counts.get(slow.peer.rank, 0) + 1 for slow in found}
        lasting = [slow for slow in found if self._counts[slow.peer.rank] >= self.windows]
        return sorted(lasting, key=lambda slow: -slow.lost)

    def _of(self, number: int, times: Sequence[Times]) -> SlowRank | None:
        peer, mine = self.peers[number], times[number]
        others = [held for other, held in zip(self.peers, times) if other.work == peer.work and other.rank != peer.rank]
        if not others:
            return None
        typical = median(held.own for held in others)
        more = mine.own - typical
        # The longest of all: a mark may fall on the other side of a wait on some ranks.
        step = max(held.own + held.wait for held in times)
        if more <= max(LEAST_S, self.share * step):
            return None
        computes = mine.compute - median(held.compute for held in others) >= more / 2
        return SlowRank(peer, mine.own, typical, more / step, "compute" if computes else "data")
