"""What `stage_in:` of a cluster file may say, what a submission plans from it, and what the ranks then open."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from support.stores import make_store

from megabiomed.checkpoint.logical import Box
from megabiomed.config import ModelConfig
from megabiomed.config.align import AlignConfig
from megabiomed.config.base import parse
from megabiomed.config.cluster import ClusterConfig, load_cluster
from megabiomed.data.store import TokenStore
from megabiomed.encoders.build_encoders import build_encoders
from megabiomed.encoders.gin.config import GinConfig
from megabiomed.encoders.gin.model import Gin
from megabiomed.encoders.weights import fingerprint
from megabiomed.ground.errors import ConfigError
from megabiomed.ground.files import sha256_file
from megabiomed.ground.hashes import FileHashes
from megabiomed.launch.chain import ComponentConfig
from megabiomed.launch.cli_submit import _plan
from megabiomed.launch.stage import ChainStage, load_stages
from megabiomed.launch.stage_in.node import stage as stage_in
from megabiomed.launch.stage_in.wanted import record
from megabiomed.launch.submit import render
from megabiomed.model.fresh import SeededInit
from megabiomed.model.hf_export import export_hf
from megabiomed.model.hf_folder import HuggingFaceSource
from megabiomed.model.start_from import model_base
from megabiomed.runs.kinds import read_run
from megabiomed.samples.questions.store import QuestionStore
from megabiomed.samples.store import ANSWER_FIELDS, RECORDS, Table, write_store
from megabiomed.tokenizer.files import open_tokenizer

MODEL = ModelConfig(
    vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, max_position_embeddings=32,
)  # fmt: skip
EMBEDDING = Box.whole("model.embed_tokens.weight", (40, 16))
CPU = {"tasks_per_node": 2, "preflight": False}


def planned(
    run_file: Path, *overrides: str, nodes: int = 1, cluster: dict[str, Any] | None = None, **keys: Any
) -> ChainStage:
    config = ClusterConfig(**{**CPU, "stage_in": {"folder": "/local/$USER/copies", **keys}, **(cluster or {})})
    (found,) = load_stages(str(run_file), config, list(overrides), nodes)
    return found


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"folder": "scratch/copies"}, "'scratch/copies' is not an absolute folder; write e.g. `/scratch/"),
        ({"folder": "/scratch/../home"}, "is not an absolute folder"),
        ({"what": ["data", "weights"]}, "what"),
        ({"what": []}, "what"),
        ({"max_size": 500}, "500 has no unit; write `500 GB`"),
        ({"max_size": "500G"}, "'500G' is not a size; write it with its unit: `500 GB`, `1.5 TiB`"),
        ({"max_size": "0 GB"}, "holds nothing"),
        ({"minutes": 0}, "minutes"),
        ({"size": "1 GB"}, "unknown key 'size'|did you mean"),
    ],
)
def test_a_wrong_key_is_refused_by_its_name(tmp_path: Path, keys: dict[str, Any], says: str) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CPU | {"stage_in": {"folder": "/scratch/me", **keys}}))
    with pytest.raises(ConfigError, match=says):
        load_cluster(str(tmp_path / "c.yaml"))


def test_a_plan_names_what_is_copied_and_how_much(run_file: Path, corpus: Path) -> None:
    stage = planned(run_file, max_size="1.5 GiB")
    (line,) = [line for line in _plan(stage) if "stage in" in line]
    sizes = "data.train.0.path [0-9.]+ KiB, data.validation [0-9.]+ KiB"
    assert re.fullmatch(
        rf"  stage in: [0-9.]+ KiB on each node to /local/\$USER/copies, at most 1.5 GiB: {sizes}", line
    )
    assert record(stage) == {
        "folder": "/local/$USER/copies", "max_bytes": 3 << 29, "minutes": 60, "image": False,
        "reads": [["data", "data.train.0.path", f"{corpus}/train"], ["data", "data.validation", f"{corpus}/validation"]],
        "until_saved": [],
    }  # fmt: skip
    assert "nothing that this stage reads" in "".join(_plan(planned(run_file, what=["encoders"])))
    short = record(planned(run_file, cluster={"time": "30:00", "grace_seconds": 300}))
    assert short is not None
    assert short["minutes"] == 12.5  # the other half is for the ranks


def test_what_an_earlier_stage_makes_is_copied_when_it_is_there(run_file: Path, corpus: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    stages = [
        {"name": "build", "command": ["corpus", "build", "x.gz", "--output", str(made)], "makes": [str(made)]},
        {"name": "train", "run": str(run_file), "overrides": [f"data.train=[{{path: {made}/train}}]"]},
    ]
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"name": "c", "stages": stages}))
    cluster = ClusterConfig(**CPU, stage_in={"folder": "/local/me"})
    build, train = load_stages(str(tmp_path / "chain.yaml"), cluster, [], None)
    assert "  stage in, when an earlier stage has made it: data.train.0.path" in _plan(train)
    assert (record(build), "stage_in" in render(build).script) == (None, False)
    assert render(train).script.count("stage_in.node") == 1


@pytest.mark.parametrize(
    ("keys", "cluster", "says"),
    [
        (
            {"max_size": "1 kB"},
            {},
            "stage_in.max_size is less than what stage pretrain reads: got 1 kB .1,000 bytes., exp",
        ),
        (
            {"folder": "SHARED/copies"},
            {"shared_roots": ["SHARED"]},
            "stage_in.folder is on storage that all nodes share",
        ),
    ],
    ids=["too small", "not of the node"],
)
def test_a_folder_that_cannot_serve_is_refused_before_anything_is_submitted(
    run_file: Path, tmp_path: Path, keys: dict[str, Any], cluster: dict[str, Any], says: str
) -> None:
    held = json.loads(json.dumps([keys, cluster]).replace("SHARED", str(tmp_path.parent.parent)))
    with pytest.raises(ConfigError, match=says):
        planned(run_file, f"run_dir={tmp_path}/r", cluster=held[1], **held[0])


@pytest.mark.parametrize(
    "cluster", [{}, {"spare_nodes": 1}, {"shrink_after": 60}, {"wrap": ["apptainer", "exec", "x y.sif"]}]
)
def test_the_script_stages_on_the_nodes_of_the_ranks(run_file: Path, tmp_path: Path, cluster: dict[str, Any]) -> None:
    words = [f"run_dir={tmp_path}/r", "parallel.data_parallel_size=2"]
    text = render(planned(run_file, *words, nodes=2, cluster=cluster, minutes=7, folder="/l/it's $USER")).script
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).stderr == ""
    assert "--time=9 --wait=0 --kill-on-bad-exit=0" in text
    assert text.index("  stage_in\n") < text.index('say "starting the ranks"')
    assert ("--nodelist=" in text[text.index("stage_in()") : text.index("stage_in.node")]) == (
        "spare_nodes" in cluster or "shrink_after" in cluster
    )
    # Copying may take an hour: where SLURM lets a job outlive its nodes, another node watches over the batch script.
    copying = text[text.index("stage_in.node") : text.index("stage_in.report")]
    assert ("guard & helpers=$!" in copying) == ("guard()" in text)


def test_nodes_of_several_kinds_copy_side_by_side_and_a_warning_ends_all_of_it(run_file: Path, tmp_path: Path) -> None:
    part = ComponentConfig(nodes=1, ranks_per_node=2)
    words = [f"run_dir={tmp_path}/r", "parallel.data_parallel_size=1"]
    text = render(replace(planned(run_file, *words), components=(part,))).script
    stop, copying = (
        text[text.index(name) : text.index("\n}\n", text.index(name)) + 3] for name in ("stop() {", "stage_in() {")
    )
    # Each step ends by the warning alone, which comes when both of them run.
    code = f"""set -uo pipefail
