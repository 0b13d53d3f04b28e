"""The training loop and everything around a step: schedule, metrics, checkpoints, signals, tracking."""
