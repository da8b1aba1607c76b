"""Reward models behind a server, over HTTP against a local one that also misbehaves."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from halovid.config.reward import ServerConfig
from halovid.rewards.released import UnscoredError
from halovid.rewards.released.served import FAMILIES, ServedReward, read_scores
from halovid.store.errors import InputError

GOOD = {
    "videoscore2": "Clear frames.\nvisual quality: 4; text-to-video alignment: 2, physical/common-sense consistency: 5",
    "unifiedreward": "Alignment Score (1-5): 4\nPhysics Score (1-5): 2.5\nStyle Score (1-5): 5",
}


class Server(ThreadingHTTPServer):
    """Answers with `answers` in turn, the last one for ever: a text, or a status code. Keeps what it was asked."""

    answers: list[Any]
    asked: list[dict[str, Any]]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(request | {"key": self.headers["authorization"], "path": self.path})
        answer = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        if isinstance(answer, int):
            self.send_response(answer)
            body = b'{"error": {"message": "no"}}'
        else:
            self.send_response(200)
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}}
            body = json.dumps(
                {"id": "x", "object": "chat.completion", "created": 0, "model": "m"} | {"choices": [choice]}
            ).encode()
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.answers, running.asked = [], []
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def make_reward(server: Server, family: str = "videoscore2", **changes: Any) -> ServedReward:
    url = f"http://127.0.0.1:{server.server_port}/v1"
    return ServedReward(ServerConfig(family=family, model="m", base_url=url, **changes))  # type: ignore[arg-type]


def make_video() -> torch.Tensor:
    return torch.rand(3, 16, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("family", list(FAMILIES))
def test_frames_and_question_go_out_and_scores_come_back(
    family: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.answers = [GOOD[family]]
    reward = make_reward(server, family)
    score = reward.score(make_video(), 8.0, "a {prompt} of a cat")
    assert list(score.scores.values()) == ([4, 2, 5] if family == "videoscore2" else [4, 2.5, 5])
    assert score.overall == pytest.approx(sum(score.scores.values()) / 3)
    assert score.frames == (0, 5, 10, 15) and "2 frames a second" in score.policy
    (request,) = server.asked
    assert request["path"] == "/v1/chat/completions" and request["key"] == "Bearer sk-secret"
    assert request["temperature"] == 0 and request["model"] == "m"
    *pictures, text = request["messages"][0]["content"]
    assert "a {prompt} of a cat" in text["text"]
    assert len(pictures) == 4
    first = Image.open(io.BytesIO(base64.b64decode(pictures[1]["image_url"]["url"].partition(",")[2])))
    expected = ((make_video()[:, 5] + 1) * 127.5).round().byte()
    assert first.getpixel((0, 0)) == tuple(expected[:, 0, 0].tolist())
    assert "sk-secret" not in f"{score}{vars(reward)['_config']}{reward.policy}"


def test_answers_without_scores_are_asked_again_a_few_times(server: Server) -> None:
    server.answers = ["I can't say.", "", GOOD["videoscore2"]]
    assert make_reward(server).score(make_video(), 8.0, "cat").scores["visual_quality"] == 4
    assert len(server.asked) == 3
    server.answers = ["visual quality: 4; no more"]
    with pytest.raises(UnscoredError, match=r"3 answers without 3 scores, the last: 'visual quality: 4; no more'"):
        make_reward(server).score(make_video(), 8.0, "cat")


def test_passing_faults_pass_and_lasting_ones_leave_the_clip_out(server: Server) -> None:
    server.answers = [500, 429, GOOD["videoscore2"]]
    assert make_reward(server).score(make_video(), 8.0, "cat").overall > 1
    server.answers = [503]
    with pytest.raises(UnscoredError, match="the server gave no answer"):
        make_reward(server).score(make_video(), 8.0, "cat")
    unreachable = ServerConfig(family="videoscore2", model="m", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(UnscoredError, match="APIConnectionError"):
        ServedReward(unreachable).score(make_video(), 8.0, "cat")


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_wrong_key_or_model_stops_everything(code: int, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.answers = [code]
    with pytest.raises(InputError, match=f"answers {code} for model 'm'; check") as caught:
        make_reward(server).score(make_video(), 8.0, "cat")
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("visual quality: 3; text-to-video alignment: 4, physical/common-sense consistency: 5", [3, 4, 5]),
        ("(1) Visual Quality: 2\n(2) Text-to-Video Alignment: 1\n(3) Physical/Common-Sense Consistency: 5", [2, 1, 5]),
        ("visual quality: **2**; text-to-video alignment: [1], physical/commonsense consistency: 5", [2, 1, 5]),
        # the scale is not a score, and the last word counts
        ("visual quality: 1-5, say 3. " + GOOD["videoscore2"], [4, 2, 5]),
        ("visual quality: 1 " + GOOD["videoscore2"], [4, 2, 5]),
        ("visual quality: 9; text-to-video alignment: 4, physical/common-sense consistency: 5", None),
        ("visual quality: 0; text-to-video alignment: 4, physical/common-sense consistency: 5", None),
        ("visual quality: N; text-to-video alignment: N, physical/common-sense consistency: N", None),
        ("visual quality: 3", None),
        ("", None),
    ],
)
def test_answers_are_read(answer: str, expected: list[float] | None) -> None:
    assert read_scores(answer, FAMILIES["videoscore2"]) == expected


def test_pictures_models_say_coherence() -> None:
    answer = GOOD["unifiedreward"].replace("Physics", "Coherence")
    assert read_scores(answer, FAMILIES["unifiedreward"]) == [4, 2.5, 5]


def test_the_authors_question_is_taken_from_a_file(server: Server, tmp_path: Path) -> None:
    server.answers = [GOOD["videoscore2"]]
    path = tmp_path / "question.txt"
    path.write_text("How is {text_prompt}?")
    make_reward(server, question=path).score(make_video(), 8.0, "cat")
    assert server.asked[0]["messages"][0]["content"][-1]["text"] == "How is cat?"
    path.write_text("How is it?")
    with pytest.raises(InputError, match=r"must hold \{prompt\} once"):
        make_reward(server, question=path)
    with pytest.raises(InputError, match="can't be read"):
        make_reward(server, question=tmp_path / "nowhere")


@pytest.mark.parametrize("url", ["http://name:key@host/v1", "http://host/v1?key=abc", "host/v1", "file:///etc/passwd"])
def test_addresses_hold_no_secrets(url: str) -> None:
    with pytest.raises(ValueError, match="base_url must"):
        ServerConfig(family="videoscore2", model="m", base_url=url)
