"""The charts of the report page: inline SVG in the colours of the style sheet."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from halovid.maths.numbers import NOT_KNOWN, show_number

# Charts are drawn in placeholder colours, which are then replaced by variables of the style sheet, as matplotlib
# can't draw in a colour that depends on the reader's light or dark theme.
_INKS = ("ink", "muted", "line", "base", "aligned", *(f"series-{index}" for index in range(6)))
_PLACEHOLDER = {name: f"#0000{index + 1:02x}" for index, name in enumerate(_INKS)}
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2))  # points on, off, ...
_CHART_WIDTH = 340  # points: text stays readable when a phone shows the chart at about as many pixels
_CHART_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": _PLACEHOLDER["ink"],
    "font.size": 9,
    "axes.edgecolor": _PLACEHOLDER["line"],
    "axes.labelcolor": _PLACEHOLDER["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.limits": (-3, 4),
    "grid.color": _PLACEHOLDER["line"],
    "grid.linewidth": 0.6,
    "xtick.color": _PLACEHOLDER["muted"],
    "ytick.color": _PLACEHOLDER["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.scale_dashes": False,
}


@dataclass(frozen=True)
class KindRow:
    """Share of sprite patches, 0..1, that show one kind of defect, in the clips of both generators."""

    kind: str
    base: float
    aligned: float


@dataclass(frozen=True)
class Curve:
    """One chart of training curves: series name -> points (x, y)."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float, float]]]


def show(value: float, signed: bool = False) -> str:
    """A number as `show_number` writes it, with a true minus sign."""
    return show_number(value, signed).replace("-", "\N{MINUS SIGN}")


def _new_chart(height: float) -> tuple[Figure, Axes]:
    """An empty, transparent chart of the page's width; `height` is in points."""
    figure = Figure(figsize=(_CHART_WIDTH / 72, height / 72), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _to_svg(figure: Figure, label: str, salt: str) -> Markup:
    """The chart as an inline SVG element; `salt` keeps its ids apart from those of other charts."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # its rules would apply to the whole page
    text = re.sub(r' xmlns(:\w+)?="[^"]*"|(?<=<g) id="[^"]*"', "", text)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    for name, colour in _PLACEHOLDER.items():
        text = text.replace(colour, f"var(--{name})")
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))


def _percent(share: float) -> str:
    """A share in 0..1 as text in percent."""
    return f"{show(100 * share)}%" if math.isfinite(share) else NOT_KNOWN


def draw_kinds(rows: Sequence[KindRow]) -> Markup:
    """Two bars for each kind: hollow for the base, solid for the aligned generator."""
    with matplotlib.rc_context(_CHART_STYLE):
        figure, axes = _new_chart(28 + 30 * len(rows))
        positions = np.arange(len(rows))
        for offset, name in ((-0.2, "base"), (0.2, "aligned")):
            shares, ink = [getattr(row, name) for row in rows], _PLACEHOLDER[name]
            fill = "none" if name == "base" else ink
            bars = axes.barh(positions + offset, shares, 0.32, facecolor=fill, edgecolor=ink)
            labels = [_percent(share) for share in shares]
            axes.bar_label(bars, labels, padding=4, fontsize=8, color=_PLACEHOLDER["muted"])
        axes.set_yticks(positions, [row.kind for row in rows], color=_PLACEHOLDER["ink"])
        axes.invert_yaxis()
        axes.margins(x=0.14, y=0.02)
        axes.spines["bottom"].set_visible(False)
        axes.xaxis.set_visible(False)
        bar_texts = [f"{row.kind}: base {_percent(row.base)}, aligned {_percent(row.aligned)}" for row in rows]
        return _to_svg(figure, f"Share of patches with each defect. {'; '.join(bar_texts)}.", "kinds")


def draw_curve(curve: Curve, index: int) -> dict[str, Any]:
    """A chart of training curves for the template: title, SVG, and the legend's entry for every line."""
    keys = []
    with matplotlib.rc_context(_CHART_STYLE):
        figure, axes = _new_chart(200)
        for order, (name, points) in enumerate(curve.series.items()):
            dash, ink = _DASHES[order % len(_DASHES)], f"series-{order % 6}"
            line = (0, dash) if dash else "solid"
            axes.plot(*np.reshape(points, (-1, 2)).T, color=_PLACEHOLDER[ink], linewidth=1.4, linestyle=line)
            keys.append({"name": name, "ink": ink, "dash": " ".join(str(length) for length in dash)})
        axes.set_xlabel(curve.x_label)
        axes.set_ylabel(curve.y_label)
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        label = f"{curve.title}: {curve.y_label} over {curve.x_label}; {', '.join(curve.series)}."
        return {"title": curve.title, "keys": keys, "svg": _to_svg(figure, label, f"curve {index}")}
