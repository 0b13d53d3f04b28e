"""Who is told of what: one entry of `notify:` in a cluster or chain file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from megabiomed.config.base import Section
from megabiomed.ground.errors import ConfigError
from megabiomed.ground.secrets import masked_by_form, remember

Event = Literal["give-up", "hang", "bad-node", "spike", "slow-rank", "run-done", "chain-done", "eta"]
EVENTS: tuple[Event, ...] = ("give-up", "hang", "bad-node", "spike", "slow-rank", "run-done", "chain-done", "eta")
_USUAL: tuple[Event, ...] = ("give-up", "hang", "bad-node", "spike", "run-done", "chain-done", "eta")
_ADDRESS = re.compile(r"[^\s@<>,;:\"]+@[^\s@<>,;:\"]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_AS_SECRET = "NOTIFY_SECRET"
_PLACES = re.compile(r"\{(event|title|text|run)\}")


def _address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise ValueError(f"{text!r} is not a mail address")
    return text


# Neither of these quotes what it got: somebody may have put the secret itself there.
def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError("what stands there is not a name of an environment variable")
    return name


def _secret_file(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("what stands there is not the absolute path of a file")
    return path


def _word(text: str) -> str:
    if masked_by_form(text) != text:
        raise ValueError("a word of the command holds a password, which records would keep: let it read a file")
    return text


Address = Annotated[str, AfterValidator(_address)]
Variable = Annotated[str, AfterValidator(_variable)]
SecretFile = Annotated[str, AfterValidator(_secret_file)]


class NotifyConfig(Section):
    """One receiver: a webhook, a command, or mail addresses."""

    webhook: Literal["slack", "teams", "ntfy", "json"] | None = None
    """Form of the JSON that is posted; `json` has every field of the message by name."""
    url_env: Variable | None = None
    """Environment variable with the webhook's URL; it must be set where the job is submitted."""
    url_file: SecretFile | None = None
    """Instead of it a file with the URL, which only you should be able to read."""
    command: list[Annotated[str, AfterValidator(_word)]] = Field(default_factory=list)
    """Words of a command; `{event}`, `{title}`, `{text}` and `{run}` are replaced, and the text is on its standard input."""
    mail: list[Address] = Field(default_factory=list)
    """Addresses."""
    sender: Address | None = None
    """From whom the mail comes; null leaves it to sendmail, or is the user at this host."""
    smtp: str | None = Field(None, pattern=r"^[A-Za-z0-9_.-]+(:[0-9]+)?$")
    """Mail server, `host` or `host:port`; null calls `sendmail`."""
    smtp_tls: bool = False
    """Whether to ask the mail server for TLS (STARTTLS)."""
    smtp_user: str | None = None
    """User at the mail server."""
    smtp_password_env: Variable | None = None
    """Environment variable with the password."""
    smtp_password_file: SecretFile | None = None
    """Instead of it a file with the password."""
    events: list[Event] = Field(default_factory=lambda: list(_USUAL))
    """Of what: give-up, hang, bad-node, spike (also losses that are not finite, and rewinds), slow-rank, run-done, chain-done,
    eta (the expected end slips)."""
    timeout_s: PositiveInt = 20
    """Seconds after which an attempt is given up."""

    @model_validator(mode="after")
    def _one_way(self) -> NotifyConfig:
        ways = [name for name in ("webhook", "command", "mail") if getattr(self, name)]
        if len(ways) != 1:
            raise ValueError(f"one receiver has exactly one of webhook, command and mail, not {ways or 'none'}")
        if self.webhook and (self.url_env is None) == (self.url_file is None):
            raise ValueError("a webhook needs either url_env or url_file; the URL itself must not stand in this file")
        if not self.webhook and (self.url_env or self.url_file):
            raise ValueError("url_env and url_file belong to a webhook")
        if self.smtp is None and (self.smtp_tls or self.smtp_user):
            raise ValueError("smtp_tls and smtp_user need smtp: the mail server")
        passwords = [value for value in (self.smtp_password_env, self.smtp_password_file) if value is not None]
        if len(passwords) != (self.smtp_user is not None):
            raise ValueError("smtp_user needs either smtp_password_env or smtp_password_file, and they need smtp_user")
        return self

    @property
    def name(self) -> str:
        """How records and messages call it, without anything secret."""
        if self.webhook:
            return f"{self.webhook} ({f'${self.url_env}' if self.url_env else self.url_file})"
        if self.command:
            return f"command {self.command[0]}"
        return f"mail to {', '.join(self.mail)}"

    @property
    def variables(self) -> Iterator[str]:
        """Environment variables that it needs."""
        yield from (name for name in (self.url_env, self.smtp_password_env) if name is not None)

    def url(self) -> str:
        """Where a webhook posts to.

        Raises:
            ConfigError: it is not there, or is no URL; the message does not quote it.
        """
        url = _secret(self.url_env, self.url_file)
        if not re.fullmatch(r"https?://[^\s/@]+(@[^\s/@]+)?(/[!-~]*)?", url):
            raise ConfigError(f"{self.name} is not a URL", expected="https://HOST/PATH without spaces")
        parts = urlsplit(url)
        remember(f"{parts.path}?{parts.query}".strip("/?"), _AS_SECRET)  # libraries quote it without its host
        return url

    def password(self) -> str:
        """Of the user at the mail server.

        Raises:
            ConfigError: it is not there.
        """
        return _secret(self.smtp_password_env, self.smtp_password_file)

    def filled(self, values: dict[str, str]) -> list[str]:
        """The words of the command with the places in them replaced."""
        words = []
        for word in self.command:
            # One pass: a text that holds `{run}` by itself stays as it is.
            words.append(_PLACES.sub(lambda found: values[found[1]], word))
        return words


def unusable(receivers: list[NotifyConfig]) -> Iterator[ConfigError]:
    """What a receiver lacks here, before anything is submitted."""
    for receiver in receivers:
        try:
            if receiver.webhook:
                receiver.url()
            elif receiver.smtp_user is not None:
                receiver.password()
        except ConfigError as error:
            yield error


def _secret(variable: str | None, file: str | None) -> str:
    """A value that no configuration may hold; from now on it is masked wherever this process prints."""
    if variable is not None:
        value = os.environ.get(variable, "").strip()
        if not value:
            raise ConfigError(f"notify: {variable} is not set", do="export it, then submit again")
    else:
        assert file is not None
        try:
            value = Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"notify: {file} cannot be read", got=getattr(error, "strerror", error)) from None
        if not value:
            raise ConfigError(f"notify: {file} is empty")
    remember(value, _AS_SECRET)
    return value
