"""Everything that an endpoint can do wrong, over real HTTP: bounded attempts, then a failure that names the fault."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from halovid.remote.client import HOPELESS
from halovid.remote.failures import Stopped, Unanswered
from halovid.store.errors import InputError
from vlm_fixtures import ATTEMPTS, KEY, Asked, change_first, question
from vlm_server import (
    SERVER_FAULTS,
    Behaviour,
    Handler,
    Server,
    answer,
    answer_well,
    completion,
    good_answer,
    reply,
    status,
)


def rate_first(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda good: change_first(visual_quality={"reason": "r", "kind": "other", "score": 3} | values)(good)


# what happens -> words of the failure
FAULTS: dict[str, tuple[Behaviour, str]] = {
    **SERVER_FAULTS,
    "refusal": (reply(completion(None, refusal="I can't help with that")), "the model refused: I can't help"),
    "empty answer": (reply(completion("")), "the answer was empty"),
    "no answer": (reply(completion(None)), "the answer was empty"),
    "blank answer": (reply(completion(" \n")), "the answer was empty"),
    "content filter": (reply(completion(None, finish="content_filter")), "content filter"),
    "cut off": (reply(completion('{"patches": [', finish="length")), "cut off"),
    "no JSON": (answer(lambda good: "I would say four."), "not valid JSON"),
    "fenced JSON": (answer(lambda good: f"```json\n{json.dumps(good)}\n```"), "not valid JSON"),
    "half the JSON": (answer(lambda good: json.dumps(good)[:-5]), "not valid JSON"),
    "two JSONs": (answer(lambda good: json.dumps(good) * 2), "not valid JSON"),
    "NaN": (answer(lambda good: json.dumps(rate_first(score=float("nan"))(good))), "NaN is no JSON number"),
    "deep JSON": (answer(lambda good: "[" * 50_000), "nested too deeply|not valid JSON"),
    "a number of 10000 digits": (answer(lambda good: "9" * 10_000), "not valid JSON"),
    "a list for an object": (answer(lambda good: [good]), "valid dictionary|instance of Patches"),
    "a key twice": (answer(lambda good: '{"patches": [], "patches": []}'), "a key is given twice"),
    "extra fields": (answer(lambda good: good | {"note": "hi"}), "note: Extra inputs"),
    "extra fields of a patch": (answer(change_first(note="hi")), "Extra inputs"),
    "no patches": (answer(lambda good: {}), "patches: Field required"),
    "missing aspect": (answer(lambda good: {"patches": [{"patch": 1}]}), "visual_quality: Field required"),
    "wrong number": (answer(change_first(patch=7)), "patches 1 are missing; patches 7 are not asked for"),
    "missing number": (answer(lambda good: {"patches": good["patches"][1:]}), "patches 1 are missing"),
    "number twice": (answer(change_first(patch=2)), "patches 1 are missing; patches 2 are given more than once"),
    "all twice": (answer(lambda good: {"patches": good["patches"] * 2}), "1, 2, 3 are given more than once"),
    "number as a text": (answer(change_first(patch="1")), "valid integer"),
    "score too high": (answer(rate_first(score=6)), "less than or equal to 5"),
    "score too low": (answer(rate_first(score=0)), "greater than or equal to 1"),
    "score as a text": (answer(rate_first(score="4")), "valid integer"),
    "score as a fraction": (answer(rate_first(score=3.5)), "valid integer"),
    "score true": (answer(rate_first(score=True)), "valid integer"),
    "score null": (answer(rate_first(score=None)), "valid integer"),
    "score of 400 digits": (answer(rate_first(score=10**400)), "less than or equal to 5|valid integer"),
    "unknown kind": (answer(rate_first(kind="ugly")), "kind"),
    "reason missing": (answer(change_first(visual_quality={"kind": "none", "score": 5})), "reason: Field required"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_is_a_failure_after_bounded_attempts(fault: str, server: Server, tmp_path: Path) -> None:
    server.always, words = FAULTS[fault]
    asked = Asked(server, tmp_path, timeout=0.2 if fault in ("hang", "drip") else 5.0)
    assert re.search(words, asked.failure), asked.failure
    assert len(server.requests) == ATTEMPTS
    assert len(asked.failure) < 800 and "\n" not in asked.failure
    assert asked.asker.budget.spent.calls == ATTEMPTS


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_costs_an_attempt(fault: str, server: Server, tmp_path: Path) -> None:
    server.plan = [FAULTS[fault][0]]
    asked = Asked(server, tmp_path, timeout=0.2 if fault in ("hang", "drip") else 5.0)
    assert {number: ratings["visual_quality"].score for number, ratings in asked.answer.items()} == {1: 4, 2: 4, 3: 4}
    assert len(server.requests) == 2


@pytest.mark.parametrize("fault", ["500", "number twice", "refusal"])
def test_what_failed_is_asked_again_by_a_later_run_and_what_was_answered_is_not(
    fault: str, server: Server, tmp_path: Path
) -> None:
    server.always = FAULTS[fault][0]
    assert Asked(server, tmp_path).failure
    server.always = None
    server.requests.clear()
    assert Asked(server, tmp_path).answer
    assert len(server.requests) == 1
    later = Asked(server, tmp_path)
    assert later.answer
    assert len(server.requests) == 1
    assert later.asker.budget.spent.calls == 0


def test_a_wrong_answer_is_sent_back_with_what_is_wrong(server: Server, tmp_path: Path) -> None:
    server.plan = [FAULTS["number twice"][0], FAULTS["refusal"][0]]
    assert Asked(server, tmp_path).answer
    first, second, third = (request["messages"] for request in server.requests)
    assert [message["role"] for message in second] == ["system", "user", "assistant", "user"]
    assert second[:2] == third[:2] == first
    assert json.loads(second[2]["content"])["patches"]
    assert "patches 2 are given more than once" in second[3]["content"]
    assert [message["role"] for message in third] == ["system", "user", "user"], "only the latest, and no empty answer"
    assert "refused" in third[2]["content"]


def test_a_fault_of_the_server_is_not_sent_back(server: Server, tmp_path: Path) -> None:
    server.plan = [status(500)]
    assert Asked(server, tmp_path).answer
    assert server.requests[0] == server.requests[1]


def test_one_bad_question_does_not_stop_the_others(server: Server, tmp_path: Path) -> None:
    def poison(handler: Handler, body: dict[str, Any]) -> None:
        asked = body["messages"][1]["content"][0]["text"]
        (status(500) if asked == "bad" else answer_well)(handler, body)

    server.always = poison
    results = Asked(server, tmp_path, ("a", "bad", "b", "c")).results
    assert [isinstance(result, dict) for result in results] == [True, False, True, True]


@pytest.mark.parametrize("code", [400, 413, 415, 422, 451])
def test_a_question_that_the_server_rejects_is_not_repeated(code: int, server: Server, tmp_path: Path) -> None:
    server.plan = [status(code, '{"error": {"message": "content management policy"}}')]
    assert f"HTTP {code}" in (failure := Asked(server, tmp_path).failure)
    assert "content management policy" in failure
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [401, 403, 404, 301, 302, 307, 308])
def test_what_only_a_setting_can_mend_stops_everything(code: int, server: Server, tmp_path: Path) -> None:
    server.always = status(code, f'{{"error": {{"message": "bad key {KEY}"}}}}', location="http://127.0.0.1:9/v1")
    asked = Asked(server, tmp_path, tuple("abcdef"), concurrency=1)
    assert all(isinstance(result, Stopped) and result.fatal for result in asked.results)
    assert len(server.requests) == 1
    assert f"HTTP {code}" in str(asked.results[0])
    assert KEY not in str(asked.results[0])


def test_a_spent_quota_stops_without_further_calls(server: Server, tmp_path: Path) -> None:
    server.always = status(429, '{"error": {"message": "pay", "code": "insufficient_quota"}}')
    asked = Asked(server, tmp_path, tuple("abc"), concurrency=1)
    assert all(isinstance(result, Stopped) and not result.fatal for result in asked.results)
    assert "quota" in str(asked.results[0])
    assert len(server.requests) == 1


def test_a_server_that_is_down_is_not_waited_for_all_day(server: Server, tmp_path: Path) -> None:
    server.always = status(502)
    texts = tuple(map(str, range(3 * HOPELESS)))
    asked = Asked(server, tmp_path, texts, concurrency=4, attempts=2)
    assert all(isinstance(result, Unanswered) for result in asked.results)
    assert len(server.requests) <= 2 * (HOPELESS + 4)
    assert f"not asked, since {HOPELESS} questions in a row failed at 'gpt-4o': HTTP 502" in str(asked.results[-1])


def test_no_server_at_all(server: Server, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server.base_url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        asked = Asked(server, tmp_path)
    assert "the connection failed" in asked.failure
    assert asked.asker.budget.spent.tokens == 0, "nobody was reached, nothing was paid"


@pytest.mark.parametrize("form", ["seconds", "milliseconds", "date"])
def test_the_server_is_given_the_time_it_asks_for(form: str, server: Server, tmp_path: Path) -> None:
    times: list[float] = []

    def busy(handler: Handler, body: dict[str, Any]) -> None:
        times.append(time.monotonic())
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)  # whole seconds: at least 1
        headers = {"seconds": {"retry_after": "0.4"}, "milliseconds": {"retry_after_ms": "400"}}
        status(429, **headers.get(form, {"retry_after": date}))(handler, body)

    def note(handler: Handler, body: dict[str, Any]) -> None:
        times.append(time.monotonic())
        answer_well(handler, body)

    server.plan, server.always = [busy], note
    assert Asked(server, tmp_path).answer
    assert times[1] - times[0] >= (0.9 if form == "date" else 0.4)


def test_one_429_holds_back_the_other_calls(server: Server, tmp_path: Path) -> None:
    times: list[float] = []

    def note(handler: Handler, body: dict[str, Any]) -> None:
        times.append(time.monotonic())
        (status(429, retry_after="0.5") if len(times) == 1 else answer_well)(handler, body)

    server.always = note
    results = Asked(server, tmp_path, tuple("abcd"), concurrency=1).results
    assert all(isinstance(result, dict) for result in results)
    assert min(later - times[0] for later in times[1:]) >= 0.45


def test_a_wait_that_is_too_long_stops_at_once(server: Server, tmp_path: Path) -> None:
    server.always = status(429, retry_after="86400")
    started = time.monotonic()
    asked = Asked(server, tmp_path, tuple("abc"), longest_wait=1.0, concurrency=1)
    assert all("asks to wait 86400 s" in str(result) for result in asked.results)
    assert time.monotonic() - started < 2
    assert len(server.requests) == 1


def test_unicode_and_long_reasons_come_through(server: Server, tmp_path: Path) -> None:
    strange = 'a "hand" \N{GRINNING FACE} \u202e melts\x00'
    server.plan = [answer(lambda good: json.dumps(rate_first(reason=strange)(good)))]
    assert Asked(server, tmp_path).answer[1]["visual_quality"].reason == strange
    assert Asked(server, tmp_path).answer[1]["visual_quality"].reason == strange
    server.plan = [answer(rate_first(reason="x" * 50_000))]
    assert len(Asked(server, tmp_path, ("long",)).answer[1]["visual_quality"].reason) == 300
    assert len(server.requests) == 2


def test_half_a_character_can_be_kept(server: Server, tmp_path: Path) -> None:
    content = json.dumps(good_answer_text()).replace("as it is", "half \\ud83d")
    server.plan = [reply(completion(content))]
    reason = Asked(server, tmp_path).answer[1]["visual_quality"].reason
    reason.encode("utf-8")
    assert reason.startswith("half ")


def good_answer_text() -> dict[str, Any]:
    return good_answer(question().form())


def test_patches_may_be_answered_in_any_order(server: Server, tmp_path: Path) -> None:
    def mix(good: dict[str, Any]) -> dict[str, Any]:
        for patch in good["patches"]:
            patch["visual_quality"] = {"reason": "", "kind": "other", "score": patch["patch"]}
        return {"patches": good["patches"][::-1]}

    server.plan = [answer(mix)]
    ratings_by_number = Asked(server, tmp_path).answer
    scores = [(number, ratings["visual_quality"].score) for number, ratings in ratings_by_number.items()]
    assert scores == [(1, 1), (2, 2), (3, 3)]


def test_the_key_is_nowhere_but_in_the_header(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    escaped = KEY.replace("7", "\\u0037").replace("S", "\\u0053")
    server.plan = [
        answer(lambda good: f"your key is {KEY}"),
        status(500, json.dumps({"error": {"message": f"Authorization: Bearer {KEY}"}})),
        answer(lambda good: json.dumps(rate_first(reason="seen KEY")(good)).replace("KEY", escaped)),
    ]
    asked = Asked(server, tmp_path)
    assert asked.answer[1]["visual_quality"].reason == "seen [key]"
    server.always = status(500, KEY, content_type="text/plain")
    failed = Asked(server, tmp_path, ("other",)).failure
    server.always = reply(completion(None, refusal=f"no {KEY}"))
    refused = Asked(server, tmp_path, ("third",)).failure
    assert all(headers["authorization"] == f"Bearer {KEY}" for headers in map(lower, server.headers))
    written = "".join(path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.json"))
    assert "the rules" in written
    for text in (failed, refused, written, caplog.text, json.dumps(server.requests)):
        assert KEY not in text


def lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@pytest.mark.parametrize(
    "value", [None, "", "  ", "two words", "line\nbreak", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"]
)
def test_a_key_that_is_none_is_explained_without_being_shown(
    value: str | None, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    if value is not None:
        monkeypatch.setenv("OPENAI_API_KEY", value)
    (result,) = Asked(server, tmp_path).results
    assert isinstance(result, InputError)
    assert "OPENAI_API_KEY" in str(result)
    assert not value or not value.strip() or value not in str(result)
    assert not server.requests


def test_an_endpoint_without_a_key_gets_none(server: Server, tmp_path: Path) -> None:
    assert Asked(server, tmp_path, key_variable=None).answer
    assert KEY not in json.dumps(server.headers)


def test_a_key_in_another_variable(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "other-key")
    assert Asked(server, tmp_path, key_variable="MY_KEY").answer
    assert lower(server.headers[0])["authorization"] == "Bearer other-key"
