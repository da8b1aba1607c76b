"""The labelling page in a browser: by mouse and by keyboard alone, three annotators at once, kills and closed tabs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from halovid.labelling.database import Answer, open_database
from people_run import HOSTILE, Server, make_run, serving

pytestmark = pytest.mark.browser
SAVED = "() => document.getElementById('saved').textContent.includes('Saved')"
PLAYS = "() => { const v = document.querySelector('video'); return !v.paused && v.currentTime > 0.3; }"
GRID = ("--grid", "2x2x3")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(make_run(tmp_path_factory.mktemp("label") / "run"), *GRID) as server:
        yield server


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Opens the page of a server; at the end no page may have complained or asked for a thing outside."""
    complaints: list[str] = []
    requests: list[str] = []
    contexts = []

    def open_it(address: str, may_fail: bool = False, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        if not may_fail:
            page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url.rsplit(":", 1)[0] for url in requests} <= {"http://127.0.0.1", "data"}


def wait(page: Any, condition: str, seconds: float = 15) -> None:
    """Waits until `condition` holds; Playwright's own way needs `eval`, which the page forbids."""
    for _ in range(int(10 * seconds)):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"still false: {condition}")


def join(page: Any, name: str, mode: str = "Rate clips", shown: str = "video", ready: str = "readyState >= 2") -> None:
    page.get_by_label("Your name").fill(name)
    page.get_by_label(mode).check()
    page.get_by_role("button", name="Start").click()
    page.locator("#work").wait_for()
    wait(page, f"() => document.querySelector('.screen {shown}').{ready}")


def press(page: Any, keys: str) -> None:
    for key in keys.split():
        page.keyboard.press(key)


def stored(server: Server, name: str, pairs: bool = False) -> list[Answer]:
    """What the database holds of a finished annotator."""
    database = open_database(None, Path(server.run_dir), "generate")
    return [own for found, own in database.finished() if found == name and bool(own.second) == pairs]


def marks_of(answer: Answer) -> set[tuple[str, str, int, int]]:
    return {(m["aspect"], m["kind"], m["score"], m["patch"]) for m in answer.content["marks"]}


def test_a_clip_is_rated_by_mouse(server: Server, open_page: Any) -> None:
    page = open_page(server.address)
    join(page, "Mouse")
    wait(page, PLAYS)
    page.get_by_role("radio", name="visual quality: texture").click()
    page.get_by_role("radio", name="broken").click()
    page.get_by_role("button", name="row 1, column 2").click()
    page.get_by_role("radio", name="temporal consistency: motion").click()
    page.get_by_role("radio", name="part 2 of 2").click()
    box = page.locator(".cell").nth(3).bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 2.5, box["y"] + 20, steps=8)  # over the whole second row
    page.mouse.up()
    page.get_by_role("button", name="row 2, column 1: temporal consistency, motion, broken").click()  # taken away
    page.get_by_role("button", name="Save and next").click()
    assert "Score visual quality first" in page.locator("#trouble").inner_text()
    for aspect, score in zip(
        ("visual", "temporal", "dynamic", "text", "factual"), (1, 2, 3, 4, 5), strict=True
    ):  # fmt: skip
        page.get_by_role("radio", name=f"{aspect} ").get_by_text(str(score), exact=True).click()
    before = page.locator("#prompt").inner_text(), page.locator("video").get_attribute("src")
    page.get_by_role("button", name="Save and next").click()
    wait(page, "() => document.getElementById('count').textContent.startsWith('1 done')")
    wait(page, f"() => document.querySelector('video').getAttribute('src') !== {before[1]!r}")
    (answer,) = stored(server, "Mouse")
    assert list(answer.content["scores"].values()) == [1, 2, 3, 4, 5]
    assert marks_of(answer) == {
        *(("visual_quality", "texture", 1, 1 + 6 * part) for part in (0, 1)),
        *(("temporal_consistency", "motion", 1, patch) for patch in (10, 11)),
    }


