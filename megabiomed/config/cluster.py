"""A cluster as its operator describes it: one YAML file in configs/clusters, or anywhere."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, field_serializer

from megabiomed.config import shipped
from megabiomed.config.base import Section, parse
from megabiomed.config.notify import NotifyConfig
from megabiomed.config.stage_in import StageInConfig
from megabiomed.config.yaml_text import read_yaml_file
from megabiomed.ground.errors import ConfigError
from megabiomed.ground.secrets import is_secret, masked_variables, remember

# What an #SBATCH line can carry unquoted; anything else could end the line or be read as another option.
_VALUE = re.compile(r"[A-Za-z0-9_.,:;=@%+/~\[\]()&|*-]+")
_FLAG = re.compile(r"[a-z][a-z0-9-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DAYS = re.compile(r"(\d+)-(\d+)(?::(\d+))?(?::(\d+))?")
_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+)")
# Variables that the batch script, srun and the ranks' meeting set; the test of submit compares this list with the script.
_OWN_VARIABLES = (
    *("run", "python", "host_python", "incarnation", "logs", "nodes", "head_node", "group_head"),
    *("warned", "srun_pid", "code", "asked", "threads", "IFS", "BASHOPTS", "SHELLOPTS", "EUID", "PPID", "UID"),
    *("began", "stop_at", "chosen", "overlap", "repeat", "helpers", "log_size", "teller"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
)
_OWN_PREFIXES = ("SLURM", "MEGABIOMED_")
OWN_FLAGS = (
    *(
        "job-name",
        "output",
        "error",
        "open-mode",
        "signal",
        "requeue",
        "no-requeue",
        "dependency",
        "kill-on-invalid-dep",
    ),
    *("nodes", "ntasks", "ntasks-per-node", "chdir", "time", "array", "wrap", "parsable", "test-only", "hold"),
    *("cpus-per-task", "no-kill"),
)
_OWN_OF_SRUN = (
    *("nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "het-group", "kill-on-bad-exit", "wait", "export"),
    *("output", "error", "time", "multi-prog", "no-kill"),
)


def seconds_of(text: str) -> int:
    """Seconds of a SLURM time: minutes, mm:ss, hh:mm:ss, d-hh, d-hh:mm or d-hh:mm:ss (sbatch(1), --time)."""
    if with_days := _DAYS.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in with_days.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    clock = _CLOCK.fullmatch(text)
    if not clock:
        raise ValueError(f"{text!r} is not a SLURM time; write minutes, hh:mm:ss or d-hh:mm:ss")
    hours, minutes, seconds = (int(part or 0) for part in clock.groups())
    if clock[2] is None:  # a bare number is minutes, but the last of two is seconds
        return seconds * 60
    return (hours * 60 + minutes) * 60 + seconds


def _time(text: str) -> str:
    if seconds_of(text) < 60:
        raise ValueError(f"{text!r} is shorter than SLURM's smallest limit of one minute")
    return text


def _plain(text: str) -> str:
    if not _VALUE.fullmatch(text):
        raise ValueError(f"{text!r} contains characters that a line of a batch script cannot carry")
    return text


def _flags(flags: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
    for flag, value in flags.items():
        if not _FLAG.fullmatch(flag):
            raise ValueError(f"{flag!r} is not an sbatch option; write it without dashes in front, e.g. `exclude: n3`")
        if flag == "array":
            raise ValueError("job arrays are not supported: submit --sweep KEY=VALUE,VALUE makes a job for each run")
        if flag in OWN_FLAGS:
            raise ValueError(
                f"megabiomed sets --{flag} itself, from the keys of the run, its stage and the cluster file"
            )
        if isinstance(value, str):
            _plain(value)
    return flags


def _of_srun(word: str) -> str:
    """An argument of srun; the script quotes it, so any character is fine (`--container-image=nvcr.io#nvidia/pytorch`)."""
    flag = word.partition("=")[0]
    if not re.fullmatch(r"--[a-z][a-z0-9-]*", flag) or "\0" in word:
        raise ValueError(f"{word!r} is not an option of srun; write it as one word, `--name` or `--name=value`")
    if flag[2:] in _OWN_OF_SRUN:
        raise ValueError(f"megabiomed sets {flag} itself")
    return word


def _environment(values: dict[str, str]) -> dict[str, str]:
    for name, value in values.items():
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is not a name of an environment variable")
        if name in _OWN_VARIABLES or name.startswith(_OWN_PREFIXES):
            raise ValueError(
                f"{name} belongs to the batch script; choose another name, or set options under sbatch or srun"
            )
        if "\0" in value:
            raise ValueError(f"the value of {name} contains a zero byte")
        remember(value, name)
    return values


def _umask(value: object) -> object:
    """YAML 1.1 reads a bare 0007 as the number 7, and 0027 as 23."""
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError(
            f'{value!r} is not a mask of permissions; write it in quotes, e.g. "0007" (the group may write)'
        )
    if int(value, 8) & 0o700:
        raise ValueError(
            f"{value!r} would take the run's own permissions away; the first of its three digits must be 0"
        )
    return value


def _quoted(value: object) -> object:
    """YAML reads a bare 10:30 as the number 630."""
    if isinstance(value, int | float):
        raise ValueError('write the time in quotes: "24:00:00", "90" (YAML reads a bare one as a number)')
    return value


Plain = Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(_plain)]
Time = Annotated[str, BeforeValidator(_quoted), AfterValidator(_time)]
Flags = Annotated[dict[str, str | int | bool], AfterValidator(_flags)]


class ClusterConfig(Section):
    """What a batch script needs to know about a cluster."""

    partition: Plain | None = None
    """Partition; null takes the cluster's default."""
    account: Plain | None = None
    """Account to charge."""
    gpus_per_node: int = Field(0, ge=0)
    """GPUs of a node that a job takes; 0 trains on CPUs."""
    gpu_type: Plain | None = None
    """Type in the cluster's gres (`h100`), which must also be part of the device's name; null takes any."""
    tasks_per_node: PositiveInt | None = None
    """Ranks on a node; null is one per GPU (one without GPUs)."""
    cpus_per_task: PositiveInt = 1
    """CPU cores of a rank."""
    memory: Plain | None = None
    """Host memory of a node, e.g. `500G`; null takes the cluster's default, `0` all of it."""
    time: Time = "24:00:00"
    """Time limit of one start of the job; a stage that takes longer is requeued."""
    grace_seconds: int = Field(300, ge=30, le=3600)
    """How long before the time limit a run is asked to save and leave. SLURM checks limits every 30 to 60 seconds."""
    sbatch: Flags = Field(default_factory=dict)
    """Any other sbatch option, without dashes: `qos: high`, `exclusive: true`, `mail-type: END`."""
    srun: list[Annotated[str, AfterValidator(_of_srun)]] = Field(default_factory=list)
    """More arguments for srun, e.g. `--container-image=...`."""
    modules: list[str] = Field(default_factory=list)
    """Environment modules to load."""
    environment: Annotated[
        dict[str, Annotated[str, Field(coerce_numbers_to_str=True)]], AfterValidator(_environment)
    ] = Field(default_factory=dict, repr=False)
    """Environment variables of the job (NCCL_*, proxies, caches). Credentials among them reach the job by the environment of
    sbatch: no script or record holds them."""
    python: Path | None = None
    """Python of the environment on the nodes; null takes the one that submits."""
    host_python: Path | None = None
    """Python of the batch script itself, which is never inside a container; null takes `python`."""
    wrap: list[str] = Field(default_factory=list)
    """Words before the python of each rank: `[apptainer, exec, --nv, image.sif]`."""
    scratch: Path | None = None
    """Fast storage of a node, used as TMPDIR."""
    stage_in: StageInConfig | None = None
    """Copies of what a run reads, on storage of each node; null: everything is read where it is."""
    shared_roots: list[Path] = Field(default_factory=list)
    """Folders that all nodes see; if given, run folder, data and python must lie below one of them."""
    umask: Annotated[str, BeforeValidator(_umask)] | None = None
    """Permissions that the run's files do not get: `"0007"` lets its group write and others do nothing; null: the shell's."""
    snapshot: bool = True
    """Copy this package into the run folder and run from there, so that later changes of the installation do not matter."""
    cost_per_gpu_hour: float | None = Field(None, ge=0)
    """Price of one GPU for an hour, for `megabiomed account`; null: no cost is shown."""
    currency: Plain | None = None
    """Currency of the price (`EUR`)."""
    max_failures: PositiveInt = 3
    """Failed starts without progress after which a stage gives up; stops, requeues and preemptions do not count."""
    restart_in_allocation: bool = True
    """Start the ranks of a failed start again on the nodes that the job has; requeue it only where that cannot be."""
    spare_nodes: int = Field(0, ge=0)
    """Nodes that a run takes in addition, if they are free when it starts; each replaces a bad or lost one at once."""
    no_kill: bool | None = None
    """Whether a job outlives the loss of one of its nodes (sbatch's --no-kill); null: where there are spare nodes."""
    shrink_after: int | None = Field(None, ge=0)
    """Seconds that a run waits for all its nodes before it goes on with fewer; null waits for as long as it takes."""
    min_nodes: PositiveInt | None = None
    """Fewest nodes with which a run goes on; null is half of those asked for."""
    preflight: bool = True
    """Check every node before the start; a bad one is excluded and the job goes back to the queue."""
    preflight_minutes: PositiveInt = 15
    """Minutes after which a check that hangs is ended, and its node excluded."""
    slow_factor: float = Field(1.5, gt=1)
    """A node is slow when its matrix product takes this many times the median."""
    drain_command: list[str] = Field(default_factory=list)
    """Words of a command that takes a bad node out of service; `{node}` and `{reason}` in them are replaced. Empty: none."""
    notify: list[NotifyConfig] = Field(default_factory=list)
    """Who is told of what: webhooks, commands, mail. That of a chain file replaces it."""

    @property
    def ranks_per_node(self) -> int:
        """Tasks that srun starts on a node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def variables(self) -> dict[str, str]:
        """Environment of the job."""
        return ({"TMPDIR": str(self.scratch)} if self.scratch else {}) | self.environment

    @property
    def secrets(self) -> dict[str, str]:
        """What holds credentials, of these and of receivers: the job gets it from the environment of its submission."""
        told = {name: os.environ.get(name, "") for receiver in self.notify for name in receiver.variables}
        return told | {name: value for name, value in self.variables.items() if is_secret(name, value)}

    @field_serializer("environment")
    def _without_credentials(self, values: dict[str, str]) -> dict[str, str]:
        return masked_variables(values)


def parse_flags(words: list[str]) -> dict[str, str | int | bool]:
    """sbatch options from the command line: `qos=high`, `--exclusive`.

    Raises:
        ConfigError: one that megabiomed sets itself, or that no batch script can carry.
    """
    pairs = (word.removeprefix("--").partition("=") for word in words)
    flags: dict[str, str | int | bool] = {key: value if sign else True for key, sign, value in pairs}
    try:
        return _flags(flags)
    except ValueError as error:
        raise ConfigError(f"--sbatch: {error}") from None


def load_cluster(name: str) -> ClusterConfig:
    """Read a cluster file, or one of those shipped in configs/clusters.

    Raises:
        ConfigError: the file does not exist, or keys in it are wrong; the message names each.
    """
    file = shipped.find("clusters", name)
    values = read_yaml_file(file)
    if not isinstance(values, dict):
        raise ConfigError(f"{file} is not a mapping", got=type(values).__name__, do="start it with `partition: ...`")
    return parse(ClusterConfig, values, str(file))
