"""Questions and perplexities by domain between the steps of a training run, on its own engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from megabiomed.config import RunConfig
from megabiomed.data.loader import ValidationLoader
from megabiomed.data.store import TokenStore
from megabiomed.engine.build import TrainEngine
from megabiomed.engine.mesh import Mesh
from megabiomed.evaluate.contamination import read_reports
from megabiomed.evaluate.model import trained_on
from megabiomed.evaluate.packing import Request
from megabiomed.evaluate.scoring import score
from megabiomed.evaluate.settings import EvaluateSettings, TaskSettings
from megabiomed.evaluate.tasks import Task, TaskItem, build_task
from megabiomed.ground.errors import NonFiniteError
from megabiomed.ground.figures import perplexity
from megabiomed.samples.questions.readers import default_split
from megabiomed.tokenizer.files import open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer


class TrainingEvaluation:
    """The sets of `eval`, read once; all ranks construct and run it together.

    Attributes:
        lines: what a user should know about the sets.
    """

    def __init__(self, config: RunConfig, mesh: Mesh, tokenizer: Path) -> None:
        chosen, data = config.eval, config.data
        opened = open_tokenizer(tokenizer)
        texts, questions = trained_on(config, config.folder)
        known = read_reports(texts, [], questions)
        settings = EvaluateSettings(model=config.folder, limit=chosen.limit, max_new_tokens=1)
        context = config.model.max_position_embeddings
        self.tasks = [
            build_task(
                TaskSettings(name=task.name, path=task.path, template=task.template,
                             split=default_split(task.path) if task.split == "auto" else task.split),
                settings, opened, context, known)
            for task in chosen.tasks
        ]  # fmt: skip
        self.window = data.micro_batch_size * data.seq_length
        self.domains = {
            name: ValidationLoader(_open(path, opened), data, chosen.samples, mesh.replica or 0, mesh.size("replicas"))
            for name, path in chosen.perplexity.items()
        }
        self.lines = [f"eval: {task.name}: {len(task.items)} questions of {task.path}, contamination checked: {task.searched}"
                      for task in self.tasks]  # fmt: skip
        self.lines += [f"eval: {task.name}: {note}" for task in self.tasks for note in task.notes]

    def run(self, engine: TrainEngine, tick: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Figures by name, equal on every rank; NaN or infinite where the model gives no number. Collective.

        Args:
            tick: called now and then while it goes on; it may raise, on all ranks, to break off.
        """
        found: dict[str, float] = {}
        for name, loader in self.domains.items():
            total, tokens = engine.evaluate(loader.micro_batches(), tick)
            found[f"{name}_loss"] = total / max(1, tokens)
            found[f"{name}_perplexity"] = perplexity(total / max(1, tokens))
        for task in self.tasks:
            found |= {f"{task.name}_{key}": value for key, value in self._answer(engine, task, tick).items()}
        return found

    def _answer(self, engine: TrainEngine, task: Task, tick: Callable[[], None]) -> dict[str, float]:
        """Accuracy, without contaminated items where there are any, and nats a token of the right answer."""
        requests = [request for item in task.items for request in _requests(item)]
        try:
            scores = iter(score(engine, requests, self.window, tick=tick))
        except NonFiniteError:  # on every rank; the run goes on, and ends where its own loss is not finite
            return {"answer_loss": math.nan} | ({} if task.kind == "free" else {"accuracy": math.nan})
        right: list[tuple[bool, bool]] = []
        loss = tokens = 0.0
        for item in task.items:
            held = [next(scores) for _ in _requests(item)]
            label = item.record.label or 0
            loss, tokens = loss - held[label].logprob, tokens + held[label].tokens
            best = max(range(len(held)), key=lambda option: held[option].logprob)
            right.append((best == label, item.contaminated))
        found = {"answer_loss": loss / tokens}
        if task.kind != "free":
            found["accuracy"] = sum(good for good, _ in right) / len(right)
            clean = [good for good, contaminated in right if not contaminated]
            if clean and len(clean) < len(right):
                found["accuracy_clean"] = sum(clean) / len(clean)
        return found


def training_evaluation(config: RunConfig, mesh: Mesh, tokenizer: Path) -> TrainingEvaluation | None:
    """What `eval` asks for; None when it asks for nothing."""
    wanted = config.eval.tasks or config.eval.perplexity
    return TrainingEvaluation(config, mesh, tokenizer) if wanted else None


def _requests(item: TaskItem) -> list[Request]:
    """The options; of a free question its answer."""
    return item.requests() or [Request(item.encoded.prompt, item.encoded.answer)]


def _open(path: Path, tokenizer: Tokenizer) -> TokenStore:
    store = TokenStore.open(path)
    advice = "build it with `corpus build --tokenizer` of this run"
    tokenizer.check_same(f"{path} of eval.perplexity", store.tokenizer_sha256, advice)
    return store