def test_everything_works_by_keyboard_alone(server: Server, open_page: Any) -> None:
    page = open_page(server.address)
    page.keyboard.type("Keys")  # the name has the focus
    page.keyboard.press("Enter")
    page.locator("#work").wait_for()
    wait(page, PLAYS)
    press(page, "ArrowRight ArrowDown q c Space")  # shape, broken, at row 2, column 2, all of the time
    press(page, ". s z ArrowLeft Space")  # identity, noticeable, at row 2, column 1, first part
    press(page, ", 5 5 1 Backspace Backspace 4 3")  # the scores 5 4 3
    press(page, "u 2 1 4")
    wait(page, SAVED)
    press(page, "p j l v g g ? Escape Enter")
    wait(page, "() => document.getElementById('count').textContent.startsWith('1 done')")
    (answer,) = stored(server, "Keys")
    assert answer.content["scores"] == {
        "visual_quality": 5,
        "temporal_consistency": 4,
        "dynamic_degree": 2,
        "text_alignment": 1,
        "factual_consistency": 4,
    }
    assert marks_of(answer) == {
        *(("visual_quality", "shape", 1, 4 + 6 * part) for part in (0, 1)),
        ("temporal_consistency", "identity", 3, 3),
    }
    press(page, "n")
    wait(page, "() => document.getElementById('count').textContent.includes('1 skipped')")
    for _ in range(2):  # back over the skipped one to the first, whose answer can be changed
        shown = page.locator("video").get_attribute("src")
        press(page, "u")
        wait(page, f"() => document.querySelector('video').getAttribute('src') !== {shown!r}")
    wait(page, "() => document.querySelectorAll('.digits [aria-checked=true]').length === 5")
    shown = page.locator("video").get_attribute("src")
    press(page, "Backspace Backspace Backspace Backspace 1 Enter")
    wait(page, f"() => document.querySelector('video').getAttribute('src') !== {shown!r}")
    assert [own.state for own in stored(server, "Keys")].count("done") == 1
    changed = next(own for own in stored(server, "Keys") if own.state == "done")
    assert changed.content["scores"]["visual_quality"] == 1 and marks_of(changed) == marks_of(answer)


def test_two_clips_are_compared_in_step(server: Server, open_page: Any) -> None:
    page = open_page(server.address)
    join(page, "Judge", "Compare two clips")
    assert page.locator("video").count() == 2
    wait(page, PLAYS)
    apart = page.evaluate(
        """async () => {
          const [left, right] = document.querySelectorAll("video");
          let apart = 0;
          for (const end = performance.now() + 3500; performance.now() < end;) {
            await new Promise(requestAnimationFrame);
            if (left.seeking || right.seeking) continue;
            apart = Math.max(apart, Math.abs(left.currentTime - right.currentTime));
          }
          return apart;
        }"""
    )
    assert apart <= 1.5 / 8  # frames
    page.get_by_role("group", name="Patches of the right clip").get_by_role("button").nth(2).click()
    press(page, "ArrowDown q . e 3")
    wait(page, SAVED)
    shown = [page.locator("video").nth(side).get_attribute("src") for side in (0, 1)]
    press(page, "Enter")
    wait(page, "() => document.getElementById('count').textContent.startsWith('1 done')")
    (answer,) = stored(server, "Judge", pairs=True)
    annotator = server.ask("/api/join", name="Judge")["annotator"]
    task = server.ask("/api/previous", annotator=annotator, mode="compare", before=None)["task"]
    if [clip["url"] for clip in task["clips"]] != shown:  # the next pair is open already
        task = server.ask("/api/previous", annotator=annotator, mode="compare", before=task["item"])["task"]
    assert [clip["url"] for clip in task["clips"]] == shown
    assert task["content"]["preference"] == -1 and abs(answer.content["preference"]) == 1
    local = {entry["patch"]: entry["preference"] for entry in task["content"]["patches"]}
    assert local == {2: -1, 8: -1, 5: -1, 11: 1}


