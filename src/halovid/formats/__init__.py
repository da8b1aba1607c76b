"""The data formats of other projects: one module per format, each with a `read` and a `write`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from halovid.formats import folder, genaibench, rewardbench, vbench, videodpo, videofeedback
from halovid.formats.base import Collection, Exported, RunData
from halovid.store.errors import InputError


class Format(NamedTuple):
    """How a format is read and written.

    read: (folder or table) -> the clips, ratings and preferences in it; InputError when it is not of this format.
    write: (run, empty folder) -> how many items were written, and which were left out and why.
    """

    read: Callable[[Path], Collection]
    write: Callable[[RunData, Path], Exported]


FORMATS = {
    "folder": Format(folder.read, folder.write),
    "videofeedback": Format(videofeedback.read, videofeedback.write),
    "rewardbench": Format(rewardbench.read, rewardbench.write),
    "genaibench": Format(genaibench.read, genaibench.write),
    "vbench": Format(vbench.read, vbench.write),
    "videodpo": Format(videodpo.read, videodpo.write),
}


def get_format(name: str) -> Format:
    """The format of this name; InputError when there is none."""
    if name not in FORMATS:
        raise InputError(f"unknown format {name!r}; known are {', '.join(FORMATS)}")
    return FORMATS[name]
