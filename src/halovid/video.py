"""Clips as files: H.264 mp4 for people and browsers, safetensors for exact latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from halovid.errors import InputError
from halovid.files import atomic_path

# a file that says it is a playlist could name others, or hosts: only formats that hold their frames are read
_ALONE = {
    "format_whitelist": "mov,matroska,avi,gif,image2,jpeg_pipe,png_pipe,webp_pipe,bmp_pipe",
    "protocol_whitelist": "file",
}
_SMALLEST_SIDE = 256  # smaller clips are enlarged by whole factors: H.264 halves the colour resolution


@dataclass(frozen=True)
class VideoFacts:
    """What a video file says of itself; sizes in pixels."""

    num_frames: int
    fps: float
    width: int
    height: int


def read_facts(path: Path) -> VideoFacts:
    """What a video file says of itself; frames are decoded only where the file does not count them.

    Raises:
        InputError: the file is missing or is no video.
    """
    try:
        with av.open(str(path), options=_ALONE) as container:
            stream = container.streams.video[0]
            num_frames = stream.frames or sum(1 for _ in container.decode(stream))
            facts = VideoFacts(num_frames, float(stream.average_rate or 0), stream.width, stream.height)
    except (OSError, av.FFmpegError, IndexError) as error:
        raise InputError(f"{path} is not a readable video ({error})") from error
    if min(facts.num_frames, facts.fps, facts.width, facts.height) <= 0:
        raise InputError(f"{path} holds no frame, or does not tell its size and speed")
    return facts


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


def read_video(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """The frames of a video file: [3, F, H, W] in [-1, 1].

    Args:
        size: (H, W) to reduce to by averaging; None keeps the file's own size.

    Raises:
        InputError: the file is missing or can't be decoded.
    """
    try:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (OSError, av.FFmpegError, IndexError) as error:
        raise InputError(f"{path} is not a readable video ({error})") from error
    if not frames:
        raise InputError(f"{path} holds no frame")
    pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float()
    if size is not None and size != tuple(pixels.shape[-2:]):
        pixels = F.interpolate(pixels, size=size, mode="area")
    return pixels.transpose(0, 1) / 127.5 - 1
