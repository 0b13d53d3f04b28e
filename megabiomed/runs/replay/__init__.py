"""One step of a run computed again, on any topology, and compared with what the run recorded."""
