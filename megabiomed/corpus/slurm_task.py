"""`python -m megabiomed.corpus.slurm_task EXECUTOR`: one element of an array runs its part of a stored executor."""

from __future__ import annotations

from megabiomed.processes.signals import hear


def main() -> None:
    """Run datatrove's own program, which reads the executor and SLURM's variables."""
    # In a container the words in front of this process have made it deaf: cancelled, it would stay until SLURM kills it.
    hear()
    from datatrove.tools.launch_pickled_pipeline import main as run

    run()


if __name__ == "__main__":
    main()
