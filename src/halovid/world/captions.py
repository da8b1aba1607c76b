"""Captions of the embedded world: a grammar with several phrasings, and its inverse.

Every content word belongs to exactly one attribute value, so a caption can be read back by looking its
words up: `parse_caption(write_caption(spec, rng)) == spec` for every spec and phrasing.
"""

from __future__ import annotations

import re

import numpy as np

from halovid.world.scenes import BACKGROUNDS, COLOURS, NUM_SPRITES, SHAPES, SIZES, TEXTURES, SceneSpec, SpriteSpec

_PHRASES = {
    "small": ("small", "little", "tiny"),
    "big": ("big", "large", "huge"),
    "left": ("drifts left", "moves to the left", "slides left"),
    "right": ("drifts right", "moves to the right", "slides right"),
    "rises": ("rises", "ascends"),
    "sinks": ("sinks", "descends"),
    "sways": ("sways", "swings"),
    "bobs": ("bobs", "bounces"),
    "orbits": ("orbits", "loops"),
}
_FRAMES = (
    "{sprites} on a {background} background.",
    "On a {background} background, {sprites}.",
    "A {background} scene: {sprites}.",
    "{sprites}, in front of a {background} wall.",
)
_NOUN_PHRASES = ("a {size} {texture} {colour} {shape} {motion}", "a {size} {colour} {texture} {shape} {motion}")


def _vocabulary() -> dict[str, tuple[str, str]]:
    """Content word -> (attribute, value)."""
    words = {value: ("background", value) for value in BACKGROUNDS}
    for attribute, values in (("colour", COLOURS), ("texture", TEXTURES), ("shape", SHAPES)):
        words |= {value: (attribute, value) for value in values}
    for value, phrases in _PHRASES.items():
        attribute = "size" if value in SIZES else "motion"
        words |= {phrase.split()[-1]: (attribute, value) for phrase in phrases}
    return words


VOCABULARY = _vocabulary()


def write_caption(spec: SceneSpec, rng: np.random.Generator) -> str:
    """A caption of `spec` in one of the grammar's phrasings, chosen by `rng`."""

    def pick(options: tuple[str, ...]) -> str:
        return options[rng.integers(len(options))]

    sprites = [
        pick(_NOUN_PHRASES).format(
            size=pick(_PHRASES[sprite.size]),
            texture=sprite.texture,
            colour=sprite.colour,
            shape=sprite.shape,
            motion=pick(_PHRASES[sprite.motion]),
        )
        for sprite in spec.sprites
    ]
    joined = ", ".join(sprites[:-1]) + " and " + sprites[-1]
    text = pick(_FRAMES).format(sprites=joined, background=spec.background)
    return text[0].upper() + text[1:]


def parse_caption(caption: str) -> SceneSpec:
    """The spec that a caption of this grammar describes.

    Raises:
        ValueError: the text is not a caption of the embedded world.
    """
    backgrounds: list[str] = []
    values_of: dict[str, list[str]] = {name: [] for name in ("size", "texture", "colour", "shape", "motion")}
    for word in re.findall(r"[a-z]+", caption.lower()):
        if word in VOCABULARY:
            attribute, value = VOCABULARY[word]
            (backgrounds if attribute == "background" else values_of[attribute]).append(value)
    counts = {len(values) for values in values_of.values()}
    if len(backgrounds) != 1 or counts != {NUM_SPRITES} or len(set(values_of["colour"])) != NUM_SPRITES:
        raise ValueError(
            f"not a caption of the embedded world: {caption[:120]!r}. It must name {NUM_SPRITES} sprites of "
            f"different colours (each with size, texture, colour, shape and motion) and one background "
            f"({', '.join(BACKGROUNDS)})"
        )
    sprites = tuple(
        SpriteSpec(**dict(zip(values_of, values, strict=True))) for values in zip(*values_of.values(), strict=True)
    )
    return SceneSpec(sprites, backgrounds[0])


def all_words() -> list[str]:
    """Every word and punctuation mark that a caption can hold, sorted: the vocabulary of the packaged tokenizer."""
    phrases = [phrase for options in _PHRASES.values() for phrase in options]
    names = [*SHAPES, *COLOURS, *TEXTURES, *BACKGROUNDS]
    texts = [*_FRAMES, *_NOUN_PHRASES, *phrases, *names]
    plain = [re.sub(r"{\w+}", " ", text).lower() for text in texts]
    return sorted({word for text in plain for word in re.findall(r"[a-z]+|[.,:]", text)} | {"and"})
