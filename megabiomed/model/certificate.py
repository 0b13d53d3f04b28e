"""Proof that a Hugging Face folder and this package's model are the same function.

The weights are read by two independent readers (ours, the safetensors library) and compared bit by bit; then our blocks
and transformers' decoder layers, each fed by its own reader, compute logits of fixed token ids in fp32, one layer in
memory at a time. Whoever reads certificate.json later sees what was compared, with which versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor

from megabiomed import __version__
from megabiomed.checkpoint.logical import TensorSource
from megabiomed.config.models import ModelConfig
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import write_json
from megabiomed.model.reference import (
    StoredTensors,
    from_interleaved,
    loaded_max_diff,
    max_diff,
    next_token_loss,
    not_finite,
    rounded_reader,
    token_ids,
    transformers_logits,
    weights_max_diff,
)
from megabiomed.model.registry import architecture_of
from megabiomed.model.streamed import streamed_logits
from megabiomed.processes import platform
from megabiomed.tokenizer.files import fingerprint, open_if_any

CERTIFICATE, IMPORT_CERTIFICATE = "certificate.json", "import_certificate.json"
HALF_SPLIT = "half-split (Hugging Face)"
INTERLEAVED = "interleaved (Meta)"
UNKNOWN = "unknown"
# bf16 keeps 8 bits of each activation; measured against fp32 on random 4-layer models the logits differ by about 2 %.
ENGINE_TOLERANCE = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.05}
# Two fp32 implementations of 80 layers differ by rounding alone; a wrong layout or order differs by the logits' own size.
LOGITS_TOLERANCE = 1e-3
TOP1_REQUIRED = 0.99  # a near tie may fall either way


@dataclass
class Certificate:
    """What was compared and how far it differed.

    Attributes:
        weights_max_diff: over all elements, between the source, rounded to the stored type, and the folder.
        logits_max_diff: over all logits of ROWS x LENGTH fixed token ids, fp32.
        logits_scale: largest absolute logit.
        top1_agreement: share of positions at which both rank the same token first.
        loss: mean cross entropy of our logits, each token predicting the next.
        rope_layout: order of the rotated pairs in the q and k rows under which both agree.
        tokenizer_sha256: of the folder's tokenizer; None without one.
        loaded_max_diff: between the folder as it was read here and the model that transformers loads from it; None where its
            weights do not fit twice into memory.
        not_finite: tensors that hold NaN or infinity.
        files: for each stored tensor the file that it came from.
        engine: after an import into a training engine, its topology and how far its logits were from transformers'.
    """

    direction: str
    folder: str
    source: str
    weights_max_diff: float
    logits_max_diff: float
    logits_scale: float
    top1_agreement: float
    loss: float
    rope_layout: str
    tokenizer_sha256: str | None
    expected_tokenizer_sha256: str | None
    tensors: int
    stored_as: str
    token_ids: int
    token_ids_sha256: str
    computed_in: str = "fp32"
    loaded_max_diff: float | None = None
    not_finite: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: dict[str, str] = field(default_factory=lambda: versions())

    def problems(self) -> list[str]:
        """Why this certificate does not hold, one sentence each; empty when it does."""
        found = []
        if self.not_finite:
            # Everything that is computed from it is not a number either: no other difference can be judged.
            return [f"weights are not finite: {self.not_finite[0]} (one of {len(self.not_finite)})"]
        if self.loaded_max_diff:
            found.append(
                f"transformers loads other weights from the folder: they differ by up to {self.loaded_max_diff:.3g}"
            )
        if self.weights_max_diff != 0:
            found.append(f"weights differ by up to {self.weights_max_diff:.3g}")
        if self.rope_layout == INTERLEAVED:
            found.append(f"RoPE layout is {self.rope_layout}, not {HALF_SPLIT}")
        # Not `>`: a NaN must fail.
        if not self.logits_max_diff <= LOGITS_TOLERANCE * max(1.0, self.logits_scale):
            found.append(f"logits differ by up to {self.logits_max_diff:.3g} (largest logit {self.logits_scale:.3g})")
        if self.top1_agreement < TOP1_REQUIRED:
            found.append(f"only {self.top1_agreement:.1%} of the predictions agree")
        if self.engine and self.engine["weights_max_diff"] != 0:
            found.append(f"weights in {self.engine['topology']} differ by up to {self.engine['weights_max_diff']:.3g}")
        if self.engine and not self.engine["logits_max_diff"] <= self.engine["tolerance"] * max(1.0, self.logits_scale):
            found.append(f"logits of {self.engine['topology']} differ by up to {self.engine['logits_max_diff']:.3g}")
        if self.expected_tokenizer_sha256 and self.tokenizer_sha256 not in (None, self.expected_tokenizer_sha256):
            found.append(f"tokenizer is {self.tokenizer_sha256[:12]}, not {self.expected_tokenizer_sha256[:12]}")
        return found

    def check(self) -> None:
        """Refuse a certificate that does not hold.

        Raises:
            CheckpointError: naming every difference.
        """
        if problems := self.problems():
            if self.not_finite or self.folder == self.source:
                do = "get a fresh copy of the folder; if that fails too, the model was damaged where it was made"
                raise CheckpointError(f"{self.folder} cannot be certified", got="; ".join(problems), do=do)
            raise CheckpointError(
                f"{self.folder} is not the same model as {self.source}",
                got="; ".join(problems),
                do="find out which of both is wrong before you use it",
            )

    def lines(self) -> list[str]:
        """For the terminal."""
        return [
            f"certificate: {'; '.join(self.problems()) or 'valid'}",
            f"weights_max_diff: {self.weights_max_diff:g} ({self.tensors} tensors, {self.stored_as})",
            f"logits_max_diff: {self.logits_max_diff:.3g} (largest logit {self.logits_scale:.3g}, "
            f"top-1 agreement {self.top1_agreement:.1%} on {self.token_ids} fixed ids)",
            f"rope_layout: {self.rope_layout}",
            "compared_with: "
            + ("the folder's files" if self.loaded_max_diff is None else "the model that transformers loads"),
            *(f"engine_{key}: {value}" for key, value in self.engine.items()),
            f"tokenizer: {self.tokenizer_sha256 or 'none in the folder'}",
        ]

    def store(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(path, self.values())

    def values(self) -> dict[str, Any]:
        """For JSON."""
        values = asdict(self) | {"valid": not self.problems()}
        return {key: _exact(value) for key, value in values.items()}


def certify(
    folder: Path,
    source: TensorSource,
    model: ModelConfig,
    direction: str,
    name: str,
    tokenizer: Path | None = None,
    tick: Callable[[], None] = lambda: None,
    engine: EngineLogits | None = None,
    stored: StoredTensors | None = None,
) -> Certificate:
    """Compare a Hugging Face folder with the source that it was made from, or is read through.

    Args:
        direction: "export" or "import".
        name: what the source is, for the reader of the certificate.
        tokenizer: the file of the tokenizer that belongs to the source.
        tick: called 2 * num_hidden_layers times, for a progress bar.
        engine: what a training engine, filled from the folder, computes.
        stored: another view of the folder's tensors, such as one with a larger vocabulary.
    """
    stored, architecture = stored or StoredTensors(folder), architecture_of(model)
    weights = weights_max_diff(source, stored, architecture)
    ids = token_ids(model).to(platform.device())
    read = rounded_reader(source, stored, architecture)
    ours = streamed_logits(architecture, read, ids, tick)  # [b, s, v]
    theirs = transformers_logits(folder, architecture, stored, ids, tick)
    layout = HALF_SPLIT
    if not _close(ours, theirs):
        # The usual mistake: rows whose rotated pairs lie as in Meta's own files.
        other = streamed_logits(architecture, from_interleaved(read, architecture), ids)
        layout = INTERLEAVED if _close(other, theirs) else UNKNOWN
    own = open_if_any(folder)
    return Certificate(
        direction=direction,
        folder=str(folder),
        source=name,
        weights_max_diff=weights,
        logits_max_diff=max_diff(ours, theirs),
        logits_scale=float(theirs.abs().max()),
        top1_agreement=float((ours.argmax(-1) == theirs.argmax(-1)).double().mean()),
        loss=next_token_loss(ours, ids),
        rope_layout=layout,
        tokenizer_sha256=own.sha256 if own else None,
        expected_tokenizer_sha256=fingerprint(tokenizer) if tokenizer else None,
        tensors=len(architecture.tensors),
        stored_as=stored.dtype,
        loaded_max_diff=loaded_max_diff(folder, stored, architecture),
        not_finite=not_finite(stored, architecture),
        files=stored.files,
        token_ids=ids.numel(),
        token_ids_sha256=hashlib.sha256(ids.cpu().numpy().tobytes()).hexdigest(),
        engine=engine.compare(theirs) if engine else {},
    )


@dataclass(frozen=True)
class EngineLogits:
    """What a training engine computes for the fixed token ids.

    Attributes:
        logits: [b, s, v].
        weights_max_diff: between what its ranks hold and the folder.
    """

    topology: str
    precision: str
    logits: Tensor
    weights_max_diff: float

    def compare(self, right: Tensor) -> dict[str, Any]:
        """The engine's part of a certificate; `right` are the logits of transformers."""
        agree = self.logits.argmax(-1) == right.argmax(-1)
        return {
            "topology": self.topology,
            "precision": self.precision,
            "tolerance": ENGINE_TOLERANCE[self.precision],
            "weights_max_diff": self.weights_max_diff,
            "logits_max_diff": max_diff(self.logits.to(right), right),
            "top1_agreement": float(agree.double().mean()),
        }


def _close(a: Tensor, b: Tensor) -> bool:
    return max_diff(a, b) <= LOGITS_TOLERANCE * max(1.0, float(b.abs().max()))


def _exact(value: Any) -> Any:
    """JSON has no infinity and no NaN; they become words."""
    if isinstance(value, dict):
        return {key: _exact(part) for key, part in value.items()}
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def versions() -> dict[str, str]:
    """Of everything that computes a certificate."""
    return {"megabiomed": __version__, **{name: version(name) for name in ("torch", "transformers", "safetensors")}}
