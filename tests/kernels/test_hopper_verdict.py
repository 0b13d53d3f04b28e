"""The verdict of the Hopper kernels' self-check: found once for a kind of machine, whoever starts how often."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
from megabiomed.kernels.gluon import check, verdict
from megabiomed.kernels.gluon.verdict import Verdict, forget, remembered

IDENTITY = {"device": "NVIDIA H100 80GB HBM3", "driver": "580.95.05", "dtype": "bfloat16", "head_size": "128"}
PASSED = Verdict(None, 21.3, "2026-11-27T01:00:00+00:00")
FAILED = Verdict("out differs by 3.0e-01", 20.0, "2026-11-27T01:00:00+00:00")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "megabiomed"


class Check:
    """A self-check that counts."""

    def __init__(self, found: Verdict) -> None:
        self.found, self.count = found, 0

    def __call__(self) -> Verdict:
        self.count += 1
        return self.found


@pytest.mark.parametrize("found", [PASSED, FAILED])
def test_a_second_start_does_not_check_again(found: Verdict, cache: Path) -> None:
    first, second = Check(found), Check(PASSED)
    assert remembered(IDENTITY, first, 1) == found
    assert remembered(IDENTITY, second, 1) == found
    assert (first.count, second.count) == (1, 0)
    (file,) = cache.glob("hopper-*.json")
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", IDENTITY)
def test_another_device_driver_type_or_head_size_is_checked_by_itself(name: str) -> None:
    remembered(IDENTITY, Check(PASSED), 1)
    other = Check(FAILED)
    assert remembered(IDENTITY | {name: "other"}, other, 1) == FAILED
    assert other.count == 1
    assert remembered(IDENTITY, Check(FAILED), 1) == PASSED


def test_a_changed_kernel_is_another_one(tmp_path: Path) -> None:
    (tmp_path / "gluon").mkdir()
    (tmp_path / "triton").mkdir()
    for name in ("document_attention.py", "documents.py", "rope.py", "gluon/forward.py"):
        (tmp_path / name).write_text("x = 1\n")
    before = verdict.sources_sha256(tmp_path)
    assert before == verdict.sources_sha256(tmp_path)
    (tmp_path / "gluon" / "forward.py").write_text("x = 2\n")
    assert before != verdict.sources_sha256(tmp_path)


def test_a_failure_says_why_and_is_checked_again_after_forgetting() -> None:
    remembered(IDENTITY, Check(FAILED), 1)
    assert "failed: out differs by 3.0e-01 (in 20 s on 2026-11-27T01:00:00+00:00" in FAILED.sentence
    assert "`megabiomed bench kernels --recheck` tries again" in FAILED.sentence
    assert forget() == 1
    assert remembered(IDENTITY, Check(PASSED), 1) == PASSED


def test_a_busy_device_is_not_remembered(cache: Path) -> None:
    busy = Verdict("this device cannot be used now", 4.0, "2026-11-27T01:00:00+00:00", lasting=False)
    assert remembered(IDENTITY, Check(busy), 1) == busy
    assert not [*cache.glob("*.json")]
    assert remembered(IDENTITY, Check(PASSED), 1) == PASSED


GOOD = {"identity": IDENTITY, "reason": None, "seconds": 1.0, "checked": "x", "lasting": True}
FOREIGN = {
    "empty": "",
    "cut": json.dumps(GOOD)[:40],
    "a list": "[]",
    "deep": "[" * 100_000,
    "of another machine": json.dumps(GOOD | {"identity": IDENTITY | {"driver": "1"}}),
    "without a verdict": json.dumps({"identity": IDENTITY}),
    "wrong type": json.dumps(GOOD | {"reason": 5}),
    "more than a verdict": json.dumps(GOOD | {"more": 1}),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_file_that_is_not_this_verdict_is_ignored_and_rewritten(content: str, cache: Path) -> None:
    remembered(IDENTITY, Check(FAILED), 1)
    (file,) = cache.glob("*.json")
    file.write_text(content)
    again = Check(FAILED)
    assert remembered(IDENTITY, again, 1) == FAILED
    assert remembered(IDENTITY, again, 1) == FAILED
    assert again.count == 1


def test_a_file_that_others_may_write_or_a_link_is_not_believed(cache: Path, tmp_path: Path) -> None:
    remembered(IDENTITY, Check(PASSED), 1)
    (file,) = cache.glob("*.json")
    file.chmod(0o666)
    assert remembered(IDENTITY, Check(FAILED), 1) == FAILED
    kept = file.rename(tmp_path / "elsewhere.json")
    file.symlink_to(kept)
    assert remembered(IDENTITY, Check(PASSED), 1) == PASSED


def test_without_a_folder_every_process_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "cache_folder", lambda: None)
    counted = Check(PASSED)
    assert remembered(IDENTITY, counted, 1) == remembered(IDENTITY, counted, 1) == PASSED
    assert counted.count == 2


RANK = """
import sys, time
from pathlib import Path
from megabiomed.kernels.gluon.verdict import Verdict, now, remembered

