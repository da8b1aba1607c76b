"""The report page in a browser: clips play in step, heat maps are drawn, nothing leaves the page."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from halovid.pages.report_page import ClipPair, MetricRow, PageContent, render_page
from halovid.store.video import encode_png

pytestmark = pytest.mark.browser
NUM_FRAMES, FPS = 13, 8
NUM_PAIRS = 6
FRAME_TO_PATCH = [(frame + 3) // 4 for frame in range(NUM_FRAMES)]
HOSTILE = '</script><script>document.title = "broken"</script> "quotes" & \N{FOX FACE}'

# Greatest difference of time inside a pair over two laps, and how often the first clip began again.
WATCH = """async () => {
  const pairs = [...document.querySelectorAll(".pair")]
    .map((pair) => [...pair.querySelectorAll("video")])
    .filter((videos) => videos.every((video) => video.duration));
  const end = performance.now() + 4500;
  let apart = 0, laps = 0, last = 0, farthest = 0;
  while (performance.now() < end) {
    await new Promise(requestAnimationFrame);
    for (const [base, aligned] of pairs) {
      apart = Math.max(apart, Math.abs(base.currentTime - aligned.currentTime));
    }
    const now = pairs[0][0].currentTime;
    if (now < last) laps += 1;
    farthest = Math.max(farthest, now);
    last = now;
  }
  return { pairs: pairs.length, apart, laps, farthest };
}"""
LIVE_TIMES = """() => [...document.querySelectorAll("video")]
  .filter((video) => video.duration).map((video) => video.currentTime)"""
DRAWN = """() => [...document.querySelectorAll("canvas")]
  .filter((canvas) => canvas.parentElement.querySelector("video").duration)
  .map((canvas) => {
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
    copy.drawImage(canvas, 0, 0);
    const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
    return { size: [canvas.width, canvas.height], alpha: [...data].filter((_, i) => i % 4 === 3),
             first: [...data.slice(0, 3)] };
  })"""


def _encode(offset: int) -> bytes:
    """A small H.264 clip in which a square moves."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for frame in range(NUM_FRAMES):
            picture = np.full((64, 64, 3), 60, dtype=np.uint8)
            picture[20:36, (offset + 3 * frame) % 48 :][:, :16] = (230, 140, 20)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _content() -> PageContent:
    rewards = np.linspace(-1, 1, 4 * 2 * 3).reshape(4, 2, 3).tolist()
    rewards[0][1][2] = float("nan")
    prompts = [HOSTILE] + [f"a square moves, number {index}" for index in range(1, NUM_PAIRS)]
    clips = [
        ClipPair(prompt, seed, _encode(seed), _encode(seed + 5), rewards, rewards, FRAME_TO_PATCH, NUM_FRAMES, FPS)
        for seed, prompt in enumerate(prompts)
    ]
    metrics = [MetricRow("Truth", "Defects", "%", 18, 9, -9, -11, -7, "lower", "64 prompts")]
    return PageContent("Report", "", "Fewer defects.", metrics, clips, [], [], [], [], [], "seed: 1", {})


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(_content()), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report on clips of one frame."""
    file = encode_png(np.full((64, 96, 3), (230, 140, 20), dtype=np.uint8))
    rewards = [[[-1.0, 0.0, 1.0], [0.5, 0.2, float("nan")]]]
    clips = [ClipPair("a square", seed, file, file, rewards, rewards, [0], 1, FPS) for seed in range(2)]
    path: Path = tmp_path_factory.mktemp("pictures") / "report.html"
    content = PageContent("Report", "", "Fewer defects.", [], clips, [], [], [], [], [], "seed: 1", {})
    path.write_text(render_page(content), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Any]:
    """Opens the report at its clips; at the end no page may have complained or asked for a thing outside."""
    complaints: list[str] = []
    requests: list[str] = []
    contexts = []

    def open_report(
        address: str = address, ready: str = "querySelector('video').readyState >= 2", **options: Any
    ) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        page.locator("#clips").evaluate("(section) => section.scrollIntoView()")
        _wait(page, f"() => document.{ready}")
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url.split(":")[0] for url in requests} <= {"file", "data", "blob"}


def _wait(page: Any, condition: str) -> None:
    """Waits until `condition` holds; Playwright's own way needs `eval`, which the page forbids."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"still false after 10 s: {condition}")


