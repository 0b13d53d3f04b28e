"""The model that is evaluated: a training checkpoint of any topology, or an exported Hugging Face folder, on any topology."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from megabiomed.checkpoint.locate import Located, locate
from megabiomed.checkpoint.logical import TensorSource
from megabiomed.checkpoint.uses import MODEL
from megabiomed.config import DataConfig, ModelConfig, ParallelConfig, RunConfig, TrainConfig
from megabiomed.config.align import AlignRunConfig
from megabiomed.config.finetune import FinetuneRunConfig
from megabiomed.config.kinds import stored_run
from megabiomed.config.topology import check_run
from megabiomed.data.loader import ValidationLoader
from megabiomed.data.store import TokenStore
from megabiomed.engine.build import TrainEngine
from megabiomed.engine.frozen import FrozenEngine
from megabiomed.engine.mesh import build_mesh
from megabiomed.ground.errors import CheckpointError, TokenizerError
from megabiomed.ground.files import sha256_bytes
from megabiomed.model.frozen import check_frozen
from megabiomed.model.hf_config import model_config_from_hf
from megabiomed.model.hf_files import weight_files
from megabiomed.model.hf_folder import HuggingFaceSource
from megabiomed.model.start_from import whole_model
from megabiomed.model.vocabulary import MORE_PIECES
from megabiomed.samples.questions.sources import stores_of
from megabiomed.tokenizer.files import open_in, open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer


@dataclass(frozen=True)
class Model:
    """Weights that are not loaded yet.

    Attributes:
        path: the checkpoint or folder.
        run: folder of the training run, None for an exported folder.
        step: of the checkpoint, None for an exported folder.
        identity: changes when the weights may have changed.
        stores: token stores that it was trained on, as its configuration names them.
        questions: stores of questions that it was trained on.
        trained: the configuration that it was trained with, None for an exported folder.
    """

    path: Path
    config: ModelConfig
    source: TensorSource
    tokenizer: Tokenizer
    identity: str
    run: Path | None = None
    step: int | None = None
    stores: tuple[Path, ...] = ()
    questions: tuple[Path, ...] = ()
    trained: RunConfig | None = None


def open_model(path: Path, base: Path | None = None) -> Model:
    """A run folder (its newest checkpoint, of an alignment that of its last stage), a checkpoint, or a Hugging Face folder.

    Args:
        base: where the model is beside which adapters were trained, if it has moved.

    Raises:
        CheckpointError: none of these.
        TokenizerError: its tokenizer is missing or does not fit.
    """
    located = locate(path).expect(MODEL)
    model = _exported(path, base) if located.is_hugging_face else _trained(located, base)
    if model.tokenizer.vocab_size > model.config.vocab_size:
        raise TokenizerError(
            "the tokenizer does not fit the model", got=f"{model.tokenizer.vocab_size} pieces",
            expected=f"at most vocab_size {model.config.vocab_size}", do=MORE_PIECES,
        )  # fmt: skip
    return model


def _no_base(path: Path, base: Path | None) -> None:
    if base is not None:
        raise CheckpointError(f"{path} is no run of adapters", got=f"--base {base}", do="leave --base out")


def _exported(path: Path, base: Path | None) -> Model:
    _no_base(path, base)
    config, source = model_config_from_hf(path), HuggingFaceSource(path)
    return Model(path, config, source, open_in(path), _fingerprint(path, weight_files(path)))


def _trained(located: Located, base: Path | None) -> Model:
    if located.is_aligned:
        return _aligned(located.path, base)
    checkpoint = located.open()
    stored = stored_run(checkpoint.config_text, str(checkpoint.path))
    if checkpoint.tokenizer is None:
        raise CheckpointError(f"{checkpoint.path} holds no tokenizer", do="use a checkpoint of a training run")
    run = checkpoint.path.resolve().parent.parent
    stores, questions = trained_on(stored, run)
    identity = _fingerprint(checkpoint.path, checkpoint.path.glob("*.json"))
    tokenizer, source = open_tokenizer(checkpoint.tokenizer), whole_model(checkpoint, base)
    return Model(
        checkpoint.path, stored.model, source, tokenizer, identity, run, checkpoint.step, stores, questions, stored
    )


def _aligned(path: Path, base: Path | None) -> Model:
    """The language model of an alignment, for texts: the checkpoint's stage, those before it, and what the run began with."""
    from megabiomed.align.aligned import open_checkpoint
    from megabiomed.align.sources import frozen_reference

    _no_base(path, base)
    found = open_checkpoint(path)
    checkpoint, config = found.checkpoint, found.config
    stored, now = checkpoint.language_model, frozen_reference(config)
    check_frozen({"language_model": stored}, {"language_model": now}, checkpoint.path)
    run = checkpoint.path.resolve().parent.parent
    identity = sha256_bytes(
        "".join(_fingerprint(held.path, held.path.glob("*.json")) for held in found.source.checkpoints).encode()
    )
    stores, questions = trained_on(config, run)
    tokenizer, step = open_tokenizer(found.tokenizer), checkpoint.step
    return Model(checkpoint.path, config.model, found.source, tokenizer, identity, run, step, stores, questions, config)


