"""The training of the text encoder, on captions alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from halovid.world.captions import parse_caption
from halovid.world_training import text
from tiny_world_training import assert_resumes, kill_at


def test_the_text_encoder_continues_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(text, "BATCH_SIZE", 3)
    assert_resumes(
        lambda folder: text.train_text_encoder(folder, num_steps=4),
        tmp_path,
        "text.safetensors",
        lambda: kill_at(4, text, "random_captions", monkeypatch),
    )


def test_the_reader_must_find_what_the_caption_says() -> None:
    tokenizer = text.build_tokenizer()
    ids, mask, truth = text.random_captions(tokenizer, np.random.default_rng(0))
    spec = parse_caption(tokenizer.decode(ids[2, : mask[2].sum()], skip_special_tokens=True))
    assert [text.COLOURS[i] for i in truth["colour"][2]] == [sprite.colour for sprite in spec.sprites]
    assert text.BACKGROUNDS[truth["background"][2]] == spec.background
    logits = text.CaptionReader()(ids, mask)
    assert logits["motion"].shape == (text.BATCH_SIZE, text.NUM_SPRITES, len(text.MOTIONS))