def test_three_annotators_at_once(tmp_path: Path, open_page: Any) -> None:
    with serving(make_run(tmp_path / "run"), *GRID, "--overlap", "0.5") as server:
        names = ["Ann", '<img src=x onerror="document.title=2">', "\N{FOX FACE} Ü"]
        pages = [open_page(server.address) for _ in names]
        for page, name in zip(pages, names, strict=True):
            join(page, name)
        assert len({page.locator("video").get_attribute("src") for page in pages}) >= 2
        for turn in range(6):
            for page in pages:
                if page.locator("#work").is_visible():
                    press(page, "Space 1 2 3 4 5 Enter")
            for page in pages:
                wait(page, f"() => document.getElementById('count').textContent.startsWith('{turn + 1} done')"
                     " || !document.getElementById('end').hidden")  # fmt: skip
                page.wait_for_timeout(100)
        for page, name in zip(pages, names, strict=True):
            page.locator("#end").wait_for()
            assert name in page.locator("#end-count").inner_text() and page.title() == "halovid label"
        counts = [len(stored(server, name)) for name in names]
        assert sum(counts) == 3 * 3 + 3  # three common clips, three others
        assert all(own.state == "done" for name in names for own in stored(server, name))


def test_a_killed_server_loses_nothing_and_the_page_goes_on(tmp_path: Path, open_page: Any) -> None:
    run_dir = make_run(tmp_path / "run")
    server = Server(run_dir, *GRID)
    page = open_page(server.address, may_fail=True)
    join(page, "Ann")
    press(page, "Space 1 2")
    wait(page, SAVED)
    server.kill()
    press(page, "3 4")  # said to nobody
    wait(page, "() => document.getElementById('saved').textContent.includes('not reached')")
    with serving(run_dir, port=server.port) as again:
        wait(page, SAVED, 20)
        press(page, "5 Enter")
        wait(page, "() => document.getElementById('count').textContent.startsWith('1 done')")
        (answer,) = stored(again, "Ann")
        assert list(answer.content["scores"].values()) == [1, 2, 3, 4, 5] and len(answer.content["marks"]) == 2


def test_a_closed_tab_loses_nothing_even_without_a_server(tmp_path: Path, open_page: Any) -> None:
    run_dir = make_run(tmp_path / "run")
    server = Server(run_dir, *GRID)
    page = open_page(server.address, may_fail=True)
    join(page, "Ann")
    press(page, "Space 5")
    context = page.context
    page.close()  # at once, before the change is sent in its own time
    page = context.new_page()
    page.goto(server.address)
    join(page, "Ann")
    wait(page, "() => document.querySelectorAll('.mark').length === 1")
    assert page.get_by_role("radio", name="visual quality 5").get_attribute("aria-checked") == "true"
    wait(page, SAVED)
    server.kill()
    press(page, "4")
    page.wait_for_timeout(300)
    page.close()
    with serving(run_dir, port=server.port) as again:
        page = context.new_page()
        page.goto(again.address)
        join(page, "Ann")
        wait(page, SAVED)
        assert page.get_by_role("radio", name="temporal consistency 4").get_attribute("aria-checked") == "true"
        annotator = again.ask("/api/join", name="Ann")["annotator"]
        wait(page, "() => document.getElementById('saved').textContent.includes('Saved')")
        page.wait_for_timeout(500)
        task = again.ask("/api/next", annotator=annotator, mode="rate")["task"]
        assert task["content"]["scores"] == {"visual_quality": 5, "temporal_consistency": 4}


