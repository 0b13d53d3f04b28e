"""The health of GPUs from what their tools say, in the documented formats; no GPU is needed, and none was asked."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from megabiomed.ground.json_lines import read_objects
from megabiomed.processes import gpu_health, gpu_tools
from megabiomed.processes.gpu_health import GpuHealth, Watch, bad_nodes
from megabiomed.processes.gpu_tools import Finding

WELL = """0, 00000000:1B:00.0, 61, 0, No, Not Active, Not Active, Not Active, Not Active
1, 00000000:3B:00.0, 64, 0, [N/A], Not Active, Not Active, Not Active, Not Active
"""
NVLINK = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-a)
\t Link 0: Replay Errors: 0
\t Link 0: Recovery Errors: 0
\t Link 0: CRC Errors: 7

\t Link 1: Replay Errors: 0
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-b)
\t Link 0: Replay Errors: 3
"""
BUSES = {"0000:1b:00": 0, "0000:3b:00": 1}
DCGM_TABLE = """Health Monitor Report
+----------------------------------------------------------------------------+
| Group 1          | Overall Health: Warning                                 |
+==================+=========================================================+
| GPU ID: 0        | Warning                                                 |
|                  | PCIe system: Warning - Detected more than 8 PCIe        |
|                  | replays per minute for GPU 0: 13                        |
+------------------+---------------------------------------------------------+
| GPU ID: 1        | Failure                                                 |
|                  | Memory system: Failure - A DBE has been detected        |
+------------------+---------------------------------------------------------+
"""
DCGM_TREE = """+---------------------------+--------------------------------------------------+
| Health Monitor Report                                                        |
+===========================+==================================================+
| Overall Health            | Failure                                          |
| GPU                       |                                                  |
| -> 1                      | Failure                                          |
|    -> Errors              |                                                  |
|       -> Memory system    | Failure                                          |
|                           | A pending row remap was found                    |
+---------------------------+--------------------------------------------------+
"""


def said(found: object) -> list[tuple[str, bool]]:
    return [(str(each), each.bad) for each in found]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("line", "finds"),
    [
        ("1, 00000000:3B:00.0, 64, 2, No, Not Active, Not Active, Not Active, Not Active",
         [("uncorrected ECC errors (2)", True)]),
        ("1, 00000000:3B:00.0, 64, 0, Yes, Not Active, Not Active, Not Active, Not Active",
         [("pages wait for their retirement", False)]),
        ("1, 00000000:3B:00.0, 97, [N/A], [N/A], Active, Not Active, Active, Not Active",
         [("clock slowed down by heat", False), ("clock slowed down by the hardware", False), ("97 degrees Celsius", False)]),
        ("1, 00000000:3B:00.0, [Unknown Error], [Not Supported], N/A, N/A, N/A, N/A, N/A", []),
    ],
)  # fmt: skip
def test_nvidia_smi_names_the_gpu_and_fields_that_it_lacks_say_nothing(
    line: str, finds: list[tuple[str, bool]]
) -> None:
    assert list(gpu_tools.smi_findings(WELL)) == []
    assert said(gpu_tools.smi_findings(line)) == [(f"GPU 1: {text}", bad) for text, bad in finds]


@pytest.mark.parametrize(
    "text",
    [
        "Unable to determine the device handle for GPU0000:3B:00.0: GPU is lost.  Reboot the system to recover this GPU",
        "Unable to determine the device handle for GPU 0000:3B:00.0: Unknown Error",
        "1, 00000000:3B:00.0, [GPU is lost], [GPU is lost], x, x, x, x, x",
    ],
)
def test_a_gpu_that_is_lost_is_bad_in_whatever_words(text: str) -> None:
    (found,) = gpu_tools.smi_findings(text)
    assert (found.kind, found.bad) == ("lost", True)


def test_a_row_remap_that_failed_is_bad_and_one_that_waits_is_told() -> None:
    text = "00000000:1B:00.0, No, No\n00000000:3B:00.0, Yes, 0\n00000000:3B:00.0, 0, 1\nERROR: no devices\n"
    assert said(gpu_tools.remap_findings(text, BUSES)) == [
        ("GPU 1: a row remap waits for a reset", False), ("GPU 1: a row remap failed", True),
    ]  # fmt: skip


def test_nvlink_counters_count_from_the_start_of_the_run() -> None:
    before = gpu_tools.nvlink_counts(NVLINK)
    assert before[0, 0, "CRC Errors"] == 7
    assert before[1, 0, "Replay Errors"] == 3
    now = {**before, (0, 0, "CRC Errors"): 12}
    assert said(gpu_tools.nvlink_findings(before, now)) == [("GPU 0: NVLink 0: 5 crc errors since the start", False)]


@pytest.mark.parametrize(
    ("line", "finds"),
    [
        ("[12.5] NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
         ("GPU 1: Xid 79: the GPU has fallen off the bus", True)),
        ("NVRM: Xid (PCI:0000:1b:00.0): 31, pid=1234, name=python, Ch 00000008, MMU Fault",
         ("GPU 0: Xid 31: pid=1234, name=python, Ch 00000008, MMU Fault", False)),
        ("kernel: NVRM: Xid (PCI:0000:9c:00): 48, An uncorrectable double bit error",
         ("Xid 48 on 0000:9c:00: uncorrected ECC error", True)),
        ("NVRM: GPU at PCI:0000:3b:00: GPU-a", None),
    ],
)  # fmt: skip
def test_an_xid_is_bad_where_it_is_no_error_of_a_program(line: str, finds: tuple[str, bool] | None) -> None:
    assert said(gpu_tools.xid_findings(f"other\n{line}\n", BUSES)) == ([finds] if finds else [])


