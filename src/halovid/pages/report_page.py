"""The report page: the results of an evaluation as one self-contained HTML file.

`render_page` turns a `PageContent` into HTML that needs no network and no other file: clips, numbers, charts,
style and script are inside. Equal content gives equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, get_args

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.colors import to_hex

from halovid.pages.charts import Curve, KindRow, draw_curve, draw_kinds, show

Better = Literal["lower", "higher", "same"]
PatchRewards = Sequence[Sequence[Sequence[float]]]

MAX_PAGE_BYTES = 25_000_000
_REWARD_QUANTILES = (0.02, 0.98)  # ends of the colour scale: one extreme patch must not flatten all others
_NUM_COLOURS = 64
_PNG = b"\x89PNG"  # how such files begin


@dataclass(frozen=True)
class MetricRow:
    """One line of the table of metrics: the values of both generators and the interval of their difference.

    Values are in `unit` (so 12.5 with unit "%"); NaN is shown as a dash.

    group: heading under which the row stands; rows of one group stay together, in order.
    difference: aligned - base, with its 95% interval low..high.
    better: the direction that is an improvement; "same" for what the alignment should leave alone.
    sample_size: on how many prompts and clips it was measured, as text.
    """

    group: str
    name: str
    unit: str
    base: float
    aligned: float
    difference: float
    low: float
    high: float
    better: Better
    sample_size: str

    def __post_init__(self) -> None:
        if self.better not in get_args(Better):
            raise ValueError(
                f"better of metric {self.name!r} is {self.better!r}; use one of {', '.join(get_args(Better))}"
            )
        if self.low > self.high:
            raise ValueError(f"the interval of metric {self.name!r} is {self.low}..{self.high}; swap its ends")


@dataclass(frozen=True)
class ClipPair:
    """Two clips of one prompt that are shown side by side: of both generators, or one before and after its repair.

    base_file, aligned_file: H.264 mp4 files of `num_frames` frames at `fps`, or PNG files of one frame.
    base_rewards, aligned_rewards: patch rewards [t][h][w], higher is better; NaN is left blank.
    frame_to_patch: for each frame the t index of the patches that it shows.
    """

    prompt: str
    seed: int | None
    base_file: bytes
    aligned_file: bytes
    base_rewards: PatchRewards
    aligned_rewards: PatchRewards
    frame_to_patch: Sequence[int]
    num_frames: int
    fps: float

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.fps <= 0:
            raise ValueError(f"a clip has {self.num_frames} frames at {self.fps} fps; both must be positive")
        if len(self.frame_to_patch) != self.num_frames:
            raise ValueError(
                f"frame_to_patch has {len(self.frame_to_patch)} entries for {self.num_frames} frames; "
                "give one t index for each frame"
            )
        for name, rewards in (("base_rewards", self.base_rewards), ("aligned_rewards", self.aligned_rewards)):
            shape = _shape(name, rewards)
            if not 0 <= min(self.frame_to_patch) <= max(self.frame_to_patch) < shape[0]:
                raise ValueError(
                    f"frame_to_patch runs from {min(self.frame_to_patch)} to {max(self.frame_to_patch)}; "
                    f"{name} has t indices 0..{shape[0] - 1}"
                )


def _shape(name: str, rewards: PatchRewards) -> tuple[int, ...]:
    """The shape (t, h, w) of patch rewards; ValueError if they are ragged, empty or not three lists deep."""
    try:
        shape = np.shape(rewards)
    except ValueError as error:
        raise ValueError(f"{name} is ragged; every row [w] and every plane [h] needs equal length") from error
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{name} has the shape {shape}; give nested lists [t][h][w], none empty")
    return shape


@dataclass(frozen=True)
class AgreementRow:
    """How well a reward model ranks patches: rank correlations in -1..1 and area under the ROC in 0..1.

    scoring: how the model saw the patches, such as "crop" or "dense".
    """

    name: str
    scoring: str
    spearman: float
    kendall: float
    auroc: float


@dataclass(frozen=True)
class PageContent:
    """Everything on the page; an empty sequence leaves its section out.

    verdict: one sentence that says what the evaluation found.
    clips: of both generators.  repaired: candidates before and after their repair.
    skipped: one sentence for each thing that was not done or not measured, and why.
    """

    title: str
    subtitle: str
    verdict: str
    metrics: Sequence[MetricRow]
    clips: Sequence[ClipPair]
    repaired: Sequence[ClipPair]
    kinds: Sequence[KindRow]
    agreement: Sequence[AgreementRow]
    curves: Sequence[Curve]
    skipped: Sequence[str]
    config_yaml: str
    versions: Mapping[str, str]


def render_page(content: PageContent) -> str:
    """The page as HTML text; write it as UTF-8.

    Raises:
        ValueError: the page would be larger than `MAX_PAGE_BYTES`.
    """
    loader = PackageLoader("halovid")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = show
    script = _asset("report.js")
    page = environment.get_template("report.html.j2").render(
        content=content,
        style=Markup(_asset("report.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        metric_groups=_metric_groups(content.metrics),
        kinds_chart=draw_kinds(content.kinds) if content.kinds else "",
        curves=[draw_curve(curve, index) for index, curve in enumerate(content.curves)],
        **_clips_view(content.clips, content.repaired),
    )
    size = len(page.encode())
    if size > MAX_PAGE_BYTES:
        raise ValueError(
            f"the page has {size / 1e6:.1f} MB with {len(content.clips) + len(content.repaired)} clip pairs; at most "
            f"{MAX_PAGE_BYTES / 1e6:.0f} MB are allowed: show fewer or smaller clips"
        )
    return page


def _asset(name: str) -> str:
    """The text of a file of the package's templates."""
    return resources.files("halovid").joinpath("templates", name).read_text(encoding="utf-8")


