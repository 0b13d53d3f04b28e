"""Sends one message to one receiver, with the standard library alone: webhook, command, mail."""

from __future__ import annotations

import base64
import http.client
import json
import os
import smtplib
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from enum import StrEnum
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from megabiomed.config.notify import NotifyConfig
from megabiomed.ground.errors import ConfigError
from megabiomed.ground.secrets import masked

_AGAIN = (408, 425, 429)
"""Answers below 500 after which the same request may go well."""
_SAID = 200
"""Characters of an answer that are kept."""


class Outcome(StrEnum):
    """What became of an attempt."""

    SENT = "sent"
    AWAY = "away"  # it certainly did not arrive, and may do so later
    REFUSED = "refused"  # nor will it later
    UNCLEAR = "unclear"  # it may have arrived: sent again, it could be there twice


@dataclass(frozen=True)
class Message:
    """What is told.

    Attributes:
        key: unlike that of any other message of the run; the same after a requeue.
        event: its kind, as `NotifyConfig.events` has it.
        title: one line.
        text: some lines.
        details: fields for programs.
    """

    key: str
    event: str
    title: str
    text: str
    run: str
    details: dict[str, Any]

    @property
    def full(self) -> str:
        """Title and text."""
        return f"{self.title}\n{self.text}"


def send(receiver: NotifyConfig, message: Message) -> tuple[Outcome, str]:
    """One attempt; returns what became of it and what the receiver said, masked. Raises nothing that a receiver can cause."""
    way: Callable[[NotifyConfig, Message], tuple[Outcome, str]]
    way = _post if receiver.webhook else _run if receiver.command else _mail
    try:
        outcome, said = way(receiver, message)
    except ConfigError as error:
        outcome, said = Outcome.AWAY, str(error)  # a variable or file that may be there at the next start
    except Exception as error:  # a port above 65535, say: whatever it is, no job may fail for it
        outcome, said = Outcome.REFUSED, type(error).__name__
    return outcome, masked(" ".join(said.split()))[:_SAID]


def body(form: str, message: Message, url: str = "") -> dict[str, Any]:
    """The JSON that a webhook takes.

    `slack`: incoming webhooks of Slack, also of Mattermost. `teams`: an adaptive card, which workflows and incoming webhooks
    of Teams take. `ntfy`: what ntfy takes at the root of its server, with the topic in it.
    """
    if form == "slack":
        # The three characters that Slack's own markup uses.
        text = message.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return {"text": f"*{message.title}*\n{text}"}
    if form == "teams":
        lines = [{"type": "TextBlock", "text": message.title, "weight": "Bolder", "wrap": True}]
        lines += [{"type": "TextBlock", "text": line, "wrap": True} for line in message.text.splitlines()]
        card = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
        }
        content = {"contentType": "application/vnd.microsoft.card.adaptive", "content": {**card, "body": lines}}
        return {"type": "message", "attachments": [content]}
    if form == "ntfy":
        topic = urlsplit(url).path.rstrip("/").rpartition("/")[2]
        urgent = {"give-up": 5, "hang": 4, "bad-node": 4}
        return {
            "topic": topic, "title": message.title, "message": message.text, "priority": urgent.get(message.event, 3),
            "tags": [message.event],
        }  # fmt: skip
    return {
        "event": message.event, "title": message.title, "text": message.text, "run": message.run, "key": message.key,
        **message.details,
    }  # fmt: skip


class _NoRedirect(HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its body, perhaps at another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(receiver: NotifyConfig, message: Message) -> tuple[Outcome, str]:
    assert receiver.webhook is not None
    url = receiver.url()
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    path = parts.path.rstrip("/").rpartition("/")[0] + "/" if receiver.webhook == "ntfy" else parts.path
    data = json.dumps(body(receiver.webhook, message, url)).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "megabiomed"}
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(unquote(user).encode()).decode()
    request = Request(urlunsplit((parts.scheme, host, path, parts.query, "")), data, headers, method="POST")
    try:
        with build_opener(_NoRedirect).open(request, timeout=receiver.timeout_s) as answer:
            return Outcome.SENT, f"HTTP {answer.status}: {_start(answer)}"
    except HTTPError as error:
        again = error.code >= 500 or error.code in _AGAIN
        return (Outcome.AWAY if again else Outcome.REFUSED), f"HTTP {error.code}: {_start(error)}"
    # urllib wraps what went wrong before the request was sent; a lost answer comes as it is.
    except URLError as error:
        return Outcome.AWAY, f"no connection: {_why(error.reason)}"
    except (OSError, http.client.HTTPException) as error:
        return Outcome.UNCLEAR, f"no answer: {_why(error)}"


