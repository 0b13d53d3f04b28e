"""The nodes, their storage, their links and their kernels: what the batch script's side makes of what the ranks wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from megabiomed.ground.errors import FileError
from megabiomed.ground.files import make_writable, read_json
from megabiomed.launch.preflight_verdict import bad_nodes, result_file
from megabiomed.launch.selftest.plan import plan
from megabiomed.launch.selftest.results import Figure, Result
from megabiomed.launch.selftest.steps import Site, run_step

_LIMIT_S = 600.0
_PREFLIGHT = "megabiomed.launch.preflight"
_GIB = 2**30


def preflight(site: Site) -> tuple[Result, dict[str, str]]:
    """The check before each start; its result, and node -> why it is bad."""
    cluster = site.cluster
    words = [_PREFLIGHT, site.run, site.incarnation, 0, cluster.gpus_per_node, cluster.gpu_type or "-"]
    why = run_step(site.hosts, "preflight", words, 60.0 * cluster.preflight_minutes, together=False)
    bad = bad_nodes(site.run, site.incarnation, list(site.nodes), cluster.slow_factor)
    problem = "; ".join(f"{node}: {reason}" for node, reason in bad.items())
    problem += f" ({why})" if problem and why else ""
    return Result.of("preflight", problem or None, _preflight_figures(site)), bad


def _preflight_figures(site: Site) -> list[Figure]:
    measured: dict[str, dict[str, float]] = {}
    for node in site.nodes:
        with suppress(FileError):
            measured[node] = read_json(result_file(site.run, site.incarnation, node), dict)["measured"]
    names = {"matmul_s": "matrix product", "allreduce_s": "all-reduce of 4 MiB"}
    return [
        Figure(f"{what} on {node}", values[key] * 1e3, "ms")
        for key, what in names.items()
        for node, values in measured.items()
        if key in values
    ]


def storage(site: Site) -> Iterator[Result]:
    """Every node writes, and reads the file of another one."""
    folder = site.folder("storage")
    make_writable(folder)
    size = _GIB if site.shape.gpus_per_node else _GIB // 8
    words = ["megabiomed.launch.selftest.storage", folder, size, ",".join(site.nodes)]
    why = run_step(site.hosts, "storage", words, _LIMIT_S)
    found: dict[str, dict[str, float]] = {}
    for node in site.nodes:
        with suppress(FileError):
            found[node] = read_json(folder / f"{node}.json", dict)
    shown = {
        "write": [("write_bytes_per_s", 1e9, "GB/s"), ("fsync_s", 1.0, "s")],
        "read": [("read_bytes_per_s", 1e9, "GB/s")],
        "metadata": [("metadata_per_s", 1.0, "files/s")],
    }
    for name, columns in shown.items():
        if _refused(site, name):
            yield Result.skip(name, str(_refused(site, name)))
            continue
        figures = [
            Figure(f"{'fsync' if unit == 's' else name} on {node}", values[key] / scale, unit)
            for key, scale, unit in columns
            for node, values in found.items()
            if key in values
        ]
        complete = len(figures) == len(site.nodes) * len(columns)
        yield Result.of(name, None if complete else why or "a node wrote no figures", figures)


def links(site: Site) -> Iterator[Result]:
    """All ranks together; each kind of link is a check."""
    file = site.folder("links") / "links.json"
    size = _GIB // 4 if site.shape.gpus_per_node else _GIB // 64
    why = run_step(site, "links", ["megabiomed.launch.selftest.links", file, size], _LIMIT_S)
    found: dict[str, Any] = {}
    with suppress(FileError):
        found = read_json(file, dict)
    for name in ("all-reduce", "between nodes", "within a node", "host and device"):
        if (refused := _refused(site, name)) is not None:
            yield Result.skip(name, refused)
            continue
        figures = [_figure(text, value) for text, value in found.get(name, {}).items()]
        yield Result.of(name, None if name in found else why or "the ranks wrote no figures", figures)


def _figure(text: str, value: float) -> Figure:
    """`slowest GB/s` is a name with a unit; a rank has none."""
    name, _, unit = text.rpartition(" ")
    return Figure(text, value, "") if unit == "rank" else Figure(name or "time", value, unit)


def _refused(site: Site, name: str) -> str | None:
    return next(check.refusal for check in plan(site.shape) if check.name == name)


def kernels(site: Site) -> Iterator[Result]:
    """`megabiomed bench kernels` on the first node, once for each candidate."""
    file = site.folder("kernels") / "kernels.json"
    words = ["megabiomed.cli", "bench", "kernels", "--repeats", 1, "--output", file]
    why = run_step(site.one, "kernels", words, _LIMIT_S)
    rows: list[dict[str, Any]] = []
    with suppress(FileError):
        rows = read_json(file, dict)["rows"]
    broken = [f"{row['op']} {row['candidate']}: {row['note']}" for row in rows if _is_broken(row)]
    figures = [
        Figure(f"{row['op']} by {row['candidate']}, forward", row["forward_ms"], "ms")
        for row in rows
        if row["chosen"] and row["forward_ms"] is not None
    ]
    yield Result.of("kernels", why or "; ".join(broken) or None, figures)


def _is_broken(row: dict[str, Any]) -> bool:
    """Whether a kernel that would be used failed, or one that checks itself. What only stands for comparison may fail."""
    note = str(row["note"])
    return (row["chosen"] and note.startswith("failed:")) or "self-check on this device failed" in note
