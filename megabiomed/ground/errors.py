"""The exceptions that megabiomed raises. One rule for every message: what happened, got, expected, do.

`UserError` and its children mean "your input": the command prints the message without a traceback and exits 2.
Everything else is a fault of the run or of the program and exits 1 with the traceback.
"""

from __future__ import annotations


class MegabiomedError(Exception):
    """Base of all errors of this package.

    Args:
        what: one sentence, what happened.
        got: the value that was found.
        expected: the value, range or kind that would have been right.
        do: the next action for the reader, naming the key, flag or command.
    """

    exit_code = 1

    def __init__(self, what: str, *, got: object = None, expected: object = None, do: str | None = None) -> None:
        self.what = what
        self.got = got
        self.expected = expected
        self.do = do
        parts = [f"got {got}"] if got is not None else []
        parts += [f"expected {expected}"] if expected is not None else []
        detail = ", ".join(parts)
        super().__init__("".join([what, f": {detail}" if detail else "", f"; {do}" if do else ""]))

    def __reduce__(self) -> tuple[object, ...]:
        # The default rebuilds an exception from its message alone, which would lose the parts between processes.
        return (_rebuild, (type(self), self.what, self.got, self.expected, self.do))


def _rebuild(cls: type[MegabiomedError], what: str, got: object, expected: object, do: str | None) -> MegabiomedError:
    return cls(what, got=got, expected=expected, do=do)


class UserError(MegabiomedError):
    """The input was wrong; the message says what to change."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration file or override is wrong."""


class TopologyError(ConfigError):
    """The parallel layout asked for cannot be built or is not exact; the message gives the nearest legal one."""


class FileError(UserError):
    """A file or folder cannot be read or written, is damaged, or names a file outside of itself."""


class DataError(UserError):
    """A corpus, record or token store is missing, empty or damaged."""


class TokenizerError(DataError):
    """The tokenizer is missing or does not fit the model or the token store."""


class CheckpointError(UserError):
    """A checkpoint is missing, incomplete, damaged or of another model."""


class SaveError(CheckpointError):
    """A checkpoint could not be saved while the run was going on; the ones before it are as they were.

    Attributes:
        passing: whether the storage refused, which may go well on another try; the same on every rank.
    """

    exit_code = 1
    passing = False


class LaunchError(UserError):
    """The run cannot be started as asked on this machine or cluster."""


class WorkerError(MegabiomedError):
    """A worker process died; the message carries the first worker's own error."""


class RendezvousError(WorkerError):
    """The ranks of a start did not meet; nothing had begun."""


class CorruptionError(MegabiomedError):
    """Ranks that must hold the same do not, or memory is not what was put into it.

    Attributes:
        nodes: those that are known to be at fault, which the launcher leaves out of the next start.
    """

    nodes: tuple[str, ...] = ()


class NonFiniteError(MegabiomedError):
    """Loss or gradient norm is NaN or infinite."""


class SpikeError(MegabiomedError):
    """Loss or gradient norm is far above those of the steps before."""
