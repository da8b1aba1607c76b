"""The report page, read as text: what it shows, what it hides, and that nothing in it can break out."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from halovid.pages import report_page as page_module
from halovid.pages.charts import Curve, KindRow
from halovid.pages.report_page import AgreementRow, ClipPair, MetricRow, PageContent, render_page

HOSTILE = "</script><script>alert(\"x\")</script><b>'bold'</b> & {{ 7 * 7 }} \N{FOX FACE}"
REWARDS = [[[0.5, -1.0, 2.0], [0.25, math.nan, 1.0]], [[1.0, 1.5, 0.0], [0.75, 0.5, 1.25]]]
METRIC = MetricRow("Truth", "Defective patches", "%", 18.42, 9.71, -8.71, -10.2, -7.1, "lower", "64 prompts")
CLIP = ClipPair("a red ring", 3, b"base", b"aligned", REWARDS, REWARDS, [0, 0, 0, 1, 1], num_frames=5, fps=8)
CONTENT = PageContent(
    title="Alignment report",
    subtitle="Two rounds.",
    verdict="Fewer defects.",
    metrics=[METRIC],
    clips=[CLIP, replace(CLIP, prompt=HOSTILE)],
    repaired=[replace(CLIP, prompt=HOSTILE, seed=None)],
    kinds=[KindRow("melt", 0.041, 0.025), KindRow("smear", 0.031, math.nan)],
    agreement=[AgreementRow("patch phase", "dense", 0.7123, 0.55, math.nan)],
    curves=[
        Curve("Loss", "step", "loss", {"loss": [(0, 0.7), (1, 0.6)]}),
        Curve("Cost in $", "step", "$x_1$", {"_chosen$": [(0, 0.5), (1, 0.6)], "rejected": []}),
    ],
    skipped=["VBench: not installed."],
    config_yaml="align:\n  prompt: <b>\n",
    versions={"torch": "2.13.0"},
)
EMPTY = replace(
    CONTENT,
    metrics=[],
    clips=[],
    repaired=[],
    kinds=[],
    agreement=[],
    curves=[],
    skipped=[],
    config_yaml="",
    versions={},
)


class _Elements(HTMLParser):
    """Every start tag with its attributes, and the text of every script and every heading of a clip."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "h3": []}
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        if tag in self.texts:
            self.texts[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in self.texts:
            self.texts[self._open][-1] += data

    def attributes(self, name: str) -> list[str]:
        """Values of one attribute over all tags."""
        return [attributes[name] or "" for _, attributes in self.tags if name in attributes]


def _clip_data(html: str) -> dict[str, Any]:
    return json.loads(_Elements(html).texts["script"][0])


def _metric_html(row: MetricRow) -> str:
    return render_page(replace(EMPTY, metrics=[row]))


def test_equal_content_gives_equal_bytes() -> None:
    assert render_page(CONTENT) == render_page(CONTENT)


def test_names_no_address_outside() -> None:
    html = render_page(CONTENT)
    assert "://" not in html
    elements = _Elements(html)
    assert elements.attributes("src") == []
    assert elements.attributes("href") == ["data:,"]


def test_hostile_prompt_stays_text() -> None:
    elements = _Elements(render_page(CONTENT))
    assert [tag for tag, _ in elements.tags].count("script") == 2  # the data and the script
    assert HOSTILE in elements.texts["h3"]
    assert f"Base: {HOSTILE}" in elements.attributes("aria-label")


def test_every_text_is_escaped() -> None:
    texts = {
        "title": HOSTILE,
        "subtitle": HOSTILE,
        "verdict": HOSTILE,
        "config_yaml": HOSTILE,
    }
    content = replace(
        CONTENT,
        **texts,  # type: ignore[arg-type]
        metrics=[replace(METRIC, group="<i>", name="<i>", unit="<i>")],
        kinds=[KindRow("<i>", 0.1, 0.2)],
        agreement=[AgreementRow("<i>", "<i>", 0.1, 0.2, 0.3)],
        curves=[Curve("<i>", "<i>", '"<i>', {"<i>": [(0, 1)]})],
        skipped=["<i>"],
        versions={"<i>": "<i>"},
    )
    tags = [tag for tag, _ in _Elements(render_page(content)).tags]
    assert "i" not in tags
    assert tags.count("script") == 2


def test_policy_allows_the_script_that_is_there() -> None:
    html = render_page(CONTENT)
    digest = base64.b64encode(hashlib.sha256(_Elements(html).texts["script"][1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html


def test_ids_are_unique_and_references_resolve() -> None:
    html = render_page(CONTENT)
    ids = _Elements(html).attributes("id")
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:url\(#|href="#|labelledby="|for=")([\w-]+)', html)
    assert references and set(references) <= set(ids)


def test_clip_data_holds_clips_and_rewards() -> None:
    data = _clip_data(render_page(CONTENT))
    clip = data["clips"][0]
    assert base64.b64decode(clip["sides"][1]["file"]) == b"aligned"
    assert clip["sides"][0]["rewards"][0][1] == [0.25, None, 1.0]
    assert clip["frameToPatch"] == [0, 0, 0, 1, 1]
    assert data["clock"] == {"fps": 8, "numFrames": 5}


def test_colour_scale_is_common_and_spares_extremes() -> None:
    many = [[[step / 100 for step in range(100)]]]
    wild = replace(CLIP, base_rewards=many, aligned_rewards=[[[-1e6] + [0.5] * 99]], frame_to_patch=[0] * 5)
    scale = _clip_data(render_page(replace(CONTENT, clips=[CLIP, wild])))["scale"]
    assert -1.0 <= scale["low"] < scale["high"] <= 2.0


@pytest.mark.parametrize("value", [0.3, math.nan])
def test_colour_scale_has_a_width(value: float) -> None:
    flat = replace(CLIP, base_rewards=[[[value]]], aligned_rewards=[[[value]]], frame_to_patch=[0] * 5)
    scale = _clip_data(render_page(replace(CONTENT, clips=[flat])))["scale"]
    assert scale["low"] < scale["high"]


@pytest.mark.parametrize(
    ("better", "low", "high", "outcome"),
    [
        ("lower", -2, -1, "better"),
        ("lower", 1, 2, "worse"),
        ("lower", -1, 2, "unclear"),
        ("higher", 1, 2, "better"),
        ("higher", -2, -1, "worse"),
        ("higher", 0, 1, "unclear"),
        ("same", -1, 1, "unchanged"),
        ("same", 1, 2, "changed"),
        ("same", math.nan, math.nan, "unknown"),
    ],
)
def test_outcome_of_an_interval(better: page_module.Better, low: float, high: float, outcome: str) -> None:
    html = _metric_html(replace(METRIC, difference=(low + high) / 2, low=low, high=high, better=better))
    assert f'<tr role="row" class="{outcome}">' in html


def test_drawn_interval_turns_so_that_right_is_better() -> None:
    for row in (METRIC, replace(METRIC, difference=8.71, low=7.1, high=10.2, better="higher")):
        point = re.search(r'class="point" cx="([\d.]+)"', _metric_html(row))
        assert point and float(point[1]) > 80


def test_numbers_have_three_digits_and_rows_their_sample_size() -> None:
    html = _metric_html(METRIC)
    assert all(
        text in html for text in (">18.4<", ">9.71<", "\N{MINUS SIGN}8.71", "\N{MINUS SIGN}10.2 to", "64 prompts")
    )


def test_a_small_difference_is_not_shown_as_none() -> None:
    html = _metric_html(replace(METRIC, difference=-2.62e-05, low=-4e-05, high=-1e-05))
    assert "\N{MINUS SIGN}2.62e\N{MINUS SIGN}05" in html and "0.0000" not in html


def test_no_number_shows_as_a_dash() -> None:
    nan = math.nan
    html = _metric_html(replace(METRIC, aligned=nan, difference=nan, low=nan, high=nan))
    assert 'data-label="Aligned">\N{EM DASH}</td>' in html
    assert "nan" not in render_page(CONTENT).split("<script")[0].lower()


def test_empty_parts_leave_their_sections_out() -> None:
    html = render_page(EMPTY)
    assert "<section" not in html
    assert "<script" not in html
    assert "Fewer defects." in html
    assert render_page(CONTENT).count("<section") == 7


def test_chart_colours_follow_the_style_sheet() -> None:
    html = render_page(CONTENT)
    assert "var(--series-1)" in html
    assert "#0000" not in html


def test_refuses_a_page_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "MAX_PAGE_BYTES", 10_000)
    with pytest.raises(ValueError, match=r"3 clip pairs.*show fewer"):
        render_page(CONTENT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 0}, "0 frames at 8 fps"),
        ({"fps": 0}, "5 frames at 0 fps"),
        ({"frame_to_patch": [0, 1]}, "2 entries for 5 frames"),
        ({"frame_to_patch": [0, 0, 1, 1, 2]}, "from 0 to 2; base_rewards has t indices 0..1"),
        ({"aligned_rewards": [[0.5]]}, r"aligned_rewards has the shape \(1, 1\)"),
        ({"base_rewards": [[[0.5], [0.5, 1.0]]]}, "base_rewards is ragged"),
    ],
)
def test_refuses_a_clip_that_does_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CLIP, **change)


def test_refuses_an_impossible_metric() -> None:
    with pytest.raises(ValueError, match="'less'; use one of lower, higher, same"):
        replace(METRIC, better="less")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="swap its ends"):
        replace(METRIC, low=1, high=-1)
