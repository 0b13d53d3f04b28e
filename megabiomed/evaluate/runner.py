"""An evaluation on all ranks: score or generate in rounds, keep every prediction, go on where a killed one stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megabiomed import __version__
from megabiomed.align.text_scores import text_scorer
from megabiomed.config import DataConfig, ParallelConfig
from megabiomed.data.loader import ValidationLoader
from megabiomed.data.store import TokenStore
from megabiomed.engine.build import TrainEngine
from megabiomed.evaluate.answers import first_answer, generate_ids
from megabiomed.evaluate.contamination import read_reports
from megabiomed.evaluate.metrics import Row, summarise
from megabiomed.evaluate.model import Model, load_engine, open_model, open_windows, scoring_config
from megabiomed.evaluate.options import extract_option
from megabiomed.evaluate.results import RESULTS, ResultFolder
from megabiomed.evaluate.scoring import Score, score
from megabiomed.evaluate.settings import EvaluateSettings
from megabiomed.evaluate.tasks import Task, TaskItem, build_task
from megabiomed.ground.figures import perplexity, shown, stored
from megabiomed.processes import platform
from megabiomed.processes.signals import Request as Asked
from megabiomed.processes.signals import StopFlag
from megabiomed.samples.rejects import write_rejects

ROUND_WINDOWS = 4
"""Windows of each replica between two writes."""


class Evaluation:
    """One rank of an evaluation. torch.distributed must be initialised; all ranks construct and run it together."""

    def __init__(self, settings: EvaluateSettings, stop: StopFlag) -> None:
        self.settings, self.stop = settings, stop
        self.model = open_model(settings.model, settings.base)
        data = scoring_config(
            self.model, parallel_of(settings), dist.get_world_size(), settings.precision, settings.window
        ).data
        for path in settings.perplexity.values():  # now, not after hours of questions
            open_domain(path, settings, self.model, data)
        self.tasks = build_tasks(settings, self.model)
        self.identity = identity(settings, self.model, self.tasks)
        self.folder = ResultFolder(output_folder(settings, self.model, self.identity))
        self.writes = dist.get_rank() == 0
        self._engine: TrainEngine | None = None
        self._whole: Any = None

    def run(self) -> str:
        """Evaluate all; "finished", or "stopped" by a signal."""
        if self.writes:
            self.folder.begin(self.identity, self._about())
            for task in self.tasks:
                write_rejects(self.folder.path / f"rejects_{task.name}.jsonl", task.rejects)
        self._say(f"evaluate: {self.model.path} on {dist.get_world_size()} processes, results in {self.folder.path}")
        for task in self.tasks:
            if not self._run_task(task):
                self._say(f"stopped ({self.stop.received}): the same command goes on")
                return "stopped"
        perplexities = {name: self._perplexity(name, path) for name, path in self.settings.perplexity.items()}
        if self.writes:
            self._finish(perplexities)
        return "finished"

    def _about(self) -> dict[str, Any]:
        return {
            "model": str(self.model.path), "step": self.model.step, "version": __version__,
            "settings": self.settings.model_dump(mode="json"),
        }  # fmt: skip

    def _run_task(self, task: Task) -> bool:
        """Predict what is not predicted yet; False when asked to stop."""
        done = self._done(task)
        first, began = done, time.monotonic()
        for items in rounds(task.items[done:], self.settings.window * self._replicas() * ROUND_WINDOWS):
            if self.stop.agreed() >= Asked.STOP:
                return False
            rows = self._choose(task, items) if task.mode == "choice" else self._generate(task, items)
            if self.writes:
                self.folder.append(task.name, rows)
            done += len(items)
            rate = (done - first) / max(1e-9, time.monotonic() - began)
            left = timedelta(seconds=round((len(task.items) - done) / rate))
            self._say(f"evaluate: {task.name} {done}/{len(task.items)} items/s: {rate:,.1f} eta: {left}")
        return True

    def _done(self, task: Task) -> int:
        """Items that are predicted already: what rank 0 sees counts for all."""
        count = torch.tensor([self.folder.open_for_append(task.name) if self.writes else 0], device=platform.device())
        dist.broadcast(count, 0)
        done = int(count.item())
        if done:
            self._say(f"evaluate: {task.name}: {done} of {len(task.items)} items are predicted already")
        return done

    def _choose(self, task: Task, items: Sequence[TaskItem]) -> list[Row]:
        requests = [request for item in items for request in item.requests()]
        scores = iter(score(self.engine, requests, self.settings.window))
        return [choice_row(item, [next(scores) for _ in item.encoded.options]) for item in items]

    def _generate(self, task: Task, items: Sequence[TaskItem]) -> list[Row]:
        prompts = [item.encoded.prompt for item in items]
        ids = generate_ids(self.whole, prompts, self.settings.max_new_tokens, self.model.tokenizer)
        texts = [first_answer(self.model.tokenizer.decode(found), task.shots) for found in ids]
        limit = self.settings.max_new_tokens
        return [{**answer_row(item, text), "cut": len(found) >= limit} for item, text, found in zip(items, texts, ids)]

    def _perplexity(self, name: str, path: Path) -> dict[str, Any]:
        engine = self.engine
        store, loader = open_domain(
            path,
            self.settings,
            self.model,
            engine.config.data,
            engine.mesh.coordinate("replicas"),
            engine.mesh.size("replicas"),
        )
        total, tokens = engine.evaluate(loader.micro_batches())
        loss = total / max(1, tokens)
        found = stored(perplexity(loss))
        windows = f"windows: {loader.samples} of {len(loader.windows)}"
        figures = f"loss: {shown(loss, '.4f')} perplexity: {shown(found, '.3f')} tokens: {tokens}"
        self._say(f"perplexity: {name} {figures} {windows}")
        return {
            "loss": stored(loss), "perplexity": found, "tokens": tokens, "store": str(path),
            "store_sha256": store.fingerprint, "seq_length": loader.seq_length, "windows": loader.samples,
            "windows_of_store": len(loader.windows),
        }  # fmt: skip

    def _finish(self, perplexities: dict[str, dict[str, Any]]) -> None:
        from megabiomed.evaluate.page import write_results_page
        from megabiomed.evaluate.table import print_results
        from megabiomed.ground.files import write_json

        tasks = {}
        scorer = text_scorer(self.settings.score_tokenizer)
        for task in self.tasks:
            rows = self.folder.read(task.name)
            tasks[task.name] = {**task.header(), **summarise(rows, task.kind, task.mode, scorer)}
        results = {**self._about(), "tasks": tasks, "perplexity": perplexities}
        write_json(self.folder.path / RESULTS, results)
        write_results_page(self.folder, results)
        print_results(results)
        self._say(f"written: {self.folder.path / RESULTS}")

    @property
    def engine(self) -> TrainEngine:
        """The model over the ranks, loaded when it is first needed."""
        if self._engine is None:
            parallel, world = parallel_of(self.settings), dist.get_world_size()
            self._engine = load_engine(self.model, parallel, world, self.settings.precision, self.settings.window)
        return self._engine

    @property
    def whole(self) -> Any:
        """The model whole on this rank, for generation."""
        if self._whole is None:
            from megabiomed.model.as_transformers import as_transformers

            model, tokenizer = self.model, self.model.tokenizer
            dtype = platform.DTYPES[self.settings.precision]
            self._whole = as_transformers(model.config, model.source, dtype, tokenizer.bos_id, tokenizer.eos_id)
        return self._whole

    def _replicas(self) -> int:
        shared = self.settings.tensor_parallel_size * self.settings.pipeline_parallel_size
        return max(1, dist.get_world_size() // shared)

    def _say(self, line: str) -> None:
        if self.writes:
            print(line, flush=True)


def build_tasks(settings: EvaluateSettings, model: Model) -> list[Task]:
    """All sets, read and encoded."""
    known = read_reports(model.stores, settings.stores, model.questions)
    context = model.config.max_position_embeddings
    return [build_task(asked, settings, model.tokenizer, context, known) for asked in settings.tasks]


def open_domain(
    path: Path, settings: EvaluateSettings, model: Model, data: DataConfig, dp_rank: int = 0, dp_size: int = 1
) -> tuple[TokenStore, ValidationLoader]:  # fmt: skip
    """The windows of a perplexity, of the length that the settings ask for; raises as `open_windows`."""
    windows = data.model_copy(update={"seq_length": min(settings.seq_length, model.config.max_position_embeddings)})
    return open_windows(path, model, windows, settings.samples, dp_rank, dp_size)


def identity(settings: EvaluateSettings, model: Model, tasks: Sequence[Task]) -> str:
    """Of settings, weights and questions as they are asked: a file may change under its name."""
    asked = [[task.name, task.file_sha256, *map(_row, task.items)] for task in tasks]
    return settings.identity(model.identity, asked)


def output_folder(settings: EvaluateSettings, model: Model, identity: str) -> Path:
    """`--output`, or one in the run folder (or here) whose name tells step and identity."""
    if settings.output is not None:
        return settings.output
    digest = identity[:8]
    if model.run is None:
        return Path("evaluations") / f"{model.path.resolve().name}-{digest}"
    return model.run / "evaluations" / f"step_{model.step:08d}-{digest}"


def parallel_of(settings: EvaluateSettings) -> ParallelConfig:
    """The topology that was asked for."""
    return ParallelConfig(
        tensor_parallel_size=settings.tensor_parallel_size, pipeline_parallel_size=settings.pipeline_parallel_size
    )


def rounds(items: Sequence[TaskItem], tokens: int) -> Iterator[list[TaskItem]]:
    """Consecutive items of about so many prompt tokens."""
    held: list[TaskItem] = []
    filled = 0
    for item in items:
        held.append(item)
        filled += len(item.encoded.prompt)
        if filled >= tokens:
            yield held
            held, filled = [], 0
    if held:
        yield held


def _row(item: TaskItem) -> Row:
    record, encoded = item.record, item.encoded
    return {
        "id": record.ident, "source": record.source, "subject": record.subject, "prompt_sha256": item.prompt_sha256,
        "question_sha256": item.question_sha256, "contaminated": item.contaminated, "options": list(item.prompt.names),
        "label": record.label, "answer": record.answer, "words_cut": encoded.cut_words, "examples_cut": encoded.cut_shots,
    }  # fmt: skip


def choice_row(item: TaskItem, scores: Sequence[Score]) -> Row:
    """A prediction by log-likelihood, raw and per character of the option (as lm-eval's acc and acc_norm)."""
    raw = [found.logprob for found in scores]
    normalised = [found.logprob / max(1, len(name)) for found, name in zip(scores, item.prompt.names)]
    best, best_normalised = raw.index(max(raw)), normalised.index(max(normalised))
    return {
        **_row(item), "logprobs": raw, "greedy": [found.greedy for found in scores], "prediction": best,
        "prediction_normalised": best_normalised, "correct": best == item.record.label,
        "correct_normalised": best_normalised == item.record.label,
    }  # fmt: skip


def answer_row(item: TaskItem, text: str) -> Row:
    """A prediction by generation; free answers are compared as texts."""
    record = item.record
    if record.label is None:
        return {**_row(item), "generated": text, "correct": text == record.answer}
    found = extract_option(text, item.prompt.names, record.options)
    return {**_row(item), "generated": text, "prediction": found, "correct": found == record.label}
