"""Free-text answers about molecules and proteins: transformers' generation (key/value cache, sampling, streaming) on the
weights of any alignment checkpoint, in one process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from megabiomed import platform
from megabiomed.align.batch import Features
from megabiomed.align.prompts import find_template, pieces, render
from megabiomed.align.records import QaRecord, read_records
from megabiomed.align.sources import ChainSource, check_frozen, frozen_reference, language_model_base
from megabiomed.align.store import QaStore
from megabiomed.checkpoint.catalog import latest_valid
from megabiomed.checkpoint.logical import Box
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config.align import AlignRunConfig
from megabiomed.config.base import parse
from megabiomed.config.load import read_yaml
from megabiomed.corpus.tokenizer import Tokenizer
from megabiomed.encoders.esm2.alphabet import encode
from megabiomed.encoders.esm2.model import ProteinBatch
from megabiomed.encoders.gin.featurise import Molecule, featurise
from megabiomed.encoders.gin.model import MoleculeBatch
from megabiomed.encoders.side import build_encoders
from megabiomed.encoders.weights import fingerprint
from megabiomed.errors import CheckpointError, DataError
from megabiomed.model.llama.as_transformers import as_transformers
from megabiomed.model.llama.convert import logical_tensors


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; temperature 0 is greedy."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


class Chat:
    """A multimodal model in one process.

    Args:
        run: run folder of an alignment (its last stage with a checkpoint), a stage's folder, or a checkpoint.
    """

    def __init__(self, run: Path) -> None:
        self.checkpoint = find_checkpoint(run)
        text = read_yaml(self.checkpoint.config_text, str(self.checkpoint.path))
        self.config = cast(AlignRunConfig, parse(AlignRunConfig, text, str(self.checkpoint.path)))
        if self.checkpoint.tokenizer is None:
            raise CheckpointError(
                f"{self.checkpoint.path} holds no tokenizer", do="use a checkpoint of an alignment run"
            )
        self.tokenizer = Tokenizer(self.checkpoint.tokenizer)
        source = self._source()
        dtype = platform.DTYPES[self.config.train.precision] if platform.has_cuda() else torch.float32
        self.model = as_transformers(self.config.model, source, dtype, self.tokenizer.bos_id, self.tokenizer.eos_id)
        self.encoders, self.adaptors = build_encoders(
            self.config.align, self.config.model.hidden_size, self.config.seed
        )
        initial = {name: fingerprint(self.encoders[name]) for name in self.encoders}
        check_frozen(
            self.checkpoint.trainer["frozen"],
            {"language_model": frozen_reference(self.config), **initial},
            self.checkpoint.path,
        )
        for prefix, modules in (("encoder", self.encoders), ("adaptor", self.adaptors)):
            for name, parameter in modules.named_parameters():
                if source.holds(f"{prefix}.{name}"):
                    parameter.data.copy_(source.read(Box.whole(f"{prefix}.{name}", tuple(parameter.shape))))
            modules.to(platform.device()).eval()
        self.template = self._template()

    def _source(self) -> ChainSource:
        """This checkpoint, then those of the stages before it, then the language model that the run began with."""
        stage = self.checkpoint.trainer["stage"]
        names = [held.name for held in self.config.align.stages]
        root = self.checkpoint.path.resolve().parent.parent.parent
        chain = [self.checkpoint]
        for name in reversed(names[: names.index(stage)]):
            earlier, _ = latest_valid(root / name / "checkpoints")
            if earlier is None:
                raise CheckpointError(
                    f"stage {stage} refers to stage {name}, whose checkpoint is gone", expected=str(root / name)
                )
            chain.append(earlier)
        base, _ = language_model_base(self.config)
        return ChainSource(chain, base, frozenset(logical_tensors(self.config.model)))

    def _template(self) -> str:
        path = self.config.align.train[0].path if self.config.align.train else None
        known = path is not None and (path / "manifest.json").is_file()
        return str(QaStore(path).manifest["settings"]["template"]) if known and path else "biomedgpt"

    @torch.no_grad()
    def rows(self, features: Features) -> Tensor:
        """Embeddings of one molecule or protein, [n, h]."""
        name = "molecule" if isinstance(features, Molecule) else "protein"
        batch: Any = MoleculeBatch.of([features]) if isinstance(features, Molecule) else ProteinBatch.of([features])
        encoded = self.encoders[name](batch.to(platform.device()))
        return cast(Tensor, self.adaptors[name](encoded, batch.rows))

    @torch.no_grad()
    def answer(
        self, record: QaRecord, sampling: Sampling, streamer: Any = None, features: Sequence[Features] | None = None
    ) -> str:
        """Answer one question.

        Args:
            features: in place of those of the record's molecules and proteins, in the order of the placeholders.
        """
        prompt, kinds = render(find_template(self.template), record.question, record.molecules, record.proteins)
        if features is None:
            features = [*self._features(record, kinds)]
        embed = self.model.get_input_embeddings()
        parts = []
        for number, piece in enumerate(pieces(prompt)):
            ids = [self.tokenizer.bos_id] * (number == 0) + (self.tokenizer.encode(piece) if piece else [])
            parts.append(embed(torch.tensor(ids, dtype=torch.int64, device=platform.device())))
            parts += [self.rows(features[number])] if number < len(features) else []
        x = torch.cat(parts)[None]  # [1, s, h]
        room = self.config.model.max_position_embeddings - x.shape[1]
        if room < 1:
            raise DataError("the prompt fills the whole context", got=f"{x.shape[1]} places", do="shorten the protein")
        options: dict[str, Any] = {"do_sample": sampling.temperature > 0}
        if sampling.temperature > 0:
            options |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
            torch.manual_seed(sampling.seed)
        out = self.model.generate(
            inputs_embeds=x, attention_mask=torch.ones(x.shape[:2], dtype=torch.int64, device=x.device),
            max_new_tokens=min(sampling.max_new_tokens, room), eos_token_id=self.tokenizer.eos_id,
            pad_token_id=self.tokenizer.eos_id, streamer=streamer, use_cache=True, **options,
        )  # fmt: skip
        return self.tokenizer.decode([int(i) for i in out[0] if int(i) != self.tokenizer.eos_id]).strip()

    def _features(self, record: QaRecord, kinds: list[str]) -> list[Features]:
        align, molecules, proteins = self.config.align, iter(record.molecules), iter(record.proteins)
        return [
            featurise(next(molecules), align.molecule.max_atoms) if kind == "molecule"
            else encode(next(proteins), align.protein.max_residues)
            for kind in kinds
        ]  # fmt: skip


class _Printer:
    """Prints tokens as they come; transformers calls put and end."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.ids, self.shown = tokenizer, [], ""  # type: tuple[Tokenizer, list[int], str]

    def put(self, value: Tensor) -> None:
        self.ids += [int(i) for i in value.flatten() if int(i) != self.tokenizer.eos_id]
        text = self.tokenizer.decode(self.ids)
        if not text.endswith("\ufffd"):  # half of a character made of several byte pieces
            print(text[len(self.shown) :], end="", flush=True)
            self.shown = text

    def end(self) -> None:
        print(flush=True)


