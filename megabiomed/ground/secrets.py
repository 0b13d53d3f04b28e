"""Credentials in URIs, variables and messages: found by form or value, and masked where a text is shown or stored."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast
from urllib.parse import unquote

MASK = "***"
# The second form reaches further after a colon: the address of a database may hold a slash in its password.
# The last form: a URI that was taken for a path has lost a slash.
_USER = re.compile(
    r"(?<=://)(?:[^\s/?#\"'<>]{1,2048}|[^\s:/?#\"'<>]{0,256}:[^\s\"'<>]{0,256})@"
    r"|(?<=:/)[^\s:/?#\"'<>]{1,256}:[^\s/?#\"'<>]{1,256}@"
)
_NAME = (
    r"[a-z0-9_.-]*(?:passw(?:or)?d|passphrase|secret|credential)[a-z0-9_.-]*"
    r"|[a-z0-9_.-]*(?:token|key|jwt)|[a-z0-9_.-]*[_.-](?:pwd|pass|pat|auth)"
)
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
# Settings of communication libraries; NCCL_IB_PKEY, say, is the number of a partition.
_SETTINGS = ("CUDA_", "FI_", "GLOO_", "NCCL_", "OMPI_", "TORCH_", "UCX_")
_PARAMETER = re.compile(rf"((?<=[?&;#])(?:{_NAME}|pwd|sig|[a-z-]*signature)=)[^\s&;#\"'<>]+", re.IGNORECASE)
# Only names in capitals: `pad_token=0` of a command line is no variable.
_VARIABLE = re.compile(
    rf"(\b(?!{'|'.join(_SETTINGS)})[A-Z0-9_]*"
    r"(?:(?:PASSW(?:OR)?D|SECRET|CREDENTIAL)[A-Z0-9_]*|TOKEN|KEY|JWT|_PWD|_PASS|_AUTH)"
    r"[\"']?(?:=|: ?)[\"']?)[^\s\"']+"
)
_HEADER = re.compile(r"(authorization[\"']?\s*[:=]\s*[\"']?(?:basic|bearer)\s+)[^\s\"']+", re.IGNORECASE)
_FORMS = (_PARAMETER, _VARIABLE, _HEADER)
_SHORTEST, _WORD = 6, re.compile(r"[a-z]+|[0-9]+")
_known: set[str] = set()


def masked(text: str) -> str:
    """A text for a screen or a file: `masked_by_form`, and `***` for every value that `remember` noted."""
    return hidden(masked_by_form(text))


def masked_by_form(text: str) -> str:
    """A text with `***` for user and password of each URI, and for values of parameters, variables and headers of such names.

    The same in every process, and so fit to be compared; masking twice changes nothing.
    """
    if ":/" in text and "@" in text:
        text = _USER.sub(f"{MASK}@", text)
    for form in _FORMS:
        text = form.sub(rf"\g<1>{MASK}", text)
    return text


def hidden(text: str) -> str:
    """A text with `***` for the values that `remember` noted, and nothing else changed: data may look like credentials."""
    for value in sorted(_known, key=len, reverse=True):
        if value in text:
            text = text.replace(value, MASK)
    return text


def masked_values(values: Any) -> Any:
    """Mappings and lists with every text in them masked; keys stay."""
    if isinstance(values, dict):
        return {key: masked_values(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [masked_values(value) for value in values]
    return masked(values) if isinstance(values, str) else values


def is_secret(name: str, value: str) -> bool:
    """Whether a variable holds credentials, as its name or a URI in its value says."""
    return bool(value) and (_is_secret_name(name) or masked_by_form(value) != value)


def _is_secret_name(name: str) -> bool:
    return _SECRET_NAME.fullmatch(name) is not None and not name.startswith(_SETTINGS)


def masked_variables(values: dict[str, str]) -> dict[str, str]:
    """Variables with `***` for the values of those that hold credentials."""
    return {name: MASK if is_secret(name, value) else value for name, value in values.items()}


def remember(text: str, name: str = "") -> None:
    """Note the credentials in a text, so that `masked` finds them without their form, too.

    A library's message may quote a password alone, or decoded. Short ones and plain words are not noted: they would be masked
    in the middle of harmless text.

    Args:
        name: of the variable whose value the text is; the whole of it is noted where the name says that it is a credential.
    """
    whole = [text] if _is_secret_name(name) and not text.startswith("/") else []  # the path of a key file is none
    for value in (*whole, *_inside(text)):
        for form in {value, unquote(value)}:
            if len(form) >= _SHORTEST and form != MASK and not _WORD.fullmatch(form):
                _known.add(form)


def _inside(text: str) -> Iterator[str]:
    for found in _USER.finditer(text):
        user, _, password = found[0][:-1].partition(":")
        yield password or user
    for form in _FORMS:
        yield from (found[0].removeprefix(found[1]) for found in form.finditer(text))


class _Hiding:
    """A stream that hides remembered credentials in what is written to it, whoever writes: libraries warn and log, too."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(hidden(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_process() -> None:
    """Remember the credentials in this process's environment and command line, and hide them in all that it prints."""
    for name, value in os.environ.items():
        remember(value, name)
    for word in sys.argv:
        remember(word)
    if not isinstance(sys.stdout, _Hiding):
        sys.stdout, sys.stderr = cast(TextIO, _Hiding(sys.stdout)), cast(TextIO, _Hiding(sys.stderr))
