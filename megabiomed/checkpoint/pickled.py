"""Pickled weights (`pytorch_model.bin`, `.pt`, `.pth`), read without executing what a pickle might hold.

torch's restricted unpickler builds tensors and plain containers and knows no other function or class. Files of torch 1.6
and later are zip archives and are mapped into memory, so that a part of a tensor costs what it reads; older ones are
read whole.
"""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megabiomed.checkpoint.tensorfile import DTYPES
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import refuse_pointer


def load_pickled(path: Path, classes: Sequence[type[Any]] = ()) -> Any:
    """What a file of `torch.save` holds, on the CPU.

    Args:
        classes: what may be built besides tensors and plain containers.

    Raises:
        CheckpointError: the file is missing or damaged, or holds other objects; names the reason.
    """
    mapped = zipfile.is_zipfile(path)
    if mapped:
        _check_stored(path)
    try:
        with _only(classes):
            # `weights_only` is torch's restricted unpickler; only zip archives can be mapped.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there", do="get the complete folder again") from None
    except Exception as error:  # the unpickler raises whatever a damaged file leads it to
        refuse_pointer(path)
        if isinstance(error, EOFError) or "unexpected EOF" in str(error):
            raise CheckpointError(f"{path} is cut off", got=_reason(error), do="get the complete file again") from None
        raise CheckpointError(
            f"{path} cannot be read without executing it",
            got=_reason(error),
            expected="tensors only",
            do="where you trust the file, load it once in a program of your own and save its tensors as safetensors",
        ) from None


@contextmanager
def _only(classes: Sequence[type[Any]]) -> Iterator[None]:
    """Inside, the restricted unpickler builds these classes alone. Libraries allow others for the whole process when they are
    imported (megatron-core: paths, namespaces), and what is refused may not depend on that."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(classes))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _check_stored(path: Path) -> None:
    """Refuse packed members: torch stores them plain, and a few kilobytes could unpack to all of the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [member.filename for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, OSError):
        return  # torch says what is wrong
    if packed:
        raise CheckpointError(f"{path} has packed members", got=packed[0], expected="plain ones, as torch writes them")


def _reason(error: Exception) -> str:
    """The sentence of torch's message that names the object; before it stands advice to switch the check off."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line.partition("WeightsUnpickler error: ")[2] for line in lines if "WeightsUnpickler error: " in line]
    return (named or lines or [type(error).__name__])[0][:200]


class PickledFiles:
    """Tensors of pickled files by name, with the methods of `TensorFiles`.

    Mapped files stay open; of those that are read whole only the last is held.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[Path, dict[str, Tensor]] = OrderedDict()

    def keys(self, path: Path) -> list[str]:
        """Names of the tensors in a file; raises as `tensor`."""
        return list(self._file(path))

    def describe(self, path: Path, key: str) -> tuple[str, tuple[int, ...]]:
        """Element type (`F32`, `BF16`, ...; others by torch's name) and shape of one tensor."""
        tensor = self.tensor(path, key)
        return DTYPES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch.")), tuple(tensor.shape)

    def read_into(self, path: Path, key: str, part: tuple[slice, ...], out: Tensor) -> None:
        """Fill `out` (any device, strides and floating type) with one part of a tensor."""
        out.copy_(self.tensor(path, key)[part])

    def tensor(self, path: Path, key: str) -> Tensor:
        """One tensor as it is stored; of a mapped file only what is looked at is read.

        Raises:
            CheckpointError: the file has no such tensor, cannot be read, or holds more than dense tensors by name.
        """
        held = self._file(path)
        if key not in held:
            raise CheckpointError(f"{path} does not hold the tensor {key!r}", got=f"{len(held)} others")
        return held[key]

    def _file(self, path: Path) -> dict[str, Tensor]:
        if path not in self._open:
            if not zipfile.is_zipfile(path):
                for other in [other for other in self._open if not zipfile.is_zipfile(other)]:
                    del self._open[other]
            self._open[path] = _checked(load_pickled(path), path)
        return self._open[path]


def _checked(held: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(held, dict):
        raise CheckpointError(f"{path} holds no tensors by name", got=type(held).__name__, expected="a state dict")
    for name, tensor in held.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
            found = type(tensor).__name__ if not isinstance(tensor, Tensor) else f"{tensor.layout} {tensor.dtype}"
            raise CheckpointError(f"{path} holds more than weights", got=f"{name!r}: {found}", expected="dense tensors")
    return {str(name): tensor.detach() for name, tensor in held.items()}
