"""Reading video and picture files, and writing clips as what browsers show: H.264 mp4, or PNG of a single frame."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.sidedata.sidedata import SideData
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc, VideoReformatter
from torch import Tensor

from halovid.store.errors import InputError
from halovid.store.files import atomic_path
from halovid.store.troubles import raise_shortage

_LARGEST_PICTURE = 7680, 4320  # width and height; a file of 100 bytes can tell of pictures that take gigabytes
_DECODER_LIMITS = {"max_pixels": str(math.prod(_LARGEST_PICTURE))}
# a file that says it is a playlist could name others, or hosts: only formats that hold their frames are read
_READING = {
    "format_whitelist": "mov,matroska,avi,gif,image2,jpeg_pipe,png_pipe,webp_pipe,bmp_pipe",
    "protocol_whitelist": "file",
    **_DECODER_LIMITS,  # opening a file decodes some of it already
}
# The colour matrix that libswscale turns RGB into YUV with unless it is told another one (number 6 of ITU-T H.273,
# which PyAV has no name for). Browsers assume another one for large clips whose files don't tell.
_SMPTE_170M = 6
_TICKS_PER_SECOND = 90_000  # of the times that are written; all usual frame rates fit into it
_SMALLEST_SIDE = 256  # smaller clips are enlarged by whole factors: H.264 halves the colour resolution
_LARGEST_SIDE = 4096  # but not beyond what players can show
PICTURE_SUFFIX = ".png"
_WHOLE = 0.95  # share of its time that a file must hold: the last frame may be shown for longer than the others


def clip_suffix(num_frames: int) -> str:
    """The ending of a clip's file: .png for a single frame, which loses nothing there, else .mp4."""
    return PICTURE_SUFFIX if num_frames == 1 else ".mp4"


def write_video(path: Path, video: Tensor, fps: float) -> None:
    """Writes a clip, atomically: a single frame as it is to a path that ends in .png, else H.264 mp4.

    In mp4, clips below 256 pixels are enlarged by a whole factor.

    Args:
        video: [3, F, H, W] in [-1, 1].

    Raises:
        ValueError: a path of a picture, and not one frame.
    """
    pixels = ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()
    if path.suffix == PICTURE_SUFFIX:
        [picture] = pixels
        write_picture(path, picture)
    else:
        write_pictures(path, pixels, fps)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Writes a picture [H, W, 3] of bytes as PNG, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_png(picture))


def encode_png(picture: np.ndarray) -> bytes:
    """The PNG file of a picture [H, W, 3] of bytes."""
    encoder = av.CodecContext.create("png", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.height, encoder.width = picture.shape[:2]
    encoder.pix_fmt, encoder.time_base = "rgb24", Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))


def write_pictures(path: Path, pictures: Iterable[np.ndarray], fps: float) -> None:
    """As `write_video`, from pictures [H, W, 3] of bytes, one after the other; sides that are odd grow by a pixel.

    Raises:
        InputError: there is none, they have several sizes, or H.264 can't hold them.
    """
    _write_timed(path, ((picture, None) for picture in pictures), fps)


def convert_video(source: Path, target: Path, fps: float) -> None:
    """Writes a video of another kind as `write_pictures` does, upright and each frame at its own time.

    Args:
        fps: the speed that the new file tells; frames without a time of their own follow each other at this speed.

    Raises:
        InputError: the source can't be decoded, or see `write_pictures`.
    """
    reformatter = VideoReformatter()
    _write_timed(target, ((_pixels(frame, reformatter), frame.time) for frame in _decoded(source)), fps)


