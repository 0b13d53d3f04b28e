"""Where the figures and events of a run go: files in its folder, and the trackers that the configuration names."""

from __future__ import annotations

from megabiomed.runs.tracking.base import Figures, Tracker, find_trackers
from megabiomed.runs.tracking.local import LocalFiles
from megabiomed.runs.tracking.sender import Sender

__all__ = ["Figures", "LocalFiles", "Sender", "Tracker", "find_trackers"]
