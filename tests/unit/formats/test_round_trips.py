"""What is exported and imported again gives the same rows; and files as the published ones are read rightly."""

from __future__ import annotations

import csv
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import with_hashes
from halovid.commands.exchange import export_run, import_run
from halovid.formats import FORMATS, videofeedback
from halovid.store.errors import InputError
from halovid.store.files import hash_file
from halovid.store.folders import open_stage
from halovid.store.manifests import read_manifest
from halovid.store.tables import CLIPS, LABELS, PAIRS, read_table, rows_to_table, write_table
from halovid.store.video import write_video

Put = Callable[..., Path]
PAIRED = ("rewardbench", "genaibench", "videodpo")
ASPECTS = tuple(videofeedback.ASPECTS.values())
NASTY = [
    "a fox",
    'a "quoted", fox',
    "Ein Fuchs l\u00e4uft; 100%",
    "\U0001f98a runs",
    "a/b or \\ c",
    "=1+1",
    "p00000",
    "x" * 300,
]
TEXTS = st.sampled_from(NASTY) | st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=30)
PROMPTS = TEXTS.map(str.strip).filter(bool)


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """Clips of some prompts, ratings of some of them, and pairs of different clips of one prompt."""
    prompts = draw(st.lists(PROMPTS, min_size=1, max_size=3, unique_by=str.casefold))
    clips, pairs = [], []
    for number, prompt in enumerate(prompts):
        ids = [f"p{number:05d}-{index:02d}" for index in range(draw(st.integers(2, 3)))]
        clips += [(name, f"p{number:05d}", prompt) for name in ids]
        first, second = draw(st.permutations(ids))[:2]
        margin = draw(st.floats(2**-20, 1000, width=32))
        pairs.append((f"p{number:05d}", first, second, margin))
    ratings = {
        name: draw(st.dictionaries(st.sampled_from(ASPECTS), st.sampled_from([1, 1.5, 7 / 3, 3.2, 11 / 3, 5])))
        for name, _, _ in clips
    }
    ratings[clips[0][0]].setdefault(ASPECTS[0], 2.0)  # at least one, or there is nothing to export
    return {"clips": clips, "pairs": pairs, "ratings": ratings}


def write_run(folder: Path, run: dict[str, Any], put: Put) -> None:
    """A run with the stages generate, judge and pair, as far as an export reads them."""
    write_clips(folder, run["clips"], put)
    write_labels_and_pairs(folder, run)


def write_labels_and_pairs(folder: Path, run: dict[str, Any]) -> None:
    """The stages judge and pair of a run whose clips are there."""
    labels = [
        {"clip_id": name, "aspect": aspect, "score": score, "patch_scores": [score] * 8, "judge": "somebody"}
        for name, scores in run["ratings"].items()
        for aspect, score in scores.items()
    ]
    pairs = [
        {
            "prompt_id": prompt_id,
            "chosen": chosen,
            "chosen_folder": run.get("folders", {}).get(chosen, "generate"),
            "rejected": rejected,
            "rejected_folder": run.get("folders", {}).get(rejected, "generate"),
            "clip_margin": margin,
            "patch_margins": [0.5] * 8,
            "weight": 1.0,
        }
        for prompt_id, chosen, rejected, margin in run["pairs"]
    ]
    for stage, file, table in (
        ("judge", "labels.parquet", rows_to_table(labels, LABELS)),
        ("pair", "pairs.parquet", rows_to_table(pairs, PAIRS)),
    ):
        with open_stage(folder, stage, {}, ["generate"]) as opened:
            assert opened is not None
            opened.write(file, table)


def write_clips(folder: Path, clips: list[tuple[str, str, str]], put: Put) -> None:
    """The stage generate: (id, prompt id, prompt) of each clip."""
    with open_stage(folder, "generate", {"clips": clips}) as stage:
        assert stage is not None
        stage.write("clips.parquet", clip_table(stage.path, clips, put))


