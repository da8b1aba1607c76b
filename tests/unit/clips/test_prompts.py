"""Prompts from files of every kind, and from the embedded world."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halovid.clips.prompts import load_prompts
from halovid.config.run import PromptsConfig
from halovid.records import MAX_CHARACTERS
from halovid.store.errors import InputError
from halovid.world.captions import parse_caption

EMOJI = "a dancing 👨‍👩‍👧 family 🎉"
MIXED = ["a red ball", "", "  \t", "bell \x07 rings", EMOJI, "x" * (MAX_CHARACTERS + 1), "\ud55c\uad6d, עברית"]
quick = settings(max_examples=25, deadline=None, derandomize=True)
# what a prompt may hold: quotes and commas of tables, line ends that are none of ours, joined emoji
signs = [
    *"ab ,;\"'\\",
    "\u2028",
    "\u2029",
    "\N{NO-BREAK SPACE}",
    "\N{ZERO WIDTH JOINER}",
    "\N{PARTY POPPER}",
    "\U0001f468",
]
texts = st.lists(st.sampled_from(signs), min_size=1, max_size=9).map("".join).filter(lambda text: text.strip() != "")


def write(path: Path, prompts: list[str]) -> Path:
    """A prompt file of the kind that the suffix names."""
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps({"id": 7, "prompt": text}, ensure_ascii=False) + "\n" for text in prompts)
        elif path.suffix == ".csv":
            rows = csv.writer(file)
            rows.writerows([["id", "prompt"], *([str(i), text] for i, text in enumerate(prompts))])
        else:
            file.writelines(text + "\n" for text in prompts)
    return path


def read(path: Path, count: int | None = None) -> tuple[list[str], dict[str, str]]:
    prompts, refused = load_prompts(PromptsConfig(file=path, count=count))
    ids = [prompt.prompt_id for prompt in prompts]
    assert len(ids) == len(set(ids))
    return [prompt.text for prompt in prompts], dict(refused)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.prompts"])
def test_usable_prompts_are_kept_and_others_listed(name: str, tmp_path: Path) -> None:
    prompts, refused = read(write(tmp_path / name, MIXED))
    assert prompts == ["a red ball", EMOJI, "\ud55c\uad6d, עברית"]
    reasons = list(refused.values())
    assert any("control characters (U+0007)" in reason for reason in reasons)
    assert any(f"{MAX_CHARACTERS + 1} characters long, at most {MAX_CHARACTERS}" in reason for reason in reasons)
    blank = [reason for reason in reasons if reason == "empty"]
    assert len(reasons) == 2 + len(blank)
    assert len(blank) == (2 if name in ("a.jsonl", "a.csv") else 0)  # blank lines of a text are no prompts


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv"])
@quick
@given(st.lists(texts, min_size=1, max_size=4))
def test_every_text_comes_back_stripped(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, prompts: list[str]
) -> None:
    path = write(tmp_path_factory.mktemp("prompts") / f"a{suffix}", prompts)
    assert read(path) == ([text.strip() for text in prompts], {})


def test_the_longest_prompt_is_accepted(tmp_path: Path) -> None:
    longest = "y" * MAX_CHARACTERS
    assert read(write(tmp_path / "a.txt", [longest])) == ([longest], {})


def test_a_cell_of_any_size_is_refused_by_name(tmp_path: Path) -> None:
    prompts, refused = read(write(tmp_path / "a.csv", ["fine", "z" * 200_000]))
    assert prompts == ["fine"]
    assert list(refused.values()) == [f"200000 characters long, at most {MAX_CHARACTERS} are read"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_a_byte_order_mark_and_windows_lines_do_no_harm(name: str, tmp_path: Path) -> None:
    plain = write(tmp_path / name, ["first", "second"]).read_text(encoding="utf-8")
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").encode())
    assert read(tmp_path / name) == (["first", "second"], {})


def test_a_line_break_inside_a_csv_cell_is_a_control_character(tmp_path: Path) -> None:
    prompts, refused = read(write(tmp_path / "a.csv", ["two\nlines", "one line"]))
    assert prompts == ["one line"]
    assert list(refused.values()) == ["contains control characters (U+000A)"]


def test_names_stay_when_another_prompt_is_refused(tmp_path: Path) -> None:
    good = load_prompts(PromptsConfig(file=write(tmp_path / "a.txt", ["a", "b", "c"])))[0]
    part, refused = load_prompts(PromptsConfig(file=write(tmp_path / "b.txt", ["a", "b\x00", "c"])))
    assert part == [good[0], good[2]]
    assert refused[0][0] == "prompt 1"


def test_count_takes_the_first(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.txt", ["a", "", "b", "c"]), count=2) == (["a", "b"], {})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "holds no usable prompt (it is empty); put one prompt on each line"),
        ("a.txt", " \n\n", "it is empty"),
        ("a.csv", "prompt\n", "it is empty"),
        ("a.txt", "\x07\n", "prompt 0: contains control characters (U+0007)"),
        ("a.csv", "text\nx\n", "needs a column `prompt`; it has text"),
        ("a.jsonl", '{"text": "x"}\n', "needs a `prompt`"),
        ("a.jsonl", '{"prompt": "x"\n', "line 1 is not JSON"),
        ("a.jsonl", '["x"]\n', "needs a `prompt`"),
        ("a.jsonl", '{"prompt": null}\n', "no usable prompt"),
        ("a.jsonl", '{"prompt": ["x"]}\n', "no usable prompt"),
        ("a.jsonl", '{"prompt": "half \\ud800 an emoji"}\n', "no usable prompt"),
    ],
)
def test_a_file_without_usable_prompts_is_an_error(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_a_missing_or_binary_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"can't read .*no\.txt: No such file"):
        read(tmp_path / "no.txt")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"a\.txt is not UTF-8 text"):
        read(tmp_path / "a.txt")


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_prompts_of_the_world_are_captions_that_depend_on_the_seed_alone(split: str) -> None:
    prompts, refused = load_prompts(PromptsConfig(split=split, count=31, seed=5))
    assert refused == []
    assert load_prompts(PromptsConfig(split=split, count=31, seed=5))[0] == prompts
    assert load_prompts(PromptsConfig(split=split, count=7, seed=5))[0] == prompts[:7]
    assert len({prompt.prompt_id for prompt in prompts}) == len({prompt.text for prompt in prompts}) == 31
    other = load_prompts(PromptsConfig(split=split, count=31, seed=6))[0]
    assert not {prompt.text for prompt in prompts} & {prompt.text for prompt in other}
    for prompt in prompts:
        held_out = any(sprite.held_out for sprite in parse_caption(prompt.text).sprites)
        assert held_out == (split == "heldout")


def test_the_world_gives_64_prompts_unless_told() -> None:
    assert len(load_prompts(PromptsConfig())[0]) == 64
