"""Kernel tests run on the GPU where there is one, and in Triton's interpreter elsewhere; the same test functions."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch
from support import interpreter

HAS_TRITON = find_spec("triton") is not None
if HAS_TRITON and not torch.cuda.is_available():
    interpreter.enable()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The tensors are small: a second thread costs more than it does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def device() -> torch.device:
    """Where Triton kernels run here."""
    if not HAS_TRITON:
        pytest.skip("triton is not installed")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
