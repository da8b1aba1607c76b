"""Clips as files: what is written can be seen, and read back nearly as it was."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NoReturn

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from halovid.store.errors import InputError
from halovid.store.video import (
    VideoInfo,
    convert_video,
    even_frames,
    frames_shown_at,
    probe_video,
    read_facts,
    read_pictures,
    read_video,
    write_pictures,
    write_video,
)


def smooth_clip(frames: int = 5, height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    """[3, F, H, W] in [-1, 1] with colours that change over space and time."""
    coarse = torch.rand(1, 3, 3, 4, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(frames, height, width), mode="trilinear", align_corners=True)[0] * 2 - 1


@pytest.mark.parametrize(("frames", "height", "width"), [(13, 64, 64), (5, 32, 96), (3, 256, 320), (1, 64, 64)])
def test_a_clip_comes_back_nearly_as_it_was(frames: int, height: int, width: int, tmp_path: Path) -> None:
    clip = smooth_clip(frames, height, width)
    write_video(tmp_path / "a.mp4", clip, fps=8)
    read = read_video(tmp_path / "a.mp4", (height, width))
    assert read.shape == clip.shape
    assert read.dtype == torch.float32
    error = (read - clip).abs()
    assert error.mean() < 0.015  # two of 255 levels
    assert error.max() < 0.12
    assert error.mean((0, 2, 3)).max() < 2.5 * error.mean()  # no frame is another one's


@pytest.mark.parametrize(("height", "width"), [(301, 301), (321, 290), (33, 256), (16, 2000)])
def test_odd_sizes_and_long_strips_are_written_too(height: int, width: int, tmp_path: Path) -> None:
    clip = smooth_clip(3, height, width)
    write_video(tmp_path / "a.mp4", clip, fps=8)
    info = probe_video(tmp_path / "a.mp4")
    assert info.height % 2 == 0 and info.width % 2 == 0 and info.width <= 4096
    assert (read_video(tmp_path / "a.mp4", (height, width)) - clip).abs().mean() < 0.03


def test_pictures_that_make_no_clip_are_told(tmp_path: Path) -> None:
    small, large = np.zeros((64, 64, 3), dtype=np.uint8), np.zeros((64, 96, 3), dtype=np.uint8)
    for pictures, reason in (
        ([], "no frame"),
        ([small, large], "several sizes"),
        ([np.zeros((1, 90000, 3), "u1")], r"can't be written as H\.264"),
    ):
        with pytest.raises(InputError, match=reason):
            write_pictures(tmp_path / "a.mp4", pictures, 8)
    assert not list(tmp_path.iterdir())


def test_pictures_come_one_by_one(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", smooth_clip(4, 256, 256), fps=8)
    pictures = list(read_pictures(tmp_path / "a.mp4"))
    assert [picture.shape for picture in pictures] == [(256, 256, 3)] * 4
    expected = read_video(tmp_path / "a.mp4").permute(1, 2, 3, 0)
    torch.testing.assert_close(torch.from_numpy(np.stack(pictures)) / 127.5 - 1, expected)


def test_colours_keep_their_channels(tmp_path: Path) -> None:
    clip = torch.full((3, 3, 64, 64), -1.0)
    for frame in range(3):
        clip[frame, frame] = 1.0
    write_video(tmp_path / "a.mp4", clip, fps=8)
    read = read_video(tmp_path / "a.mp4", (64, 64))
    assert (read - clip).abs().mean((2, 3)).max() < 0.05


def test_small_clips_are_enlarged_by_whole_factors_for_people(tmp_path: Path) -> None:
    checks = (torch.arange(64)[:, None] // 4 + torch.arange(48) // 4) % 2 * 1.6 - 0.8
    clip = checks.expand(3, 3, 64, 48)
    write_video(tmp_path / "a.mp4", clip, fps=8)
    large = read_video(tmp_path / "a.mp4")
    assert large.shape == (3, 3, 384, 288)  # the factor 6 makes the shorter side at least 256
    enlarged = clip.repeat_interleave(6, 2).repeat_interleave(6, 3)
    assert (large - enlarged).abs().mean() < 0.03
    assert (read_video(tmp_path / "a.mp4", (64, 48)) - clip).abs().mean() < 0.03


def test_reducing_averages(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", smooth_clip(3, 256, 320), fps=8)
    whole = read_video(tmp_path / "a.mp4")
    expected = whole.unflatten(3, (40, 8)).unflatten(2, (64, 4)).mean((3, 5))
    torch.testing.assert_close(read_video(tmp_path / "a.mp4", (64, 40)), expected)


def test_values_beyond_the_range_are_clamped(tmp_path: Path) -> None:
    clip = torch.stack([torch.full((3, 64, 64), 2.0), torch.full((3, 64, 64), -2.0)], dim=1)
    write_video(tmp_path / "a.mp4", clip, fps=8)
    read = read_video(tmp_path / "a.mp4")
    assert read.min() >= -1 and read.max() <= 1
    assert read[:, 0].min() > 0.95 and read[:, 1].max() < -0.95


@pytest.mark.parametrize("fps", [8.0, 24000 / 1001, 12.5])
def test_the_file_is_h264_of_the_wanted_speed(fps: float, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", smooth_clip(), fps)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"  # what every browser plays
        assert stream.average_rate is not None
        assert float(stream.average_rate) == pytest.approx(fps, rel=1e-3)
        assert stream.frames == 5


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, smooth_clip(), fps=8)
    before = path.read_bytes()
    with pytest.raises(ValueError):
        write_video(path, smooth_clip()[:2], fps=8)  # two channels
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_a_truncated_file_is_an_input_error(share: float, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, smooth_clip(), fps=8)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"a\.mp4 is not a readable video"):
        read_video(path)


def test_missing_and_foreign_files_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.mp4 is not a readable video"):
        read_video(tmp_path / "no.mp4")
    (tmp_path / "a.mp4").write_text("a text that is no video\n" * 99)
    with pytest.raises(InputError, match=r"a\.mp4 is not a readable video"):
        read_video(tmp_path / "a.mp4")
    with pytest.raises(InputError, match="is not a readable video"):
        read_video(tmp_path)


def test_sound_alone_is_an_input_error(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(InputError, match=r"a\.wav is not a readable video"):
        read_video(tmp_path / "a.wav")


def test_a_playlist_that_is_called_a_video_leads_nowhere(tmp_path: Path) -> None:
    write_video(tmp_path / "secret.mp4", smooth_clip(), fps=8)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with av.open(str(tmp_path / "list.mp4")) as container:  # the library alone would follow it
        assert next(container.decode(video=0)) is not None
    for read in (read_video, probe_video):
        with pytest.raises(InputError, match="not a readable video"):
            read(tmp_path / "list.mp4")


def test_a_video_is_probed_without_its_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", smooth_clip(7, 256, 272), fps=12.5)
    assert probe_video(tmp_path / "a.mp4") == VideoInfo(7, 256, 272, 12.5)


def test_a_video_that_ends_early_is_told_apart(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "whole.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height = stream.width = 256
        stream.pix_fmt = "yuv420p"
        for frame in (smooth_clip(16, 256, 256).permute(1, 2, 3, 0) * 127 + 128).byte().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    content = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 3 // 4])  # its index comes first and is whole
    with pytest.raises(InputError, match=r"is not whole|not a readable video"):
        probe_video(tmp_path / "cut.mp4")


def remuxed(source: Path, target: Path, earlier: float = 0.0) -> Path:
    """The packets of a video in another file, their times earlier by so many seconds."""
    with av.open(str(source)) as taken, av.open(str(target), "w") as given:
        stream = taken.streams.video[0]
        own = given.add_stream_from_template(stream)
        for packet in taken.demux(stream):
            if packet.pts is not None and packet.dts is not None:
                packet.pts -= int(earlier / packet.time_base)
                packet.dts -= int(earlier / packet.time_base)
                packet.stream = own
                given.mux(packet)
    return target


def test_frames_that_an_edit_list_hides_are_not_missing(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", smooth_clip(24), fps=8)
    info = probe_video(remuxed(tmp_path / "a.mp4", tmp_path / "b.mp4", earlier=1.0))
    assert 0 < info.num_frames < 24


@pytest.mark.parametrize("kind", ["mkv", "webm"])
def test_a_file_without_a_count_of_frames_that_ends_early_is_told(kind: str, tmp_path: Path) -> None:
    whole = tmp_path / f"a.{kind}"
    with av.open(str(whole), "w") as container:
        stream = container.add_stream("libvpx-vp9" if kind == "webm" else "libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for picture in np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    assert probe_video(whole).num_frames == 40
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(InputError, match=r"is not whole: it tells of 5 s and ends after"):
        probe_video(cut)


@pytest.mark.parametrize(
    ("count", "wanted", "expected"), [(5, 5, [0, 1, 2, 3, 4]), (9, 5, [0, 2, 4, 6, 8]), (7, 1, [0])]
)
def test_frames_are_chosen_evenly_from_first_to_last(count: int, wanted: int, expected: list[int]) -> None:
    assert even_frames(count, wanted) == expected


@pytest.mark.parametrize("wanted", [1, 2, 5, 9, 16])
def test_some_frames_are_those_of_the_whole_clip(wanted: int, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", smooth_clip(9, 256, 256), fps=8)
    whole = read_video(tmp_path / "a.mp4", (64, 64))
    some = read_video(tmp_path / "a.mp4", (64, 64), wanted)
    assert torch.equal(some, whole[:, even_frames(9, wanted)])


def test_enlarged_clips_are_smooth(tmp_path: Path) -> None:
    clip = smooth_clip(2, 256, 256)
    write_video(tmp_path / "a.mp4", clip, fps=8)
    large = F.interpolate(clip, size=(512, 384), mode="bilinear")
    assert (read_video(tmp_path / "a.mp4", (512, 384)) - large).abs().mean() < 0.02


def test_a_file_tells_its_frames_speed_and_size(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", smooth_clip(5, 64, 96), fps=12.5)
    assert read_facts(tmp_path / "a.mp4") == VideoInfo(5, 256, 384, 12.5)


def test_files_without_facts_are_input_errors(tmp_path: Path) -> None:
    write_video(tmp_path / "real.mp4", smooth_clip(), fps=8)
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "playlist.mp4").write_text(f"ffconcat version 1.0\nfile '{tmp_path}/real.mp4'\n")
    (tmp_path / "stream.mp4").write_text("#EXTM3U\n#EXTINF:1,\nreal.mp4\n#EXT-X-ENDLIST\n")
    for name in ("missing", "text", "playlist", "stream"):
        with pytest.raises(InputError, match=r"not a readable video"):
            read_facts(tmp_path / f"{name}.mp4")


@pytest.mark.parametrize(
    ("degrees", "hflip", "vflip", "shown"),
    [
        (0, False, False, lambda picture: picture),
        (90, False, False, lambda picture: np.rot90(picture, 1)),  # counter-clockwise
        (-90, False, False, lambda picture: np.rot90(picture, -1)),
        (180, False, False, lambda picture: np.rot90(picture, 2)),
        (0, True, False, np.fliplr),
        (0, False, True, np.flipud),
        (90, True, False, lambda picture: np.fliplr(np.rot90(picture, 1))),
        (90, False, True, lambda picture: np.flipud(np.rot90(picture, 1))),
    ],
)
def test_turned_clips_are_read_as_players_show_them(
    degrees: float, hflip: bool, vflip: bool, shown: Callable[[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    stored = smooth_clip(3, 256, 288)
    write_video(tmp_path / "plain.mp4", stored, fps=8)
    with av.open(str(tmp_path / "plain.mp4")) as source, av.open(str(tmp_path / "turned.mp4"), "w") as target:
        stream = target.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt, stream.options = 256, 288, "yuv420p", {"qp": "0"}
        stream.set_display_rotation(degrees, hflip=hflip, vflip=vflip)
        for frame in source.decode(video=0):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    expected = np.stack([shown(picture) for picture in read_pictures(tmp_path / "plain.mp4")])
    height, width = expected.shape[1:3]
    turned = tmp_path / "turned.mp4"
    assert np.array_equal(np.stack(list(read_pictures(turned))), expected)
    video = torch.from_numpy(expected).permute(3, 0, 1, 2) / 127.5 - 1
    assert torch.equal(read_video(turned), video)
    torch.testing.assert_close(read_video(turned, (height // 2, width // 2)), F.avg_pool3d(video, (1, 2, 2)))
    assert read_facts(turned) == probe_video(turned) == VideoInfo(3, height, width, 8.0)


def write_grey_levels(path: Path, seconds: list[float], codec: str = "libx264") -> None:
    """A file in which frame i is evenly grey, 10 i, and comes at seconds[i]."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height = stream.width = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, second in enumerate(seconds):
            picture = np.full((64, 64, 3), 10 * number, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(1000 * second), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def grey_levels(video: Tensor) -> list[int]:
    """Which frame of `write_grey_levels` each frame is."""
    return ((video.mean((0, 2, 3)) + 1) * 12.75).round().int().tolist()


FAST_THEN_SLOW = [*(0.1 * number for number in range(10)), *(1.0 + number for number in range(5))]


def test_frames_of_a_varying_rate_are_taken_by_time(tmp_path: Path) -> None:
    write_grey_levels(tmp_path / "a.mp4", FAST_THEN_SLOW)
    assert grey_levels(read_video(tmp_path / "a.mp4")) == list(range(15))
    assert grey_levels(read_video(tmp_path / "a.mp4", num_frames=6)) == [0, 10, 11, 12, 13, 14]
    # moments 0, 1/2, 1, ... seconds
    assert grey_levels(read_video(tmp_path / "a.mp4", num_frames=11)) == [0, 5, 10, 10, 11, 11, 12, 12, 13, 13, 14]


@pytest.mark.parametrize("kind", ["mkv", "webm", "mov", "avi"])
def test_clips_of_another_kind_keep_the_times_of_their_frames(kind: str, tmp_path: Path) -> None:
    source, target = tmp_path / f"a.{kind}", tmp_path / "a.mp4"
    steady = kind == "avi"  # which holds no times
    write_grey_levels(
        source,
        [0.1 * number for number in range(15)] if steady else FAST_THEN_SLOW,
        {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(kind, "libx264"),
    )
    convert_video(source, target, 10.0)
    for wanted in (None, 6, 11):
        assert grey_levels(read_video(target, num_frames=wanted)) == grey_levels(read_video(source, num_frames=wanted))


@given(
    st.lists(st.integers(1, 1000), min_size=0, max_size=30),
    st.integers(1, 40),
    st.integers(-(2**40), 2**40),
    st.integers(1, 1000),
)
def test_frames_are_shown_in_order_from_first_to_last(gaps: list[int], wanted: int, start: int, scale: int) -> None:
    times = [start + scale * sum(gaps[:number]) for number in range(len(gaps) + 1)]
    taken = frames_shown_at(times, wanted)
    assert len(taken) == wanted and taken == sorted(taken)
    assert taken[0] == 0 and (wanted == 1 or taken[-1] == len(gaps))


@given(st.integers(1, 100), st.integers(1, 100), st.integers(1, 5000), st.integers(0, 2**32))
def test_a_steady_rate_is_taken_by_index_also_where_times_are_rounded(
    count: int, wanted: int, gap: int, seed: int
) -> None:
    times = np.arange(count) * gap * 2
    assert frames_shown_at(times.tolist(), wanted) == even_frames(count, wanted)
    jittered = np.floor(np.arange(count) * (gap + 0.37)).astype(int)
    assert frames_shown_at(jittered.tolist(), wanted) == even_frames(count, wanted)


def test_frames_that_an_edit_list_hides_are_not_taken(tmp_path: Path) -> None:
    write_grey_levels(tmp_path / "a.mp4", [0.1 * number for number in range(24)])
    cut = remuxed(tmp_path / "a.mp4", tmp_path / "b.mp4", earlier=1.0)
    shown = grey_levels(read_video(cut))
    assert grey_levels(read_video(cut, num_frames=5)) == [shown[index] for index in even_frames(len(shown), 5)]


def test_pictures_of_a_few_bytes_that_take_gigabytes_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    content = b"GIF89a" + struct.pack("<HHBBB", 16000, 16000, 0x80, 0, 0) + b"\x00\x00\x00\xff\xff\xff"
    content += b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00\x3b"
    (tmp_path / "a.gif").write_bytes(content)
    for read in (read_video, read_facts, probe_video, lambda path: list(read_pictures(path))):
        with pytest.raises(InputError, match="above 7680 x 4320 pixels, the most that is read"):
            read(tmp_path / "a.gif")


def test_files_tell_the_colours_that_they_are_made_with(tmp_path: Path) -> None:
    """Untold, browsers take another matrix for large clips; told a wrong one, every reader gets other colours."""
    clip = smooth_clip(3, 256, 272)
    write_video(tmp_path / "a.mp4", clip, fps=8)
    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (frame.color_primaries, frame.color_trc, frame.colorspace) == (1, 1, 6)
        assert frame.color_range == 1  # 16 to 235, as television has it
        untold = av.VideoFrame.from_ndarray(frame.to_ndarray(), format="yuv420p").to_ndarray(format="rgb24")
    assert np.array_equal(next(read_pictures(tmp_path / "a.mp4")), untold)


def test_what_goes_wrong_with_the_target_is_not_told_of_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_grey_levels(tmp_path / "a.mkv", [0.0, 0.1])

    def full(_: Path) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("halovid.store.video.atomic_path", full)
    with pytest.raises(OSError, match="No space left"):
        convert_video(tmp_path / "a.mkv", tmp_path / "a.mp4", 10.0)
