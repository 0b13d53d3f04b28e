"""Ranks tell each other values without anybody's code being run: JSON in tensors, and no object collective anywhere."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from processes.messages_worker import VALUES
from support.spawn import run_ranks

from megabiomed.processes import messages, platform

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("messages_worker.py")
UNPICKLING = {
    f"{verb}_object{end}" for verb in ("broadcast", "all_gather", "gather", "scatter", "send", "recv")
    for end in ("", "_list")
}  # fmt: skip
MODULES = {"pickle", "cloudpickle", "dill", "shelve", "marshal", "torch.distributed.rpc", "multiprocessing.managers"}
# One makes pickles to show that they are not read. The others write and read those of one build, in its own folder
# (docs/SECURITY.md), as datatrove does with its executors.
MAY_IMPORT = {
    "tests/checkpoint/test_security.py",
    "megabiomed/corpus/job_folder.py",
    "megabiomed/corpus/local_engine.py",
    "megabiomed/corpus/local_host.py",
}


@pytest.mark.timeout(120)
def test_values_and_errors_reach_every_rank_as_they_were(tmp_path: Path) -> None:
    run_ranks(3, [str(WORKER), str(tmp_path)], tmp_path / "logs", timeout_s=100)
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert [part["from the last"] for part in seen] == [VALUES] * 3
    assert [part["gathered"] for part in seen] == [["x", "x" * 10, "x" * 100], None, None]
    assert [part["found"] for part in seen] == [[VALUES, 0]] * 3
    assert [part["among two"] for part in seen] == [None, 1, 1]
    assert [part["error"] for part in seen] == [["it does not fit: got /x, expected 3; do that", 2, True]] * 3


def test_without_a_process_group_the_work_is_done_here() -> None:
    assert messages.from_first(lambda: 5) == 5


def _unpickles(tree: ast.AST) -> Iterator[str]:
    """Calls and imports by which something is unpickled, as `line: name`."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Attribute | ast.Name):
            names = [name for name in [node.attr if isinstance(node, ast.Attribute) else node.id] if name in UNPICKLING]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name in MODULES]
        elif isinstance(node, ast.ImportFrom):
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name for name in whole if name.split(".")[-1] in UNPICKLING or name in MODULES]
            names += [node.module] if node.module in MODULES else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            safe = any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
            names = [] if safe else ["torch.load"]
        yield from (f"{node.lineno}: {name}" for name in names)  # type: ignore[attr-defined]


def test_no_object_collective_and_no_pickle_anywhere() -> None:
    """`processes.messages` carries values between ranks; docs/SECURITY.md names what libraries do."""
    files = [*(ROOT / "tests").rglob("*.py")]
    for room in (ROOT / "megabiomed").iterdir():  # rglob does not follow the links among them
        files += room.rglob("*.py") if room.is_dir() else [room] if room.suffix == ".py" else []
    found = [
        f"{file.relative_to(ROOT)}:{where}"
        for file in files if str(file.relative_to(ROOT)) not in MAY_IMPORT
        for where in _unpickles(ast.parse(file.read_text()))
    ]  # fmt: skip
    assert not found, "\n" + "\n".join(found)


class _Sent(Exception):
    """A collective that would begin, with the device that its numbers are on."""


@pytest.mark.parametrize(("ranks", "device"), [(2, "cpu"), (32, "cpu"), (33, "meta")])
def test_numbers_of_few_ranks_do_not_wait_for_the_device(
    ranks: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_reduce(numbers: torch.Tensor, *_: object, **__: object) -> None:
        raise _Sent(numbers.device.type)

    monkeypatch.setattr(dist, "get_world_size", lambda group: ranks)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    monkeypatch.setattr(platform, "device", lambda: torch.device("meta"))
    with pytest.raises(_Sent, match=device):
        messages.combined((1.0, 2.0), dist.ReduceOp.SUM)


def test_numbers_of_one_rank_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda group: 1)
    assert messages.combined((1.5, 2.0), dist.ReduceOp.SUM) == [1.5, 2.0]


@pytest.mark.parametrize(
    "text",
    [
        "import torch.distributed as d\nd.all_gather_object(a, b)",
        "from torch.distributed import broadcast_object_list as tell",
        "from torch.distributed import rpc",
        "import pickle as p",
        "from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=not True)",
    ],
)
def test_a_way_to_unpickle_is_seen_wherever_it_stands(text: str) -> None:
    assert list(_unpickles(ast.parse(text)))
