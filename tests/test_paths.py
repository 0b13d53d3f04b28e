"""Every command takes the same kinds of paths, and refuses every other kind with the same message."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch.distributed as dist
import yaml
from click.testing import Result
from support.runs import RUN
from support.zygote import run_python
from typer.testing import CliRunner

from megabiomed.checkpoint.commit import CheckpointWriter, RunState
from megabiomed.checkpoint.locate import locate
from megabiomed.checkpoint.state import TrainerState
from megabiomed.checkpoint.uses import ALIGNED, ALIGNED_RUN, MODEL, OWN_FOLDER, RECORD, SAVED, SUBMITTED, Kind, Use
from megabiomed.cli import app
from megabiomed.ground.errors import MegabiomedError
from megabiomed.processes import platform


class Case(NamedTuple):
    """A command and what it takes. PATH, STORE and OUT are replaced."""

    line: str
    use: Use

    @property
    def name(self) -> str:
        """The command's own word."""
        return self.line.split(" PATH")[0].split()[-1]


COMMANDS = [
    Case("validate PATH --store STORE --samples 2", MODEL),
    Case("generate PATH --prompt The --max-new-tokens 1", MODEL),
    Case("evaluate PATH --perplexity held=STORE --samples 2 --seq-length 64 --output OUT", MODEL),
    Case("checkpoint diff PATH PATH", MODEL),
    Case("chat PATH --question why", ALIGNED),
    Case("align-export PATH OUT", ALIGNED_RUN),
    Case("checkpoint inspect PATH", SAVED),
    Case("checkpoint verify PATH", SAVED),
    Case("checkpoint export-hf PATH OUT --dry-run", SAVED),
    Case("checkpoint export-peft PATH OUT", SAVED),
    Case("checkpoint prune PATH --keep-last 2 --dry-run", OWN_FOLDER),
    Case("plot PATH --output OUT.svg", RECORD),
    Case("status PATH", SUBMITTED),
]
WORK = {
    Kind.RUN: {"validate", "generate", "evaluate", "diff", "inspect", "verify", "export-hf", "prune", "plot"},
    Kind.CHECKPOINT: {"validate", "generate", "evaluate", "diff", "inspect", "verify", "export-hf", "plot"},
    Kind.HUGGING_FACE: {"validate", "generate", "evaluate", "diff"},
    Kind.ALIGNMENT: {"diff", "inspect", "verify"},
    Kind.STAGE: {"diff", "inspect", "verify", "prune"},
    Kind.STAGE_CHECKPOINT: {"diff", "inspect", "verify"},
}
"""What ends well with the paths below: nothing was submitted, and the alignment has checkpoints without weights."""


@pytest.fixture(scope="module")
def paths(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    """A path of each kind; run, checkpoint and Hugging Face folder are real."""
    folder = tmp_path_factory.mktemp("paths")
    run = folder / "runs/r"
    (folder / "run.yaml").write_text(RUN.replace("CORPUS", str(corpus)))
    alone = ["parallel.tensor_parallel_size=1", "parallel.zero_stage=1", "train.steps=1"]
    words = ["pretrain", str(folder / "run.yaml"), f"run_dir={run}", *alone]
    done = run_python(["-m", "megabiomed.cli", *words], {**os.environ, "OMP_NUM_THREADS": "1"}, timeout_s=200)
    assert done.returncode == 0, done.stderr
    assert CliRunner().invoke(app, ["checkpoint", "export-hf", str(run), str(folder / "hf")]).exit_code == 0
    stages = yaml.safe_dump(
        {"name": "a", "model": "tiny", "train": {"steps": 1}, "align": {"stages": [{"name": "s", "steps": 1}]}}
    )
    CheckpointWriter(folder / "a/s/checkpoints").save(1, [], RunState(TrainerState(stage="s"), {}, stages))
    for name in ("export/alignment.json", "adapter/adapter_config.json", "questions/records.arrow", "other/notes.txt"):
        (folder / name).parent.mkdir()
        (folder / name).write_text("{}")
    for name in ("blobs", "snapshots"):
        (folder / "models--of--somebody" / name).mkdir(parents=True)
    return {
        Kind.RUN: run, Kind.CHECKPOINT: run / "checkpoints/step_00000001", Kind.HUGGING_FACE: folder / "hf",
        Kind.ALIGNMENT: folder / "a", Kind.STAGE: folder / "a/s",
        Kind.STAGE_CHECKPOINT: folder / "a/s/checkpoints/step_00000001",
        Kind.EXPORT: folder / "export", Kind.ADAPTER: folder / "adapter", Kind.RUNS: folder / "runs",
        Kind.TOKEN_STORE: corpus / "train", Kind.ANSWER_STORE: folder / "questions", Kind.CORPUS: corpus,
        Kind.HUB_CACHE: folder / "models--of--somebody",
        Kind.FILE: folder / "run.yaml", Kind.FOLDER: folder / "other", Kind.MISSING: folder / "gone",
    }  # fmt: skip


@pytest.fixture(scope="module")
def call(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, Path], Result]]:
    """Runs a command in this process, which a command that ends its process must not do."""
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    out = tmp_path_factory.mktemp("out")

    def left(code: int = 0) -> None:
        raise SystemExit(code)

    def run(line: str, path: Path) -> Result:
        words = {"PATH": path, "STORE": corpus / "validation", "OUT": out / path.name, "OUT.svg": out / "curve.svg"}
        return CliRunner().invoke(
            app, [str(words.get(word, word)) for word in line.replace("=STORE", f"={words['STORE']}").split()]
        )

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(platform, "leave", left)
        yield run
    if dist.is_initialized():
        platform.end_groups()
        dist.destroy_process_group()
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_each_path_is_of_its_kind(paths: dict[Kind, Path]) -> None:
    assert {kind: locate(path).kind for kind, path in paths.items()} == {kind: kind for kind in Kind}


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name.lower())
@pytest.mark.parametrize("case", COMMANDS, ids=lambda case: case.name)
def test_a_command_takes_a_path_or_says_what_it_is(
    case: Case, kind: Kind, paths: dict[Kind, Path], call: Callable[[str, Path], Result]
) -> None:
    result = call(case.line, paths[kind])
    code, message = ending(result)
    refused = f"{paths[kind]} is {kind}: expected {case.use.expected}"
    if kind not in case.use.kinds:
        assert (code, message[: len(refused)]) == (2, refused)
    elif case.name in WORK.get(kind, set()):
        assert code == 0, message
    else:  # taken, and found to lack something else
        assert code == 2
        assert message
        assert not message.startswith(refused)


def ending(result: Result) -> tuple[int, str]:
    """Exit code and message of a command; a rank prints its own message, the others leave that to `main`."""
    if isinstance(result.exception, MegabiomedError):
        return result.exception.exit_code, str(result.exception)
    assert isinstance(result.exception, SystemExit | None), result.exc_info
    return result.exit_code, result.stderr
