"""The file that makes a checkpoint count, for programs without torch too."""

COMMITTED = "COMMITTED"
"""Written last, in the folder of a checkpoint: one without it does not exist."""