def test_clips_play_in_step(open_page: Any) -> None:
    seen = open_page().evaluate(WATCH)
    assert seen["pairs"] >= 2
    assert seen["laps"] >= 1
    assert seen["farthest"] > 1.0
    assert seen["apart"] <= 1 / FPS


def test_every_clip_loads_when_it_is_near(open_page: Any) -> None:
    page = open_page()
    for index in range(NUM_PAIRS):
        page.locator(".pair").nth(index).scroll_into_view_if_needed()
        script = f"[...document.querySelectorAll('.pair')[{index}].querySelectorAll('video')]"
        _wait(page, f"() => {script}.every((video) => video.readyState >= 2)")
    assert page.locator(".failure:visible").count() == 0


def test_switch_lays_heat_maps_over_the_clips(open_page: Any) -> None:
    page = open_page(reduced_motion="reduce")
    canvases, legend = page.locator("canvas"), page.locator("#legend")
    assert not canvases.first.is_visible() and not legend.is_visible()

    page.get_by_role("switch", name="Patch rewards").check()
    assert canvases.first.is_visible() and legend.is_visible()
    drawn = page.evaluate(DRAWN)
    assert len(drawn) >= 4
    assert all(canvas["size"] == [3, 2] and canvas["alpha"] == [255] * 5 + [0] for canvas in drawn)

    page.keyboard.press("ArrowLeft")  # round to the last frame, whose patches have more reward
    later = page.evaluate(DRAWN)
    assert later[0]["alpha"] == [255] * 6
    assert later[0]["first"] != drawn[0]["first"]

    page.get_by_role("switch", name="Patch rewards").uncheck()
    assert not canvases.first.is_visible() and not legend.is_visible()


def test_pause_and_steps_hold_all_clips_at_one_frame(open_page: Any) -> None:
    page = open_page()
    page.get_by_role("button", name="Pause").click()
    page.locator("#scrubber").fill("4")
    page.keyboard.press("ArrowRight")  # the scrubber has the focus
    page.locator("#play").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#readout").inner_text() == f"7 / {NUM_FRAMES}"
    assert page.locator("#scrubber").get_attribute("aria-valuetext") == f"frame 7 of {NUM_FRAMES}"
    assert {round(time, 3) for time in page.evaluate(LIVE_TIMES)} == {round(6.5 / FPS, 3)}
    page.get_by_role("button", name="Play").click()
    _wait(page, "() => document.querySelector('video').currentTime > 1.0")


def test_reduced_motion_starts_nothing(open_page: Any) -> None:
    page = open_page(reduced_motion="reduce")
    page.wait_for_timeout(500)
    assert page.get_by_role("button", name="Play").is_visible()
    assert {round(time, 4) for time in page.evaluate(LIVE_TIMES)} == {0.5 / FPS}


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_pictures_are_shown_with_their_heat_maps_and_without_a_clock(
    motion: str, open_page: Any, pictures: str
) -> None:
    page = open_page(pictures, "querySelector('img.clip').complete", reduced_motion=motion)
    _wait(page, "() => [...document.querySelectorAll('img.clip')].every((image) => image.naturalWidth === 96)")
    assert page.locator("video").count() == 0
    assert not page.locator("#play").is_visible() and not page.locator("#scrubber").is_visible()
    page.get_by_role("switch", name="Patch rewards").check()
    _wait(page, "() => document.querySelector('canvas').width === 3")
    drawn = page.evaluate(
        DRAWN.replace('.filter((canvas) => canvas.parentElement.querySelector("video").duration)', "")
    )
    assert [canvas["size"] for canvas in drawn] == [[3, 2]] * 4
    assert [canvas["alpha"] for canvas in drawn] == [[255] * 5 + [0]] * 4


def test_hostile_prompt_is_shown_as_text(open_page: Any) -> None:
    page = open_page()
    assert page.locator(".pair h3").first.inner_text() == HOSTILE
    assert page.title() == "Report"


@pytest.mark.parametrize("width", [320, 768])
def test_page_is_never_wider_than_the_window(open_page: Any, width: int) -> None:
    page = open_page()
    page.set_viewport_size({"width": width, "height": 700})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
