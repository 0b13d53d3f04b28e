"""Starting runs: on this machine (local.py); job schedulers follow the same worker entry point."""