folder, rank, ranks = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def check():
    (folder / f"checked-{rank}").touch()
    while len([*folder.glob("started-*")]) < ranks:  # all of them are there before the first verdict
        time.sleep(0.01)
    if sys.argv[4] == "die" and len([*folder.glob("checked-*")]) == 1:
        import os
        os._exit(9)
    return Verdict(None, 1.0, now())

(folder / f"started-{rank}").touch()
print(remembered({"device": "x"}, check, 60))
"""


@pytest.mark.parametrize(("first", "checks"), [("live", 1), ("die", 2)])
def test_ranks_that_start_together_check_once_and_the_next_takes_over_from_one_that_dies(
    first: str, checks: int, tmp_path: Path
) -> None:
    signs = tmp_path / "signs"
    signs.mkdir()
    command = [sys.executable, "-c", RANK, str(signs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([*command, str(rank), "4", first], env=environment, stdout=subprocess.PIPE, text=True)
        for rank in range(4)
    ]
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert len([*signs.glob("checked-*")]) == checks
    assert len({words for words in said if words}) == 1
    assert sorted(rank.returncode for rank in ranks) == [0, 0, 0, 0 if first == "live" else 9]


def test_who_waits_too_long_is_told_and_nothing_is_written(cache: Path) -> None:
    cache.mkdir(mode=0o700)
    remembered(IDENTITY, Check(PASSED), 1)
    (file,) = cache.glob("*.json")
    file.unlink()
    with verdict.locked(file.with_suffix(".lock"), 0):
        found = remembered(IDENTITY, Check(PASSED), 0)
    assert found.reason == "another process has been busy with it for too long"
    assert not file.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it would really check")
def test_the_process_that_checks_reports_why_it_could_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = check._in_a_process(torch.bfloat16, 128, 0)
    assert (found.reason, found.lasting) == ("no CUDA device", False)
    monkeypatch.setattr(check, "LIMIT_S", 0.01)
    assert check._in_a_process(torch.bfloat16, 128, 0).reason == "it did not end within 0.01 s"


@pytest.mark.parametrize(
    ("program", "reason", "lasting"),
    [
        ("", None, True),
        ("sys.exit('dq differs by 3.0e-01')", "dq differs by 3.0e-01", True),
        ("os.abort()", "exit status -6", True),  # as a kernel that writes outside would end it
        ("print('no memory left', file=sys.stderr); sys.exit(75)", "no memory left", False),
        ("os.kill(os.getpid(), 15)", "exit status -15", False),  # a job that ends takes its check along
    ],
)
def test_how_the_process_ends_is_the_verdict(
    program: str, reason: str | None, lasting: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\nimport os, sys\n{program}\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    found = check._in_a_process(torch.bfloat16, 128, 0)
    assert (found.reason, found.lasting) == (reason, lasting)


def test_the_identity_holds_all_that_a_verdict_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    identity = verdict.identity_of(torch.device("cuda", 0), torch.bfloat16, 128)
    assert identity["device"] == "NVIDIA H100 80GB HBM3"
    assert (identity["capability"], identity["dtype"], identity["head_size"]) == ("9.0", "bfloat16", "128")
    assert identity["torch"] == torch.__version__
    assert len(identity["kernels"]) == 64
    assert all(isinstance(value, str) and value for value in identity.values())
