"""What a self-test checks on so many nodes and ranks, in order; what cannot be checked there has its reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabiomed.config import RunConfig
from megabiomed.config.topology import check_run
from megabiomed.ground.errors import MegabiomedError

STEPS = 6
"""Steps of a parity run."""
LONG = 12
"""Steps of the run that is killed and resumed."""
SAVE_EVERY = 4
KILLED_AFTER, SIGNALLED_AFTER = 6, 9
HOW = "MEGABIOMED_SELFTEST"
"""Variable of the ranks of that run: `kill` or `signal`; without it nothing happens to them."""
WAITS = "waits_for_signal"
"""File in its folder: the ranks wait for SIGUSR1 now."""
BOUND = {"fp32": 1e-5, "bf16": 2e-3}
"""Largest relative difference of a loss from that of one process in fp32, at any step."""
NORM_BOUND = {"fp32": 1e-5, "bf16": 5e-3}
"""The same of gradient norms; of bf16 the first alone, before the paths part."""
VOCABULARY = 600
ONE, WHOLE = "one-process", "uninterrupted"
KIND = "megabiomed.launch.selftest.interrupted:INTERRUPTED"

# An odd vocabulary: every number of tensor ranks pads its last shard.
_MODEL = {
    "vocab_size": VOCABULARY + 1, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 64, "initializer_range": 0.08,
}  # fmt: skip
# Adam's first steps are sign-like: with a tiny eps they would turn fp32 rounding into visible differences.
_OPTIMIZER = {
    "lr": 1e-2, "eps": 1e-4, "weight_decay": 0.1, "clip_grad_norm": 0.5, "schedule": "constant", "warmup_steps": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """The nodes of a self-test."""

    nodes: int
    ranks_per_node: int
    gpus_per_node: int

    @property
    def ranks(self) -> int:
        """Ranks on all nodes."""
        return self.nodes * self.ranks_per_node


@dataclass(frozen=True)
class Topology:
    """A way to spread the small model over all ranks."""

    name: str
    parallel: dict[str, Any]
    precision: str = "fp32"


@dataclass(frozen=True)
class Check:
    """One line of the plan.

    Attributes:
        phase: what it is done together with.
        about: what is checked.
        do: what to do when it fails.
        refusal: why it cannot be done on this shape; None when it can.
    """

    phase: str
    name: str
    about: str
    do: str
    refusal: str | None = None


PHASES = {
    "preflight": 5.0, "storage": 3.0, "links": 10.0, "kernels": 15.0, "corpus": 5.0, "reference": 5.0, "parity": 80.0,
    "resume": 60.0,
}  # fmt: skip
"""Phases in order, with the seconds that each takes about."""


def topologies(shape: Shape) -> list[Topology]:
    """Every way that is compared with one process, also those that do not fit the ranks."""
    tensor = {"tensor_parallel_size": 2}
    pipeline = {"pipeline_parallel_size": 2}
    found = [
        Topology("tp2-zero1", {**tensor, "zero_stage": 1}),
        Topology("tp2-sp-zero3", {**tensor, "sequence_parallel": True, "zero_stage": 3}),
        Topology("pp2-zero1", {**pipeline, "zero_stage": 1}),
        Topology("pp2-tp2-zero3", {**pipeline, **tensor, "zero_stage": 3}),
        *(Topology(f"dp-zero{stage}", {"zero_stage": stage}) for stage in range(4)),
        Topology("dp-fsdp2", {"engine": "fsdp2"}),
        Topology("dp-zero1-bf16", {"zero_stage": 1}, "bf16"),
        Topology("tp2-sp-zero3-bf16", {**tensor, "sequence_parallel": True, "zero_stage": 3}, "bf16"),
    ]
    if shape.ranks_per_node > 2:  # all links of a node
        whole = {"tensor_parallel_size": shape.ranks_per_node, "zero_stage": 1}
        found.insert(1, Topology(f"tp{shape.ranks_per_node}-zero1", whole))
    return found


def configuration(folder: Path, store: Path, shape: Shape, topology: Topology, steps: int = STEPS) -> RunConfig:
    """The run of the small model on the job's own corpus, the same for every topology but for `parallel`.

    Args:
        steps: `LONG` makes the run that is killed: it saves on its way, and takes kernels that repeat their bits.
    """
    ranks = shape.ranks
    return RunConfig.model_validate(
        {
            "name": folder.name,
            "kind": KIND,
            "run_dir": str(folder),
            "seed": 7,
            "model": _MODEL,
            "parallel": topology.parallel,
            "kernels": {"deterministic": steps == LONG},
            "data": {
                "train": [{"path": str(store)}],
                "seq_length": 32,
                "micro_batch_size": 1,
                # Any number of replicas divides it, and two pipeline stages have more than one micro-batch each.
                "global_batch_size": ranks * max(2, -(-8 // ranks)),
            },
            "optimizer": _OPTIMIZER,
            "train": {"steps": steps, "precision": topology.precision, "log_every": 1},
            "checkpoint": {"save_every": SAVE_EVERY if steps == LONG else 0},
            "tracking": {"mlflow": False},
        }
    )


def refusal(shape: Shape, topology: Topology) -> str | None:
    """Why a topology does not fit the ranks, in the words of `check_run`; None when it does."""
    try:
        check_run(configuration(Path("selftest"), Path("store"), shape, topology), shape.ranks)
    except MegabiomedError as error:
        return str(error)
    return None


def resumed(shape: Shape) -> Topology:
    """The topology of the run that is killed: with tensor ranks where they fit."""
    wanted = next(each for each in topologies(shape) if each.name == "tp2-sp-zero3")
    if refusal(shape, wanted) is None:
        return wanted
    return next(each for each in topologies(shape) if each.name == "dp-zero3")


def plan(shape: Shape) -> list[Check]:
    """All checks in order."""
    return [*_machine(shape), *_training(shape)]


def _machine(shape: Shape) -> list[Check]:
    one_node = "there is one node" if shape.nodes == 1 else None
    alone = "there is one rank on a node" if shape.ranks_per_node == 1 else None
    network = "look at NCCL_SOCKET_IFNAME, NCCL_IB_HCA or GLOO_SOCKET_IFNAME in `environment` of the cluster file"
    disk = "look at the file system of the run folder; every node must see it, and checkpoints are written there"
    return [
        Check("preflight", "preflight", "what each start checks: storage, software, GPUs, clock, links of every node",
              "repair the named nodes, or leave them out with --sbatch exclude=NODE"),
        Check("storage", "write", "a file of a checkpoint's size from every node at once, with fsync", disk),
        Check("storage", "read", "each node reads the file of another one and compares it", disk, one_node),
        Check("storage", "metadata", "small files: create, rename, delete", disk),
        Check("links", "all-reduce", "the sum over all ranks, and its speed", network),
        Check("links", "between nodes", "exchange of neighbouring nodes, pair by pair", network, one_node),
        Check("links", "within a node", "exchange of two ranks of a node", network, alone),
        Check("links", "host and device", "copies between a GPU and pinned host memory",
              "look at the cores and PCIe lanes that the job gets of a node",
              None if shape.gpus_per_node else "the nodes have no GPUs"),
        Check("kernels", "kernels", "the kernels that a run would take here work, and those that check themselves pass",
              "megabiomed bench kernels --recheck on that node; `kernels:` of a run file chooses others"),
    ]  # fmt: skip


def _training(shape: Shape) -> list[Check]:
    software = "read the log that is named; the software of the nodes differs from the tested one"
    bounds = {name: f"losses within {bound:g} of one process, relative" for name, bound in BOUND.items()}
    return [
        Check("corpus", "corpus", "papers are made, cleaned and tokenized on a node", software),
        Check("reference", ONE, "the small model in one process", software),
        *(
            Check("parity", each.name, f"{each.precision}: {bounds[each.precision]}",
                  "do not train with this topology here; report the page", refusal(shape, each))
            for each in topologies(shape)
        ),
        Check("resume", "kill and resume", "SIGKILL of the last rank; the next start has bit-equal losses and ids hash",
              "do not rely on resumes here; report the page"),
        Check("resume", "signal", "SIGUSR1, as before a time limit: the ranks save and leave, and go on",
              "srun does not pass signals on to the ranks; look at `wrap` and `srun` of the cluster file"),
    ]  # fmt: skip