def trained_on(config: RunConfig, run: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Token stores and stores of questions of a run, and of the runs that it starts from.

    The path of an earlier run that is gone stands among the token stores: nobody can look into what it was trained on.

    Args:
        run: folder of the run.
    """
    texts = [source.path for source in config.data.train]
    questions: list[Path] = []
    start = None
    if isinstance(config, FinetuneRunConfig):
        texts += [source.path for source in config.finetune.replay]
        questions += stores_of(config, run)
        start = config.finetune.start_from
    elif isinstance(config, AlignRunConfig):
        texts += [config.align.replay] if config.align.replay is not None else []
        start = config.align.language_model
    located = None if start is None else locate(start)
    if start is None or located is None or located.is_hugging_face:
        return tuple(texts), tuple(questions)
    try:
        earlier = located.expect(MODEL).open()
    except CheckpointError:
        return (*texts, start), tuple(questions)
    before = trained_on(stored_run(earlier.config_text, str(earlier.path)), earlier.path.resolve().parent.parent)
    return (*texts, *before[0]), (*questions, *before[1])


def _fingerprint(folder: Path, files: Iterable[Path]) -> str:
    """Hash of names, sizes and, of small files, contents, of some files of a folder and of its config.json."""
    parts = []
    for file in sorted([*files, *folder.glob("config.json")]):
        size = file.stat().st_size
        content = file.read_bytes() if size < 1 << 24 else f"{file.stat().st_mtime_ns}".encode()
        parts.append(f"{file.name}:{size}:{sha256_bytes(content)}")
    return sha256_bytes("\n".join(parts).encode())


def load_engine(model: Model, parallel: ParallelConfig, world: int, precision: str, window: int) -> TrainEngine:
    """The model spread over this process group without optimizer state. Collective.

    Raises:
        TopologyError: the model cannot be cut that way.
    """
    config = scoring_config(model, parallel, world, precision, window)
    check_run(config, world)
    mesh = build_mesh(config.parallel)
    engine = TrainEngine(config, mesh, FrozenEngine(config, mesh))
    engine.load_weights(model.source)
    return engine


def open_windows(
    path: Path, model: Model, data: DataConfig, samples: int, dp_rank: int = 0, dp_size: int = 1
) -> tuple[TokenStore, ValidationLoader]:  # fmt: skip
    """A token store and its first windows.

    Raises:
        TokenizerError: it was made with another tokenizer than the model's.
        DataError: it is no store, or shorter than one window.
    """
    store = TokenStore.open(path)
    advice = "build the store with `corpus build --tokenizer` of this model"
    model.tokenizer.check_same(path, store.tokenizer_sha256, advice)
    return store, ValidationLoader(store, data, samples, dp_rank, dp_size)


def scoring_config(model: Model, parallel: ParallelConfig, world: int, precision: str, window: int) -> RunConfig:
    """A run configuration that only computes."""
    batch = world // parallel.tensor_parallel_size or 1  # replicas x stages: what the schedules want at least
    data = DataConfig(
        seq_length=min(window, model.config.max_position_embeddings), micro_batch_size=1, global_batch_size=batch
    )
    train = TrainConfig.model_validate({"steps": 1, "precision": precision})
    layout = parallel.model_copy(update={"zero_stage": 1, "engine": "deepspeed", "pipeline_schedule": "gpipe"})
    return RunConfig(name="evaluate", model=model.config, parallel=layout, data=data, train=train)
