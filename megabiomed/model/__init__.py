"""Models: one folder each with model, parallelize and convert."""
