"""Stand-ins for SLURM's commands, which behave as a scheduler does that is in trouble."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from megabiomed.config.cluster import load_cluster
from megabiomed.launch.stage import load_stages
from megabiomed.launch.submit import Job, render

QUEUE = """#!/bin/bash
# A scheduler in a folder: one file a job, named by its id, with state and script.
[ -e {base}.away ] && {{ echo "Unable to contact slurm controller" >&2; exit 1; }}
case $(basename $0) in
    squeue) [[ "$*" == *JobId=* ]] && {{ for file in {base}/[0-9]*; do [ -e "$file" ] || continue
            IFS='|' read -r state script < "$file"
            echo "JobId=$(basename $file)|JobState=$state|Command=$script"; done; exit 0; }}
        for file in {base}/[0-9]*; do [ -e "$file" ] && echo "$(basename $file)|$(cat $file)"; done; true ;;
    scancel) echo "CANCELLED|x" > {base}/$1 ;;
    scontrol) [ -e {base}/$4 ] || {{ echo "Invalid job id specified" >&2; exit 1; }}
        IFS='|' read -r state script < {base}/$4; echo "JobId=$4 JobState=$state Command=$script" ;;
    sbatch) [ "$1" = --test-only ] && exit 0
        {before}
        number=$((7 + $(ls {base} | grep -c .))); echo "PENDING|${{@: -1}}" > {base}/$number
        {after}
        echo $number ;;
esac
"""


def program(folder: Path, name: str, body: str) -> None:
    """A stand-in for one of SLURM's commands."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


def planned(run_file: Path, run: Path, **sbatch: str) -> Job:
    (stage,) = load_stages(str(run_file), load_cluster("cpu-test"), [f"run_dir={run}"], 1)
    return render(replace(stage, sbatch=sbatch))
