"""What takes notifications in the tests: an HTTP and a mail server on this machine, and a message."""

from __future__ import annotations

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from megabiomed.config.notify import NotifyConfig
from megabiomed.launch.notify.senders import Message

TEST = Message("k1", "hang", "demo: hung", "rank 3 & <n2> hung\nrun: /r", "/r", {"time": "2026-01-01T00:00:00+00:00"})
TOKEN = "T0Secret/B0Secret/abcDEF123"


class Web:
    """A server that answers as the first part of the path says, and keeps what it was sent."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, dict[str, str], Any]] = []
        self.open = threading.Event()  # until then `slow` answers nothing
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                held = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                web.posts.append((self.path, dict(self.headers), held))
                kind = self.path.split("/")[1]
                if kind == "slow":
                    web.open.wait(20)
                if kind == "drop":
                    self.close_connection = True
                    return
                self.send_response({"busy": 503, "gone": 404, "moved": 302}.get(kind, 200))
                self.send_header("Location", "/ok")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that did not wait
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


def hook(**values: Any) -> NotifyConfig:
    return NotifyConfig(**{"webhook": "json", "url_env": "HOOK", "timeout_s": 1, **values})


class Mail(socketserver.StreamRequestHandler):
    """A mail server that refuses `no@`, takes `later@` later, and answers nothing to a letter for `mute@`."""

    letters: ClassVar[list[str]] = []

    def handle(self) -> None:
        say = lambda line: self.wfile.write(line.encode() + b"\r\n")  # noqa: E731
        say("220 here")
        to = ""
        while line := self.rfile.readline().decode().strip():
            word = line.upper()
            if word.startswith("RCPT"):
                to = line
                say("550 unknown" if "no@" in to else "451 later" if "later@" in to else "250 ok")
            elif word == "DATA":
                say("354 go on")
                text = []
                while (part := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                    text.append(part)
                self.letters.append("\n".join(text))
                if "mute@" in to:
                    return
                say("250 taken")
            elif word == "QUIT":
                say("221 bye")
                return
            else:
                say("250 ok")
