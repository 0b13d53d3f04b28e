"""Free-text answers about items of any modality: transformers' generation (key/value cache, sampling, streaming) on the
weights of any alignment checkpoint or export, in one process."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from megabiomed.align.aligned import open_aligned
from megabiomed.encoders.modality import Features
from megabiomed.ground.errors import DataError
from megabiomed.model.as_transformers import refusing_nan
from megabiomed.processes import platform
from megabiomed.samples.multimodal.prompts import Prompt, encode_pieces, find_template, render
from megabiomed.samples.multimodal.records import MultimodalQuestion, read_records
from megabiomed.samples.rejects import Reject
from megabiomed.tokenizer.interface import Tokenizer
from megabiomed.tokenizer.stream import StreamDecoder

_BEGINNING = b'{"id": "'  # of every line of a file of answers


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; temperature 0 is greedy."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


class Answer(NamedTuple):
    """A generated answer.

    Attributes:
        cut: the model had not ended it when the largest number of tokens was reached.
        changes: what the encoders' limits changed in the items, as a dataset's manifest counts it (`proteins_truncated`).
    """

    text: str
    cut: bool
    changes: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """What a reader of the answer must know."""
        return [*self.changes, *(["answer_cut"] if self.cut else [])]


class Chat:
    """Answers questions with an aligned model.

    Args:
        run: run folder of an alignment (its last stage with a checkpoint), a stage's folder, a checkpoint, or an export.
        template: prompt template; None takes the one of the training data.
    """

    def __init__(self, run: Path, template: str | None = None) -> None:
        self.parts = open_aligned(run)
        self.tokenizer = self.parts.tokenizer
        self.template = find_template(template or self.parts.template)

    @torch.no_grad()
    def answer(
        self,
        record: MultimodalQuestion,
        sampling: Sampling,
        streamer: Any = None,
        features: Sequence[Features] | None = None,
    ) -> Answer:
        """Answer one question.

        Args:
            features: in place of those of the record's items, in the order of the placeholders.

        Raises:
            DataError: an item or the placeholders are wrong, or the prompt is too long.
            NonFiniteError: the model gives logits that are not numbers.
        """
        prompt = render(self.template, record, list(self.parts.modalities.values()))
        changes: list[str] = []
        if features is None:
            features = [self.parts.features(name, text) for name, text in prompt.items]
            for (name, text), found in zip(prompt.items, features):
                changes += self.parts.modalities[name].changes(text, found)
        x = self._embedded(prompt, features)  # [1, s, h]
        room = self.parts.model.config.max_position_embeddings - x.shape[1]
        if room < 1:
            raise DataError(
                "the prompt fills the whole context", got=f"{x.shape[1]} places", do="shorten the question or its items"
            )
        options: dict[str, Any] = {"do_sample": sampling.temperature > 0}
        if sampling.temperature > 0:
            options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
            torch.manual_seed(sampling.seed)
        # With embeddings in place of ids transformers cannot see that no place is padding.
        out = self.parts.model.generate(
            inputs_embeds=x, attention_mask=torch.ones(x.shape[:2], dtype=torch.int64, device=x.device),
            max_new_tokens=min(sampling.max_new_tokens, room), eos_token_id=self.tokenizer.stop_ids,
            pad_token_id=self.tokenizer.eos_id, streamer=streamer, use_cache=True,
            logits_processor=refusing_nan(), **options,
        )  # fmt: skip
        ids = out[0].tolist()
        said = self.tokenizer.until_stop(ids)
        return Answer(self.tokenizer.decode(said).strip(), len(said) == len(ids), tuple(changes))

    def _embedded(self, prompt: Prompt, features: Sequence[Features]) -> Tensor:
        embed = self.parts.model.get_input_embeddings()
        parts = []
        for number, ids in enumerate(encode_pieces(self.template, prompt, self.tokenizer)):
            parts.append(embed(torch.tensor(ids, dtype=torch.int64, device=platform.device())))
            if number < len(features):
                name, _ = prompt.items[number]
                parts.append(self.parts.rows(name, features[number]).to(parts[0].dtype))
        return torch.cat(parts)[None]  # [1, s, h]


class _Printer:
    """Prints tokens as they come; transformers calls put and end."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.decoder = tokenizer, StreamDecoder(tokenizer)

    def put(self, value: Tensor) -> None:
        print(self.decoder.put(self.tokenizer.until_stop(value.flatten().tolist())), end="", flush=True)

    def end(self) -> None:
        print(self.decoder.end(), flush=True)


