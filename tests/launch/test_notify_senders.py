"""Receivers of notifications: what each is sent, and what its answer means."""

from __future__ import annotations

import os
import socketserver
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.receivers import TEST, TOKEN, Mail, Web, hook
from support.scheduling import program

from megabiomed.config.notify import NotifyConfig
from megabiomed.launch.notify.senders import Outcome, body, send


@pytest.mark.parametrize(
    ("kind", "outcome", "says"),
    [
        ("ok", Outcome.SENT, "HTTP 200: ok"),
        ("busy", Outcome.AWAY, "HTTP 503"),
        ("gone", Outcome.REFUSED, "HTTP 404"),
        ("moved", Outcome.REFUSED, "HTTP 302"),
        ("slow", Outcome.UNCLEAR, "no answer: timed out"),
        ("drop", Outcome.UNCLEAR, "no answer"),
        ("away", Outcome.AWAY, "no connection: Connection refused"),
    ],
)
def test_an_answer_says_whether_the_message_arrived_or_may_be_sent_again(
    web: Web, monkeypatch: pytest.MonkeyPatch, kind: str, outcome: Outcome, says: str
) -> None:
    base = "http://127.0.0.1:1" if kind == "away" else web.url
    monkeypatch.setenv("HOOK", f"{base}/{kind}/{TOKEN}")
    found, said = send(hook(), TEST)
    assert found == outcome
    assert said.startswith(says)
    assert "Secret" not in said


def test_each_form_is_the_json_that_its_service_takes(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    assert body("slack", TEST) == {"text": "*demo: hung*\nrank 3 &amp; &lt;n2&gt; hung\nrun: /r"}
    (card,) = body("teams", TEST)["attachments"]
    assert card["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert [block["text"] for block in card["content"]["body"]] == ["demo: hung", "rank 3 & <n2> hung", "run: /r"]
    assert body("json", TEST)["key"] == "k1"
    monkeypatch.setenv("HOOK", web.url.replace("//", "//me:pass@") + "/base/my-topic")
    assert send(hook(webhook="ntfy"), TEST)[0] == Outcome.SENT
    ((path, headers, held),) = web.posts
    assert path == "/base/"
    assert (held["topic"], held["title"], held["priority"]) == ("my-topic", "demo: hung", 4)
    assert headers["Authorization"] == "Basic bWU6cGFzcw=="


def test_a_command_gets_the_text_and_its_failure_is_no_delivery(tmp_path: Path) -> None:
    program(tmp_path, "page", f'cat > {tmp_path}/text; printf "%s|" "$@" > {tmp_path}/words; exit ${{CODE:-0}}')
    told = NotifyConfig(command=[f"{tmp_path}/page", "{event}", "{title}", "a {run}"])
    assert send(told, TEST)[0] == Outcome.SENT
    assert (tmp_path / "text").read_text() == TEST.full
    assert (tmp_path / "words").read_text() == "hang|demo: hung|a /r|"
    program(tmp_path, "page", "echo no pager >&2; exit 3")
    assert send(told, TEST) == (Outcome.AWAY, "exit code 3: no pager")
    program(tmp_path, "page", "exec sleep 60")
    assert send(told.model_copy(update={"timeout_s": 1}), TEST)[0] == Outcome.UNCLEAR
    assert send(NotifyConfig(command=["/nowhere/page"]), TEST)[0] == Outcome.AWAY


def test_mail_goes_through_a_server_or_sendmail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"

        def to(name: str) -> tuple[Outcome, str]:
            return send(NotifyConfig(mail=[name], smtp=address, sender="megabiomed@x.org", timeout_s=5), TEST)

        assert to("ops@x.org") == (Outcome.SENT, f"taken by {address}")
        assert "Subject: demo: hung" in Mail.letters[0]
        assert "Message-ID: <k1@megabiomed>" in Mail.letters[0]
        assert to("no@x.org")[0] == Outcome.REFUSED
        assert to("later@x.org")[0] == Outcome.AWAY
        assert to("mute@x.org")[0] == Outcome.UNCLEAR
        server.shutdown()
    assert to("ops@x.org") == (Outcome.AWAY, "no connection: Connection refused")
    program(tmp_path, "sendmail", f'echo "$@" > {tmp_path}/words; cat > {tmp_path}/letter')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert send(NotifyConfig(mail=["ops@x.org"]), TEST)[0] == Outcome.SENT
    assert (tmp_path / "words").read_text().split() == ["-i", "-t"]
    assert "To: ops@x.org" in (tmp_path / "letter").read_text()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"webhook": "slack", "url_env": f"https://h/{TOKEN}"}, "not a name of an environment variable"),
        ({"webhook": "slack", "url_file": f"https://h/{TOKEN}"}, "not the absolute path"),
        ({"webhook": "slack"}, "needs either url_env or url_file"),
        ({"webhook": "slack", "url_env": "A", "mail": ["a@b"]}, "exactly one of"),
        ({"mail": ["nobody"]}, "is not a mail address"),
        ({"mail": ["a@b"], "smtp": "h", "smtp_user": "me"}, "needs either smtp_password_env"),
        ({"command": ["curl", f"https://me:{TOKEN}@h"]}, "holds a password"),
        ({"command": ["x"], "events": ["hangs"]}, "give-up"),
    ],
)
def test_a_wrong_receiver_is_refused_without_quoting_what_may_be_a_secret(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says) as caught:
        NotifyConfig(**values)
    assert TOKEN not in "".join(str(error["msg"]) for error in caught.value.errors())
