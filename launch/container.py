"""Ranks inside a container: which variables of the job are valid there too, by pyxis' and apptainer's documentation.

Both pass the host's variables on, but the image's override them: a PYTHONPATH of the image would hide the submitted code, its
OMP_NUM_THREADS or NCCL_* the settings of the cluster file.
"""

from __future__ import annotations

from pathlib import Path

from megabiomed.config.cluster import ClusterConfig

_PYXIS, _ENV = ("--container-image", "--container-name"), "--container-env"
_APPTAINER = ("apptainer", "singularity")


def in_pyxis(cluster: ClusterConfig) -> bool:
    """Whether srun starts the ranks in a container."""
    return any(word.partition("=")[0] in _PYXIS for word in cluster.srun)


def in_apptainer(cluster: ClusterConfig) -> bool:
    """Whether the ranks' command starts a container."""
    return any(Path(word).name in _APPTAINER for word in cluster.wrap)


def kept(cluster: ClusterConfig) -> list[str]:
    """Variables that the job sets and that no image may replace."""
    code = ["PYTHONPATH", "PYTHONSAFEPATH"] if cluster.snapshot else []
    return list(dict.fromkeys([*code, "OMP_NUM_THREADS", "PYTHONUNBUFFERED", *cluster.variables]))


def exported(cluster: ClusterConfig, unlike: bool) -> list[str]:
    """Variables that the script exports for apptainer, too.

    Args:
        unlike: the job has nodes of several kinds, on which the number of threads may differ.
    """
    names = kept(cluster) if in_apptainer(cluster) else []
    return [name for name in names if not (unlike and name == "OMP_NUM_THREADS")]


def srun_words(cluster: ClusterConfig) -> list[str]:
    """The arguments for srun of a cluster file; under pyxis with the variables to keep, next to those that it names."""
    # Joined into one option, so that it does not matter whether a second one would replace the first.
    if not in_pyxis(cluster):
        return cluster.srun
    own = [word.partition("=")[2] for word in cluster.srun if word.startswith(f"{_ENV}=")]
    names = dict.fromkeys([*(name for value in own for name in value.split(",")), *kept(cluster)])
    return [*(word for word in cluster.srun if not word.startswith(f"{_ENV}=")), f"{_ENV}={','.join(names)}"]
