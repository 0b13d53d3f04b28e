"""One choice of backend per operation, by device, type and shape, with the reason that can be printed.

Every operation lists its backends in order of preference. A backend that cannot compute exactly this operation refuses with a
reason; `auto` takes the first that does not refuse, and a forced one that refuses is an error. Nothing degrades silently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from megabiomed.config import KernelsConfig
from megabiomed.ground.errors import ConfigError

AUTO = "auto"
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Site:
    """Where an operation runs and on what.

    Attributes:
        device: "cpu" or "cuda".
        arch: compute capability as 80, 90, ...; 0 on a CPU.
        dtype: type of the activations.
        width: last dimension of the operation (head size for attention, hidden size for the norm, ...).
        deterministic: True when two runs must give the same bits.
    """

    device: str
    arch: int
    dtype: torch.dtype
    width: int
    deterministic: bool = False


@dataclass(frozen=True)
class Backend:
    """One implementation of an operation.

    Attributes:
        name: what the configuration calls it.
        refuse: the reason why it cannot serve a site, or None when it can.
        load: imports and returns its function or functions; called once, when the backend is chosen.
        note: why it has its place in the order.
        forced_only: why `auto` passes it over; empty when it does not.
        evidence: what is known of it on this device, for the reason.
    """

    name: str
    refuse: Callable[[Site], str | None]
    load: Callable[[], Any] = field(compare=False)
    note: str = ""
    forced_only: str = ""
    evidence: Callable[[Site], str] | None = field(default=None, compare=False)

    def chosen(self, why: str, site: Site) -> Choice:
        """The choice of this backend for a site."""
        return Choice(self.name, self.load(), "; ".join([why, self.evidence(site)] if self.evidence else [why]))


@dataclass(frozen=True)
class Choice:
    """The chosen backend, its function, and a sentence that says why."""

    name: str
    function: Any
    why: str


def site_of(x: Tensor, deterministic: bool = False) -> Site:
    """The site of an operation on this tensor."""
    return site_on(x.device, x.dtype, x.size(-1), deterministic)


def site_on(device: torch.device, dtype: torch.dtype, width: int, deterministic: bool = False) -> Site:
    """The site of an operation of this type and width on a device."""
    return Site(device.type, _arch(device), dtype, width, deterministic)


@lru_cache(maxsize=32)
def _arch(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


# Every layer asks in every forward pass, and a refusal may look for installed packages or run a self-check.
@lru_cache(maxsize=256)
def choose(op: str, backends: tuple[Backend, ...], site: Site, wanted: str = AUTO) -> Choice:
    """The backend for a site.

    Args:
        wanted: "auto", or the name of the one to use.

    Raises:
        ConfigError: an unknown name, a forced backend that refuses, or no backend at all.
    """
    if wanted == AUTO:
        return _first_willing(op, backends, site)
    names = [backend.name for backend in backends]
    if wanted not in names:
        raise ConfigError(
            f"unknown backend in kernels.{op}", got=wanted, expected=", ".join([AUTO, *names]), do="choose one of these"
        )
    backend = backends[names.index(wanted)]
    reason = backend.refuse(site)
    if reason is not None:
        willing = [b.name for b in backends if not b.forced_only and b.refuse(site) is None]
        raise ConfigError(
            f"kernels.{op}={wanted} cannot serve this run: {reason}",
            got=f"{site.device} {site.dtype} width {site.width}",
            do=f"set kernels.{op} to {' or '.join([AUTO, *willing])}",
        )
    return backend.chosen("forced by the configuration", site)


def _first_willing(op: str, backends: tuple[Backend, ...], site: Site) -> Choice:
    refusals: list[str] = []
    for backend in backends:
        reason = backend.forced_only or backend.refuse(site)
        if not reason:
            return backend.chosen("; ".join([backend.note or "first choice", *refusals]), site)
        refusals.append(f"not {backend.name}: {reason}")
    raise ConfigError(f"no backend of {op} can serve this run", got="; ".join(refusals), do="change train.precision")


@lru_cache(maxsize=1)
def interpreting() -> bool:
    """True when Triton kernels run in Triton's interpreter (TRITON_INTERPRET=1 before the first import)."""
    if find_spec("triton") is None:
        return False
    import triton

    return bool(triton.knobs.runtime.interpret)


def needs_triton(site: Site) -> str | None:
    """The refusal of every Triton backend outside CUDA, outside its types, or without Triton."""
    if find_spec("triton") is None:
        return "triton is not installed"
    if site.device == "cpu":
        return None if interpreting() else "Triton needs a GPU"
    if site.dtype not in TRITON_DTYPES:
        return f"no kernel for {site.dtype}"
    if site.arch < 80:  # before it the tensor cores have no bf16
        return f"compiled and tested for sm_80 and later, this is sm_{site.arch}"
    return None


def needs_cpu(site: Site) -> str | None:
    """The refusal of a CPU fast path elsewhere."""
    return None if site.device == "cpu" else "a CPU path"


def serves_all(_: Site) -> str | None:
    """A backend that can always serve."""
    return None


def choices_of(
    wishes: KernelsConfig, device: torch.device, dtype: torch.dtype, hidden_size: int, head_dim: int
) -> dict[str, Choice]:
    """The backend of every operation of a run, known before anything is built.

    Raises:
        ConfigError: a forced backend cannot serve.
    """
    # The operations build on this module; only this question about all of them looks the other way.
    from megabiomed.kernels import adamw, document_attention, linear_cross_entropy, rms_norm, swiglu

    heads = site_on(device, dtype, head_dim, wishes.deterministic)
    stream = site_on(device, dtype, hidden_size)
    return {
        "attention": document_attention.choice(heads, wishes.attention),
        "norm": rms_norm.choice(stream, wishes.norm),
        "swiglu": swiglu.choice(stream, wishes.swiglu),
        "loss": linear_cross_entropy.choice(stream, wishes.loss),
        "adamw": adamw.choice(site_on(device, torch.float32, 0), wishes.adamw),
    }