def chat_command(
    run: Path, question: str | None, items: Mapping[str, list[str]], batch: Path | None, output: Path | None,
    sampling: Sampling, template: str | None,
) -> None:  # fmt: skip
    """Answer a question on the terminal, every line of standard input (no question), or a file of questions.

    Args:
        items: what the question is about, by modality; an argument may stand for a file.
    """
    if batch is not None:
        answer_file(Chat(run, template), batch, output, sampling)
        return
    chat = Chat(run, template)
    known = chat.parts.modalities
    about = {
        name: [known[name].read(text) if name in known else text for text in given] for name, given in items.items()
    }
    for asked in [question] if question is not None else _typed():
        try:
            answer = chat.answer(MultimodalQuestion("terminal", asked, "", about), sampling, _Printer(chat.tokenizer))
            for note in answer.notes:
                print(f"note: {note.replace('_', ' ')}", file=sys.stderr)
        except DataError as error:
            # In a session a wrong question ends nothing; asked alone, it is the command's error.
            if question is not None:
                raise
            print(f"error: {error}", file=sys.stderr)


def _typed() -> Iterator[str]:
    """Questions from standard input, until it ends."""
    while True:
        print("> " if sys.stdin.isatty() else "", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def answer_file(chat: Chat, batch: Path, output: Path | None, sampling: Sampling) -> None:
    """One JSON line for each question, with its error if it cannot be asked; a file that exists is continued."""
    unread: list[Reject] = []
    records = list(read_records(batch, rejects=unread))
    done = _answered(output) if output is not None and output.is_file() else set()
    waiting = [record for record in records if record.ident not in done]
    stream = output.open("a") if output is not None else sys.stdout
    for reject in unread:
        if reject.ident not in done:
            error = f"{reject.reason}: {reject.detail}"
            print(json.dumps({"id": reject.ident, "question": "", "error": error, "reference": ""}), file=stream)
    counted: Counter[str] = Counter()
    for record in track(waiting, "answer", console=Console(stderr=True), transient=True):
        try:
            answer = chat.answer(record, sampling)
            line = {"id": record.ident, "question": record.question, "answer": answer.text, "cut": answer.cut}
            line |= {"changes": list(answer.changes)} if answer.changes else {}
            counted.update(answer.notes)
        except DataError as error:
            line = {"id": record.ident, "question": record.question, "error": str(error)}
        # Each answer at once: a kill loses at most the one in work.
        print(json.dumps({**line, "reference": record.answer}), file=stream, flush=True)
    if output is not None:
        stream.close()
        before = f", {len(done)} were there" if done else ""
        bad = f", {len(unread)} that are no question" if unread else ""
        cut = counted.pop("answer_cut", 0)
        short = f", {cut} cut at {sampling.max_new_tokens} tokens" if cut else ""
        short += "".join(f", {what.replace('_', ' ')}: {number}" for what, number in counted.items())
        print(f"written: {output}, {len(waiting)} answers{short}{before}{bad}")


def _answered(output: Path) -> set[str]:
    """Ids in a file of answers; half a line at its end, of a run that was killed, is cut off.

    Raises:
        DataError: the file holds anything else; it is left as it is.
    """
    data = output.read_bytes()
    end = data.rfind(b"\n") + 1
    rest = data[end:]
    idents = [_ident(line) for line in data[:end].splitlines()]
    if None in idents or not rest.startswith(_BEGINNING[: len(rest)]):
        number = idents.index(None) + 1 if None in idents else len(idents) + 1
        raise DataError(
            f"{output} is not a file of answers",
            got=f"line {number} has no id with an answer or error",
            do="choose another --output",
        )
    if rest:
        os.truncate(output, end)  # in one step: a kill loses no answer
    return {ident for ident in idents if ident is not None}


def _ident(line: bytes) -> str | None:
    try:
        held = json.loads(line)
    except (ValueError, RecursionError):
        return None
    ours = isinstance(held, dict) and isinstance(held.get("id"), str) and ("answer" in held or "error" in held)
    return str(held["id"]) if ours else None