def clip_table(folder: Path, clips: list[tuple[str, str, str]], put: Put) -> pa.Table:
    """The table of clips, which are put into a folder."""
    table = []
    for number, (name, prompt_id, prompt) in enumerate(clips):
        put(folder / "clips" / f"{name}.mp4", number)
        row = {"clip_id": name, "prompt_id": prompt_id, "prompt": prompt, "seed": 1, "video": f"clips/{name}.mp4"}
        table.append(with_hashes(folder, row | {"latents": f"latents/{name}.safetensors", "fps": 8.0}))
    return rows_to_table(table, CLIPS)


def rows(run: Path, name: str) -> dict[str, Any]:
    """The parts of a run that the format can hold, by clip id: prompts and bytes of clips, ratings, pairs in order."""
    clips = read_table(run / "generate/clips.parquet", CLIPS).to_pylist()
    held: dict[str, Any] = {}
    pairs = read_table(run / "pair/pairs.parquet", PAIRS).to_pylist() if name in PAIRED else []
    paired = {pair[side] for pair in pairs for side in ("chosen", "rejected")}
    held["pairs"] = [(pair["chosen"], pair["rejected"], pair["clip_margin"]) for pair in pairs]
    held["clips"] = {
        row["clip_id"]: (row["prompt"], hash_file(run / "generate" / row["video"]))
        for row in clips
        if name not in PAIRED or row["clip_id"] in paired
    }
    held["groups"] = {
        frozenset(row["clip_id"] for row in clips if row["prompt_id"] == prompt_id and row["clip_id"] in held["clips"])
        for prompt_id in {row["prompt_id"] for row in clips}
    } - {frozenset()}
    if name == "videofeedback":
        path = run / "judge/labels.parquet"  # which an import without any rating does not make
        labels = read_table(path, LABELS).to_pylist() if path.exists() else []
        held["ratings"] = {(row["clip_id"], row["aspect"]): pytest.approx(row["score"], abs=2e-6) for row in labels}
    return held


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "vbench"])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=runs())
def test_export_then_import_gives_the_same_rows(name: str, put: Put, run: dict[str, Any]) -> None:
    with folder() as path:
        write_run(path / "run", run, put)
        export_run(name, path / "run", path / "out")
        import_run(name, path / "out", path / "again", None)
        assert rows(path / "again", name) == rows(path / "run", name)
        manifest = read_manifest(path / "again" / "generate")
        assert manifest is not None and not manifest["skipped"]
        export_run(name, path / "again", path / "out2")
        assert {file.name for file in (path / "out2").rglob("*")} == {file.name for file in (path / "out").rglob("*")}
        import_run(name, path / "out2", path / "third", None)
        for stage in ("generate", "judge", "pair"):
            first, second = (read_manifest(path / run_name / stage) for run_name in ("again", "third"))
            assert first == second  # fingerprint, hashes of all outputs, what was skipped


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=runs())
def test_vbench_names_hold_prompts_and_clips(put: Put, run: dict[str, Any]) -> None:
    with folder() as path:
        write_run(path / "run", run, put)
        export_run("vbench", path / "run", path / "out")
        import_run("vbench", path / "out", path / "again", None)
        before, after = (rows(path / run_name, "vbench")["clips"].values() for run_name in ("run", "again"))
        assert sorted(before) == sorted(after)
        export_run("vbench", path / "again", path / "out2")
        import_run("vbench", path / "out2", path / "third", None)
        assert sorted(rows(path / "third", "vbench")["clips"].values()) == sorted(before)


def test_vbench_folders_are_named_as_its_tools_expect(put: Put, tmp_path: Path) -> None:
    clips = [
        ("a", "p0", "In a still frame, a stop sign"),
        ("b", "p0", "In a still frame, a stop sign"),
        ("c", "p1", "x-3"),
    ]
    write_run(tmp_path / "run", {"clips": clips, "pairs": [], "ratings": {}}, put)
    export_run("vbench", tmp_path / "run", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "In a still frame, a stop sign-0.mp4",
        "In a still frame, a stop sign-1.mp4",
        "x-3-0.mp4",
    ]


