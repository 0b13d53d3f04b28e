"""What a damaged file does to the code that reads it, as one kind of error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megabiomed.ground.errors import DataError

_SIGNS = (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError, RecursionError)


@contextmanager
def reading(file: Path, do: str) -> Iterator[None]:
    """Around code that only takes values out of a file that this program wrote: a missing key or another type is damage.

    Args:
        do: the next action, for the message.

    Raises:
        DataError: instead of the errors that Python has for such values.
    """
    try:
        yield
    except _SIGNS as error:
        got = f"{type(error).__name__}: {error}"[:200]
        raise DataError(f"{file} is damaged", got=got, do=do) from None
