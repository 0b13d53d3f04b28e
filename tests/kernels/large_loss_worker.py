"""Prints the memory in MiB that the loss of some tokens takes at its peak, beside its inputs and the head's gradient.

python large_loss_worker.py VOCABULARY TOKENS [TYPE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from megabiomed.kernels.linear_cross_entropy import linear_cross_entropy


def mib(key: str) -> float:
    """VmRSS is what this process holds, VmHWM the most it ever held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def backward(weight: torch.Tensor, tokens: int) -> None:
    hidden = torch.randn(tokens, weight.size(1)).to(weight.dtype).requires_grad_()
    linear_cross_entropy(hidden, weight, torch.randint(0, weight.size(0), (tokens,)), z_loss=1e-4).backward()


def main() -> None:
    vocabulary, tokens = map(int, sys.argv[1:3])
    torch.set_num_threads(1)
    weight = torch.randn(vocabulary, 8).to(getattr(torch, (sys.argv[3:] or ["float32"])[0])).requires_grad_()
    backward(weight, 1)  # libraries, and the gradient of the head
    before = mib("VmRSS")
    backward(weight, tokens)
    print(mib("VmHWM") - before)


if __name__ == "__main__":
    main()
