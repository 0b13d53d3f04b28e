"""A command that fails says what a user can do about it, or that it is a defect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from megabiomed.ground.errors import ConfigError, WorkerError
from megabiomed.ground.outcome import explain


def _raised(path: Path) -> OSError:
    with pytest.raises(OSError) as caught:
        path.read_text()
    return caught.value


def test_a_file_that_cannot_be_used_is_one_message(tmp_path: Path) -> None:
    assert explain(_raised(tmp_path / "a"), []) == (
        2,
        f"error: cannot use the file or folder '{tmp_path}/a': got No such file or directory; check the path",
    )
    assert "give a file, not a folder" in explain(_raised(tmp_path), [])[1]
    assert "choose a shorter name" in explain(_raised(tmp_path / ("x" * 300)), [])[1]
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    with pytest.raises(UnicodeDecodeError) as caught:
        (tmp_path / "latin").read_text(encoding="utf-8")
    assert explain(caught.value, [])[0] == 2


def test_our_own_errors_keep_their_code() -> None:
    assert explain(ConfigError("wrong"), []) == (2, "error: wrong")
    assert explain(WorkerError("died"), []) == (1, "error: died")


def test_a_defect_says_so_with_all_that_a_report_needs() -> None:
    try:
        [][3]
    except IndexError as error:
        code, text = explain(error, ["plot", "a b"])
    assert code == 1
    assert "this is a defect of megabiomed, not a mistake of yours: IndexError: list index out of range" in text
    assert "test_outcome.py" in text
    assert text.endswith("command: megabiomed plot 'a b'")


def test_a_reader_that_leaves_early_is_no_defect() -> None:
    script = "import sys; from megabiomed import cli; sys.argv = ['megabiomed', '--help']; cli.main()"
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{script}" | head -1 >/dev/null'], capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
