"""Where the figures and events of a run go: files in its folder, and a tracker of experiments that the configuration names."""

from __future__ import annotations

from megabiomed.runs.tracking.base import SafeTracker, Tracker, find_tracker
from megabiomed.runs.tracking.local import LocalFiles

__all__ = ["LocalFiles", "SafeTracker", "Tracker", "find_tracker"]
