"""What no honest server sends, what no healthy disk does, and runs beside each other: bounded, told, never a crash."""

from __future__ import annotations

import asyncio
import errno
import json
import multiprocessing
import re
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from halovid.judges.vlm.schema import MAX_REASON, ClipForm
from halovid.remote import answers
from halovid.remote.client import HOPELESS
from halovid.remote.endpoint import Endpoint, Reply
from halovid.remote.failures import Stopped, Unanswered
from halovid.store.errors import InputError
from vlm_fixtures import ATTEMPTS, KEY, Asked, change_first, question
from vlm_server import (
    Handler,
    Server,
    answer,
    answer_well,
    completion,
    good_answer,
    reply,
    send,
    status,
)


@pytest.mark.parametrize("reason", ["\\ud83d", "x" * 20_000], ids=["half a character", "long"])
def test_the_reason_of_a_defect_can_be_kept(reason: str) -> None:
    box = {"first_frame": 0, "last_frame": 1, "left": 0, "top": 0, "right": 9, "bottom": 9}
    rating = {"reason": "because", "kind": "shape", "score": 1}
    clip_answer = {"ratings": {"visual_quality": rating}, "defects": [box | rating | {"aspect": "visual_quality"}]}
    form = ClipForm(("visual_quality",), 2, "boxes", ("visual_quality",))
    (defect,) = form.read(json.dumps(clip_answer).replace("because", reason)).defects
    defect.rating.reason.encode("utf-8")
    assert 0 < len(defect.rating.reason) <= MAX_REASON


@pytest.mark.parametrize(
    "asked",
    [
        "Fri, 31 Dec 9999 23:59:59 -0500",
        "Mon, 01 Jan 0001 00:00:00 +0500",
        "Fri, 31 Dec 99999999999999999999 23:59:59 GMT",
        "Fri, 31 Dec 2030 23:59:59 +99999999999999999999",
        "1e300",
        "inf",
        "-5",
    ],
)
def test_a_senseless_wait_is_as_good_as_none(asked: str, server: Server, tmp_path: Path) -> None:
    server.plan = [status(429, retry_after=asked)]
    assert Asked(server, tmp_path).answer
    assert len(server.requests) == 2


@pytest.mark.parametrize("charset", ["utf-16", "utf-7", "hex", "base64", "zlib", "idna", "undefined", "punycode"])
def test_an_error_in_an_odd_encoding_costs_an_attempt(charset: str, server: Server, tmp_path: Path) -> None:
    server.always = status(502, "<html>Bad gateway\xff</html>", content_type=f"text/html; charset={charset}")
    assert re.search(r"HTTP 502: <html>Bad gateway.*</html> \(3 attempts\)", Asked(server, tmp_path).failure)
    assert len(server.requests) == ATTEMPTS


def test_a_count_of_tokens_that_cannot_be_is_not_believed(server: Server, tmp_path: Path) -> None:
    usage = {"prompt_tokens": 10**400, "completion_tokens": 1}
    server.always = lambda handler, body: send(handler, completion(json.dumps(good_answer(body)), usage=usage))
    asked = Asked(server, tmp_path, input_price=2.5, output_price=10.0)
    assert asked.answer and asked.asker.budget.spent.input_tokens == question().text_tokens()


def test_what_is_sent_back_is_on_the_budget(server: Server, tmp_path: Path) -> None:
    sent: list[int] = []

    def count_bytes(handler: Handler, body: dict[str, Any]) -> None:
        """Each byte a token: the most that a call may cost."""
        first, second, *feedback = body["messages"]
        texts = [first["content"], second["content"][0]["text"], *(message["content"] for message in feedback)]
        schema = json.dumps(body["response_format"]["json_schema"]["schema"])
        sent.append(sum(len(text.encode()) for text in (*texts, schema)))
        wrong = completion("\N{CJK UNIFIED IDEOGRAPH-9F98}" * 900, finish="length")
        usage = {"prompt_tokens": sent[-1], "completion_tokens": 64}
        send(handler, json.dumps(json.loads(wrong) | {"usage": usage}))

    server.always = count_bytes
    limit = 2 * question().text_bytes() + 2 * 64 + 1000  # two questions, but not what is sent back with the second
    asked = Asked(server, tmp_path, max_output_tokens=64, budget={"tokens": limit})
    assert "the budget is spent" in asked.failure
    assert len(sent) == 1
    sent.clear()
    asked = Asked(server, tmp_path / "more", max_output_tokens=64, budget={"tokens": limit + 2000})
    assert len(sent) == 2 and asked.asker.budget.spent.tokens == sum(sent) + 2 * 64 <= limit + 2000