def _start(answer: Any) -> str:
    try:
        return str(answer.read(4 * _SAID).decode(errors="replace"))
    except (OSError, http.client.HTTPException):
        return ""  # the status has said it


def _why(error: object) -> str:
    """In the words of the system, without addresses that a library may quote."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__ if isinstance(error, Exception) else str(error)


def _run(receiver: NotifyConfig, message: Message) -> tuple[Outcome, str]:
    values = {"event": message.event, "title": message.title, "text": message.text, "run": message.run}
    return _called(receiver.filled(values), message.full, receiver.timeout_s)


def _called(words: list[str], text: str, timeout_s: float) -> tuple[Outcome, str]:
    try:
        done = subprocess.run(
            words, input=text, capture_output=True, text=True, errors="replace", timeout=timeout_s, start_new_session=True
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Outcome.UNCLEAR, f"{words[0]} did not end within {timeout_s:g} s"
    except (OSError, ValueError) as error:
        return Outcome.AWAY, f"{words[0]} cannot be run: {_why(error)}"
    said = f"exit code {done.returncode}: {done.stdout} {done.stderr}"
    return (Outcome.AWAY if done.returncode else Outcome.SENT), said


def _mail(receiver: NotifyConfig, message: Message) -> tuple[Outcome, str]:
    letter = EmailMessage()
    letter["Subject"] = " ".join(message.title.split())
    letter["To"] = ", ".join(receiver.mail)
    letter["From"] = sender = receiver.sender or f"{os.environ.get('USER', 'megabiomed')}@{socket.getfqdn()}"
    # The same after a requeue: mail servers and readers know a copy by it.
    letter["Message-ID"] = f"<{message.key}@megabiomed>"
    letter["Auto-Submitted"] = "auto-generated"
    letter.set_content(message.text + "\n")
    if receiver.smtp is None:
        words = ["sendmail", "-i", "-t", *(["-f", receiver.sender] if receiver.sender else [])]
        return _called(words, letter.as_string(), receiver.timeout_s)
    host, _, port = receiver.smtp.partition(":")
    try:
        server = smtplib.SMTP(host, int(port or (587 if receiver.smtp_user else 25)), timeout=receiver.timeout_s)
    except (OSError, smtplib.SMTPException) as error:
        return Outcome.AWAY, f"no connection: {_why(error)}"
    try:
        return _handed_over(server, receiver, letter, sender)
    finally:
        server.close()


def _handed_over(
    server: smtplib.SMTP, receiver: NotifyConfig, letter: EmailMessage, sender: str
) -> tuple[Outcome, str]:
    import ssl

    begun = False
    try:
        if receiver.smtp_tls:
            server.starttls(context=ssl.create_default_context())
        if receiver.smtp_user is not None:
            server.login(receiver.smtp_user, receiver.password())
        begun = True
        lost = server.send_message(letter, sender, receiver.mail)
        with suppress(OSError, smtplib.SMTPException):
            server.quit()
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        later = any(code < 500 for code in codes)
        return (Outcome.AWAY if later else Outcome.REFUSED), f"no address was taken: {min(codes)}"
    except smtplib.SMTPResponseException as error:
        said = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        return (Outcome.AWAY if error.smtp_code < 500 else Outcome.REFUSED), f"SMTP {error.smtp_code}: {said}"
    except (OSError, smtplib.SMTPException) as error:
        return (Outcome.UNCLEAR if begun else Outcome.AWAY), f"no answer: {_why(error)}"
    return Outcome.SENT, f"taken by {receiver.smtp}" + (f", but not for {', '.join(lost)}" if lost else "")
