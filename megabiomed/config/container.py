"""A job's processes in a container: which of its variables and signals reach them, by the runtimes' documentation and trials.

pyxis, apptainer and podman pass the host's variables on, but the image's override them: a PYTHONPATH of the image would hide
the submitted code, its OMP_NUM_THREADS or NCCL_* the settings of the cluster file.
"""

from __future__ import annotations

from pathlib import Path

from megabiomed.config.cluster import ClusterConfig
from megabiomed.ground.mounts import NODE_ROOT

_PYXIS, _ENV = ("--container-image", "--container-name"), "--container-env"
_APPTAINER = ("apptainer", "singularity")
_PODMAN = "podman"
_RUNTIMES = (*_APPTAINER, _PODMAN, "bwrap", "ch-run", "enroot")
_ENV_HOST = "--env-host"
_DEAF = 'trap "" TERM USR1; '
_OUTSIDE = f'export {NODE_ROOT}="$(stat -c %d:%i / 2> /dev/null)"; '


def in_pyxis(cluster: ClusterConfig) -> bool:
    """Whether srun starts the ranks in a container."""
    return any(word.partition("=")[0] in _PYXIS for word in cluster.srun)


def in_apptainer(cluster: ClusterConfig) -> bool:
    """Whether the ranks' command starts a container of apptainer."""
    return any(Path(word).name in _APPTAINER for word in cluster.wrap)


def in_image(cluster: ClusterConfig) -> bool:
    """Whether the ranks see the files of an image, so that `python` is the image's."""
    return in_pyxis(cluster) or any(Path(word).name in _RUNTIMES for word in cluster.wrap)


def kept(cluster: ClusterConfig) -> list[str]:
    """Variables that the job sets and that no image may replace."""
    code = ["PYTHONPATH", "PYTHONSAFEPATH"] if cluster.snapshot else []
    return list(dict.fromkeys([*code, "OMP_NUM_THREADS", "PYTHONUNBUFFERED", *cluster.variables]))


def exports(cluster: ClusterConfig, cpus_per_task: int, unlike: bool = False) -> list[str]:
    """Lines of a batch script, after those of modules and of the cluster file's variables.

    Args:
        cpus_per_task: threads, where nobody says otherwise.
        unlike: the job has nodes of several kinds, on which the number of threads may differ.
    """
    lines = [f'export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-{cpus_per_task}}}" PYTHONUNBUFFERED=1']
    names = kept(cluster) if in_apptainer(cluster) else []
    return lines + [
        f'export APPTAINERENV_{name}="${name}" SINGULARITYENV_{name}="${name}"'
        for name in names
        if not (unlike and name == "OMP_NUM_THREADS")
    ]


def srun_words(cluster: ClusterConfig) -> list[str]:
    """The arguments for srun of a cluster file; under pyxis with the variables to keep, next to those that it names."""
    # Joined into one option, so that it does not matter whether a second one would replace the first.
    if not in_pyxis(cluster):
        return cluster.srun
    own = [word.partition("=")[2] for word in cluster.srun if word.startswith(f"{_ENV}=")]
    names = dict.fromkeys([*(name for value in own for name in value.split(",")), *kept(cluster)])
    return [*(word for word in cluster.srun if not word.startswith(f"{_ENV}=")), f"{_ENV}={','.join(names)}"]


def wrap_words(cluster: ClusterConfig) -> list[str]:
    """The words before the python of each process.

    They begin with a shell that ignores the signals by which ranks are asked to leave: SLURM sends them to every process of a
    step, and they would end a runtime that stays beside its rank (bubblewrap) before the rank has saved. The ranks hear
    them, since they set handlers of their own. The shell also notes what the root of the node is (`ground/mounts`).
    """
    if not cluster.wrap:
        return []
    # Under pyxis the shell is in the container already.
    noted = "" if in_pyxis(cluster) else _OUTSIDE
    return ["sh", "-c", f'{_DEAF}{noted}exec "$@"', "wrap", *_with_variables(cluster)]


def _with_variables(cluster: ClusterConfig) -> list[str]:
    """`wrap`; under podman with the variables of the job, of which it passes on none by itself."""
    words = cluster.wrap
    runtime = next((at for at, word in enumerate(words) if Path(word).name == _PODMAN), None)
    if runtime is None or "run" not in words[runtime:]:
        return words
    at = words.index("run", runtime) + 1
    host = [] if _ENV_HOST in words else [_ENV_HOST]
    return [*words[:at], *host, *(f"--env={name}" for name in kept(cluster)), *words[at:]]