def _write_timed(path: Path, timed_pictures: Iterable[tuple[np.ndarray, float | None]], fps: float) -> None:
    """Writes pictures, each with the second at which it is shown, or None to show them at the rate `fps`."""
    timed_pictures = iter(timed_pictures)
    first = next(timed_pictures, None)
    if first is None:
        raise InputError("there is no frame to write")
    height, width = first[0].shape[:2]
    factor = max(1, min(math.ceil(_SMALLEST_SIDE / min(height, width)), _LARGEST_SIDE // max(height, width)))
    margins = [(0, height * factor % 2), (0, width * factor % 2), (0, 0)]  # halved colours need even sides
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = _add_stream(container, height * factor + margins[0][1], width * factor + margins[1][1], fps)
        if first[1] is not None:
            stream.codec_context.time_base = Fraction(1, _TICKS_PER_SECOND)
        last_tick = -1
        for picture, second in itertools.chain([first], timed_pictures):
            if picture.shape != first[0].shape:
                raise InputError("its frames have several sizes")
            enlarged = np.pad(picture.repeat(factor, axis=0).repeat(factor, axis=1), margins, mode="edge")
            frame = av.VideoFrame.from_ndarray(enlarged, format="rgb24")
            if first[1] is not None:
                wanted_tick = 0 if second is None else round((second - first[1]) * _TICKS_PER_SECOND)
                frame.pts, frame.time_base = max(wanted_tick, last_tick + 1), Fraction(1, _TICKS_PER_SECOND)
                last_tick = frame.pts
            container.mux(_encode(stream, frame))
        container.mux(_encode(stream, None))


def _add_stream(container: av.container.OutputContainer, height: int, width: int, fps: float) -> av.VideoStream:
    """The H.264 stream of a new file, which tells the colours that its pixels are made with."""
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    stream.options = {"crf": "12", "preset": "veryfast"}
    codec = stream.codec_context
    codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    codec.colorspace, codec.color_range = _SMPTE_170M, ColorRange.MPEG
    return stream


def _encode(stream: av.VideoStream, frame: av.VideoFrame | None) -> list[av.Packet]:
    """The packets that the encoder returns for a frame, or for None at the end of the stream."""
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
    """What a video file says of itself, its size as players show it.

    Only the first frame is decoded, which tells how the file is turned; all are where the file does not count them.

    Raises:
        InputError: the file is missing or is no video.
    """
    with _opened(path) as (container, stream):
        frames = container.decode(stream)
        first = next(frames, None)
        height, width = (0, 0) if first is None else _shown_size(first)
        num_frames = stream.frames or 1 + sum(1 for _ in frames)
        facts = VideoInfo(num_frames, height, width, float(stream.average_rate or 0))
    if min(facts.num_frames, facts.fps, facts.width, facts.height) <= 0:
        raise InputError(f"{path} holds no frame, or does not tell its size and speed")
    return facts


def probe_video(path: Path) -> VideoInfo:
    """Facts of a video file, found by decoding all of it; no frame is kept.

    Raises:
        InputError: the file is missing, can't be decoded or ends early.
    """
    count = height = width = hidden = 0
    last_time = 0.0
    with _opened(path) as (container, stream):
        listed, fps, duration = stream.frames, float(stream.average_rate or 0), _stated_seconds(stream)
        for packet in container.demux(stream):
            hidden += packet.is_discard  # an edit list leaves it out
            for frame in packet.decode():
                count, (height, width), last_time = count + 1, _shown_size(frame), frame.time or 0.0
    if not count:
        raise InputError(f"{path} holds no frame")
    if not fps > 0:
        raise InputError(f"{path} tells no frame rate")
    if count < listed - hidden:
        raise InputError(f"{path} is not whole: it tells of {listed} frames and holds {count}")
    if last_time + 2 / fps < _WHOLE * duration:
        raise InputError(f"{path} is not whole: it tells of {duration:g} s and ends after {last_time + 1 / fps:.2f} s")
    return VideoInfo(count, height, width, fps)


def _stated_seconds(stream: av.VideoStream) -> float:
    """The duration in seconds that Matroska and WebM files, which do not count their frames, state; 0 for others."""
    hours_minutes_seconds = stream.metadata.get("DURATION", "0:0:0").split(":")
    try:
        return sum(float(digits) * 60**power for power, digits in enumerate(reversed(hours_minutes_seconds)))
    except ValueError:
        return 0.0


def read_video(path: Path, size: tuple[int, int] | None = None, num_frames: int | None = None) -> Tensor:
    """The frames of a video file, upright as players show them: [3, F, H, W] in [-1, 1].

    Args:
        size: (H, W) to reduce to by averaging, or to enlarge to; None keeps the file's own size.
        num_frames: how many frames, those shown at moments spaced evenly from the first to the last; None takes all.

    Raises:
        InputError: the file is missing or can't be decoded.
    """
    chosen = None if num_frames is None else _choose_frames(path, num_frames)
    frames: dict[int, Tensor] = {}
    reformatter = VideoReformatter()
    for index, frame in enumerate(_decoded(path)):
        if chosen is None or index in chosen:
            frames[index] = _resize(torch.from_numpy(_pixels(frame, reformatter)), size)
    if not frames:
        raise InputError(f"{path} holds no frame")
    last = max(frames)  # a file may hold fewer frames than packets: the last one stands for those that are missing
    order = sorted(frames) if chosen is None else [min(index, last) for index in chosen]
    try:
        pixels = torch.stack([frames[index] for index in order])
    except (KeyError, RuntimeError) as error:
        raise_shortage(error)
        raise InputError(f"{path} holds frames of several sizes, or not all that it tells of") from error
    return pixels.transpose(0, 1) / 127.5 - 1


def read_pictures(path: Path) -> Generator[np.ndarray]:
    """The frames of a video or picture file, upright, [H, W, 3] of bytes, one after the other.

    Raises:
        InputError: the file is missing or can't be decoded.
    """
    reformatter = VideoReformatter()
    for frame in _decoded(path):
        yield _pixels(frame, reformatter)


def even_frames(count: int, num_frames: int) -> list[int]:
    """The indices of `num_frames` of `count` frames, evenly from first to last; too few frames are repeated."""
    return np.linspace(0, max(count - 1, 0), num_frames).round().astype(int).tolist()


def frames_shown_at(times: Sequence[int], num_frames: int) -> list[int]:
    """The indices of the frames that are shown at `num_frames` moments, evenly in time from first to last frame.

    A frame is shown from its own time until that of the next one. Frames at a steady rate are taken by `even_frames`.

    Args:
        times: of the frames in the order in which they are shown, in the file's clock; gaps of a steady rate differ by
            at most 1.
    """
    gaps = np.diff(np.asarray(times))
    if not len(gaps) or np.ptp(gaps) <= 1:
        return even_frames(len(times), num_frames)
    # half of the shortest gap later, so that a nearly steady rate does not lose frames by rounding
    moments = np.linspace(times[0], times[-1], num_frames) + gaps.min() / 2
    return (np.searchsorted(times, moments, side="right") - 1).tolist()


def _decoded(path: Path) -> Generator[av.VideoFrame]:
    """The frames of a file as they are stored, not yet turned upright; InputError if it can't be decoded.

    Errors of the code that uses the frames stay what they are.
    """
    with _opened(path) as (container, stream):
        yield from container.decode(stream)


def _choose_frames(path: Path, num_frames: int) -> list[int]:
    """The indices of the frames that `read_video` takes, found without decoding the video."""
    with _opened(path) as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
        times = [packet.pts for packet in packets if packet.pts is not None]
    if len(times) < len(packets):
        return even_frames(len(packets), num_frames)
    return frames_shown_at(sorted(times), num_frames)


def _shown_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Height and width of a frame as it is shown."""
    quarter_turn, _, _ = _orientation(frame)
    return (frame.width, frame.height) if quarter_turn else (frame.height, frame.width)


def _pixels(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """A frame as it is shown, [H, W, 3] of bytes.

    Args:
        reformatter: one for all frames of a file: a frame's own would set up its conversion anew.
    """
    pixels = reformatter.reformat(frame, format="rgb24").to_ndarray()
    transposed, upside_down, mirrored = _orientation(frame)
    if transposed:
        pixels = pixels.swapaxes(0, 1)
    if upside_down:
        pixels = pixels[::-1]
    if mirrored:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How players turn a frame: whether rows and columns change places, then rows are reversed, then columns are.

    The file's display matrix tells (ISO/IEC 14496-12, 6.2.2): a pixel at (x, y) is shown at (a x + c y, b x + d y).
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, SideData):
        return False, False, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), dtype=np.int32).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, b < 0, c < 0
    return False, d < 0, a < 0


def _resize(frame: Tensor, size: tuple[int, int] | None) -> Tensor:
    """A frame [H, W, 3] of bytes as [3, H, W] floats in 0..255 at this size (H, W); None keeps its own."""
    pixels = frame.permute(2, 0, 1).float()
    if size is None or size == tuple(pixels.shape[-2:]):
        return pixels
    smaller = size[0] <= pixels.shape[-2] and size[1] <= pixels.shape[-1]
    if smaller:
        return F.interpolate(pixels[None], size=size, mode="area")[0]
    return F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """An open file and its video stream; whatever PyAV raises, also inside the block, becomes an InputError."""
    try:
        with av.open(str(path.absolute()), options=_READING) as container:
            stream = container.streams.video[0]
            if not stream.width or not stream.height:  # a decoder hides sizes above its limit
                raise InputError(
                    f"{path} is not a readable video: it tells no size of its pictures, or one above "
                    f"{_LARGEST_PICTURE[0]} x {_LARGEST_PICTURE[1]} pixels, the most that is read"
                )
            stream.codec_context.options = _DECODER_LIMITS
            yield container, stream
    except InputError:
        raise
    except (OSError, av.FFmpegError, IndexError, ValueError) as error:
        raise_shortage(error, of_handles_alone=True)
        raise InputError(f"{path} is not a readable video ({error})") from error
