"""What a stage uses of the machine: device, number format, threads, memory, and the console with its progress bars."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from halovid.store.errors import InputError

if TYPE_CHECKING:  # torch takes seconds to import, which `halovid --help` must not wait for
    import torch

T = TypeVar("T")
_HELD_BYTES = 1 << 29  # of the float32 clips of a batch; what is computed from them takes several times as much


# names and reasons hold anybody's words, which are no markup; lines are not cut, so that paths can be copied whole
console = Console(stderr=True, markup=False, soft_wrap=True)


def resolve_device(name: str) -> torch.device:
    """The device of a name; "auto" takes CUDA or MPS when present.

    Raises:
        InputError: there is no such device here.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device).cpu()  # the copy refuses devices that hold no data
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} can't be used here ({error}); use auto, cpu, cuda or mps") from error
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format of a name; "auto" is bfloat16 on CUDA and float32 elsewhere."""
    import torch

    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def set_threads(threads: int | None) -> None:
    """Limits torch to `threads` CPU threads; None leaves all cores that the process may use."""
    import torch

    if threads is None:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads)


@contextmanager
def one_thread() -> Iterator[None]:
    """A context in which torch uses one CPU thread, for results that must be the same to the bit on any machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _RateColumn(ProgressColumn):
    """Items per second, or seconds per item."""

    def render(self, task: Task) -> Text:
        return Text(show_rate(task.finished_speed or task.speed or 0.0), style="progress.data.speed")


def show_rate(per_second: float) -> str:
    """How fast items are done, in the unit that leaves a number: 3.2/s or 25.0 s each; empty while nothing is known."""
    if per_second <= 0:
        return ""
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


class Advance(Protocol):
    """Tells a progress bar that so many more items are done, with a note on what has come of the work so far."""

    def __call__(self, count: int = 1, note: str = "") -> None: ...


@contextmanager
def progress(description: str, total: int, done: int = 0) -> Iterator[Advance]:
    """A progress bar with rate and time left; plain lines every tenth where the output is not a terminal."""
    if console.is_terminal:
        bar = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=console,
        )
        with bar:
            task = bar.add_task(description, total=total, completed=done, note="")
            yield lambda count=1, note="": bar.update(task, advance=count, note=note)
    else:
        yield _PlainProgress(description, total, done)


class _PlainProgress:
    """Progress as lines of a log."""

    def __init__(self, description: str, total: int, done: int) -> None:
        self.description, self.total, self.first, self.done = description, total, done, done
        self.started = time.monotonic()

    def __call__(self, count: int = 1, note: str = "") -> None:
        before, self.done = self.done, self.done + count
        if self.done * 10 // max(self.total, 1) > before * 10 // max(self.total, 1):
            rate = (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)
            seconds_left = (self.total - self.done) / rate
            speed = f"{show_rate(rate)}, {seconds_left:.0f} s left"
            console.print(f"{self.description}: {self.done}/{self.total}, {speed}{note and f'; {note}'}")


def announce(action: str) -> None:
    """Prints that an action begins which takes a while and has no progress bar, such as loading a model."""
    console.print(f"{action} ...", style="dim")


def clips_at_once(size: tuple[int, int, int], limit: int) -> int:
    """How many clips of this size (frames, height, width) to hold in memory together: at least 1, at most `limit`."""
    frames, height, width = size
    return max(1, min(limit, _HELD_BYTES // (3 * frames * height * width * 4)))


def batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """The items in batches of `size`; the last one may be smaller."""
    return [items[first : first + size] for first in range(0, len(items), size)]
