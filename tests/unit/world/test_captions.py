"""Captions say all that a spec holds, and foreign texts are no captions."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halovid.world.captions import VOCABULARY, all_words, parse_caption, write_caption
from halovid.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    NUM_SPRITES,
    SHAPES,
    SIZES,
    TEXTURES,
    SceneSpec,
    SpriteSpec,
)

quick = settings(max_examples=80, deadline=None, derandomize=True)


@st.composite
def specs(draw: st.DrawFn) -> SceneSpec:
    colours = draw(st.lists(st.sampled_from(COLOURS), min_size=NUM_SPRITES, max_size=NUM_SPRITES, unique=True))
    look = st.tuples(*map(st.sampled_from, (SIZES, TEXTURES, SHAPES, MOTIONS)))
    sprites = []
    for colour in colours:
        size, texture, shape, motion = draw(look)
        sprites.append(SpriteSpec(size, texture, colour, shape, motion))
    return SceneSpec(tuple(sprites), draw(st.sampled_from(BACKGROUNDS)))


CAPTION = (
    "A small plain red circle rises, a big striped blue ring sways, a tiny checked green square drifts left and "
    "a huge shaded white cross orbits on a navy background."
)
rngs = st.integers(0, 2**32).map(np.random.default_rng)


@quick
@given(specs(), rngs)
def test_a_caption_is_read_back_whatever_its_phrasing(spec: SceneSpec, rng: np.random.Generator) -> None:
    caption = write_caption(spec, rng)
    assert parse_caption(caption) == spec
    assert parse_caption(caption.upper()) == spec
    assert caption[0].isupper()
    assert "{" not in caption


@quick
@given(specs(), specs(), rngs)
def test_captions_of_different_specs_differ(first: SceneSpec, second: SceneSpec, rng: np.random.Generator) -> None:
    captions = {write_caption(spec, rng) for spec in (first, second) for _ in range(3)}
    assert {parse_caption(caption) for caption in captions} == {first, second}


def test_a_written_out_caption() -> None:
    assert parse_caption(CAPTION) == SceneSpec(
        (
            SpriteSpec("small", "plain", "red", "circle", "rises"),
            SpriteSpec("big", "striped", "blue", "ring", "sways"),
            SpriteSpec("small", "checked", "green", "square", "left"),
            SpriteSpec("big", "shaded", "white", "cross", "orbits"),
        ),
        "navy",
    )


def test_phrasings_vary() -> None:
    spec = parse_caption(CAPTION)
    rng = np.random.default_rng(0)
    captions = {write_caption(spec, rng) for _ in range(300)}
    assert len(captions) > 290
    words = {word for caption in captions for word in re.findall(r"[a-z]+", caption.lower())}
    # every synonym of the spec's values turns up
    values = {spec.background, *(v for s in spec.sprites for v in (s.size, s.texture, s.colour, s.shape, s.motion))}
    assert {word for word, (_, value) in VOCABULARY.items() if value in values} <= words


def test_every_word_has_one_meaning_and_every_value_a_word() -> None:
    values = {*SIZES, *TEXTURES, *COLOURS, *SHAPES, *MOTIONS, *BACKGROUNDS}
    assert {value for _, value in VOCABULARY.values()} == values
    assert len(values) == sum(map(len, (SIZES, TEXTURES, COLOURS, SHAPES, MOTIONS, BACKGROUNDS)))


@quick
@given(specs(), rngs)
def test_all_words_are_known_to_the_tokenizer(spec: SceneSpec, rng: np.random.Generator) -> None:
    words = all_words()
    assert words == sorted(set(words))
    assert set(re.findall(r"\w+|[^\w\s]", write_caption(spec, rng).lower())) <= set(words)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A panda plays the guitar beside a camp fire.",
        CAPTION.replace("navy", "dark"),  # no background
        CAPTION.replace("background", "forest"),  # two
        CAPTION.replace("blue", "red"),  # a colour twice
        CAPTION.replace("circle", "dog"),
        CAPTION.replace("circle", "circle ring"),
        CAPTION.replace("rises", "sleeps"),
        CAPTION.replace("tiny ", ""),
        CAPTION.replace("checked ", ""),
        CAPTION.replace(", a big striped blue ring sways", ""),  # three sprites
        CAPTION.replace(" on a navy", ", a big plain cyan ring sways on a navy"),  # five
        CAPTION.replace("red", "redder"),  # a known word must stand alone
        " ".join([CAPTION, CAPTION]),
    ],
)
def test_foreign_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a caption of the embedded world"):
        parse_caption(text)


@quick
@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(text: str) -> None:
    with pytest.raises(ValueError, match="not a caption"):
        parse_caption(text)


def test_an_enormous_foreign_text_gives_a_short_message() -> None:
    with pytest.raises(ValueError) as caught:
        parse_caption("word " * 100_000)
    assert len(str(caught.value)) < 500