def chat_command(
    run: Path, question: str, molecules: list[str], proteins: list[str], batch: Path | None, output: Path | None,
    sampling: Sampling,
) -> None:  # fmt: skip
    """Answer one question on the terminal, or a file of them as JSON lines."""
    if batch is None:
        record = QaRecord("command line", question, "", molecules, [read_protein(text) for text in proteins])
        chat = Chat(run)
        chat.answer(record, sampling, _Printer(chat.tokenizer))
        return
    records, chat = list(read_records(batch)), Chat(run)
    lines = []
    for record in records:
        try:
            line = {"id": record.ident, "question": record.question, "answer": chat.answer(record, sampling)}
        except DataError as error:
            line = {"id": record.ident, "question": record.question, "error": str(error)}
        lines.append(json.dumps({**line, "reference": record.answer}))
        if output is None:
            print(lines[-1], flush=True)
    if output is not None:
        output.write_text("\n".join(lines) + "\n")
        print(f"written: {output}, {len(lines)} answers")


def read_protein(text: str) -> str:
    """A sequence, or the first one of a FASTA file."""
    path = Path(text)
    if len(text) > 255 or not path.is_file():
        return text
    lines = path.read_text().split(">")
    first = lines[1] if len(lines) > 1 else lines[0]
    return "".join(first.splitlines()[1 if len(lines) > 1 else 0 :])


def find_checkpoint(run: Path) -> Checkpoint:
    """The newest checkpoint of the last stage that has one, of a stage's folder, or the one that is named."""
    if (run / "COMMITTED").is_file():
        return Checkpoint.open(run)
    found, _ = latest_valid(run / "checkpoints")
    if found is not None:
        return found
    stages = [latest_valid(folder)[0] for folder in sorted(run.glob("*/checkpoints"))]
    whole = [checkpoint for checkpoint in stages if checkpoint is not None and "stage" in checkpoint.trainer]
    if not whole:
        raise CheckpointError(f"{run} holds no alignment checkpoint", do="give the folder of an alignment run")
    order = [s["name"] for s in read_yaml(whole[0].config_text, str(run))["align"]["stages"]]
    return max(whole, key=lambda checkpoint: order.index(checkpoint.trainer["stage"]))