@pytest.mark.parametrize("text", [DCGM_TABLE, DCGM_TREE])
def test_what_dcgm_calls_a_failure_is_bad(text: str) -> None:
    found = said(gpu_tools.dcgm_findings(text))
    assert [bad for _, bad in found] == ([False, True] if text is DCGM_TABLE else [True])
    assert found[-1][0].startswith("GPU 1: DCGM: Failure ")
    assert list(gpu_tools.dcgm_findings("| Overall Health: |  Healthy |\nError: Health watches not enabled\n")) == []


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node with nvidia-smi and a kernel log, and nothing else."""
    folder = tmp_path / "tools"
    folder.mkdir()
    (tmp_path / "smi").write_text(WELL)
    (tmp_path / "nvlink").write_text(NVLINK)
    (tmp_path / "dmesg").write_text("")
    program(
        folder,
        "nvidia-smi",
        f"""echo "$@" >> {tmp_path}/asked
case "$1" in --query-gpu*) read -r -d '' text < {tmp_path}/smi; echo "$text" ;; nvlink) read -r -d '' text < {tmp_path}/nvlink
echo "$text" ;; *) echo "00000000:1B:00.0, No, No" ;; esac""",
    )
    program(folder, "dmesg", f"""read -r -d '' text < {tmp_path}/dmesg; echo "$text" """)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


def test_a_finding_is_told_once_and_an_absent_tool_too(tools: Path, tmp_path: Path) -> None:
    told: list[str] = []
    health = GpuHealth(time.time() - 10, told.append)
    assert health.look() == []
    assert told == ["GPU health: dcgmi is not there, and is not asked"]
    (tmp_path / "smi").write_text(WELL.replace("64, 0", "64, 3"))
    old, new = (time.strftime("%Y-%m-%dT%H:%M:%S,000000+00:00", time.gmtime(time.time() + s)) for s in (-3600, 5))
    (tmp_path / "dmesg").write_text(
        f"{old} NVRM: Xid (PCI:0000:1b:00): 79, x\n{new} NVRM: Xid (PCI:0000:3b:00): 95, x\n"
    )
    assert said(health.look()) == [
        ("GPU 1: uncorrected ECC errors (3)", True),
        ("GPU 1: Xid 95: uncontained ECC error", True),
    ]
    assert health.look() == []
    assert len(told) == 1
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[0] == f"--query-gpu={','.join(gpu_tools.GPU_FIELDS)} --format=csv,noheader,nounits"
    assert asked[2] == "nvlink -e"


def test_a_tool_that_refuses_or_hangs_is_left_alone(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_health, "_TOOL_S", 0.3)
    program(tools, "dmesg", "echo 'dmesg: read kernel buffer failed: Operation not permitted' >&2; exit 1")
    program(tools, "dcgmi", "exec /bin/sleep 60")
    told: list[str] = []
    health = GpuHealth(time.time(), told.append)
    assert health.look() == health.look() == []
    assert told == [
        "GPU health: dmesg cannot be asked: dmesg: read kernel buffer failed: Operation not permitted",
        "GPU health: journalctl is not there, and is not asked",
        "GPU health: dcgmi cannot be asked: no answer within 0 s",
    ]


def test_rank_0_gets_what_all_nodes_found_and_reads_no_file_for_it(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    (tmp_path / "smi").write_text(WELL.replace("61, 0", "98, 0"))
    watch = Watch(tmp_path / "logs", 3600, True, lambda _: None)
    gpu_health.write(tmp_path / "logs" / gpu_health.FOLDER, "n2", [Finding(3, "xid 79", "Xid 79: off", True)])
    watch.start()
    news: list[dict[str, object]] = []
    until = time.monotonic() + 60
    while len(news) < 2 and time.monotonic() < until:
        news += watch.news()
        threading.Event().wait(0.02)
    watch.stop()
    assert [(each["node"], each["gpu"], each["bad"]) for each in news] == [("n1", 0, False), ("n2", 3, True)]
    assert bad_nodes(tmp_path / "logs") == {"n2": "GPU 3: Xid 79: off"}
    assert bad_nodes(tmp_path / "nothing") == {}


def test_a_last_look_after_the_ranks_died_adds_only_what_is_new(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    logs = tmp_path / "logs"
    gpu_health.write(logs / gpu_health.FOLDER, "n1", [Finding(1, "ecc", "uncorrected ECC errors (3)", True)])
    (tmp_path / "smi").write_text(
        WELL.replace("64, 0", "64, 3") + "Unable to determine the device handle for GPU 0000:4C:00.0\n"
    )
    gpu_health.main(logs, time.time())
    lines = list(read_objects(logs / gpu_health.FOLDER / "n1.jsonl"))
    assert [line["kind"] for line in lines] == ["ecc", "lost"]
    assert "n1: Unable to determine the device handle" in capsys.readouterr().out
    assert os.listdir(logs) == [gpu_health.FOLDER]