def test_what_is_said_to_be_wrong_is_bounded(server: Server, tmp_path: Path) -> None:
    server.plan = [answer(change_first(patch=10**4200))]
    assert Asked(server, tmp_path).answer
    assert len(server.requests[1]["messages"][-1]["content"]) < 700


def test_an_answer_that_is_too_long_is_not_read(server: Server, tmp_path: Path) -> None:
    server.plan = [answer(lambda good: f'{{"patches": [{"0," * 1_900_000}0]}}')]
    started = time.monotonic()
    assert Asked(server, tmp_path).answer
    assert time.monotonic() - started < 10
    assert "longer than judge.vlm.max_output_tokens" in server.requests[1]["messages"][-1]["content"]
    (path,) = tmp_path.rglob("*.json")
    assert path.stat().st_size < 20_000


@pytest.mark.parametrize("code", [401, 200])
def test_after_a_stop_nothing_waits_for_its_place_in_the_minute(code: int, server: Server, tmp_path: Path) -> None:
    server.always = status(401) if code == 401 else None
    started = time.monotonic()
    settings: dict[str, Any] = {} if code == 401 else {"budget": {"calls": 1}}
    asked = Asked(server, tmp_path, tuple("abcdefghij"), requests_per_minute=30.0, **settings)
    assert len(server.requests) == 1
    assert sum(isinstance(result, Stopped) for result in asked.results) == (10 if code == 401 else 9)
    assert time.monotonic() - started < 6, "ten places take 18 seconds"


@pytest.mark.parametrize("wait", ["pause", "budget"])
def test_calls_stay_evenly_spaced_after_a_wait(wait: str, server: Server, tmp_path: Path) -> None:
    times: list[float] = []

    def behave(handler: Handler, body: dict[str, Any]) -> None:
        times.append(time.monotonic())
        if len(times) > 1:
            answer_well(handler, body)
        elif wait == "pause":
            status(429, retry_after="1.5")(handler, body)
        else:
            time.sleep(1.5)
            answer_well(handler, body)

    server.always = behave
    tight = {"budget": {"tokens": 6 * (110 + 64) + question().text_bytes()}, "max_output_tokens": 64}
    settings: dict[str, Any] = tight if wait == "budget" else {}
    Asked(server, tmp_path, tuple("abcdef"), requests_per_minute=300.0, **settings)
    assert len(times) >= 4
    assert times[-1] - times[1] > 0.1 * (len(times) - 2), "0.2 each but for a busy machine; together they would be 0"


def test_a_disk_that_refuses_answers_stops_the_asking(server: Server, tmp_path: Path) -> None:
    tmp_path.joinpath("full").mkdir()
    for number in range(256):
        (tmp_path / "full" / f"{number:02x}").write_text("a file where a folder should be")
    asked = Asked(server, tmp_path / "full", tuple("abcdef"), concurrency=2)
    assert all(isinstance(result, Stopped) and not result.fatal for result in asked.results)
    assert re.fullmatch(r"answers can't be kept at \S+/full/\w\w/\w{64}\.json: File exists", str(asked.results[-1]))
    assert not server.requests


