"""The server over HTTP: what it serves, what it refuses, and what a kill leaves."""

from __future__ import annotations

import http.client
import json
import select
import signal
import socket
import threading
import urllib.error
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from halovid.labelling.database import LabelDatabase, Settings
from halovid.labelling.material import load_material
from halovid.labelling.server import build_app
from halovid.labelling.service import Labelling
from people_run import Server, good_scores, make_run, serving

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def client(open_labelling: Callable[..., Labelling], tmp_path: Path) -> Iterator[TestClient]:
    app = build_app(open_labelling(f"sqlite:///{tmp_path}/labels.sqlite"))
    with TestClient(app, base_url="http://127.0.0.1:8765") as client:
        yield client


def first_task(client: TestClient) -> tuple[int, dict[str, Any]]:
    annotator = client.post("/api/join", json={"name": "Ann"}).json()["annotator"]
    return annotator, client.post("/api/next", json={"annotator": annotator, "mode": "rate"}).json()["task"]


def test_clips_come_by_ranges(client: TestClient) -> None:
    _, task = first_task(client)
    url = task["clips"][0]["url"]
    whole = client.get(url)
    assert whole.headers["content-type"] == "video/mp4" and whole.content[4:8] == b"ftyp"
    part = client.get(url, headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert part.headers["content-range"] == f"bytes 4-7/{len(whole.content)}"


def test_pictures_come_as_pictures(sqlite: LabelDatabase, settings: Settings, tmp_path: Path) -> None:
    material = load_material(make_run(tmp_path / "run", num_frames=1), "generate", seed=0)
    sqlite.fix_settings(settings)
    with TestClient(build_app(Labelling(sqlite, material, settings)), base_url="http://127.0.0.1:8765") as client:
        _, task = first_task(client)
        assert task["clips"][0]["is_picture"] and task["clips"][0]["num_frames"] == 1
        shown = client.get(task["clips"][0]["url"])
    assert shown.headers["content-type"] == "image/png" and shown.content.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "path",
    [
        "/clips/../label/label.js",
        "/label/..%2f..%2freport.js",
        "/label/",
        "/clips/..%2f..%2f..%2fetc%2fpasswd",
        "/clips/%2e%2e/%2e%2e/etc/passwd",
        "/clips/p0-00",
        "/clips/",
        "/label.html.j2",
        "/label.py",
        "/label/label.js%00",
        "/templates/report.js",
        "/docs",
        "/openapi.json",
    ],
)
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    connection = client.get(path)
    assert connection.status_code in (200, 404, 405)
    assert connection.status_code != 200 or path == "/clips/../label/label.js"  # which is /label/label.js


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "192.168.0.7:8765", ""]
)
def test_other_hosts_are_refused(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "localhost"])
def test_own_hosts_are_served(client: TestClient, host: str) -> None:
    response = client.get("/", headers={"Host": host})
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "http" not in response.text.replace("http-equiv", "")  # nothing from outside


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_sites_can_neither_write_nor_embed(client: TestClient, headers: dict[str, str]) -> None:
    _, task = first_task(client)
    assert client.post("/api/join", json={"name": "Eve"}, headers=headers).status_code == 403
    assert client.get(task["clips"][0]["url"], headers=headers).status_code == 403


def test_a_form_of_another_site_is_no_request(client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        response = client.post("/api/join", content='{"name": "Eve"}', headers={"Content-Type": kind})
        assert response.status_code == 415


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        '{"name": 3}',
        '{"name": NaN}',
        '{"name": "a", "more": 1}',
        '{"name": "\\ud800"}',
        '{"name": "\\u0000"}',
        '{"name": ""}',
        json.dumps({"name": "x" * 5000}),
    ],
)
def test_bodies_of_every_other_kind_give_one_sentence(client: TestClient, body: str) -> None:
    response = client.post("/api/join", content=body.encode(), headers=JSON)
    assert response.status_code == 422
    assert isinstance(response.json()["detail"], str)


def test_bodies_that_are_too_large_or_of_unknown_length_are_refused(client: TestClient) -> None:
    assert client.post("/api/join", content=b" " * (2**20 + 1), headers=JSON).status_code == 413
    assert client.post("/api/join", content=iter([b"{}"]), headers=JSON).status_code == 411


