"""Questions about molecules and proteins: records, splits, stores and their windows."""
