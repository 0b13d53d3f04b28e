"""Runs, chains and commands as SLURM jobs: what is asked, checked, submitted, decided and shown."""
