"""Two ranks: train with tensor parallelism and ZeRO-3, with and without evaluations between the steps, then evaluate the
sharded checkpoint on three topologies."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.evaluation import TOPOLOGIES, settings

from megabiomed.config import RunConfig, load_config
from megabiomed.evaluate.runner import Evaluation
from megabiomed.processes import platform
from megabiomed.processes.ranks import join
from megabiomed.processes.signals import StopFlag


def work(run_file: str, run: Path, questions: Path, out: Path) -> int:
    """Train, then evaluate."""

    def act(config: RunConfig, stop: StopFlag) -> str:
        from megabiomed.runs.pretrain import PretrainRun
        from megabiomed.runs.trainer import Trainer

        outcome = Trainer(PretrainRun(config), stop).train()
        sets = [{"name": "abstracts", "path": str(questions / "pubmedqa" / "ori_pqal.json")},
                {"name": "open", "path": str(questions / "free" / "test.jsonl")}]  # fmt: skip
        domains = {"general": str(config.data.train[0].path), "biomedical": str(config.data.validation)}
        watched = [f"eval.tasks={sets}", f"eval.perplexity={domains}", "eval.every=1", "eval.limit=5", "eval.samples=3"]
        watching = load_config(run_file, [f"run_dir={run}-watched", "train.steps=3", *watched])
        Trainer(PretrainRun(watching), stop).train()
        text = {"perplexity": {"held_out": config.data.validation}, "seq_length": 64, "samples": 4}
        for name, topology in TOPOLOGIES.items():
            asked = settings(run, questions, out / name, **topology, **text)
            assert Evaluation(asked, stop).run() == "finished"
        return outcome

    return join(lambda: load_config(run_file, [f"run_dir={run}", "train.steps=3"]), act)


if __name__ == "__main__":
    platform.leave(work(sys.argv[1], *map(Path, sys.argv[2:])))
