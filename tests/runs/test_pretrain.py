"""Real runs through the public command: resume to the bit, stop signals, dead workers, and wrong input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from support.runs import events, losses
from support.started import Started

from megabiomed.config import load_config
from megabiomed.model.fresh import SeededInit
from megabiomed.model.hf_export import export_hf

Command = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize(
    "topology",
    [
        ["parallel.tensor_parallel_size=2", "parallel.zero_stage=3"],
        [
            "parallel.tensor_parallel_size=1",
            "parallel.pipeline_parallel_size=2",
            "parallel.zero_stage=1",
            "train.precision=bf16",
        ],
    ],
    ids=["tp2-zero3-fp32", "pp2-zero1-bf16"],
)
def test_an_interrupted_run_equals_an_uninterrupted_one_to_the_bit(
    run_file: Path, command: Command, tmp_path: Path, topology: list[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command("pretrain", run_file, f"run_dir={whole}", *topology)
    command("pretrain", run_file, f"run_dir={parts}", "train.stop_after=3", *topology)
    assert events(parts)[-1]["event"] == "stopped"
    resumed = command("pretrain", run_file, f"run_dir={parts}", "train.eval_every=2", *topology)
    assert "data order: identical from sample 24 on" in resumed.stdout
    assert losses(parts) == losses(whole)
    assert len(losses(whole)) == 6
    assert events(parts)[-1]["ids_hash"] == events(whole)[-1]["ids_hash"]
    again = command("pretrain", run_file, f"run_dir={parts}", *topology)
    assert "finished already" in again.stdout


def start(run_file: Path, folder: Path) -> Started:
    """A run without an end."""
    return Started(["pretrain", str(run_file), f"run_dir={folder / 'r'}", "train.steps=100000"], folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_signal_saves_and_leaves_cleanly(run_file: Path, tmp_path: Path, number: signal.Signals) -> None:
    run = start(run_file, tmp_path)
    run.wait_for("step: 2/")
    os.kill(run.pid, number)
    code, out, err = run.finish()
    assert code == 0, err
    last = events(tmp_path / "r")[-1]
    assert last["event"] == "stopped"
    assert f"({number.name})" in out
    assert (tmp_path / f"r/checkpoints/step_{last['step']:08d}/COMMITTED").is_file()


def test_a_signal_to_one_rank_stops_all_and_its_log_names_it(run_file: Path, tmp_path: Path) -> None:
    run = start(run_file, tmp_path)
    run.wait_for("step: 2/")
    rank = sorted(psutil.Process(run.pid).children(), key=lambda child: child.create_time())[1]
    rank.send_signal(signal.SIGTERM)
    code, out, err = run.finish()
    assert code == 0, err
    assert "stopped: step" in out
    assert events(tmp_path / "r")[-1]["event"] == "stopped"
    logs = (tmp_path / "r").glob("logs/**/rank_1.log")
    assert "stopped: rank 1 was asked to leave: SIGTERM" in "".join(log.read_text() for log in logs)


def test_a_killed_worker_ends_the_others_and_is_named(run_file: Path, tmp_path: Path) -> None:
    run = start(run_file, tmp_path)
    run.wait_for("step: 1/")
    workers = sorted(psutil.Process(run.pid).children(), key=lambda worker: worker.pid)
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)
    code, _, err = run.finish(timeout_s=60)  # long before its partner's collective operations time out
    assert code == 1
    assert "rank 1 was killed by SIGKILL" in err
    assert not any(worker.is_running() for worker in workers)


def test_workers_do_not_outlive_their_parent(run_file: Path, tmp_path: Path) -> None:
    run = start(run_file, tmp_path)
    run.wait_for("step: 1/")
    workers = psutil.Process(run.pid).children()
    os.kill(run.pid, signal.SIGKILL)
    run.finish()
    gone, alive = psutil.wait_procs(workers, timeout=60)
    assert len(gone) == 2
    assert not alive


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.vocab_size=500"], "the tokenizer does not fit the model"),
        (["data.train.0.path=/nowhere"], "is not a token store"),
        (["parallel.tensor_parallel_size=3"], "tensor_parallel_size does not divide"),
        (["data.seq_length=4096"], "exceeds the RoPE table"),
        (["model.init_from=/nowhere"], "/nowhere"),
        (["checkpoint.resume=/nowhere"], "/nowhere"),
        (["optimizer.lrr=1"], "did you mean 'optimizer.lr'"),
    ],
)
def test_wrong_input_is_one_message_and_exit_code_2(
    run_file: Path, command: Command, tmp_path: Path, overrides: list[str], message: str
) -> None:
    done = command("pretrain", run_file, f"run_dir={tmp_path / 'r'}", *overrides, code=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 25
    assert not list((tmp_path / "r").rglob("step_*"))


def test_resume_refuses_another_model_and_another_order(run_file: Path, command: Command, tmp_path: Path) -> None:
    run_dir = f"run_dir={tmp_path / 'r'}"
    command("pretrain", run_file, run_dir, "train.stop_after=1")
    other = command("pretrain", run_file, run_dir, "model.intermediate_size=128", code=2)
    assert "intermediate_size 96 -> 128" in other.stderr
    reordered = command("pretrain", run_file, run_dir, "seed=5", code=2)
    assert "seed: 1234 -> 5" in reordered.stderr
    assert "checkpoint.allow_data_change" in reordered.stderr
    refused = command("pretrain", run_file, run_dir, "checkpoint.resume=never", code=2)
    assert "checkpoint.resume is never" in refused.stderr
    command("pretrain", run_file, run_dir, "seed=5", "checkpoint.allow_data_change=true", "train.stop_after=1")


def test_a_checkpoint_is_loaded_by_another_topology(run_file: Path, command: Command, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command("pretrain", run_file, f"run_dir={whole}")
    command("pretrain", run_file, f"run_dir={parts}", "train.stop_after=3")
    other = ["parallel.tensor_parallel_size=1", "parallel.pipeline_parallel_size=2", "parallel.zero_stage=1"]
    command("pretrain", run_file, f"run_dir={parts}", *other)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    assert events(parts)[-1]["ids_hash"] == events(whole)[-1]["ids_hash"]


def test_dry_run_prints_the_bill_and_starts_nothing(run_file: Path, command: Command, tmp_path: Path) -> None:
    done = command("pretrain", run_file, f"run_dir={tmp_path / 'r'}", "--dry-run")
    for key in ("model:", "topology:", "compute:", "memory per rank:", "checkpoint:"):
        assert key in done.stdout
    assert not (tmp_path / "r").exists()


def test_torchrun_joins_the_same_run(run_file: Path, tmp_path: Path) -> None:
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--standalone",  # its rendezvous finds a free port; --master_port=0 would hand port 0 to the ranks, which hang
        "-m",
        "megabiomed.cli",
    ]
    done = subprocess.run(
        [*torchrun, "pretrain", str(run_file), f"run_dir={tmp_path / 'r'}", "train.steps=2", "tracking.mlflow=true"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(losses(tmp_path / "r")) == 2
    assert [set(left) for left in events(tmp_path / "r")[0]["left_out"].values()] == [{"tokens", "documents"}]
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'r' / 'mlflow.db'}")
    run = client.get_run((tmp_path / "r/mlflow_run_id").read_text().strip())
    assert run.info.status == "FINISHED"
    assert run.data.metrics["train/loss"] == losses(tmp_path / "r")[2]
    assert run.data.params["parallel.zero_stage"] == "3"


def test_a_step_that_is_not_finite_ends_the_run_and_saves_nothing(
    run_file: Path, command: Command, tmp_path: Path
) -> None:
    wild = ["optimizer.lr=1e30", "optimizer.clip_grad_norm=0", "optimizer.warmup_steps=0"]
    done = command("pretrain", run_file, f"run_dir={tmp_path / 'r'}", *wild, code=1)
    assert "is not finite" in done.stderr
    assert "the batch begins at global sample" in done.stderr
    assert events(tmp_path / "r")[-1]["event"] == "failed"
    assert not list((tmp_path / "r").rglob("step_*"))


def test_a_folder_with_more_rows_than_pieces_is_trained_and_exported(
    run_file: Path, corpus: Path, command: Command, tmp_path: Path
) -> None:
    """As models with added tokens and padded vocabularies are."""
    tokenizer = corpus / "tokenizer" / "tokenizer.model"
    model = load_config(run_file, ["model.vocab_size=640"]).model
    export_hf(SeededInit(model, 1), model, tmp_path / "hf", tokenizer=tokenizer)
    words = ("pretrain", run_file, f"run_dir={tmp_path / 'r'}", f"model.init_from={tmp_path / 'hf'}", "train.steps=2")
    told = command(*words, code=2).stderr
    assert "got vocab_size 640, expected 600; set these keys of `model:`" in told
    done = command(*words, "model.vocab_size=640")
    assert "vocabulary: 600 pieces; 40 more rows, which are never a label" in done.stdout
    assert "certificate: valid" in done.stdout
    assert "certificate: valid" in command("checkpoint", "export-hf", tmp_path / "r", tmp_path / "out").stdout