def test_an_answer_that_cannot_be_kept_is_used_and_the_last(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, record: dict[str, Any]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(answers, "write_json", full)
    first, *later = Asked(server, tmp_path, tuple("abcdef"), concurrency=1).results
    assert isinstance(first, dict)
    for failure in later:
        assert isinstance(failure, Stopped)
        assert re.fullmatch(r"answers can't be kept at \S+\.json: No space left on device", str(failure))
    assert len(server.requests) == 1


def test_an_answer_that_the_disk_does_not_give_out_is_not_paid_for_again(server: Server, tmp_path: Path) -> None:
    """A lack of file handles, a mistaken mode or a bad sector must not cost every answer that was ever paid for."""
    assert Asked(server, tmp_path, ("a",)).answer
    (path,) = tmp_path.rglob("*.json")
    record = path.read_text()
    path.unlink()
    path.mkdir()
    kept, other = Asked(server, tmp_path, tuple("ab"), concurrency=1).results
    assert isinstance(kept, Unanswered) and str(kept) == f"the answer at {path} can't be read: Is a directory"
    assert isinstance(other, dict)
    assert len(server.requests) == 2
    path.rmdir()
    path.write_text(record)
    assert Asked(server, tmp_path, ("a",)).answer
    assert len(server.requests) == 2


def ask_in_another_process(base_url: str, folder: Path, both_there: Barrier) -> None:
    both_there.wait(60)
    asked = Asked(Server(base_url), folder, tuple("abcd"), key_variable=None)
    assert all(isinstance(result, dict) for result in asked.results)


def test_two_runs_at_once_pay_once(server: Server, tmp_path: Path) -> None:
    def slow(handler: Handler, body: dict[str, Any]) -> None:
        time.sleep(0.5)
        answer_well(handler, body)

    server.always = slow
    context = multiprocessing.get_context("forkserver")
    arguments = (server.base_url, tmp_path, context.Barrier(2))
    runs = [context.Process(target=ask_in_another_process, args=arguments) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0]
    assert len(server.requests) == 4


@pytest.mark.parametrize("fault", ["rejected", "wrong"])
def test_a_model_that_never_gives_an_answer_is_given_up(fault: str, server: Server, tmp_path: Path) -> None:
    server.always = status(400) if fault == "rejected" else reply(completion("four stars"))
    asked = Asked(server, tmp_path, tuple(map(str, range(3 * HOPELESS))), concurrency=4, attempts=2)
    assert len(server.requests) <= 2 * (HOPELESS + 4)
    assert f"not asked, since {HOPELESS} questions in a row failed at 'gpt-4o'" in str(asked.results[-1])


def test_a_living_member_of_a_panel_does_not_hide_a_dead_one(server: Server, tmp_path: Path) -> None:
    server.always = lambda handler, body: (status(500) if body["model"] == "dead" else answer_well)(handler, body)
    texts = tuple(map(str, range(3 * HOPELESS)))
    asked = Asked(
        server, tmp_path, texts, concurrency=2, attempts=1, panel=[{"model": "dead", "base_url": server.base_url}]
    )
    assert asked.asker.stopped and "failed at 'dead': HTTP 500" in str(asked.asker.stopped)
    assert len(server.requests) <= 2 * (HOPELESS + 3)


def test_a_piece_of_the_key_is_not_repeated(server: Server, tmp_path: Path) -> None:
    message = f"Incorrect API key provided: {KEY[:9]}***{KEY[-8:]}. Find yours at https://host"
    server.always = status(400, json.dumps({"error": {"message": message}}))
    failure = Asked(server, tmp_path).failure
    assert failure == "HTTP 400: Incorrect API key provided: [key]***[key]. Find yours at https://host"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://user:pass@127.0.0.1:9"),
        ("HTTP_PROXY", "ftp://user:pass@host"),
        ("SSL_CERT_FILE", "/nonexistent.pem"),
        ("OPENAI_PROJECT_ID", "\N{LATIN SMALL LETTER U WITH DIAERESIS}"),
    ],
)
def test_what_does_not_fit_in_the_environment_is_named(
    name: str, value: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    (result,) = Asked(server, tmp_path).results
    assert isinstance(result, InputError)
    assert name in str(result) and server.base_url in str(result)
    assert "pass" not in str(result) and KEY not in str(result)
    assert not server.requests


def test_no_proxy_stands_before_this_machine(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert Asked(server, tmp_path).answer


@pytest.mark.parametrize("fault", ["refusal", "filter", "azure"])
def test_questions_that_are_refused_do_not_stop_the_others(fault: str, server: Server, tmp_path: Path) -> None:
    """A prompt that a filter dislikes has many clips, and each of them many questions."""
    refusals = {
        "refusal": reply(completion(None, refusal="I will not")),
        "filter": reply(completion("", finish="content_filter")),
        "azure": status(400, '{"error": {"code": "content_filter", "message": "filtered"}}'),
    }
    for _ in range(HOPELESS + 5):
        server.plan.append(refusals[fault])
    asked = Asked(server, tmp_path, tuple(map(str, range(HOPELESS + 10))), concurrency=1, attempts=1)
    assert [isinstance(result, dict) for result in asked.results] == [False] * (HOPELESS + 5) + [True] * 5


def test_an_answer_that_comes_with_an_interruption_is_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between an answer's arrival and its place on the disk nothing else has its turn."""
    call = Endpoint.call

    async def interrupted(self: Endpoint, body: dict[str, Any]) -> Reply:
        reply = await call(self, body)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()  # as Ctrl-C does
        return reply

    with monkeypatch.context() as patched:
        patched.setattr(Endpoint, "call", interrupted)
        Asked(server, tmp_path, tuple("abcd"), concurrency=4)
    assert len(server.requests) == 4
    Asked(server, tmp_path, tuple("abcd"))
    assert len(server.requests) == 4
