"""What a compiled kernel takes of a multiprocessor, read from its machine code."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Resources:
    """One kernel at one production shape.

    Attributes:
        warps: of a program, with those that only the warp-specialised part uses.
        registers: 32-bit registers per thread, at launch.
        spills: instructions that store to or load from local memory.
        shared: bytes of shared memory per program.
        tensor_core: matrix instructions (HGMMA on sm_90, HMMA on sm_80).
        wide_loads: "128-bit loads/all loads" from global memory.
        tma_loads: instructions that hand a tile to the copy engine.
        register_moves: registers a thread has after each USETMAXREG of a warp-specialised kernel, sorted, without repeats.
        serialized: True when ptxas says that it serialises the asynchronous matrix instructions.
        unguarded: arrivals at a barrier without a barrier of the partition's own warps before them; a faster warp would
            free a tile that a slower one still reads.
    """

    kernel: str
    arch: int
    warps: int
    stages: int
    registers: int
    spills: int
    shared: int
    tensor_core: int
    wide_loads: str
    tma_loads: int = 0
    register_moves: tuple[int, ...] = ()
    serialized: bool = False
    unguarded: int = 0


def read(name: str, arch: int, stages: int, compiled: Any) -> Resources:
    """Disassemble what `triton.compile` returned."""
    used, code = (_cuobjdump(option, compiled.asm["cubin"]) for option in ("-res-usage", "-sass"))

    def count(pattern: str) -> int:
        return len(re.findall(pattern, code))

    wide, loads = count(r"(?:LDG|LDGSTS)\.E\.\S*128"), count(r"\b(?:LDG\.|LDGSTS)")
    ptx = compiled.asm["ptx"]
    specialised = "setmaxnreg" in ptx
    return Resources(
        name,
        arch,
        int(re.findall(r"\.reqntid\s+(\d+)", ptx)[0]) // 32,
        stages,
        registers=int(re.findall(r"\bREG:(\d+)", used)[0]),
        spills=count(r"\b(?:STL|LDL)\b"),
        shared=compiled.metadata.shared,
        tensor_core=count(r"\bHG?MMA\."),
        wide_loads=f"{wide}/{loads}",
        tma_loads=count(r"\bUTMALDG"),
        register_moves=tuple(sorted({int(n) for n in re.findall(r"setmaxnreg\.\w+\.sync\.aligned\.u32\s+(\d+)", ptx)})),
        serialized=specialised and _serialized(ptx),
        unguarded=_unguarded(ptx),
    )


def _unguarded(ptx: str) -> int:
    """Consumers' arrivals without a bar.sync in the few instructions before; arrivals that expect bytes are the producer's."""
    lines = [
        line.strip() for line in ptx.splitlines() if line.strip() and not line.strip().startswith(("//", ".loc", "$"))
    ]
    arrivals = [i for i, line in enumerate(lines) if "mbarrier.arrive." in line and "expect_tx" not in line]
    return sum(not any("bar.sync" in line for line in lines[max(0, i - 8) : i]) for i in arrivals)


def _serialized(ptx: str) -> bool:
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [str(TOOLS / "ptxas"), "-arch=sm_90a", "-v", file.name, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    return "serializ" in said.stdout + said.stderr


def _cuobjdump(option: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(TOOLS / "cuobjdump"), option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
