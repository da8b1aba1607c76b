"""Clips as files: H.264 mp4 for people and browsers, safetensors for exact latents."""

from __future__ import annotations

import math
from collections.abc import Iterator
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

from halovid.data.files import atomic_path
from halovid.errors import InputError

# a file that says it is a playlist could name others, or hosts: only formats that hold their frames are read
_ALONE = {
    "format_whitelist": "mov,matroska,avi,gif,image2,jpeg_pipe,png_pipe,webp_pipe,bmp_pipe",
    "protocol_whitelist": "file",
}
_SMALLEST_SIDE = 256  # smaller clips are enlarged by whole factors: H.264 halves the colour resolution


def write_video(path: Path, video: Tensor, fps: float) -> None:
    """Writes a clip as H.264 mp4, atomically; clips below 256 pixels are enlarged by a whole factor.

    Args:
        video: [3, F, H, W] in [-1, 1].
    """
    factor = max(1, math.ceil(_SMALLEST_SIDE / min(video.shape[-2:])))
    pixels = ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "12", "preset": "veryfast"}
        for picture in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())


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
    count = height = width = 0
    with _decoding(path) as container:
        stream = container.streams.video[0]
        told, fps = stream.frames, float(stream.average_rate or 0)
        for frame in container.decode(stream):
            count, height, width = count + 1, frame.height, frame.width
    if not count:
        raise InputError(f"{path} holds no frame")
    if count < told:
        raise InputError(f"{path} is not whole: it tells of {told} frames and holds {count}")
    if not fps > 0:
        raise InputError(f"{path} tells no frame rate")
    return VideoInfo(count, height, width, fps)


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
