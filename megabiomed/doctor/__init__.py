"""The operator's tools for checkpoints and model folders: inspect, verify, compare, import, export, certificates."""
