"""A chat completion endpoint on the loopback that answers well, or misbehaves as it is told."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Handler = BaseHTTPRequestHandler
SCORES = "Clear frames.\nvisual quality: 4; text-to-video alignment: 2, physical/common-sense consistency: 5"
Behaviour = Callable[[Handler, dict[str, Any]], None]  # answers one request, given its body


@dataclass
class Server:
    """A running endpoint: `plan` holds what it does to the next requests, after which it answers well."""

    base_url: str = ""
    plan: list[Behaviour] = field(default_factory=list)
    always: Behaviour | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, handler: Handler) -> None:
        """Answers one request."""
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self.lock:
            self.requests.append(body)
            self.headers.append(dict(handler.headers))
            behaviour = self.plan.pop(0) if self.plan else self.always or answer_well
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            behaviour(handler, body)
        finally:
            with self.lock:
                self.at_once -= 1


@contextmanager
def running_server() -> Iterator[Server]:
    """A server in threads of this process, on a free port."""
    state = Server()

    class Request(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            try:
                state.serve(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Request)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    state.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()


def send(handler: Handler, body: bytes | str, status: int = 200, **headers: str) -> None:
    """Sends a reply; header names are written with _ for -."""
    data = body.encode() if isinstance(body, str) else body
    handler.send_response(status)
    given = {"content_type": "application/json", "content_length": str(len(data))} | headers
    for name, value in given.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


def completion(content: str | None, finish: str = "stop", refusal: str | None = None, **more: Any) -> str:
    """The JSON of a chat completion."""
    message = {"role": "assistant", "content": content, "refusal": refusal}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    return json.dumps(head | {"choices": [choice], "usage": usage} | more)


def good_answer(body: dict[str, Any], score: int = 4) -> dict[str, Any]:
    """An answer of the form that a request asks for: every rating is `score`; no windows, no defects."""
    schema = body["response_format"]["json_schema"]["schema"]
    rating = {"reason": "as it is", "kind": "other", "score": score}
    if "patches" in schema["properties"]:
        patch = schema["$defs"]["Patch"]["properties"]
        aspects = {name: rating for name in patch if name != "patch"}
        return {"patches": [{"patch": number} | aspects for number in patch["patch"]["enum"]]}
    answer: dict[str, Any] = {"ratings": {name: rating for name in schema["$defs"]["Ratings"]["properties"]}}
    return answer | {name: [] for name in ("windows", "defects") if name in schema["properties"]}


def answer_well(handler: Handler, body: dict[str, Any]) -> None:
    """Ratings by the schema of the request; scores in words, as reward models give them, when it has none."""
    send(handler, completion(json.dumps(good_answer(body)) if "response_format" in body else SCORES))


def answer(change: Callable[[dict[str, Any]], Any]) -> Behaviour:
    """A good answer with a change; a text is sent as it is."""

    def behave(handler: Handler, body: dict[str, Any]) -> None:
        changed = change(good_answer(body))
        send(handler, completion(changed if isinstance(changed, str) else json.dumps(changed)))

    return behave


def status(code: int, body: str = '{"error": {"message": "out of order", "code": null}}', **headers: str) -> Behaviour:
    return lambda handler, _: send(handler, body, code, **headers)


def reply(body: bytes | str, **headers: str) -> Behaviour:
    return lambda handler, _: send(handler, body, **headers)


def hang(handler: Handler, body: dict[str, Any]) -> None:
    """Takes the request and says nothing."""
    time.sleep(1.2)


def promise_answer(handler: Handler, body: dict[str, Any]) -> bytes:
    """Sends the headers of a good answer; the bytes that should follow."""
    data = completion(json.dumps(good_answer(body)) if "response_format" in body else SCORES).encode()
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    return data


def drip(handler: Handler, body: dict[str, Any]) -> None:
    """One byte after the other, each within any read time-out."""
    data = promise_answer(handler, body)
    for byte in data[:12]:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.1)


def cut(handler: Handler, body: dict[str, Any]) -> None:
    """Promises more than it sends, and hangs up."""
    data = promise_answer(handler, body)
    handler.wfile.write(data[: len(data) // 2])
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def hang_up(handler: Handler, body: dict[str, Any]) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def garbage(handler: Handler, body: dict[str, Any]) -> None:
    handler.wfile.write(b"\x00\xff not HTTP at all\r\n\r\n")
    handler.close_connection = True


def flood(handler: Handler, body: dict[str, Any]) -> None:
    """A body that never ends."""
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("connection", "close")
    handler.end_headers()
    handler.close_connection = True
    for _ in range(1000):
        handler.wfile.write(b" " * 100_000)


GZIP_BOMB = b"\x1f\x8b" + b"\x00" * 50

# what a server does, whatever it is asked -> words of the failure
SERVER_FAULTS: dict[str, tuple[Behaviour, str]] = {
    "429": (status(429), "HTTP 429"),
    "429 with Retry-After": (status(429, retry_after="0.01"), "HTTP 429"),
    "429 with a senseless Retry-After": (status(429, retry_after="soon"), "HTTP 429"),
    "429 with Retry-After nan": (status(429, retry_after="nan"), "HTTP 429"),
    "500": (status(500), "HTTP 500: .*out of order"),
    "503 as a page": (status(503, "<html>" + "x" * 5000, content_type="text/html"), "HTTP 503"),
    "529": (status(529, ""), "HTTP 529"),
    "408": (status(408), "HTTP 408"),
    "hang": (hang, "no answer within 0.2 s"),
    "drip": (drip, "no answer within 0.2 s"),
    "cut": (cut, "the connection failed"),
    "hang up": (hang_up, "the connection failed"),
    "garbage": (garbage, "the connection failed"),
    "flood": (flood, "larger than 8000000 bytes"),
    "compressed": (reply(GZIP_BOMB, content_encoding="gzip"), "compressed"),
    "page": (reply("<html>Welcome</html>", content_type="text/html"), "no chat completion"),
    "empty body": (reply(""), "no chat completion"),
    "no UTF-8": (reply(b'{"choices": "\xff\xfe"}'), "no chat completion"),
    "null": (reply("null"), "no chat completion"),
    "a list": (reply("[1, 2]"), "no chat completion"),
    "an error with status 200": (reply('{"error": {"message": "overloaded"}}'), "no chat completion"),
    "choices null": (reply('{"choices": null}'), "no chat completion"),
    "no choice": (reply('{"choices": []}'), "no choice"),
    "content of another type": (reply('{"choices": [{"message": {"content": 5}}]}'), "no chat completion"),
    "an event stream": (reply("data: {}\n\n", content_type="text/event-stream"), "no chat completion"),
    "204": (status(204, ""), "no chat completion"),
}
