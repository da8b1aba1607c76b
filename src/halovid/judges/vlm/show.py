"""What a model sees of a clip, as JPEG: whole frames, frames with numbered patches, enlarged patches over time."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from halovid.maths.grid import PatchGrid
from halovid.store.runtime import batches

_QUALITY = 92  # of JPEG: its own blocks must not look like a defect
_MARGIN = 0.25  # shown around an enlarged patch, as a share of its side
_TUBE_SIDE = 192  # pixels of the longer side of an enlarged patch with its margin
_ROWS_PER_SHEET = 8  # patches per picture: endpoints reduce pictures of more than 2048 pixels
_GAP = 4  # pixels between enlarged patches
_LABEL_WIDTH = 48  # pixels at the left for the number of a patch

Cell = tuple[int, int]  # row and column of a patch


@dataclass(frozen=True)
class Picture:
    """A JPEG, and what it shows in words."""

    caption: str
    data: bytes
    width: int
    height: int

    @property
    def url(self) -> str:
        """The picture as a data URL."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.data).decode()}"


def spread_evenly(frames: Sequence[int], count: int) -> list[int]:
    """At most `count` of the frames, evenly spaced from the first to the last; the middle one when `count` is 1."""
    if count >= len(frames):
        return list(frames)
    if count == 1:
        return [frames[len(frames) // 2]]
    return [frames[round(i * (len(frames) - 1) / (count - 1))] for i in range(count)]


def whole_frames(video: Tensor, frames: Sequence[int], side: int) -> list[Picture]:
    """Frames of a clip ([3, F, H, W] in [-1, 1]), the longer side `side` pixels long."""
    return [_encode(_frame(video, frame, side), f"frame {frame}") for frame in frames]


def numbered_frames(
    video: Tensor, frames: Sequence[int], side: int, grid: PatchGrid, numbers: dict[int, Cell]
) -> list[Picture]:
    """`whole_frames` with the borders of all patches, and the numbers of those in `numbers`, drawn on them."""
    pictures = []
    for frame in frames:
        image = _frame(video, frame, side)
        _draw_grid(image, grid, numbers)
        pictures.append(_encode(image, f"frame {frame}"))
    return pictures


def tubes(video: Tensor, frames: Sequence[int], grid: PatchGrid, numbers: dict[int, Cell]) -> list[Picture]:
    """Enlarged patches, with a margin: a row for each, its number on the left, time from left to right."""
    images = {frame: _image(video, frame) for frame in frames}
    sheets = batches(list(numbers), _ROWS_PER_SHEET)
    return [_sheet(images, grid, {number: numbers[number] for number in sheet}) for sheet in sheets]


def _sheet(frames: dict[int, Image.Image], grid: PatchGrid, numbers: dict[int, Cell]) -> Picture:
    """One picture with a row of enlarged frames for each patch."""
    rows = [[_enlarged(image, grid, cell) for image in frames.values()] for cell in numbers.values()]
    width, height = (max(crop.size[axis] for row in rows for crop in row) for axis in (0, 1))
    sheet = Image.new("RGB", (_LABEL_WIDTH + len(frames) * (width + _GAP), len(rows) * (height + _GAP)), "grey")
    draw = ImageDraw.Draw(sheet)
    for index, (number, row) in enumerate(zip(numbers, rows, strict=True)):
        top = index * (height + _GAP)
        _write(draw, (_GAP, top + height // 3), number, 24)
        for column, crop in enumerate(row):
            sheet.paste(crop, (_LABEL_WIDTH + column * (width + _GAP), top))
    return _encode(sheet, f"patches {', '.join(map(str, numbers))} in frames {', '.join(map(str, frames))}")


def _image(video: Tensor, frame: int) -> Image.Image:
    """A frame in its own size."""
    pixels = ((video[:, frame].float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def _resized(image: Image.Image, side: int) -> Image.Image:
    """The image with its longer side `side` pixels long."""
    scale = side / max(image.size)
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )


def _frame(video: Tensor, frame: int, side: int) -> Image.Image:
    return _resized(_image(video, frame), side)


def _bounds(size: tuple[int, int], grid: PatchGrid, cell: Cell, margin: float = 0.0) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a patch in an image of this width and height; `margin` is a share of its sides."""
    row, column = cell
    width, height = size
    left, right = (width * (column + edge) / grid.w for edge in (-margin, 1 + margin))
    top, bottom = (height * (row + edge) / grid.h for edge in (-margin, 1 + margin))
    return max(0, round(left)), max(0, round(top)), min(width, round(right)), min(height, round(bottom))


def _draw_grid(image: Image.Image, grid: PatchGrid, numbers: dict[int, Cell]) -> None:
    """Draws borders as white lines with dark edges, visible on any picture, and numbers in the top left corners."""
    draw = ImageDraw.Draw(image)
    for width, colour in ((3, "black"), (1, "white")):
        for column in range(1, grid.w):
            x = round(image.width * column / grid.w)
            draw.line((x, 0, x, image.height), colour, width)
        for row in range(1, grid.h):
            y = round(image.height * row / grid.h)
            draw.line((0, y, image.width, y), colour, width)
    height = min(image.width / grid.w, image.height / grid.h)
    for number, cell in numbers.items():
        left, top, _, _ = _bounds(image.size, grid, cell)
        _write(draw, (left + 3, top + 2), number, max(10, min(24, round(height / 5))))


def _enlarged(image: Image.Image, grid: PatchGrid, cell: Cell) -> Image.Image:
    """A patch of a frame with its margin, a thin frame around the patch itself."""
    outer, inner = _bounds(image.size, grid, cell, _MARGIN), _bounds(image.size, grid, cell)
    crop = _resized(image.crop(outer), _TUBE_SIDE)
    scale = crop.width / (outer[2] - outer[0])
    box = [round((side - outer[axis % 2]) * scale) for axis, side in enumerate(inner)]
    ImageDraw.Draw(crop).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline="white", width=1)
    return crop


def _write(draw: ImageDraw.ImageDraw, position: tuple[int, int], number: int, size: int) -> None:
    draw.text(position, str(number), "white", ImageFont.load_default(size), stroke_width=2, stroke_fill="black")


def _encode(image: Image.Image, caption: str) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return Picture(caption, buffer.getvalue(), *image.size)
