"""Budget, rate limits, concurrency, and answers on disk."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from halovid.remote.failures import Stopped
from halovid.store.errors import InputError
from vlm_fixtures import Asked, question
from vlm_server import Handler, Server, answer_well, completion, good_answer, reply, send

TEXTS = tuple("abcdefgh")


def answered(asked: Asked) -> int:
    return sum(isinstance(result, dict) for result in asked.results)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_budget_of_calls_holds_and_a_later_run_goes_on(concurrency: int, server: Server, tmp_path: Path) -> None:
    for run, expected in enumerate((3, 6, 8), start=1):
        asked = Asked(server, tmp_path, TEXTS, concurrency=concurrency, budget={"calls": 3})
        assert answered(asked) == expected
        assert len(server.requests) == min(3 * run, 8)
        stops = [result for result in asked.results if not isinstance(result, dict)]
        assert all(isinstance(stop, Stopped) and not stop.fatal for stop in stops)
        assert all("judge.vlm.budget.calls is 3" in str(stop) for stop in stops)


def test_failed_attempts_are_on_the_budget(server: Server, tmp_path: Path) -> None:
    server.always = reply(completion("no JSON"))
    asked = Asked(server, tmp_path, TEXTS, attempts=4, budget={"calls": 6}, concurrency=2)
    assert answered(asked) == 0
    assert len(server.requests) == 6
    assert asked.asker.budget.spent.calls == 6


@pytest.mark.parametrize("budget", [{"tokens": 3_000}, {"money": 0.006}], ids=["tokens", "money"])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_budget_of_tokens_and_money_holds_by_what_the_server_counts(
    budget: dict[str, float], concurrency: int, server: Server, tmp_path: Path
) -> None:
    server.always = lambda handler, body: send(
        handler,
        completion(json.dumps(good_answer(body)), usage={"prompt_tokens": 500, "completion_tokens": 100}),
    )
    settings: dict[str, Any] = {"input_price": 2.0, "output_price": 10.0, "max_output_tokens": 200}
    asked = Asked(server, tmp_path, TEXTS, concurrency=concurrency, budget=budget, **settings)
    spent = asked.asker.budget.spent
    assert spent.calls == len(server.requests) == answered(asked)
    assert (spent.input_tokens, spent.output_tokens) == (500 * spent.calls, 100 * spent.calls)
    assert spent.money == pytest.approx(spent.calls * (500 * 2 + 100 * 10) / 1e6)
    assert spent.tokens <= budget.get("tokens", 10**9) and spent.money <= budget.get("money", 10**9)
    # calls under way reserve the most they may cost, but the budget is used up all the same
    assert answered(asked) == (2 if "money" in budget else 4)


def test_a_budget_of_nothing_asks_nothing_but_reads_the_disk(server: Server, tmp_path: Path) -> None:
    assert answered(Asked(server, tmp_path, ("a",), budget={"calls": 0})) == 0
    assert not server.requests
    assert answered(Asked(server, tmp_path, ("a",))) == 1
    assert answered(Asked(server, tmp_path, ("a", "b"), budget={"calls": 0})) == 1
    assert len(server.requests) == 1


@pytest.mark.parametrize("usage", [None, "many", {}, {"prompt_tokens": -5, "completion_tokens": 2}])
def test_without_a_believable_count_the_estimate_counts(usage: Any, server: Server, tmp_path: Path) -> None:
    server.always = lambda handler, body: send(handler, completion(json.dumps(good_answer(body)), usage=usage))
    asked = Asked(server, tmp_path)
    assert asked.asker.budget.spent.input_tokens == question().text_tokens()
    assert asked.asker.budget.spent.output_tokens == question().answer_tokens()


def test_no_more_calls_at_once_than_allowed(server: Server, tmp_path: Path) -> None:
    def slow(handler: Handler, body: dict[str, Any]) -> None:
        time.sleep(0.05)
        answer_well(handler, body)

    server.always = slow
    assert answered(Asked(server, tmp_path, TEXTS, concurrency=3)) == 8
    assert server.most_at_once == 3


def test_calls_are_spread_over_the_minute(server: Server, tmp_path: Path) -> None:
    times: list[float] = []

    def note(handler: Handler, body: dict[str, Any]) -> None:
        times.append(time.monotonic())
        answer_well(handler, body)

    server.always = note
    started = time.monotonic()
    Asked(server, tmp_path, TEXTS[:5], requests_per_minute=600)
    assert times[-1] - started >= 0.4, "the first at once, then one every tenth of a second"


def test_tokens_are_limited_and_a_large_question_gets_through(server: Server, tmp_path: Path) -> None:
    each = question().text_tokens() + question().answer_tokens()
    started = time.monotonic()
    assert answered(Asked(server, tmp_path, ("a",), tokens_per_minute=each / 2)) == 1
    assert time.monotonic() - started < 2
    started = time.monotonic()
    assert answered(Asked(server, tmp_path, ("b", "c"), tokens_per_minute=60 * each)) == 2
    assert time.monotonic() - started < 2


def test_equal_questions_are_asked_once(server: Server, tmp_path: Path) -> None:
    asked = Asked(server, tmp_path, ("same",) * 6)
    assert answered(asked) == 6
    assert len(server.requests) == 1


def test_another_model_vote_or_setting_is_another_question(server: Server, tmp_path: Path) -> None:
    for settings in ({}, {"model": "other"}, {"temperature": None}, {"max_output_tokens": 99}):
        assert Asked(server, tmp_path, **settings).answer
    assert len(server.requests) == 4
    for settings in ({"concurrency": 1}, {"attempts": 1}, {"input_price": 3.0}, {"timeout": 9.0}):
        assert Asked(server, tmp_path, **settings).answer
    assert len(server.requests) == 4


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"answer": 5}', '{"answer": "no JSON"}', "[" * 100_000, "\x00"])
def test_a_damaged_answer_on_disk_is_asked_for_again(damage: str, server: Server, tmp_path: Path) -> None:
    assert Asked(server, tmp_path).answer
    (path,) = tmp_path.rglob("*.json")
    good = path.read_bytes()
    path.write_text(damage)
    assert Asked(server, tmp_path).answer
    assert len(server.requests) == 2
    assert path.read_bytes() == good


def test_the_disk_tells_what_was_asked_answered_and_rejected(server: Server, tmp_path: Path) -> None:
    server.plan = [reply(completion("four stars"))]
    Asked(server, tmp_path, input_price=1.0, output_price=1.0)
    (path,) = tmp_path.rglob("*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["question"][1]["content"][0]["text"] == "rate these"
    assert json.loads(record["answer"])["patches"]
    assert record["rejected"][0]["text"] == "four stars"
    assert record["cost"] == {"calls": 2, "input_tokens": 200, "output_tokens": 20, "money": pytest.approx(220e-6)}


def test_a_folder_that_cannot_be_written_is_found_out_before_anything_is_paid(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (result,) = Asked(server, tmp_path / "file" / "answers").results
    assert isinstance(result, InputError) and "judge.vlm.answers" in str(result)
    assert not server.requests


def test_what_is_sent_is_a_strict_structured_request(server: Server, tmp_path: Path) -> None:
    Asked(server, tmp_path)
    (body,) = server.requests
    assert body.keys() == {"model", "messages", "response_format", "max_completion_tokens", "temperature"}
    form = body["response_format"]
    assert form["type"] == "json_schema" and form["json_schema"]["strict"] is True
    objects = [form["json_schema"]["schema"], *form["json_schema"]["schema"]["$defs"].values()]
    for node in objects:
        assert node["additionalProperties"] is False
        assert node["required"] == list(node["properties"])
