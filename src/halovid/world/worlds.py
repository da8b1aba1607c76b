"""The two embedded worlds: what their clips are like, in one table of numbers each.

Captions are the same in both. In the plain world four sprites move over a graded background, and a corruption befalls a
whole sprite for most of the clip. In the panorama world the sprites are larger and may cover each other, the camera
moves over a large textured background, light falls from one side, and corruptions are short, small and many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from halovid.maths.grid import PatchGrid

Range = tuple[float, float]


@dataclass(frozen=True, eq=False)  # there is one of each, so that functions of a world can be cached
class World:
    """The numbers of a world; lengths are in pixels, times in frames.

    period: of one swing or orbit.  radius: of sprites, by size.  speed: per frame, of a drifting sprite.
    swing: amplitude of a swinging or orbiting sprite.
    homes: x, y of a part of the frame for each sprite.  stray: most, along x and y, between the middle of a sprite's
        path and its home.  overlap: by which the discs of two sprites may overlap before another draft is tried.
    slope: most that brightness changes from the centre to an edge.  lit: whether it does so on sprites as well.
    texture: contrast of the backgrounds' textures.  pan: most that the camera moves per frame, along x and y.
    brightness: of backgrounds, relative to their colours.
    event_tries: how many corruptions a sprite may have.  event_frames: how long one lasts.
    event_reach: radius of the disc in which it shows; None: it befalls the whole sprite.
    defect_threshold: distance from the nearest clean clip above which a patch is defective; docs/world.md.
    full_motion: mean speed of the sprites of clean clips, per frame.
    search_scale: by which frames are reduced in the search for sprites.
    patch_grid: the patches on which its generator and the inspector are measured.
    """

    name: str
    num_frames: int
    frame_size: int
    period: int
    radius: Mapping[str, Range]
    speed: Range
    swing: Range
    homes: Sequence[Range]
    stray: float
    overlap: float
    slope: float
    lit: bool
    texture: float
    pan: float
    brightness: float
    event_tries: int
    event_frames: tuple[int, int]
    event_reach: Range | None
    defect_threshold: float
    full_motion: float
    search_scale: int
    patch_grid: PatchGrid

    @property
    def clip_shape(self) -> tuple[int, int, int]:
        """Frames, height and width of its clips."""
        return self.num_frames, self.frame_size, self.frame_size


PLAIN = World(
    name="plain",
    num_frames=13,
    frame_size=64,
    period=24,  # a clip shows half of a swing
    radius={"small": (7.5, 8.5), "big": (10.0, 11.5)},
    speed=(0.7, 1.3),
    swing=(4.5, 7.0),
    homes=((16.0, 16.0), (48.0, 16.0), (16.0, 48.0), (48.0, 48.0)),
    stray=6.0,
    overlap=0.0,
    slope=0.35,
    lit=False,
    texture=0.0,
    pan=0.0,
    brightness=1.0,
    event_tries=1,
    event_frames=(9, 12),
    event_reach=None,
    defect_threshold=0.07,  # above the softness of the packaged generator, below most corruptions
    full_motion=1.05,
    search_scale=2,
    patch_grid=PatchGrid(4, 4, 4),
)
PANORAMA = World(
    name="panorama",
    num_frames=17,
    frame_size=96,
    period=32,
    radius={"small": (11.0, 12.5), "big": (15.0, 17.0)},
    speed=(0.7, 1.3),
    swing=(6.0, 9.0),
    homes=((24.0, 24.0), (72.0, 24.0), (24.0, 72.0), (72.0, 72.0)),
    stray=11.0,
    overlap=14.0,
    slope=0.2,
    lit=True,
    texture=0.45,
    pan=1.0,
    brightness=1.4,
    event_tries=4,
    event_frames=(3, 8),
    event_reach=(7.0, 12.0),
    defect_threshold=0.07,
    full_motion=1.05,
    search_scale=3,
    patch_grid=PatchGrid(5, 6, 6),
)
WORLDS = {world.name: world for world in (PLAIN, PANORAMA)}


def world_of(clip_shape: Sequence[int]) -> World:
    """The world whose clips have this shape, [..., F, H, W].

    Raises:
        ValueError: there is none.
    """
    for world in WORLDS.values():
        if tuple(clip_shape[-3:]) == world.clip_shape:
            return world
    shapes = [world.clip_shape for world in WORLDS.values()]
    sizes = " or ".join(f"{frames} frames of {height} x {width} pixels" for frames, height, width in shapes)
    raise ValueError(f"clips of the embedded worlds have {sizes}; got shape {tuple(clip_shape)}")


def size_problem(clip_size: Sequence[int]) -> str | None:
    """Why clips of this size, (F, H, W), can't be measured in the embedded worlds, or None for those of one."""
    try:
        world_of(clip_size)
    except ValueError as error:
        return str(error)
    return None