def test_videofeedback_as_published_with_frames_and_with_conversations_alone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name, count in (("p110367", 3), ("r000001", 2)):
        (source / "images" / name).mkdir(parents=True)
        for number in range(count):
            with av.open(str(source / "images" / name / f"{name}_{number:02d}.jpg"), "w", format="image2") as container:
                stream = container.add_stream("mjpeg")
                stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
                pixels = np.full((48, 64, 3), 40 * number, dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                container.mux(stream.encode())
    names = dict(zip(videofeedback.ASPECTS, (1, 2, 3, 4, 4), strict=True))
    asked = (
        'Suppose you rate.\nFor this video, the text prompt is "a "red" fox, runs",\nall the frames are as follows: \n'
    )
    answer = "\n".join(
        f"{aspect}: {score}" for aspect, score in zip(videofeedback.ASPECTS, (3, 1, 2, 4, 4), strict=True)
    )
    (source / "data_annotated.json").write_text(
        json.dumps(
            [
                {"id": "p110367", "images": [f"p110367_{n:02d}.jpg" for n in range(3)], "text prompt": "a cat"} | names,
                {"id": "r000001", "images": [f"r000001_{n:02d}.jpg" for n in range(2)]}
                | {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]},
                {"id": "gone", "images": ["gone_00.jpg"], "text prompt": "p"},
                {"id": "off", "images": ["p110367_00.jpg"], "text prompt": "p"} | names | {"visual quality": 5},
            ]
        )
    )
    import_run("videofeedback", source, tmp_path / "run", None)
    clips = {row["clip_id"]: row for row in read_table(tmp_path / "run/generate/clips.parquet", CLIPS).to_pylist()}
    assert {name: row["prompt"] for name, row in clips.items()} == {"p110367": "a cat", "r000001": 'a "red" fox, runs'}
    assert clips["p110367"]["fps"] == 8.0
    with av.open(str(tmp_path / "run/generate" / clips["p110367"]["video"])) as container:
        levels = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    assert levels == pytest.approx([0, 40, 80], abs=4)
    labels = read_table(tmp_path / "run/judge/labels.parquet", LABELS).to_pylist()
    scores = {(row["clip_id"], row["aspect"]): row["score"] for row in labels}
    assert scores["p110367", "visual_quality"] == 1 and scores["p110367", "factual_consistency"] == 5
    assert scores["r000001", "visual_quality"] == pytest.approx(1 + 2 * 4 / 3)
    assert len(scores) == 10
    manifest = read_manifest(tmp_path / "run" / "generate")
    assert manifest is not None
    assert [entry["item"] for entry in manifest["skipped"]] == ["row 3 ('gone')", "row 4 ('off')"]


@given(st.floats(1, 4))
def test_ratings_keep_their_order_and_come_back(rating: float) -> None:
    assert 1 <= videofeedback.to_five_point(rating) <= 5
    assert math.isclose(videofeedback.to_four_point(videofeedback.to_five_point(rating)), rating, abs_tol=1e-6)