cd {tmp_path}; warned=no overlap= chosen=n logs=. run=r python=p host_python=echo
say() {{ :; }}; end_helpers() {{ :; }}; count_nodes() {{ echo 1; }}
srun() {{
  trap "trap '' USR1; echo $1 >> ended; exit" USR1
  touch "step$1"
  for _ in {{1..3000}}; do sleep 0.02; done
}}
{stop}
trap 'stop warning' USR1
(for _ in {{1..6000}}; do [ -e step--het-group=0 ] && [ -e step--het-group=1 ] && break; sleep 0.02; done; kill -USR1 $$) &
{copying}
stage_in; echo "warned: $warned"
"""
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=180)
    assert (done.stdout, done.stderr) == ("warned: yes\n", "")
    assert sorted((tmp_path / "ended").read_text().split()) == ["--het-group=0", "--het-group=1"]


@pytest.fixture
def staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Copies a path for this node; returns the copy."""

    def make(group: str, path: Path) -> Path:
        wanted = {
            "folder": str(tmp_path / "copies"),
            "max_bytes": None,
            "minutes": 5,
            "reads": [[group, "k", str(path)]],
        }
        note = stage_in(wanted)
        (tmp_path / "here.json").write_text(json.dumps(note))
        monkeypatch.setenv("MEGABIOMED_STAGED", str(tmp_path))
        monkeypatch.setenv("SLURMD_NODENAME", "here")
        return Path(note["copies"][0]["local"])

    return make