def test_a_length_that_is_told_beside_chunks_bounds_nothing_and_is_refused(tmp_path: Path) -> None:
    head = "POST /api/join HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%s\r\n" % (2**16, b" " * 2**16)
    with serving(make_run(tmp_path / "run")) as server, socket.create_connection(("127.0.0.1", server.port)) as peer:
        peer.settimeout(30)
        peer.sendall(head.encode())
        bytes_sent = 0
        with suppress(ConnectionError):
            while bytes_sent < 2**26:
                peer.sendall(chunk)
                bytes_sent += len(chunk)
                if select.select([peer], [], [], 0)[0]:
                    break  # it has answered
        assert peer.recv(2**16).startswith(b"HTTP/1.1 411 ")
        assert bytes_sent < 2**24  # what buffers on the way hold
        with suppress(ConnectionError):
            while peer.recv(2**16):
                pass  # until the server closes: it does not wait for the rest
        assert server.ask("/api/join", name="Ann")["name"] == "Ann"


def test_a_save_that_is_sent_twice_counts_once_and_a_stale_one_is_told(client: TestClient) -> None:
    annotator, task = first_task(client)
    save = {"annotator": annotator, "item": task["item"], "state": "done", "content": {"scores": good_scores()}}
    save |= {"base": 0, "save_id": uuid.uuid4().hex}
    answers = [client.post("/api/save", json=save) for _ in range(2)]
    assert [answer.json()["revision"] for answer in answers] == [1, 1]
    assert answers[1].json()["progress"]["done"] == 1
    stale = client.post("/api/save", json=save | {"save_id": uuid.uuid4().hex, "content": {}, "state": "open"})
    assert stale.status_code == 409
    assert stale.json()["task"]["content"]["scores"] == good_scores()


def test_a_prompt_is_data_only(client: TestClient) -> None:
    assert "onerror" not in client.get("/").text  # prompts come as JSON, which the page shows as text
    _, task = first_task(client)
    assert client.post("/api/next", json={"annotator": 1, "mode": "rate"}).headers["content-type"] == "application/json"
    assert isinstance(task["prompt"], str)


def test_nothing_that_was_acknowledged_is_lost_by_a_kill(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", prompts=3)
    acknowledged: dict[str, dict[str, Any]] = {}

    def work(server: Server, name: str) -> None:
        annotator = server.ask("/api/join", name=name)["annotator"]
        task = server.ask("/api/next", annotator=annotator, mode="rate")["task"]
        revision, number = task["revision"], 0
        try:
            while True:
                number += 1
                content = {"scores": good_scores(1 + number % 5), "marks": []}
                common = {"annotator": annotator, "item": task["item"], "state": "open", "content": content}
                revision = server.ask("/api/save", **common, base=revision, save_id=uuid.uuid4().hex)["revision"]
                acknowledged[name] = {"item": task["item"], "revision": revision, "scores": content["scores"]}
        except (OSError, http.client.HTTPException):
            return  # the server is gone

    server = Server(run_dir, "--grid", "2x2x3")
    threads = [threading.Thread(target=work, args=(server, name)) for name in ("Ann", "Bob", "Cy")]
    for thread in threads:
        thread.start()
    while sum(entry["revision"] for entry in list(acknowledged.values())) < 30 or len(acknowledged) < 3:
        assert server.process.poll() is None
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    for thread in threads:
        thread.join(timeout=30)
    with serving(run_dir) as again:
        for name, saved in acknowledged.items():
            annotator = again.ask("/api/join", name=name)["annotator"]
            task = again.ask("/api/next", annotator=annotator, mode="rate")["task"]
            assert task["item"] == saved["item"]
            assert task["revision"] in (saved["revision"], saved["revision"] + 1)  # a save may have missed its answer
            if task["revision"] == saved["revision"]:
                assert task["content"]["scores"] == saved["scores"]


def test_two_servers_of_one_run_work_together(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    with serving(run_dir) as one, serving(run_dir) as two:
        annotator = one.ask("/api/join", name="Ann")["annotator"]
        assert two.ask("/api/join", name="Ann")["annotator"] == annotator
        task = one.ask("/api/next", annotator=annotator, mode="rate")["task"]
        assert two.ask("/api/next", annotator=annotator, mode="rate")["task"]["item"] == task["item"]
        save = {"annotator": annotator, "item": task["item"], "state": "open", "content": {"scores": {}}}
        one.ask("/api/save", **save, base=0, save_id=uuid.uuid4().hex)
        with pytest.raises(urllib.error.HTTPError, match="409"):
            two.ask("/api/save", **save, base=0, save_id=uuid.uuid4().hex)