def test_rewardbench_as_published(put: Put, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(8):
        put(source / "videos" / f"{number}.mp4", number)
    header = "path_A,path_B,prompt,VQ,MQ,TA,fps_A,num_frames_A,fps_B,num_frames_B"
    lines = [
        'videos/0.mp4,./videos/1.mp4,"The camera, still",B,B,A,24.0,126.0,30.0,152.0',  # two of three prefer B
        "videos/2.mp4,videos/3.mp4,p,same,same,A,24.0,1,24.0,1",
        "videos/4.mp4,videos/5.mp4,p2,A,B,same,24.0,1,24.0,1",  # nobody
        "videos/6.mp4,videos/7.mp4,p3,A,C,same,24.0,1,24.0,1",  # no preference
        'videos/1.mp4,videos/0.mp4,"The camera, still",A,A,A,1,1,1,1',  # the first pair again
        "videos/0.mp4,videos/2.mp4,another prompt,A,A,A,1,1,1,1",
        "videos/2.mp4,videos/2.mp4,p,A,A,A,1,1,1,1",
    ]
    (source / "train.csv").write_text("\n".join([header, *lines]) + "\n")
    import_run("rewardbench", source, tmp_path / "run", None)
    pairs = read_table(tmp_path / "run/pair/pairs.parquet", PAIRS).to_pylist()
    assert [(pair["chosen"], pair["rejected"], pair["clip_margin"]) for pair in pairs] == [("1", "0", 1), ("2", "3", 1)]
    assert all(set(pair["patch_margins"]) == {0.0} for pair in pairs)
    manifest = read_manifest(tmp_path / "run" / "generate")
    assert manifest is not None
    reasons = {entry["item"]: entry["reason"] for entry in manifest["skipped"]}
    assert reasons.keys() == {f"row {number}" for number in range(3, 8)}
    for number, part in (
        (3, "neither"),
        (4, "allowed are A, B and same"),
        (5, "twice"),
        (6, "named twice"),
        (7, "itself"),
    ):
        assert part in reasons[f"row {number}"], reasons
    overall = [header + ",Overall", lines[0] + ",A"]
    (source / "train.csv").write_text("\n".join(overall) + "\n")  # Overall decides where it is there
    import_run("rewardbench", source, tmp_path / "run2", None)
    assert read_table(tmp_path / "run2/pair/pairs.parquet", PAIRS).to_pylist()[0]["chosen"] == "0"


def test_rewardbench_exports_axes_from_ratings_and_favours_no_side(put: Put, tmp_path: Path) -> None:
    clips = [(f"c{number}", f"p{number // 2}", f"prompt {number // 2}") for number in range(40)]
    pairs = [(f"p{number}", f"c{2 * number}", f"c{2 * number + 1}", 0.5) for number in range(20)]
    ratings = {
        "c0": {"visual_quality": 4.0, "text_alignment": 2.0},
        "c1": {"visual_quality": 3.0, "text_alignment": 2.0},
    }
    write_run(tmp_path / "run", {"clips": clips, "pairs": pairs, "ratings": ratings}, put)
    export_run("rewardbench", tmp_path / "run", tmp_path / "out")
    with (tmp_path / "out/videogen-rewardbench.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["Overall"] for row in rows} == {"A", "B"}
    first = rows[0]
    better = "A" if first["path_A"] == "videos/c0.mp4" else "B"
    assert (first["Overall"], first["VQ"], first["MQ"], first["TA"]) == (better, better, "", "same")
    assert float(first["num_frames_A"]) in (9, 13) and float(first["fps_A"]) in (8, 10)


def test_genai_bench_as_published_and_as_videoscore_has_it(put: Put, tmp_path: Path) -> None:
    votes = tmp_path / "votes"
    for number in range(8):
        put(votes / "videos" / f"{number}.mp4", number)
    link = "https://example.org/data/resolve/main/{}.mp4?download=true"
    kinds = ("leftvote", "rightvote", "tievote", "bothbad_vote")
    table = [
        {
            "prompt": f"p{n}",
            "left_video": link.format(2 * n),
            "right_video": f"videos/{2 * n + 1}.mp4",
            "vote_type": kind,
        }
        for n, kind in enumerate(kinds)
    ]
    pq.write_table(pa.Table.from_pylist([*table, table[0] | {"vote_type": "maybe"}]), votes / "test.parquet")
    import_run("genaibench", votes, tmp_path / "run", None)
    pairs = read_table(tmp_path / "run/pair/pairs.parquet", PAIRS).to_pylist()
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [("0", "1"), ("3", "2")]
    assert len(read_table(tmp_path / "run/generate/clips.parquet", CLIPS)) == 8
    manifest = read_manifest(tmp_path / "run/generate")
    assert manifest is not None and len(manifest["skipped"]) == 3

    halves = tmp_path / "halves"
    rows = []
    for n, (left, right) in enumerate([(1, 0), (0, 1), (0.5, 0.5)]):
        for side, preference in (("left", left), ("right", right)):
            put(halves / "videos" / f"{n:04d}_{side}.mp4", n)
            rows.append({"id": f"{n:04d}_{side}", "images": [], "text prompt": f"p{n}", "preference": preference})
    (halves / "test.json").write_text(json.dumps(rows[:-1]))
    import_run("genaibench", halves, tmp_path / "run2", None)
    pairs = read_table(tmp_path / "run2/pair/pairs.parquet", PAIRS).to_pylist()
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [
        ("0000_left", "0000_right"),
        ("0001_right", "0001_left"),
    ]


def test_videodpo_numbers_clips_as_its_loader_does(put: Put, tmp_path: Path) -> None:
    source = tmp_path / "source"
    clips = []
    for number, seconds in enumerate((2.0, 0.5, 2.0, 1.0)):
        put(source / f"clip{number}.mp4", number)
        basic = {"clip_path": f"clip{number}.mp4", "clip_duration": seconds}
        clips.append({"basic": basic, "misc": {"frame_caption": ["a fox"]}})
    (source / "metadata.json").write_text(json.dumps(clips))
    numbers = [(2, 0), (1, 2), (3, 0), (True, 0), (-1, 0)]
    pairs = [
        {"video1": chosen, "video2": rejected, "frame_caption": ["a fox"], "score": 0.4} for chosen, rejected in numbers
    ]
    (source / "pair.json").write_text(json.dumps(pairs))
    import_run("videodpo", source, tmp_path / "run", None)
    imported = read_table(tmp_path / "run/pair/pairs.parquet", PAIRS).to_pylist()
    # clip1 is too short to have a number: 0, 1, 2 are clip0, clip2, clip3
    assert [(pair["chosen"], pair["rejected"]) for pair in imported] == [("clip3", "clip0"), ("clip2", "clip3")]
    assert len(read_table(tmp_path / "run/generate/clips.parquet", CLIPS)) == 4


def test_videodpo_leaves_out_pairs_of_clips_that_its_loader_drops(put: Put, tmp_path: Path) -> None:
    def put_first_one_short(path: Path, number: int = 0) -> Path:  # the shared clips last a second and more
        if path.name != "a.mp4":
            return put(path, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, torch.zeros(3, 4, 256, 256), 8.0)  # half a second
        return path

    run = {"clips": [(name, "p0", "a fox") for name in "abcd"], "pairs": [], "ratings": {}}
    run["pairs"] = [("p0", "a", "b", 1.0), ("p0", "c", "d", 2.0)]
    write_run(tmp_path / "run", run, put_first_one_short)
    export_run("videodpo", tmp_path / "run", tmp_path / "out")
    clips = json.loads((tmp_path / "out/metadata.json").read_text())
    assert [entry["basic"]["clip_path"] for entry in clips] == ["b.mp4", "c.mp4", "d.mp4", "a.mp4"]
    pairs = json.loads((tmp_path / "out/pair.json").read_text())
    assert [(pair["video1"], pair["video2"], pair["margin"]) for pair in pairs] == [(1, 2, 2.0)]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("videofeedback", "halovid judge"), *((paired_format, "halovid pair") for paired_format in PAIRED)],
)
def test_what_a_run_lacks_is_named_and_nothing_is_left_behind(put: Put, tmp_path: Path, name: str, reason: str) -> None:
    write_run(tmp_path / "run", {"clips": [("a", "p0", "p")], "pairs": [], "ratings": {}}, put)
    shutil.rmtree(tmp_path / "run/judge")
    shutil.rmtree(tmp_path / "run/pair")
    with pytest.raises(InputError, match=reason):
        export_run(name, tmp_path / "run", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_export_never_writes_into_a_folder_that_holds_something(put: Put, tmp_path: Path) -> None:
    write_run(tmp_path / "run", {"clips": [("a", "p0", "p")], "pairs": [], "ratings": {}}, put)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        export_run("folder", tmp_path / "run", tmp_path / "out")
    (tmp_path / "out" / "thesis.txt").unlink()
    export_run("folder", tmp_path / "run", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mp4", "prompts.csv"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_run_with_names_that_are_paths_is_not_followed(put: Put, tmp_path: Path, name: str) -> None:
    clips = [("../../up", "../p0", "a/b"), ("good", "p1", "p"), ("/tmp/halovid-up", "/tmp/p2", "c/d")]
    clips.append(("fine", "p1", "p"))
    pairs = [("p1", "good", "../../up", 1.0), ("p1", "good", "fine", 1.0)]
    write_run(tmp_path / "deep/run", {"clips": [("good", "p1", "p")], "pairs": [], "ratings": {"good": {}}}, put)
    rows = [
        {
            "clip_id": name,
            "prompt_id": prompt_id,
            "prompt": prompt,
            "seed": 1,
            "video": "clips/good.mp4",
            "video_sha256": None,
            "latents": None,
            "latents_sha256": None,
            "fps": 8.0,
        }
        for name, prompt_id, prompt in clips
    ]
    secret = put(tmp_path / "secret.mp4", 1)
    rows.append(rows[1] | {"clip_id": "link", "video": "../../../secret.mp4"})
    write_table(tmp_path / "deep/run/generate/clips.parquet", rows_to_table(rows, CLIPS))
    table = [dict(zip(("prompt_id", "chosen", "rejected", "clip_margin"), pair, strict=True)) for pair in pairs]
    folders = {"chosen_folder": "generate", "rejected_folder": "generate"}
    write_table(
        tmp_path / "deep/run/pair/pairs.parquet",
        rows_to_table([row | folders | {"patch_margins": [0.0], "weight": 1.0} for row in table], PAIRS),
    )
    before = set(tmp_path.rglob("*"))
    export_run(name, tmp_path / "deep/run", tmp_path / "deep/out")
    made = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "deep/out") for path in made)
    videos = {path for path in made if path.suffix == ".mp4"}
    assert {hash_file(path) for path in videos} == {hash_file(tmp_path / "deep/run/generate/clips/good.mp4")}
    assert name == "vbench" or {path.stem for path in videos} == {"good", "fine"}  # whose names are made of prompts
    assert hash_file(secret) not in map(hash_file, videos)
    assert not Path("/tmp/halovid-up.mp4").exists()


