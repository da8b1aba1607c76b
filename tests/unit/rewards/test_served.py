"""Reward models behind a server, over HTTP against a local one that also misbehaves."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from halovid.config.reward import ServerConfig
from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.records import PromptBatch, Rewards
from halovid.rewards.released import UnscoredError
from halovid.rewards.released.served import FAMILIES, ServedReward, read_scores, served_identity
from halovid.rewards.rewarder import ReleasedRewarder
from halovid.store.errors import InputError
from vlm_fixtures import KEY
from vlm_server import SCORES, SERVER_FAULTS, Behaviour, Handler, Server, completion, reply, send, status

GOOD = {
    "videoscore2": SCORES,
    "unifiedreward": "Alignment Score (1-5): 4\nPhysics Score (1-5): 2.5\nStyle Score (1-5): 5",
}
ATTEMPTS = 3
MakeReward = Callable[..., ServedReward]


@pytest.fixture
def make_reward(server: Server, tmp_path: Path) -> MakeReward:
    """Makes a reward model of the server; settings are those of score.server."""

    def make(**settings: Any) -> ServedReward:
        defaults = {"family": "videoscore2", "model": "m", "base_url": server.base_url, "first_wait": 0.001}
        defaults |= {"answers": tmp_path / "answers"}
        return ServedReward(ServerConfig(**(defaults | settings)))

    return make


def make_video() -> torch.Tensor:
    return torch.rand(3, 16, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


def score(reward: ServedReward, prompt: str = "cat") -> float:
    return reward.score(make_video(), 8.0, prompt).overall


def failure(reward: ServedReward, prompt: str = "cat") -> UnscoredError:
    with pytest.raises(UnscoredError) as caught:
        score(reward, prompt)
    return caught.value


@pytest.mark.parametrize("family", list(FAMILIES))
def test_frames_and_question_go_out_and_scores_come_back(family: str, server: Server, make_reward: MakeReward) -> None:
    server.always = reply(completion(GOOD[family]))
    reward = make_reward(family=family, key_variable="OPENAI_API_KEY")
    scored = reward.score(make_video(), 8.0, "a {prompt} of a cat")
    assert list(scored.scores.values()) == ([4, 2, 5] if family == "videoscore2" else [4, 2.5, 5])
    assert scored.overall == pytest.approx(sum(scored.scores.values()) / 3)
    assert scored.frames == (0, 5, 10, 15) and "2 frames a second" in scored.policy
    (request,), (headers,) = server.requests, server.headers
    assert {name.lower(): value for name, value in headers.items()}["authorization"] == f"Bearer {KEY}"
    assert request["temperature"] == 0 and request["model"] == "m" and request["max_tokens"] == 1024
    *pictures, text = request["messages"][0]["content"]
    assert "a {prompt} of a cat" in text["text"]
    assert len(pictures) == 4
    first = Image.open(io.BytesIO(base64.b64decode(pictures[1]["image_url"]["url"].partition(",")[2])))
    expected = ((make_video()[:, 5] + 1) * 127.5).round().byte()
    assert first.getpixel((0, 0)) == tuple(expected[:, 0, 0].tolist())


def test_a_key_goes_only_to_the_server_that_is_given_one(server: Server, make_reward: MakeReward) -> None:
    assert score(make_reward()) > 1
    assert KEY not in json.dumps(server.headers)


@pytest.mark.parametrize("fault", SERVER_FAULTS)
def test_a_fault_that_stays_leaves_the_clip_to_another_time(
    fault: str, server: Server, make_reward: MakeReward
) -> None:
    server.always, words = SERVER_FAULTS[fault]
    started = time.monotonic()
    error = failure(make_reward(timeout=0.2 if fault in ("hang", "drip") else 5.0))
    assert error.again and re.search(words, str(error)), error
    assert len(server.requests) == ATTEMPTS
    assert len(str(error)) < 800 and "\n" not in str(error)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("fault", SERVER_FAULTS)
def test_a_fault_that_passes_costs_an_attempt(fault: str, server: Server, make_reward: MakeReward) -> None:
    server.plan = [SERVER_FAULTS[fault][0]]
    assert score(make_reward(timeout=0.2 if fault in ("hang", "drip") else 5.0)) > 1
    assert len(server.requests) == 2


def test_no_server_at_all(make_reward: MakeReward) -> None:
    error = failure(make_reward(base_url="http://127.0.0.1:9/v1"))
    assert error.again and "the connection failed" in str(error)


@pytest.mark.parametrize("answer", ["I can't say.", "visual quality: 4; no more", "", "9" * 10_000])
def test_answers_without_scores_are_asked_for_again_and_then_final(
    answer: str, server: Server, make_reward: MakeReward
) -> None:
    server.plan = [reply(completion(answer))] * 2
    assert score(make_reward(), "a") > 1
    assert server.requests[0] == server.requests[1] == server.requests[2], "the models know no conversations"
    server.always = reply(completion(answer))
    error = failure(make_reward(), "b")
    assert not error.again
    assert len(server.requests) == 2 * ATTEMPTS


@pytest.mark.parametrize(
    "refusal",
    [
        reply(completion(None, refusal="I can't help with that")),
        reply(completion(None, finish="content_filter")),
        status(400, '{"error": {"code": "content_filter", "message": "filtered"}}'),
    ],
)
def test_refusals_for_what_a_clip_shows_are_final(refusal: Behaviour, server: Server, make_reward: MakeReward) -> None:
    server.always = refusal
    assert not failure(make_reward()).again


def test_a_request_that_the_server_rejects_may_fit_it_another_time(server: Server, make_reward: MakeReward) -> None:
    server.always = status(400, '{"error": {"message": "At most 1 image(s) may be provided in one prompt."}}')
    error = failure(make_reward())
    assert error.again and "At most 1 image" in str(error)
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [401, 403, 404, 301, 302, 307, 308])
def test_what_only_a_setting_can_mend_stops_everything(code: int, server: Server, make_reward: MakeReward) -> None:
    server.always = status(code, f'{{"error": {{"message": "bad key {KEY}"}}}}', location="http://127.0.0.1:9/v1")
    with pytest.raises(InputError, match=f"HTTP {code}") as caught:
        score(make_reward(key_variable="OPENAI_API_KEY"))
    assert KEY not in str(caught.value)
    assert len(server.requests) == 1


def test_a_missing_key_is_told_before_anything_is_sent(
    server: Server, make_reward: MakeReward, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(InputError, match=r"OPENAI_API_KEY is not set.*score\.server\.key_variable to null"):
        score(make_reward(key_variable="OPENAI_API_KEY"))
    assert not server.requests


def test_a_key_that_the_server_repeats_is_nowhere(server: Server, make_reward: MakeReward, tmp_path: Path) -> None:
    def repeat(handler: Handler, body: dict[str, Any]) -> None:
        said = f"{handler.headers['authorization']} "
        send(handler, completion(said + SCORES if "good" in body["messages"][0]["content"][-1]["text"] else said))

    server.always = repeat
    reward = make_reward(key_variable="OPENAI_API_KEY")
    assert score(reward, "good") > 1
    texts = [str(failure(reward, "no scores"))]
    server.always = reply(completion(f"it began {KEY[:10]} and ended {KEY[-9:]}"))
    texts += [str(failure(reward, "pieces"))]
    server.always = status(500, json.dumps({"error": {"message": f"Authorization: Bearer {KEY}"}}))
    texts += [str(failure(reward, "error"))]
    texts += [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.json")]
    assert len(texts) == 6 and "Bearer [key]" in texts[0]
    assert not [text for text in texts if KEY in text]
    assert KEY[:10] not in texts[1] and KEY[-9:] not in texts[1]


def test_nothing_is_asked_twice(server: Server, make_reward: MakeReward) -> None:
    first = score(make_reward())
    for settings in ({}, {"timeout": 9.0}, {"attempts": 1}, {"key_variable": "OPENAI_API_KEY"}):
        assert score(make_reward(**settings)) == first
    assert len(server.requests) == 1
    score(make_reward(), "dog")
    score(make_reward(model="other"))
    score(make_reward(frames_per_second=4.0))
    assert len(server.requests) == 4


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_an_outage_amid_a_clip_costs_only_what_is_missing_whatever_the_threads(
    threads: int, server: Server, make_reward: MakeReward
) -> None:
    """The pictures of enlarged patches are the same, or their answers would not be found again."""
    clip = torch.rand(3, 9, 60, 104, generator=torch.Generator().manual_seed(0)) * 2 - 1
    grid, geometry = PatchGrid(1, 2, 2), LatentGeometry(4, 8, causal_first_frame=True)

    def reward() -> Rewards:
        return ReleasedRewarder(make_reward(), grid).reward(clip[None], PromptBatch(("cat",), None, (8.0,), geometry))

    server.plan = [reply(completion(SCORES))] * 3
    server.always = status(503)
    (refusal,) = reward().refusals
    assert refusal is not None and refusal.again and len(server.requests) == 3 + ATTEMPTS
    server.always = None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rewards = reward()
    finally:
        torch.set_num_threads(before)
    assert rewards.patches.flatten().tolist() == [pytest.approx(11 / 3)] * 4
    assert len(server.requests) == 3 + ATTEMPTS + 2


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


def test_the_authors_question_is_taken_from_a_file(server: Server, make_reward: MakeReward, tmp_path: Path) -> None:
    path = tmp_path / "question.txt"
    path.write_text("How is {text_prompt}?")
    score(make_reward(question=path))
    assert server.requests[0]["messages"][0]["content"][-1]["text"] == "How is cat?"
    path.write_text("How is it?")
    with pytest.raises(InputError, match=r"must hold \{prompt\} once"):
        make_reward(question=path)
    with pytest.raises(InputError, match="can't be read"):
        make_reward(question=tmp_path / "nowhere")


def test_the_identity_tells_what_is_asked_and_not_how(tmp_path: Path) -> None:
    def identity(**settings: Any) -> str:
        return json.dumps(served_identity(ServerConfig(**(base | settings))))

    base: dict[str, Any] = {"family": "videoscore2", "model": "m", "base_url": "http://host/v1"}
    path = tmp_path / "question.txt"
    path.write_text("How is {prompt}?")
    asked = [{}, {"model": "n"}, {"base_url": "http://other/v1"}, {"frames_per_second": 1.0}, {"question": path}]
    known = {identity(**settings) for settings in (*asked, {"family": "unifiedreward"}, {"max_output_tokens": 99})}
    path.write_text("How good is {prompt}?")
    known.add(identity(question=path))
    assert len(known) == 8
    for settings in ({"timeout": 3.0}, {"attempts": 9}, {"key_variable": "MY_KEY"}, {"answers": tmp_path}):
        assert identity(**settings) == identity()
    assert str(tmp_path) not in "".join(known)


@pytest.mark.parametrize("url", ["http://name:key@host/v1", "http://host/v1?key=abc", "host/v1", "file:///etc/passwd"])
def test_addresses_hold_no_secrets(url: str) -> None:
    with pytest.raises(ValueError, match="base_url must"):
        ServerConfig(family="videoscore2", model="m", base_url=url)
