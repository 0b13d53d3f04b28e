"""What certificates compare with: the readers of the safetensors library and of torch, and transformers' layers.

They are independent of this package's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from megabiomed.checkpoint.logical import Box, TensorSource
from megabiomed.checkpoint.pickled import PickledFiles
from megabiomed.config.models import ModelConfig
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import inside, read_json
from megabiomed.model.architecture import Architecture
from megabiomed.model.hf_files import EMBEDDING, HEAD, INDEX, PICKLED, PICKLED_INDEX, SINGLE, is_pickled
from megabiomed.model.streamed import Read
from megabiomed.processes import platform

ROWS, LENGTH = 2, 64
_TWIN = {HEAD: EMBEDDING, EMBEDDING: HEAD}
"""Where transformers takes one of them from when a folder with `tie_word_embeddings` stores the other alone."""


class StoredTensors:
    """The tensors of a Hugging Face folder through the safetensors library, independent of this package's reader.

    Pickled weights come from torch's reader, which ours stands on too; `loaded_max_diff` compares with transformers.

    Attributes:
        files: for each stored tensor the name of the file that it comes from.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pickled = PickledFiles() if is_pickled(folder) else None
        self.files = _files_as_loaded(folder)

    @property
    def dtype(self) -> str:
        """Element types of the stored weights, e.g. `bfloat16`."""
        return ", ".join(sorted({str(self.dtype_of(name)).removeprefix("torch.") for name in self._names()}))

    def dtype_of(self, name: str) -> torch.dtype:
        """Element type of one stored tensor, without reading it."""
        return self.raw(name, slice(0, 0)).dtype

    def _names(self) -> list[str]:
        return list(self.files)

    def raw(self, name: str, part: tuple[slice, ...] | slice = slice(None)) -> Tensor:
        """A tensor, or a rectangular part of it, as it is stored."""
        from safetensors import safe_open

        name = name if name in self.files else _TWIN.get(name, name)
        if self._pickled is not None:
            return self._pickled.tensor(inside(self._folder, self.files[name]), name)[part]
        with safe_open(inside(self._folder, self.files[name]), "pt") as file:
            return file.get_slice(name)[part]

    def __call__(self, name: str) -> Tensor:
        return self.raw(name).float().to(platform.device())


def _files_as_loaded(folder: Path) -> dict[str, str]:
    """Tensor name -> file, in the order in which transformers looks: one file of everything before an index."""
    from safetensors import safe_open

    single, index = (PICKLED, PICKLED_INDEX) if is_pickled(folder) else (SINGLE, INDEX)
    if not (folder / single).is_file():
        return dict(read_json(inside(folder, index), dict)["weight_map"])
    if single == PICKLED:
        return dict.fromkeys(PickledFiles().keys(inside(folder, PICKLED)), PICKLED)
    with safe_open(inside(folder, SINGLE), "pt") as file:
        return dict.fromkeys(file.keys(), SINGLE)


def loaded_max_diff(folder: Path, stored: StoredTensors, architecture: Architecture) -> float | None:
    """Largest difference between the folder's tensors and those of the model that transformers loads from it.

    Both readers here could agree on a file that transformers does not take; this is what it really holds. Where config.json
    asks for another element type than is stored, as is usual beside fp32 weights, transformers rounds, and so does this.

    Returns:
        None where the weights do not fit twice into the free memory.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # its bar would stand in the output of commands that print JSON
    size = sum((folder / name).stat().st_size for name in set(stored.files.values()))
    if 2 * size > psutil.virtual_memory().available:
        return None
    with _read_by_transformers(folder):
        state = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True).state_dict()
    worst = 0.0
    for name in architecture.shapes:
        # Past a view with a larger vocabulary: transformers loads the folder as it is.
        there = StoredTensors.raw(stored, name).to(state[name].dtype)
        if not torch.equal(state[name], there):
            worst = max(worst, max_diff(state[name].float(), there.float()))
    return worst


@contextmanager
def _read_by_transformers(folder: Path) -> Iterator[None]:
    """Whatever transformers does not take of a folder is a fault of the folder; it has no exception of its own for that."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"transformers cannot read {folder}", got=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300],
            do="take the config.json that belongs to the weights, or save the model again with transformers",
        ) from None  # fmt: skip