def test_a_store_is_read_from_its_copy_and_keeps_its_name(tmp_path: Path, corpus: Path, staged: Any) -> None:
    store = make_store(tmp_path / "store", TokenStore.open(corpus / "train").tokenizer_path, [5, 9])
    bounds = store.document_bounds(1)
    staged("data", store.path)
    shutil.rmtree(store.path)
    copy = TokenStore.open(store.path)
    assert (copy.path, copy.fingerprint, copy.paper_id(1)) == (store.path, store.fingerprint, "p1")
    assert np.array_equal(copy.tokens(0, 14), store.tokens(0, 14))
    assert copy.document_bounds(1) == copy.indexed_bounds(1) == bounds


def test_tokens_of_a_copy_that_rots_are_read_where_they_are_shared(tmp_path: Path, corpus: Path, staged: Any) -> None:
    store = make_store(tmp_path / "store", TokenStore.open(corpus / "train").tokenizer_path, [5, 9])
    copy = staged("data", store.path)
    opened = TokenStore.open(store.path)
    with (copy / "tokens.bin").open("r+b") as file:
        file.write(b"\xff" * 8)
    assert np.array_equal(opened.tokens(0, 14), store.tokens(0, 14))
    assert opened.path == store.path


def altered(file: Path) -> None:
    """Other bytes behind the same size and time: whoever reads them read the shared file."""
    before = file.stat()
    file.write_bytes(bytes(before.st_size))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_base_is_read_and_hashed_from_its_copy_and_named_by_the_shared_path(tmp_path: Path, staged: Any) -> None:
    folder = export_hf(SeededInit(MODEL, 5), MODEL, tmp_path / "hf", "fp32")
    want, hashed = HuggingFaceSource(folder).read(EMBEDDING), sha256_file(folder / "model.safetensors")
    copy = staged("init_from", folder)
    altered(folder / "model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("megabiomed.model.start_from.check_start", lambda *_: None)  # reads headers where they are shared
        source, described = model_base(None, MODEL.model_copy(update={"init_from": folder}), 0)
    assert isinstance(source, HuggingFaceSource)
    assert (source.path, described.path) == (copy, folder)
    assert torch.equal(source.read(EMBEDDING), want)
    assert FileHashes(None).sha256(folder / "model.safetensors") == hashed


def test_questions_are_read_from_their_copy(tmp_path: Path, corpus: Path, staged: Any) -> None:
    table = Table.empty(ANSWER_FIELDS)
    table.append(ident="q1", ids=[1, 2, 3, 4], answer_start=2)
    tokenizer = open_tokenizer(TokenStore.open(corpus / "train").tokenizer_path)
    write_store(tmp_path / "questions", {RECORDS: table}, [], tokenizer, {})
    staged("data", tmp_path / "questions")
    altered(tmp_path / "questions" / "records.arrow")
    store = QuestionStore(tmp_path / "questions")
    assert (store.path, store.ids.tolist()) == (tmp_path / "questions", [1, 2, 3, 4])


def test_weights_of_an_encoder_are_read_from_their_copy(tmp_path: Path, staged: Any) -> None:
    config = GinConfig(num_layers=2, hidden_size=8)
    model = Gin(config)
    file = tmp_path / "gin.pth"
    torch.save(model.state_dict(), file)
    staged("encoders", file)
    altered(file)
    part = {"num_layers": 2, "hidden_size": 8, "init_from": str(file)}
    align = parse(AlignConfig, {"molecule": part, "protein": None, "stages": [{"name": "s", "steps": 1}]}, "test")
    encoders, _ = build_encoders(align, 16, 0)
    assert fingerprint(encoders["molecule"]) == fingerprint(model)


@pytest.mark.parametrize(
    ("run", "key", "words", "until_saved"),
    [
        ("biomedgpt-lm-7b", "model.init_from", [], True),
        ("biomedgpt-lm-7b", "model.init_from", ["lora.rank=4"], False),  # its checkpoints hold adapters alone
        ("biomedgpt-lm-7b", "model.init_from", ["kind=other_runs:OTHER"], False),  # nobody knows what it reads
        ("finetune-demo", "finetune.start_from", [], True),
        ("finetune-demo", "finetune.start_from", ["lora.rank=4"], False),
        ("align-demo", "align.language_model", [], False),  # each start hashes it
    ],
)
def test_a_model_that_checkpoints_hold_whole_is_wanted_until_there_is_one(
    run_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: str,
    key: str,
    words: list[str],
    until_saved: bool,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "other_runs.py").write_text(
        "from dataclasses import replace\nfrom megabiomed.runs.kinds import PRETRAIN as P\nOTHER = replace(P, name='other')\n"
    )
    found = record(replace(planned(run_file), config=read_run(run, [f"{key}=/hf", *words])))
    assert found is not None
    assert [read[1:] for read in found["reads"] if read[0] == "init_from"] == [[key, "/hf"]]
    assert found["until_saved"] == ([key] if until_saved else [])
