"""Training runs: their kinds, how they start, the loop, and what hooks into it."""
