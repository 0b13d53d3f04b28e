"""What the tools of a GPU node say about its health: nvidia-smi, the kernel log, dcgmi. Pure functions of their output.

Sources: nvidia-smi(1) with --help-query-gpu and --help-query-remapped-rows; NVIDIA, "Xid Errors" and "GPU Memory Error
Management"; NVIDIA, DCGM user guide, "Health Monitor".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

SMI = {
    "ecc.errors.uncorrected.volatile.total": ("ecc", "uncorrected ECC errors", True),
    "retired_pages.pending": ("retired pages", "pages wait for their retirement", False),
    "clocks_throttle_reasons.hw_thermal_slowdown": ("throttled", "clock slowed down by heat", False),
    "clocks_throttle_reasons.hw_power_brake_slowdown": ("throttled", "clock slowed down by the power brake", False),
    "clocks_throttle_reasons.hw_slowdown": ("throttled", "clock slowed down by the hardware", False),
    "clocks_throttle_reasons.sw_thermal_slowdown": ("throttled", "clock slowed down by the driver for heat", False),
}
"""Field of nvidia-smi -> kind of finding, words, and whether the node is bad for it."""
GPU_FIELDS = ("index", "pci.bus_id", "temperature.gpu", *SMI)
REMAP_FIELDS = ("gpu_bus_id", "remapped_rows.pending", "remapped_rows.failure")
HOT_C = 95
"""Degrees Celsius of a GPU core that are told. Slow-down begins near 90 on recent data-centre GPUs."""
XIDS = {
    48: "uncorrected ECC error",
    61: "internal micro-controller breakpoint",
    62: "internal micro-controller halt",
    64: "failure of a row remap or page retirement",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    95: "uncontained ECC error",
    119: "time-out of the GPU system processor",
    120: "error of the GPU system processor",
    140: "unrecovered ECC error",
    143: "initialization of the GPU failed",
    154: "the GPU needs a recovery action",
}
"""Xids after which a GPU needs a reset or worse. Others are only told: a program's own errors (13, 31, 43, 45), and contained
ECC errors (94), after which the driver leaves the page out."""
_XID = re.compile(r"NVRM: Xid \(PCI:(?P<bus>[0-9A-Fa-f:.]+)\): (?P<xid>\d+),? ?(?P<text>.*)")
_NVLINK_GPU = re.compile(r"^GPU (\d+):")
_NVLINK = re.compile(r"^\s*Link (\d+): ([A-Za-z ]+ Errors?): (\d+)\s*$")
_LOST = re.compile(r"GPU is lost|device handle for GPU ?(?P<bus>[0-9A-Fa-f:.]*)|fallen off the bus", re.IGNORECASE)
_DCGM_GPU = re.compile(r"(?:GPU ID: ?|-> |GPU )(\d+)$")
_DCGM_STATES = ("Healthy", "Warning", "Failure", "Fail")
_LONGEST = 160


@dataclass(frozen=True)
class Finding:
    """Something wrong with a GPU, or with a node where `gpu` is None.

    Attributes:
        kind: the same thing is told once in a start.
        bad: whether the next start should do without the node.
    """

    gpu: int | None
    kind: str
    text: str
    bad: bool

    def __str__(self) -> str:
        return self.text if self.gpu is None else f"GPU {self.gpu}: {self.text}"


def bus_key(bus: str) -> str:
    """A PCI address as one of its many spellings: `00000000:3B:00.0`, `0000:3b:00`, `3B:00.0` are `0000:3b:00`."""
    parts = bus.lower().partition(".")[0].split(":")
    domain = parts[-3][-4:] if len(parts) > 2 else "0000"
    return ":".join([domain.zfill(4), *parts[-2:]])


def gpu_rows(text: str) -> Iterator[tuple[int, str, dict[str, str]]]:
    """(index, PCI address, field -> value) from `--query-gpu=GPU_FIELDS --format=csv,noheader,nounits`."""
    for line in text.splitlines():
        values = [word.strip() for word in line.split(",")]
        if len(values) == len(GPU_FIELDS) and values[0].isdigit():
            yield int(values[0]), bus_key(values[1]), dict(zip(GPU_FIELDS[2:], values[2:]))


def smi_findings(text: str) -> Iterator[Finding]:
    """Of `nvidia-smi --query-gpu`; fields that a GPU does not have ([N/A], [Not Supported]) say nothing."""
    for index, _, values in gpu_rows(text):
        for name, (kind, words, bad) in SMI.items():
            value = values[name]
            if value in ("Active", "Yes"):
                yield Finding(index, kind, words, bad)
            elif value.isdigit() and int(value):
                yield Finding(index, kind, f"{words} ({value})", bad)
        heat = values["temperature.gpu"]
        if heat.isdigit() and int(heat) >= HOT_C:
            yield Finding(index, "temperature", f"{heat} degrees Celsius", False)
    yield from lost(text)


def lost(text: str) -> Iterator[Finding]:
    """A GPU that the driver cannot reach any more, in whatever nvidia-smi says of it."""
    for line in text.splitlines():
        if _LOST.search(line):
            yield Finding(None, "lost", " ".join(line.split())[:_LONGEST], True)
            return


def remap_findings(text: str, index_of: Mapping[str, int]) -> Iterator[Finding]:
    """Of `nvidia-smi --query-remapped-rows=REMAP_FIELDS --format=csv,noheader`.

    Args:
        index_of: PCI address (`bus_key`) -> index of the GPU.
    """
    for line in text.splitlines():
        values = [word.strip() for word in line.split(",")]
        if len(values) != len(REMAP_FIELDS) or ":" not in values[0]:
            continue
        index = index_of.get(bus_key(values[0]))
        # One that waits is no harm: the driver leaves the page out until the reset.
        for value, words, bad in zip(
            values[1:], ("a row remap waits for a reset", "a row remap failed"), (False, True)
        ):
            if value.lower() == "yes" or (value.isdigit() and int(value)):
                yield Finding(index, words, words, bad)


def nvlink_counts(text: str) -> dict[tuple[int, int, str], int]:
    """(GPU, link, name of the counter) -> its count, from `nvidia-smi nvlink -e`."""
    found: dict[tuple[int, int, str], int] = {}
    gpu: int | None = None
    for line in text.splitlines():
        if head := _NVLINK_GPU.match(line):
            gpu = int(head[1])
        elif gpu is not None and (hit := _NVLINK.match(line)):
            found[gpu, int(hit[1]), hit[2]] = int(hit[3])
    return found


def nvlink_findings(
    before: Mapping[tuple[int, int, str], int], now: Mapping[tuple[int, int, str], int]
) -> Iterator[Finding]:
    """Counters that rose since the first look: they count since the driver was loaded. Links repair such errors themselves."""
    for (gpu, link, name), count in now.items():
        if (more := count - before.get((gpu, link, name), 0)) > 0:
            yield Finding(gpu, f"nvlink {link} {name}", f"NVLink {link}: {more} {name.lower()} since the start", False)


def xid_findings(text: str, index_of: Mapping[str, int]) -> Iterator[Finding]:
    """Of lines of the kernel log (`NVRM: Xid (PCI:0000:3b:00): 79, pid=..., GPU has fallen off the bus.`)."""
    for line in text.splitlines():
        if hit := _XID.search(line):
            number, said = int(hit["xid"]), " ".join(hit["text"].split())[:_LONGEST]
            words = XIDS.get(number, said)
            index = index_of.get(bus_key(hit["bus"]))
            where = "" if index is not None else f" on {bus_key(hit['bus'])}"
            yield Finding(index, f"xid {number}{where}", f"Xid {number}{where}: {words}", number in XIDS)


def dcgm_findings(text: str) -> Iterator[Finding]:
    """Of the table of `dcgmi health -c`: what it says of each GPU that is not healthy."""
    gpu: int | None = None
    state, said = "", ""
    for line in [*text.splitlines(), "| GPU ID: 0 | end |"]:
        left, _, right = (part.strip() for part in line.strip().strip("|").partition("|"))
        if hit := _DCGM_GPU.search(left):
            if gpu is not None and state in _DCGM_STATES[1:]:
                yield Finding(gpu, "dcgm", f"DCGM: {state}{said[:_LONGEST]}", state.startswith("Fail"))
            gpu, state = int(hit[1]), right
            said = ""
        elif gpu is not None and right and right not in _DCGM_STATES:
            said += f" {right}"
