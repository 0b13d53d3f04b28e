"""Copies of what a run reads on storage of its nodes: what is wanted, found, copied and kept, and what each node says."""