def _outcome(row: MetricRow) -> str:
    """The outcome that the interval shows: better, worse, unclear, unchanged, changed or unknown."""
    if not (math.isfinite(row.low) and math.isfinite(row.high)):
        return "unknown"
    if row.low <= 0 <= row.high:
        return "unchanged" if row.better == "same" else "unclear"
    if row.better == "same":
        return "changed"
    return "better" if (row.low > 0) == (row.better == "higher") else "worse"


def _interval_marks(row: MetricRow) -> dict[str, float] | None:
    """Positions of the interval's ends and of the difference in -1..1, mirrored so that better is to the right."""
    ends = (row.low, row.difference, row.high)
    largest = max(abs(value) for value in ends)
    if not all(math.isfinite(value) for value in ends) or largest == 0:
        return None
    direction = -1 if row.better == "lower" else 1
    low, middle, high = sorted(direction * value / largest for value in ends)
    return {"low": low, "middle": middle, "high": high}


def _metric_groups(rows: Sequence[MetricRow]) -> dict[str, list[dict[str, Any]]]:
    """Group -> its rows for the template; groups are in the order of their first row."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        view = {
            "row": row,
            "outcome": _outcome(row),
            "marks": _interval_marks(row),
        }
        groups.setdefault(row.group, []).append(view)
    return groups


def _reward_scale(clips: Sequence[ClipPair]) -> tuple[float, float]:
    """The rewards at the two ends of the colour scale, the same for all clips."""
    arrays = [np.ravel(rewards) for clip in clips for rewards in (clip.base_rewards, clip.aligned_rewards)]
    values = np.concatenate(arrays)
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = (float(value) for value in np.quantile(values, _REWARD_QUANTILES))
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _side_view(label: str, swatch: str, file: bytes, rewards: PatchRewards) -> dict[str, Any]:
    """One clip of a pair, for the template and for the script; `swatch` names its colour in the style sheet."""
    array = np.asarray(rewards, dtype=np.float64)
    finite = array[np.isfinite(array)]
    kind = "image/png" if file.startswith(_PNG) else "video/mp4"
    rounded = array.round(4).astype(object)
    rounded[~np.isfinite(array)] = None  # JSON has no NaN
    return {
        "label": label,
        "swatch": swatch,
        "mean": float(finite.mean()) if len(finite) else math.nan,
        "lowest": float(finite.min()) if len(finite) else math.nan,
        "is_picture": kind.startswith("image/"),
        "data": {"type": kind, "file": base64.b64encode(file).decode(), "rewards": rounded.tolist()},
    }


def _clips_view(evaluated: Sequence[ClipPair], repaired: Sequence[ClipPair]) -> dict[str, Any]:
    """The clips section: what the template shows and what the script reads, of all clips in the order of the page."""
    clips = [*evaluated, *repaired]
    if not clips:
        return {"pairs": [], "repaired_pairs": []}
    low, high = _reward_scale(clips)
    # Bright means bad, so that defects catch the eye. People with colour blindness can read cividis too.
    colour_map = matplotlib.colormaps["cividis_r"]
    shares = np.linspace(0, 1, _NUM_COLOURS)
    longest = max(clips, key=lambda clip: clip.num_frames / clip.fps)
    labels = [("Base", "Aligned")] * len(evaluated) + [("Candidate", "Repaired")] * len(repaired)
    pairs = [
        (
            clip,
            [
                _side_view(before, "base", clip.base_file, clip.base_rewards),
                _side_view(after, "aligned", clip.aligned_file, clip.aligned_rewards),
            ],
        )
        for clip, (before, after) in zip(clips, labels, strict=True)
    ]
    data = {
        "clock": {"fps": longest.fps, "numFrames": longest.num_frames},
        "scale": {"low": low, "high": high, "colours": [to_hex(colour_map(share)) for share in shares]},
        "clips": [
            {
                "fps": clip.fps,
                "numFrames": clip.num_frames,
                "frameToPatch": [int(index) for index in clip.frame_to_patch],
                "sides": [side["data"] for side in sides],
            }
            for clip, sides in pairs
        ],
    }
    return {"pairs": pairs[: len(evaluated)], "repaired_pairs": pairs[len(evaluated) :], "clip_data": data}