def test_what_was_finished_without_a_server_arrives_with_the_next_page(tmp_path: Path, open_page: Any) -> None:
    run_dir = make_run(tmp_path / "run")
    server = Server(run_dir, *GRID)
    page = open_page(server.address, may_fail=True)
    join(page, "Ann")
    first = page.locator("video").get_attribute("src")
    press(page, "1 2 3 4 5 Enter")
    wait(page, "() => document.getElementById('count').textContent.startsWith('1 done')")
    wait(page, f"() => document.querySelector('video').getAttribute('src') !== {first!r}")
    press(page, "u")  # back to the first
    wait(page, "() => document.querySelectorAll('.digits [aria-checked=true]').length === 5")
    server.kill()
    press(page, "Space Enter")  # a mark more, and done again: said to nobody
    wait(page, "() => document.getElementById('saved').textContent.includes('not reached')")
    context = page.context
    page.close()
    with serving(run_dir, port=server.port) as again:
        page = context.new_page()
        page.goto(again.address)
        join(page, "Ann")
        assert page.locator("video").get_attribute("src") != first
        (answer,) = stored(again, "Ann")
        assert answer.state == "done" and len(answer.content["marks"]) == 2
        assert not page.evaluate("() => Object.keys(localStorage).filter((name) => name.startsWith('halovid')).length")


def test_another_tab_is_noticed(server: Server, open_page: Any) -> None:
    one = open_page(server.address, may_fail=True)
    two = open_page(server.address, may_fail=True)
    join(one, "Two tabs")
    join(two, "Two tabs")
    press(one, "1")
    wait(one, SAVED)
    press(two, "5")
    wait(two, "() => document.getElementById('trouble').textContent.includes('another tab')")
    assert two.get_by_role("radio", name="visual quality 1").get_attribute("aria-checked") == "true"
    press(two, "2")
    wait(two, SAVED)
    assert not two.locator("#trouble").is_visible()


def test_prompts_are_shown_as_text(server: Server, open_page: Any) -> None:
    page = open_page(server.address)
    join(page, "Reader")
    for _ in range(6):
        if page.locator("#prompt").inner_text().startswith("</script>"):
            break
        src = page.locator("video").get_attribute("src")
        press(page, "n")
        wait(page, f"() => document.querySelector('video').getAttribute('src') !== {src!r}")
    assert page.locator("#prompt").inner_text() == f"{HOSTILE} 0"
    assert page.locator("#prompt *").count() == 0 and page.title() == "halovid label"


@pytest.mark.parametrize("width", [360, 900])
def test_page_is_never_wider_than_the_window(server: Server, open_page: Any, width: int) -> None:
    page = open_page(server.address, reduced_motion="reduce")
    join(page, f"Narrow {width}")
    page.set_viewport_size({"width": width, "height": 700})
    page.wait_for_timeout(200)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.evaluate("() => document.querySelector('video').paused")  # reduced motion starts nothing


def test_labels_of_the_page_are_exported(server: Server, tmp_path: Path) -> None:
    from halovid.labelling.export import EXPORTS

    database = open_database(None, Path(server.run_dir), "generate")
    settings = database.read_settings()
    assert settings is not None
    table = EXPORTS["labels"](database.finished(), settings)
    pq.write_table(table, tmp_path / "labels.parquet")
    assert len(table) % 5 == 0 and len(table) >= 5


def test_pictures_are_rated_and_compared(tmp_path: Path, open_page: Any) -> None:
    with serving(make_run(tmp_path / "run", num_frames=1), "--grid", "1x2x3") as server:
        page = open_page(server.address)
        join(page, "Painter", shown="img", ready="complete")
        assert page.evaluate("() => document.querySelector('.screen img').naturalWidth") == 48
        assert not page.locator("#play").is_visible() and not page.locator("#speed").is_visible()
        page.get_by_role("radio", name="visual quality: texture").click()
        page.get_by_role("button", name="row 1, column 2").click()
        press(page, "1 2 3 4 5")
        src = page.locator(".screen img").get_attribute("src")
        page.get_by_role("button", name="Save and next").click()
        wait(page, f"() => document.querySelector('.screen img').getAttribute('src') !== {src!r}")
        (answer,) = stored(server, "Painter")
        assert {mark["patch"] for mark in answer.content["marks"]} == {1}
        page = open_page(server.address)
        join(page, "Pairs", "Compare two clips", shown="img", ready="complete")
        assert page.locator(".screen img").count() == 2
