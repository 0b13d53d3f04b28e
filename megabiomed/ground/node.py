"""The name of the node that this process is on."""

from __future__ import annotations

import os
import socket


def node_name() -> str:
    """As SLURM knows it where SLURM started this process, else the host's own."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()