@pytest.mark.parametrize("name", ["videofeedback", *PAIRED])
def test_ratings_and_pairs_of_other_clips_are_not_exported(put: Put, tmp_path: Path, name: str) -> None:
    clips = [("a", "p0", "a fox"), ("b", "p0", "a fox")]
    pairs = [("p0", "a", "b", 1.0)]
    write_run(tmp_path / "run", {"clips": clips, "pairs": pairs, "ratings": {"a": {ASPECTS[0]: 2.0}}}, put)
    write_clips(tmp_path / "run", [("a", "p0", "a cat"), ("b", "p0", "a cat")], put)  # as another seed or source would
    with pytest.raises(InputError, match="the run has none of its clips"):
        export_run(name, tmp_path / "run", tmp_path / "out")
    export_run("folder", tmp_path / "run", tmp_path / "out")


def test_ratings_of_an_import_before_are_not_exported(put: Put, tmp_path: Path) -> None:
    put(tmp_path / "rated/videos/a.mp4", 0)
    (tmp_path / "rated/data.json").write_text(json.dumps([{"id": "a", "text prompt": "a fox", "visual quality": 2}]))
    put(tmp_path / "plain/a.mp4", 1)
    (tmp_path / "plain/prompts.csv").write_text("video,prompt\na.mp4,a cat\n")
    import_run("videofeedback", tmp_path / "rated", tmp_path / "run", None)
    import_run("folder", tmp_path / "plain", tmp_path / "run", None)
    with pytest.raises(InputError, match="the run has none of its clips"):
        export_run("videofeedback", tmp_path / "run", tmp_path / "out")


