"""Bad input of every kind: one sentence, or an item that is skipped and listed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from halovid.commands.exchange import export_run, import_run
from halovid.formats import FORMATS
from halovid.formats.sources import SourceProblem, resolve_inside
from halovid.store.errors import InputError
from halovid.store.manifests import read_manifest
from halovid.store.tables import CLIPS, PAIRS, SOURCES, read_table
from halovid.store.video import read_video

Put = Callable[..., Path]


def one_sentence(error: pytest.ExceptionInfo[InputError]) -> str:
    text = str(error.value)
    assert "\n" not in text.strip() and len(text) < 600, text
    return text


def skipped(run: Path) -> dict[str, str]:
    """Item -> reason, of the imported clips."""
    manifest = read_manifest(run / "generate")
    assert manifest is not None
    return {entry["item"]: entry["reason"] for entry in manifest["skipped"]}


def prompts_of(run: Path) -> dict[str, str]:
    """Source name -> prompt."""
    names = {row["clip_id"]: row["source"] for row in read_table(run / "generate/sources.parquet", SOURCES).to_pylist()}
    clips = read_table(run / "generate/clips.parquet", CLIPS).to_pylist()
    return {names[row["clip_id"]]: row["prompt"] for row in clips}


@pytest.fixture
def outside(tmp_path: Path, put: Put) -> Path:
    return put(tmp_path / "outside" / "secret.mp4")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def write_prompts(source: Path, rows: list[tuple[str, str]]) -> None:
    lines = ["video,prompt", *('"' + '","'.join(cell.replace('"', '""') for cell in row) + '"' for row in rows)]
    (source / "prompts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("../outside/secret.mp4", "leads out of the folder"),
        ("a/../../outside/secret.mp4", "leads out of the folder"),
        ("/etc/passwd", "no path relative to the folder"),
        ("C:\\clips\\a.mp4", "no path relative to the folder"),
        ("..\\outside\\secret.mp4", "no path relative to the folder"),
        ("link.mp4", "a link that leads out of the folder"),
        ("linked/secret.mp4", "a link that leads out of the folder"),
        ("loop.mp4", "can't be followed|does not exist"),
        ("missing.mp4", "does not exist"),
        ("folder", "does not exist"),
        ("", "no file name"),
        ("a\nb.mp4", "no file name"),
        ("a\0b.mp4", "no file name"),
        ("x" * 5000, "can't be followed|does not exist"),
        (None, "no file name"),
        (7, "no file name"),
    ],
)
def test_paths_stay_inside_the_folder(source: Path, outside: Path, text: Any, reason: str) -> None:
    (source / "folder").mkdir()
    (source / "link.mp4").symlink_to(outside)
    (source / "linked").symlink_to(outside.parent)
    (source / "loop.mp4").symlink_to(source / "loop.mp4")
    with pytest.raises(SourceProblem, match=reason) as error:
        resolve_inside(source, text)
    assert len(str(error.value)) < 400


def test_names_in_any_script_and_joined_emoji_are_names(source: Path, put: Put) -> None:
    for name in ("\U0001f468\u200d\U0001f469\u200d\U0001f467.mp4", "\u72d0\u72f8.mp4", "fu\u0308chse.mp4", "a b.mp4"):
        path = put(source / name)
        assert resolve_inside(source, name) == path.resolve()


def test_a_link_inside_the_folder_is_the_file_it_leads_to(source: Path, put: Put) -> None:
    real = put(source / "clips" / "a.mp4")
    (source / "b.mp4").symlink_to(real)
    assert resolve_inside(source, "b.mp4") == real.resolve() == resolve_inside(source, "./clips//a.mp4")


def test_a_folder_full_of_trouble_gives_the_good_clips_and_lists_the_others(
    source: Path, outside: Path, put: Put, tmp_path: Path
) -> None:
    for name in ("good.mp4", "\U0001f98a fox.mp4", "twice.mp4", "newline.mp4", "nobody.mp4", "-rf.mp4", "empty.mp4"):
        put(source / name)
    whole = put(source / "cut.mp4", 2).read_bytes()
    (source / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (source / "text.mp4").write_text("no video")
    (source / "link.mp4").symlink_to(outside)
    named = [
        *(("good.mp4", "a fox"), ("\U0001f98a fox.mp4", "a \U0001f98a"), ("-rf.mp4", "a fox")),
        *(("twice.mp4", "one"), ("./twice.mp4", "two"), ("newline.mp4", "two\nlines"), ("empty.mp4", " ")),
        *(("cut.mp4", "cut"), ("text.mp4", "text"), ("link.mp4", "link"), ("../outside/secret.mp4", "up")),
        *((str(outside), "absolute"), ("missing.mp4", "gone")),
    ]
    write_prompts(source, named)
    run = tmp_path / "run"
    import_run("folder", source, run, None)
    assert prompts_of(run) == {
        "good.mp4": "a fox",
        "-rf.mp4": "a fox",
        "\U0001f98a fox.mp4": "a \U0001f98a",
        "twice.mp4": "one",
    }
    reasons = skipped(run)
    expected = {
        "row 5": "has a row already",
        "row 6": "control characters",
        "row 7": "empty",
        "row 10": "link that leads out",
        "row 11": "leads out of the folder",
        "row 12": "no path relative",
        "row 13": "does not exist",
        "cut.mp4": "not a readable video|is not whole",
        "text.mp4": "not a readable video",
        "nobody.mp4": "gives it no usable prompt",
        "newline.mp4": "gives it no usable prompt",
        "empty.mp4": "gives it no usable prompt",
    }
    assert reasons.keys() == expected.keys()
    for item, reason in expected.items():
        assert any(part in reasons[item] for part in reason.split("|")), (item, reasons[item])
    ids = [row["clip_id"] for row in read_table(run / "generate/clips.parquet", CLIPS).to_pylist()]
    assert {"good", "twice"} < set(ids)
    assert all(not name.startswith(("-", ".")) and name.isascii() for name in ids)
    assert sorted(path.name for path in (run / "generate/clips").iterdir()) == sorted(f"{name}.mp4" for name in ids)


def test_equal_names_in_two_folders_stay_two_clips(source: Path, put: Put, tmp_path: Path) -> None:
    put(source / "a" / "x.mp4", 0), put(source / "b" / "X.mp4", 1)
    write_prompts(source, [("a/x.mp4", "one"), ("b/X.mp4", "two")])
    import_run("folder", source, tmp_path / "run", None)
    rows = read_table(tmp_path / "run/generate/clips.parquet", CLIPS).to_pylist()
    assert len({row["clip_id"] for row in rows}) == 2
    assert [row["fps"] for row in rows] == [8.0, 10.0]


BROKEN_CSV = {
    "no header": (b"", "lacks the columns video, prompt"),
    "missing column": (b"video,text\na.mp4,b\n", "lacks the column prompt; it has video, text"),
    "open quote": (b'video,prompt\na.mp4,"no end\nb.mp4,c\n', "is broken CSV near line"),
    "not text": (b"video,prompt\na.mp4,\xff\xfe\n", "is not UTF-8 text"),
    "two columns of one name": (b"video,prompt,prompt\na.mp4,b,c\n", "two columns of one name"),
    "huge cell": (b'video,prompt\na.mp4,"' + b"x" * 1_100_000 + b'"\n', "is broken CSV near line"),
    "only a header": (b"video,prompt\n", "holds no usable clip"),
    "ragged": (b"video,prompt\na.mp4\na.mp4,b,c\n", "holds no usable clip.*does not have the 2 cells"),
}


@pytest.mark.parametrize("name", BROKEN_CSV)
def test_a_broken_csv_is_one_sentence(source: Path, put: Put, tmp_path: Path, name: str) -> None:
    content, reason = BROKEN_CSV[name]
    put(source / "a.mp4")
    (source / "prompts.csv").write_bytes(content)
    with pytest.raises(InputError, match=reason) as error:
        import_run("folder", source, tmp_path / "run", None)
    one_sentence(error)
    assert not (tmp_path / "run" / "generate" / "manifest.json").exists()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_what_is_no_source_is_one_sentence(tmp_path: Path, name: str, kind: str) -> None:
    source = tmp_path / "source"
    if kind == "empty":
        source.mkdir()
    elif kind == "file":
        source.write_text("hello")
    with pytest.raises(InputError) as error:
        import_run(name, source, tmp_path / "run", None)
    assert str(source) in one_sentence(error)


BROKEN_JSON = {
    "cut": '[{"id": "a", ',
    "no list": '{"id": "a"}',
    "numbers": "[1, 2]",
    "deep": "[" * 100_000,
    "null": "null",
    "not text": "\udcff",
    "no id": '[{"name": "a"}]',
}


@pytest.mark.parametrize("content", BROKEN_JSON.values(), ids=BROKEN_JSON)
@pytest.mark.parametrize(("name", "file"), [("videofeedback", "data.json"), ("genaibench", "votes.json")])
def test_broken_json_is_one_sentence(source: Path, tmp_path: Path, name: str, file: str, content: str) -> None:
    (source / file).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InputError) as error:
        import_run(name, source, tmp_path / "run", None)
    one_sentence(error)


@pytest.mark.parametrize("file", ["metadata.json", "pair.json"])
@pytest.mark.parametrize("content", [None, *BROKEN_JSON.values()], ids=["missing", *BROKEN_JSON])
def test_broken_json_of_videodpo_is_one_sentence(
    source: Path, put: Put, tmp_path: Path, file: str, content: str | None
) -> None:
    put(source / "a.mp4"), put(source / "b.mp4")
    entry = {"misc": {"frame_caption": ["p"]}}
    clips = [entry | {"basic": {"clip_path": f"{name}.mp4", "clip_duration": 2}} for name in "ab"]
    (source / "metadata.json").write_text(json.dumps(clips))
    (source / "pair.json").write_text(json.dumps([{"video1": 0, "video2": 1, "frame_caption": "p"}]))
    (source / file).unlink()
    if content is not None:
        (source / file).write_bytes(content.encode(errors="surrogateescape"))
    if file == "pair.json" and content in ("[1, 2]", '[{"name": "a"}]'):  # a list, of which no row is a pair
        import_run("videodpo", source, tmp_path / "run", None)
        assert len(skipped(tmp_path / "run")) == content.count(",") + 1
        assert not (tmp_path / "run" / "pair").exists()
        return
    with pytest.raises(InputError) as error:
        import_run("videodpo", source, tmp_path / "run", None)
    one_sentence(error)


def test_a_damaged_parquet_is_one_sentence(source: Path, tmp_path: Path) -> None:
    (source / "votes.parquet").write_bytes(b"PAR1 and nothing else PAR1")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        import_run("genaibench", source, tmp_path / "run", None)


def test_prompts_that_vbench_names_cannot_hold_are_skipped(source: Path, put: Put, tmp_path: Path) -> None:
    put(source / "a fox-0.mp4"), put(source / "two\nlines-0.mp4"), put(source / "-0.mp4")
    import_run("vbench", source, tmp_path / "run", None)
    assert prompts_of(tmp_path / "run") == {"a fox-0.mp4": "a fox"}
    assert skipped(tmp_path / "run").keys() == {"'two\\nlines-0.mp4'", "'-0.mp4'"}


def test_nothing_is_written_outside_the_run_by_ids_that_are_paths(source: Path, put: Put, tmp_path: Path) -> None:
    put(source / "a.mp4")
    rows = [
        {"id": name, "text prompt": "p", "images": []} for name in ("../../up", "/tmp/x", "a/b", ".", "..", "a", "")
    ]
    (source / "data.json").write_text(json.dumps(rows))
    before = set(tmp_path.rglob("*"))
    import_run("videofeedback", source, tmp_path / "run", None)
    assert prompts_of(tmp_path / "run") == {"a": "p"}
    assert len(skipped(tmp_path / "run")) == 6
    assert all(path.is_relative_to(tmp_path / "run") for path in set(tmp_path.rglob("*")) - before)


def test_a_huge_csv_is_read_row_by_row(source: Path, put: Put) -> None:
    put(source / "a.mp4")
    with (source / "prompts.csv").open("w") as file:
        file.write("video,prompt\na.mp4,a fox\n")
        file.writelines(f"missing-{number}.mp4,prompt {number}\n" for number in range(20_000))
    collection = FORMATS["folder"].read(source)
    assert list(collection.clips) == ["a.mp4"]
    assert len(collection.skipped) == 20_000


def write_videodpo(source: Path, clips: list[Any], pairs: list[Any]) -> None:
    (source / "metadata.json").write_text(json.dumps(clips))
    (source / "pair.json").write_text(json.dumps(pairs))


@pytest.mark.parametrize("bad", [{"basic": {"clip_path": "a.mp4", "clip_duration": 2}}, None, 7])
def test_a_bad_row_of_videodpo_keeps_its_number(source: Path, put: Put, tmp_path: Path, bad: Any) -> None:
    for name in "abc":
        put(source / f"{name}.mp4")
    clips = [{"basic": {"clip_path": f"{n}.mp4", "clip_duration": 2}, "misc": {"frame_caption": ["p"]}} for n in "abc"]
    write_videodpo(source, [bad, *clips], [{"video1": 2, "video2": 3}, {"video1": 0, "video2": 1}])
    import_run("videodpo", source, tmp_path / "run", None)
    pairs = read_table(tmp_path / "run/pair/pairs.parquet", PAIRS).to_pylist()
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [("b", "c")]
    assert skipped(tmp_path / "run").keys() == {"clip row 1", "pair row 2"}


ODD_CELLS: dict[str, tuple[str, dict[str, Any], str]] = {
    "long id": ("videofeedback", {"id": "x" * 300, "text prompt": "p"}, "names no frames"),
    "long image": (
        "videofeedback",
        {"id": "b", "text prompt": "p", "images": ["y" * 300]},
        "can't be followed|does not exist",
    ),
    "huge rating": ("videofeedback", {"id": "a", "text prompt": "p", "visual quality": 10**400}, "is no number"),
    "true as rating": ("videofeedback", {"id": "a", "text prompt": "p", "visual quality": True}, "is no number"),
    "half an emoji": ("videofeedback", {"id": "\ud83d", "text prompt": "p"}, "names no frames|no Unicode"),
    "list of votes": ("genaibench", {"vote_type": ["leftvote"]}, "something else than text"),
    "list of prompts": ("genaibench", {"prompt": ["p"]}, "something else than text"),
    "long link": ("genaibench", {"left_video": f"https://x/{'v' * 300}.mp4"}, "can't be followed|does not exist"),
    "huge margin": ("genaibench", {"margin": 1e300}, "must lie in"),
    "tiny margin": ("genaibench", {"margin": 1e-50}, "must lie in"),
}


@pytest.mark.parametrize("case", ODD_CELLS)
def test_an_odd_cell_costs_its_row_alone(source: Path, put: Put, tmp_path: Path, case: str) -> None:
    name, change, reason = ODD_CELLS[case]
    put(source / "a.mp4"), put(source / "good.mp4"), put(source / "other.mp4")
    vote = {"prompt": "p", "left_video": "good.mp4", "right_video": "other.mp4", "vote_type": "leftvote"}
    rows = [{"id": "good", "text prompt": "p"}, change] if name == "videofeedback" else [vote, vote | change]
    (source / "table.json").write_text(json.dumps(rows))
    import_run(name, source, tmp_path / "run", None)
    assert "good.mp4" in prompts_of(tmp_path / "run") or "good" in prompts_of(tmp_path / "run")
    assert [re.search(reason, message) is not None for message in skipped(tmp_path / "run").values()] == [True]


@pytest.mark.parametrize("number", ["1" * 5000, "[" * 5000 + "]" * 5000])
def test_a_number_that_python_will_not_read_is_one_sentence(source: Path, tmp_path: Path, number: str) -> None:
    (source / "data.json").write_text(f'[{{"id": "a", "visual quality": {number}}}]')
    with pytest.raises(InputError) as error:
        import_run("videofeedback", source, tmp_path / "run", None)
    one_sentence(error)


def test_a_name_that_is_no_unicode_is_listed(source: Path, put: Put, tmp_path: Path) -> None:
    put(source / "a.mp4").rename(source / os.fsdecode(b"\xff-0.mp4"))
    put(source / "b.mp4")
    write_prompts(source, [("b.mp4", "p")])
    import_run("folder", source, tmp_path / "run", None)
    assert skipped(tmp_path / "run").keys() == {"\\udcff-0.mp4"}


def test_clips_in_folders_below_that_no_row_names_are_listed(source: Path, put: Put, tmp_path: Path) -> None:
    put(source / "a.mp4"), put(source / "deep/b.mp4"), put(source / "deep/c.mp4")
    write_prompts(source, [("a.mp4", "p"), ("deep/b.mp4", "p")])
    import_run("folder", source, tmp_path / "run", None)
    assert skipped(tmp_path / "run").keys() == {"deep/c.mp4"}


def test_clips_that_prompts_json_names_and_are_not_there_are_listed(source: Path, put: Put, tmp_path: Path) -> None:
    put(source / "a-0.mp4")
    (source / "prompts.json").write_text(json.dumps({"a-0.mp4": " a fox ", "gone.mp4": "p"}), encoding="utf-8-sig")
    import_run("vbench", source, tmp_path / "run", None)
    assert prompts_of(tmp_path / "run") == {"a-0.mp4": "a fox"}
    assert skipped(tmp_path / "run") == {"gone.mp4": "prompts.json names it and there is no such clip"}


@pytest.mark.parametrize("folder", ["run/generate", "run/generate/clips", "run/judge/mine"])
def test_a_source_in_what_the_import_writes_is_left_alone(put: Put, tmp_path: Path, folder: str) -> None:
    put(tmp_path / folder / "a.mp4")
    write_prompts(tmp_path / folder, [("a.mp4", "p")])
    with pytest.raises(InputError, match="which the import writes"):
        import_run("folder", tmp_path / folder, tmp_path / "run", None)
    assert (tmp_path / folder / "prompts.csv").exists()


def test_odd_sizes_of_other_kinds_are_taken_frame_by_frame(source: Path, tmp_path: Path) -> None:
    with av.open(str(source / "a.gif"), "w") as container:
        stream = container.add_stream("gif", rate=8)
        stream.height, stream.width, stream.pix_fmt = 301, 301, "rgb8"
        for _ in range(3):
            picture = av.VideoFrame.from_ndarray(np.zeros((301, 301, 3), dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(picture.reformat(format="rgb8")))
        container.mux(stream.encode())
    write_prompts(source, [("a.gif", "p")])
    import_run("folder", source, tmp_path / "run", None)
    assert read_video(tmp_path / "run/generate/clips/a.mp4").shape == (3, 3, 302, 302)


def test_a_stage_that_is_a_file_is_told(source: Path, put: Put, tmp_path: Path) -> None:
    put(source / "a.mp4")
    write_prompts(source, [("a.mp4", "p")])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "generate").write_text("mine")
    with pytest.raises(InputError, match="must be a folder of this stage"):
        import_run("folder", source, tmp_path / "run", None)


def test_names_that_look_like_markup_are_names(source: Path, put: Put, tmp_path: Path) -> None:
    put(source / "a.mp4")
    write_prompts(source, [("a.mp4", "p")])
    import_run("folder", source, tmp_path / "run[" / "bold]", None)
    export_run("folder", tmp_path / "run[" / "bold]", tmp_path / "out[" / "red]")
