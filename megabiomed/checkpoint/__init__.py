"""Checkpoints of logical tensors: written by every rank, committed by one, read by any topology."""
