"""A tracker's password reaches its server, at a start and at a resume, and nothing that a run prints or stores."""

from __future__ import annotations

import base64
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from support.runs import losses
from support.zygote import run_python

from megabiomed.checkpoint.locate import locate
from megabiomed.config import RunConfig
from megabiomed.ground.errors import ConfigError
from megabiomed.runs.kinds import read_run
from megabiomed.runs.plot import plot_run
from megabiomed.runs.start import StartOptions, start
from megabiomed.runs.tracking.credentials import complete, handed_over
from megabiomed.runs.tracking.mlflow_tracker import MlflowTracker

PASSWORD, TOKEN = "Pass-7Qzw", "hf_9VbKLmn"
VARIABLE = "MLFLOW_TRACKING_URI"


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A tracking server that refuses everybody, and quotes what it was told; address and passwords."""
    asked: list[str] = []

    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
            asked.append(told.partition(":")[2])
            answer = f"{told} may not ask for {self.path}".encode()
            self.send_response(403)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    served = HTTPServer(("127.0.0.1", 0), Refuses)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{served.server_address[1]}", asked
    served.shutdown()
    thread.join()
    served.server_close()


def holds(folder: Path, *words: str) -> list[Path]:
    """Files whose name or content has one of the words."""
    found = []
    for file in folder.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        found += [file for word in words if word in str(file) or word.encode() in content]
    return found


@pytest.mark.timeout(200)
def test_a_run_and_its_resume_show_and_store_no_credential(
    run_file: Path, tmp_path: Path, server: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    address, asked = server
    run = tmp_path / "r"
    tracker = [f"tracking.mlflow_uri=http://user:{PASSWORD}@{address}?token={TOKEN}", "tracking.mlflow=true"]
    one_rank = ["parallel.tensor_parallel_size=1", "parallel.zero_stage=0"]
    words = [f"run_dir={run}", *one_rank, "train.steps=2"]
    outside = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_API_KEY": TOKEN}

    def pretrain(file: Path, *more: str, **variables: str) -> None:
        done = run_python(["-m", "megabiomed.cli", "pretrain", str(file), *more], outside | variables, timeout_s=180)
        said = done.stdout + done.stderr
        assert (done.returncode, PASSWORD in said, TOKEN in said) == (0, False, False), said[-3000:]
        assert "warning: MLflow fails: " in said

    pretrain(run_file, *words, *tracker, "train.stop_after=1")
    assert set(asked) == {PASSWORD}
    stored = tmp_path / "stored.yaml"
    shutil.copy(run / "config.yaml", stored)
    assert f"http://***@{address}?token=***" in stored.read_text()
    # The stored configuration starts the run, too: with the address in the environment.
    pretrain(stored, **{VARIABLE: tracker[0].partition("=")[2]})
    assert set(asked) == {PASSWORD}
    assert list(losses(run)) == [1, 2]

    start(str(run_file), [*words, *tracker], StartOptions(1, dry_run=True))
    plot_run(run, run / "loss.svg")
    print(locate(run), read_run(str(run_file), [*words, *tracker]))
    assert not [word for word in (PASSWORD, TOKEN) if word in "".join(capsys.readouterr())]
    assert holds(run, PASSWORD, TOKEN) == []


def _config(tmp_path: Path, uri: str) -> RunConfig:
    return RunConfig.model_validate(
        {"name": "t", "run_dir": tmp_path, "train": {"steps": 1}, "tracking": {"mlflow_uri": uri}}
    )


def test_an_address_is_completed_by_the_same_address_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert handed_over(_config(tmp_path, "http://h:5000")) == {}
    handed = handed_over(_config(tmp_path, "http://u:p@h:5000"))
    assert handed == {VARIABLE: "http://u:p@h:5000"}
    monkeypatch.setenv(VARIABLE, handed[VARIABLE])
    assert complete("http://***@h:5000") == "http://u:p@h:5000"
    assert complete("http://***@other:5000") == "http://other:5000"
    assert complete("http://other:5000") == "http://other:5000"


def test_an_address_without_its_credentials_says_so_when_the_server_refuses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=r"stored without its credentials: .*; export MLFLOW_TRACKING_URI with them"):
        MlflowTracker().start(_config(tmp_path, f"http://***@{server[0]}"))