def write_stage_clips(folder: Path, stage_name: str, clips: list[tuple[str, str, str]], put: Put) -> None:
    """A stage that makes clips of those of generate."""
    with open_stage(folder, stage_name, {}, ["generate"]) as stage:
        assert stage is not None
        stage.write("clips.parquet", clip_table(stage.path, clips, put))


@pytest.mark.parametrize("name", PAIRED)
def test_pairs_of_good_and_of_remade_clips_are_exported_with_these_clips(put: Put, tmp_path: Path, name: str) -> None:
    clips = [("a", "p0", "a fox"), ("b", "p0", "a fox")]
    pairs = [("p0", "good-p0-00", "restored-p0-00", 0.25), ("p0", "a", "good-p0-00", 0.5), ("p0", "a", "b", 1.0)]
    write_clips(tmp_path / "run", clips, put)
    write_stage_clips(tmp_path / "run", "good", [("good-p0-00", "p0", "a fox"), ("good-p0-01", "p0", "a fox")], put)
    write_stage_clips(tmp_path / "run", "restore", [("restored-p0-00", "p0", "a fox")], put)
    sources = {"good-p0-00": "good", "restored-p0-00": "restore", "a": "generate", "b": "generate"}
    write_labels_and_pairs(tmp_path / "run", {"pairs": pairs, "ratings": {}, "folders": sources})
    export_run(name, tmp_path / "run", tmp_path / "out")
    import_run(name, tmp_path / "out", tmp_path / "again", None)
    again = read_table(tmp_path / "again/pair/pairs.parquet", PAIRS).to_pylist()
    assert [(pair["prompt_id"], pair["chosen"], pair["rejected"], pair["clip_margin"]) for pair in again] == [
        ("p00000", *pair[1:]) for pair in pairs
    ]
    assert {row["clip_id"] for row in read_table(tmp_path / "again/generate/clips.parquet", CLIPS).to_pylist()} == {
        *sources
    }
    for clip_id, stage in sources.items():
        copied, original = (tmp_path / run / f"clips/{clip_id}.mp4" for run in ("again/generate", f"run/{stage}"))
        assert copied.read_bytes() == original.read_bytes()


