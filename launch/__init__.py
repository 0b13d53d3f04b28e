"""Starting runs: on this machine (local.py), and as SLURM jobs that go through the same workers."""