def not_finite(stored: StoredTensors, architecture: Architecture) -> list[str]:
    """Names of tensors that hold NaN or infinity."""
    return [name for name in architecture.shapes if not bool(stored.raw(name).isfinite().all())]


def rounded_reader(source: TensorSource, stored: StoredTensors, architecture: Architecture) -> Read:
    """Whole tensors of a source, rounded to the element type of the folder, as fp32 on the device of this process."""
    shapes = architecture.shapes

    def read(name: str) -> Tensor:
        return source.read(Box.whole(name, shapes[name])).to(stored.dtype_of(name)).float().to(platform.device())

    return read


def weights_max_diff(source: TensorSource, stored: StoredTensors, architecture: Architecture) -> float:
    """Largest difference between the folder and the source rounded to the folder's type; NaN counts as infinite."""
    worst = 0.0
    for name, shape in architecture.shapes.items():
        there = stored.raw(name)
        here = source.read(Box.whole(name, shape)).to(there.dtype)
        if not torch.equal(here, there):
            worst = max(worst, max_diff(here.float(), there.float()))
    return worst


def max_diff(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference; infinite where either is not a number."""
    return float((a - b).abs().nan_to_num(nan=torch.inf).max()) if a.shape == b.shape else float("inf")


def token_ids(model: ModelConfig) -> Tensor:
    """The fixed ids, [b, s]: a pure function of the sizes of vocabulary and context."""
    shape = ROWS, min(LENGTH, model.max_position_embeddings)
    return torch.randint(model.vocab_size, shape, generator=torch.Generator().manual_seed(2308))


def next_token_loss(logits: Tensor, ids: Tensor) -> float:
    """Mean cross entropy of [b, s, v] logits, each position predicting the next id."""
    return float(nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()))


@torch.no_grad()
def transformers_logits(
    folder: Path, architecture: Architecture, read: Read, ids: Tensor, tick: Callable[[], None] = lambda: None
) -> Tensor:
    """[b, s, v] logits by transformers' own layers, with the weights of one layer in memory at a time."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with _read_by_transformers(folder):
        config = AutoConfig.from_pretrained(folder)
    config._attn_implementation = "sdpa"
    with _read_by_transformers(folder), torch.device("meta"):
        decoder = AutoModelForCausalLM.from_config(config).get_decoder().eval()  # dropout is no part of the function
    positions = torch.arange(ids.shape[1], device=ids.device)[None]  # [1, s]
    x = nn.functional.embedding(ids, read(architecture.embedding.name))  # [b, s, h]
    # Made anew: on the meta device its table has no values.
    rotary = type(decoder.rotary_emb)(config).to(ids.device)(x, positions)
    for index, layer in enumerate(decoder.layers):
        names = [name for name, _ in layer.named_parameters()]
        layer.load_state_dict({name: read(f"model.layers.{index}.{name}") for name in names}, assign=True)
        x = layer(x, attention_mask=None, position_ids=positions, position_embeddings=rotary)
        layer.to("meta")
        tick()
    decoder.norm.load_state_dict({"weight": read(architecture.final_norm.name)}, assign=True)
    return nn.functional.linear(decoder.norm(x), read(architecture.head.name))  # [b, s, v]


def from_interleaved(read: Read, architecture: Architecture) -> Read:
    """The same reader with q and k rows taken to be in Meta's order, where the rotated pairs are neighbours."""
    half = architecture.config.head_size // 2

    def reordered(name: str) -> Tensor:
        weight = read(name)
        if not architecture.tensors[name].spec.rotated:
            return weight
        pairs = weight.unflatten(0, (-1, half, 2))  # [heads, d/2, 2, h]
        return pairs.transpose(1, 2).reshape(weight.shape)

    return reordered