@pytest.mark.parametrize("name", PAIRED)
def test_clips_of_one_id_in_two_folders_are_told_apart(put: Put, tmp_path: Path, name: str) -> None:
    write_clips(tmp_path / "run", [("b", "p0", "a fox"), ("a", "p0", "a fox")], put)
    write_stage_clips(
        tmp_path / "run", "restore", [("c", "p0", "a fox"), ("d", "p0", "a fox"), ("a", "p0", "a fox")], put
    )
    row = {"prompt_id": "p0", "chosen": "a", "rejected": "a", "clip_margin": 1.0, "patch_margins": [0.0], "weight": 1.0}
    row |= {"chosen_folder": "generate", "rejected_folder": "restore"}
    with open_stage(tmp_path / "run", "pair", {}, ["generate"]) as stage:
        assert stage is not None
        stage.write("pairs.parquet", rows_to_table([row], PAIRS))
    export_run(name, tmp_path / "run", tmp_path / "out")
    import_run(name, tmp_path / "out", tmp_path / "again", None)
    (pair,) = read_table(tmp_path / "again/pair/pairs.parquet", PAIRS).to_pylist()
    assert (pair["chosen"], pair["rejected"]) == ("generate-a", "restore-a")
    for stage_name in ("generate", "restore"):
        copied = tmp_path / f"again/generate/clips/{stage_name}-a.mp4"
        assert copied.read_bytes() == (tmp_path / f"run/{stage_name}/clips/a.mp4").read_bytes()


@pytest.mark.parametrize("name", [*FORMATS])
def test_an_export_of_nothing_is_a_mistake(put: Put, tmp_path: Path, name: str) -> None:
    clips = [("a", "p0", "a fox"), ("b", "p0", "a fox")]
    run = {"clips": clips, "pairs": [("p0", "a", "b", 1.0)], "ratings": {"a": {ASPECTS[0]: 2.0}}}
    write_run(tmp_path / "run", run, put)
    for clip_id in ("a", "b") if name not in PAIRED else ("b",):
        (tmp_path / f"run/generate/clips/{clip_id}.mp4").unlink()
    with pytest.raises(
        InputError, match=r"none of the (clips|pairs) of .* can be exported as .*b\.mp4' does not exist"
    ):
        export_run(name, tmp_path / "run", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("target", ["link", "nowhere", "file/below", "n" * 300])
def test_an_export_to_an_odd_place_is_one_sentence(put: Put, tmp_path: Path, target: str) -> None:
    write_run(tmp_path / "run", {"clips": [("a", "p0", "p")], "pairs": [], "ratings": {}}, put)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"is there already|can't (export|write)"):
        export_run("folder", tmp_path / "run", tmp_path / target)


def test_unknown_formats_are_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown format 'coco'; known are folder, videofeedback"):
        import_run("coco", tmp_path, tmp_path / "run", None)
