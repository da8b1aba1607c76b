"""Pictures of other data sets, in and out."""

from __future__ import annotations

import csv
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from halovid.commands.exchange import export_run, import_run
from halovid.store.tables import CLIPS, SOURCES, read_table
from halovid.store.video import read_facts, read_pictures, read_video, write_video

NAMES = ("a.png", "b.jpg", "b.webp", "c.mp4")
SUFFIXES = (".png", ".png", ".png", ".mp4")  # of their files in a run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a picture of each kind, a video, and their prompts."""
    folder = tmp_path / "source"
    folder.mkdir()
    ramp = torch.linspace(-1, 1, 48).expand(3, 1, 32, 48)
    write_video(folder / "a.png", ramp, 8.0)
    picture = ((ramp[:, 0].permute(1, 2, 0) + 1) * 127.5).byte().numpy()
    write_still(folder / "b.jpg", picture, "mjpeg", "yuvj444p")
    write_still(folder / "b.webp", picture, "libwebp", "bgra")
    write_video(folder / "c.mp4", ramp.expand(-1, 5, -1, -1), 8.0)
    with (folder / "prompts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("video", "prompt"), *((name, f"a ramp {name}") for name in NAMES)])
    return folder


def write_still(path: Path, picture: np.ndarray, codec: str, pixel_format: str) -> None:
    encoder = av.CodecContext.create(codec, "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.height, encoder.width = picture.shape[:2]
    encoder.pix_fmt, encoder.framerate = pixel_format, 1
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixel_format)
    path.write_bytes(b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None))))


def files_of(run_dir: Path) -> dict[str, Path]:
    """Name in the data set -> file in the run."""
    ids = {
        row["clip_id"]: row["source"] for row in read_table(run_dir / "generate/sources.parquet", SOURCES).to_pylist()
    }
    rows = read_table(run_dir / "generate/clips.parquet", CLIPS).to_pylist()
    return {ids[row["clip_id"]]: run_dir / "generate" / row["video"] for row in rows}


def test_pictures_are_imported_without_loss(source: Path, tmp_path: Path) -> None:
    import_run("folder", source, tmp_path / "run", None)
    files = files_of(tmp_path / "run")
    assert {name: path.suffix for name, path in files.items()} == dict(zip(NAMES, SUFFIXES, strict=True))
    assert files["a.png"].read_bytes() == (source / "a.png").read_bytes()
    for name in ("b.jpg", "b.webp"):
        [expected], [found] = read_pictures(source / name), read_pictures(files[name])
        assert np.array_equal(found, expected)


def test_pictures_go_out_as_they_are_to_a_folder(source: Path, tmp_path: Path) -> None:
    import_run("folder", source, tmp_path / "run", None)
    export_run("folder", tmp_path / "run", tmp_path / "out")
    with (tmp_path / "out" / "prompts.csv").open() as file:
        names = {row["prompt"]: row["video"] for row in csv.DictReader(file)}
    assert [Path(names[f"a ramp {name}"]).suffix for name in NAMES] == list(SUFFIXES)
    assert (tmp_path / "out" / names["a ramp a.png"]).read_bytes() == (source / "a.png").read_bytes()


def test_formats_of_videos_get_videos_of_one_frame(source: Path, tmp_path: Path) -> None:
    import_run("folder", source, tmp_path / "run", None)
    export_run("vbench", tmp_path / "run", tmp_path / "out")
    made = sorted((tmp_path / "out").glob("*.mp4"))
    assert sorted(read_facts(path).num_frames for path in made) == [1, 1, 1, 5]
    [ramp] = [path for path in made if "a.png" in path.name]
    assert (read_video(ramp, (32, 48)) - read_video(source / "a.png")).abs().max() < 0.1
