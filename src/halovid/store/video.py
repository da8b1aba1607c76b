"""Clips as files: H.264 mp4 for people and browsers, safetensors for exact latents."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.video.reformatter import VideoReformatter
from torch import Tensor

from halovid.store.errors import InputError
from halovid.store.files import atomic_path

# a file that says it is a playlist could name others, or hosts: only formats that hold their frames are read
_ALONE = {
    "format_whitelist": "mov,matroska,avi,gif,image2,jpeg_pipe,png_pipe,webp_pipe,bmp_pipe",
    "protocol_whitelist": "file",
}
_SMALLEST_SIDE = 256  # smaller clips are enlarged by whole factors: H.264 halves the colour resolution
_LARGEST_SIDE = 4096  # but not beyond what players can show
_WHOLE = 0.95  # share of its time that a file must hold: the last frame may be shown for longer than the others


def write_video(path: Path, video: Tensor, fps: float) -> None:
    """Writes a clip as H.264 mp4, atomically; clips below 256 pixels are enlarged by a whole factor.

    Args:
        video: [3, F, H, W] in [-1, 1].
    """
    pixels = ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()
    write_pictures(path, pixels, fps)


def write_pictures(path: Path, pictures: Iterable[np.ndarray], fps: float) -> None:
    """As `write_video`, from pictures [H, W, 3] of bytes, one after the other; sides that are odd grow by a pixel.

    Raises:
        InputError: there is none, they have several sizes, or H.264 can't hold them.
    """
    pictures = iter(pictures)
    first = next(pictures, None)
    if first is None:
        raise InputError("there is no frame to write")
    height, width = first.shape[:2]
    factor = max(1, min(math.ceil(_SMALLEST_SIDE / min(height, width)), _LARGEST_SIDE // max(height, width)))
    margins = [(0, height * factor % 2), (0, width * factor % 2), (0, 0)]  # halved colours need even sides
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = height * factor + margins[0][1], width * factor + margins[1][1]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "12", "preset": "veryfast"}
        for picture in itertools.chain([first], pictures):
            if picture.shape != first.shape:
                raise InputError("its frames have several sizes")
            enlarged = np.pad(picture.repeat(factor, axis=0).repeat(factor, axis=1), margins, mode="edge")
            container.mux(_encode(stream, av.VideoFrame.from_ndarray(enlarged, format="rgb24")))
        container.mux(_encode(stream, None))


def _encode(stream: av.VideoStream, frame: av.VideoFrame | None) -> list[av.Packet]:
    """What the encoder gives for a frame, or at the end."""
    try:
        return stream.encode(frame)
    except av.FFmpegError as error:
        size = f"{stream.width} x {stream.height}"
        raise InputError(f"frames of {size} pixels can't be written as H.264 ({error})") from error


@dataclass(frozen=True)
class VideoInfo:
    """Facts of a video: its number of frames, their size in pixels, and frames per second."""

    num_frames: int
    height: int
    width: int
    fps: float


def read_facts(path: Path) -> VideoInfo:
    """What a video file says of itself; frames are decoded only where the file does not count them.

    Raises:
        InputError: the file is missing or is no video.
    """
    try:
        with av.open(str(path.absolute()), options=_ALONE) as container:
            stream = container.streams.video[0]
            num_frames = stream.frames or sum(1 for _ in container.decode(stream))
            facts = VideoInfo(num_frames, stream.height, stream.width, float(stream.average_rate or 0))
    except (OSError, av.FFmpegError, IndexError) as error:
        raise InputError(f"{path} is not a readable video ({error})") from error
    if min(facts.num_frames, facts.fps, facts.width, facts.height) <= 0:
        raise InputError(f"{path} holds no frame, or does not tell its size and speed")
    return facts


def probe_video(path: Path) -> VideoInfo:
    """Facts of a video file, found by decoding all of it; no frame is kept.

    Raises:
        InputError: the file is missing, can't be decoded or ends early.
    """
    count = height = width = hidden = 0
    end = 0.0
    with _decoding(path) as container:
        stream = container.streams.video[0]
        told, fps, lasts = stream.frames, float(stream.average_rate or 0), _told_seconds(stream)
        for packet in container.demux(stream):
            hidden += packet.is_discard  # an edit list leaves it out
            for frame in packet.decode():
                count, height, width, end = count + 1, frame.height, frame.width, frame.time or 0.0
    if not count:
        raise InputError(f"{path} holds no frame")
    if not fps > 0:
        raise InputError(f"{path} tells no frame rate")
    if count < told - hidden:
        raise InputError(f"{path} is not whole: it tells of {told} frames and holds {count}")
    if end + 2 / fps < _WHOLE * lasts:
        raise InputError(f"{path} is not whole: it tells of {lasts:g} s and ends after {end + 1 / fps:.2f} s")
    return VideoInfo(count, height, width, fps)


def _told_seconds(stream: av.VideoStream) -> float:
    """How long Matroska and WebM files, which do not count their frames, say that they last; 0 for all others."""
    parts = stream.metadata.get("DURATION", "0:0:0").split(":")
    try:
        return sum(float(part) * 60**place for place, part in enumerate(reversed(parts)))
    except ValueError:
        return 0.0


def read_video(path: Path, size: tuple[int, int] | None = None, num_frames: int | None = None) -> Tensor:
    """The frames of a video file: [3, F, H, W] in [-1, 1].

    Args:
        size: (H, W) to reduce to by averaging, or to enlarge to; None keeps the file's own size.
        num_frames: how many frames, spaced evenly from the first to the last; None takes all.

    Raises:
        InputError: the file is missing or can't be decoded.
    """
    wanted = None if num_frames is None else even_frames(_count_frames(path), num_frames)
    kept: dict[int, Tensor] = {}
    reformatter = VideoReformatter()  # one for all frames: a frame's own would set up its conversion anew
    with _decoding(path) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if wanted is None or index in wanted:
                kept[index] = _resize(torch.from_numpy(reformatter.reformat(frame, format="rgb24").to_ndarray()), size)
    if not kept:
        raise InputError(f"{path} holds no frame")
    last = max(kept)  # fewer frames than packets: the last one stands for those that are missing
    order = sorted(kept) if wanted is None else [min(index, last) for index in wanted]
    try:
        pixels = torch.stack([kept[index] for index in order])
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{path} holds frames of several sizes, or not all that it tells of") from error
    return pixels.transpose(0, 1) / 127.5 - 1


def read_pictures(path: Path) -> Generator[np.ndarray]:
    """The frames of a video or picture file, [H, W, 3] of bytes, one after the other.

    Raises:
        InputError: the file is missing or can't be decoded.
    """
    reformatter = VideoReformatter()
    with _decoding(path) as container:
        for frame in container.decode(video=0):
            yield reformatter.reformat(frame, format="rgb24").to_ndarray()


def even_frames(count: int, wanted: int) -> list[int]:
    """Which of `count` frames are shown as `wanted` ones, evenly from first to last; repeated where they are few."""
    return np.linspace(0, max(count - 1, 0), wanted).round().astype(int).tolist()


def _count_frames(path: Path) -> int:
    """The frames of a video, counted without decoding them."""
    with _decoding(path) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


def _resize(frame: Tensor, size: tuple[int, int] | None) -> Tensor:
    """[H, W, 3] bytes -> [3, H, W] floats of the wanted size."""
    pixels = frame.permute(2, 0, 1).float()
    if size is None or size == tuple(pixels.shape[-2:]):
        return pixels
    smaller = size[0] <= pixels.shape[-2] and size[1] <= pixels.shape[-1]
    if smaller:
        return F.interpolate(pixels[None], size=size, mode="area")[0]
    return F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


@contextmanager
def _decoding(path: Path) -> Iterator[av.container.InputContainer]:
    """An open video; InputError for whatever is wrong with the file."""
    try:
        with av.open(str(path.absolute()), options=_ALONE) as container:
            yield container
    except (OSError, av.FFmpegError, IndexError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a readable video ({error})") from error
