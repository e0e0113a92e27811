"""Charts of a run as SVG text that follows the light or dark colors of the page it stands in.

matplotlib is imported when the first chart is drawn, for that takes longer than all else here.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantpipe.quantization.number_format import is_quantized
from quantpipe.quantization.precision_plan import PlanPoint
from quantpipe.report.point_labels import place_labels
from quantpipe.report.summary import Summary
from quantpipe.report.variant import Variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Drawn in these colors, which the page's own (CSS variables) replace when it has them.
_INK, _FAINT, _PAPER = "#1b2430", "#d9dfe6", "#fefefd"
_VARIABLES = {_INK: "--ink", _FAINT: "--line", _PAPER: "--paper"}
_INTEGER, _FLOAT, _HALF = "#2f7dd1", "#e0802b", "#8a7bd8"
_SPLIT = "#d64550"
_MARKERS = {"quantized": ("o", _INTEGER), "half": ("s", _HALF), "float": ("D", _FLOAT)}

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.axisbelow": True,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": _FAINT,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.fonttype": "none",  # text stays text: it can be selected, searched and recolored
}


@dataclass(frozen=True, kw_only=True)
class SensitivityBar:
    """An operation in the sensitivity chart: its degradation, and whether it was left in float."""

    name: str
    degradation: float
    standard_error: float | None
    is_float: bool


def sensitivity_chart(
    bars: Sequence[SensitivityBar], *, boundary: int | None, degradation_label: str
) -> str:
    """Draws one bar for each operation, the least sensitive at the top.

    Args:
        bars: From the least sensitive to the most, as the sensitivity table has them.
        boundary: Index of the last operation in that order that was quantized; a line is drawn
            below it. None where the plan was made otherwise.
        degradation_label: What ``degradation`` measures, with its unit.
    """
    with _style("sensitivity"):
        figure, axes = _chart(8.6, 0.21 * len(bars) + 1.3)
        places = range(len(bars))
        for kind, color, label in ((False, _INTEGER, "INT8"), (True, _FLOAT, "stays in float")):
            own = [place for place in places if bars[place].is_float == kind]
            if own:
                degradations = [bars[place].degradation for place in own]
                axes.barh(own, degradations, height=0.68, color=color, label=label)
        _error_bars(axes, bars)
        if _spans_decades([bar.degradation for bar in bars]):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        if boundary is not None:
            axes.axhline(boundary + 0.5, color=_SPLIT, linewidth=1.2, linestyle=(0, (5, 3)))
            axes.annotate(
                f"boundary {boundary}",
                (1.0, boundary + 0.5),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                color=_SPLIT,
                fontsize=9,
            )
        axes.set_yticks(places, [bar.name for bar in bars], fontsize=8.5)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_xlabel(degradation_label)
        axes.grid(axis="x")
        _legend(axes, ncols=2)
        return _svg(figure, "sensitivity")


def plan_curve_chart(points: Sequence[PlanPoint], *, chosen: int) -> str:
    """Draws the measured loss over the number of operations in float, and the plan taken."""
    with _style("plan"):
        figure, axes = _chart(8.6, 3.4)
        axes.errorbar(
            [point.num_float for point in points],
            [100 * point.drop for point in points],
            yerr=[
                [100 * max(point.drop - point.low, 0.0) for point in points],
                [100 * max(point.high - point.drop, 0.0) for point in points],
            ],
            fmt="o",
            color=_INTEGER,
            ecolor=_INK,
            elinewidth=1,
            capsize=2,
            label="measured, with the 95 % interval over the images",
        )
        axes.axvline(chosen, color=_SPLIT, linewidth=1.2, linestyle=(0, (5, 3)), label="taken")
        axes.axhline(0.0, color=_FAINT, linewidth=1.2)
        axes.set_xlabel("operations in float")
        axes.set_ylabel("loss of mAP 50:95, points")
        axes.set_xticks([point.num_float for point in points])
        axes.grid()
        _legend(axes, ncols=2)
        return _svg(figure, "plan")


def accuracy_latency_chart(summary: Summary, batch: str = "b1") -> str | None:
    """Draws accuracy over the median latency of a call; None if nothing was measured for both."""
    points = [
        (variant.latency_ms[batch].p50, 100 * variant.map, variant)
        for variant in summary.variants
        if variant.map is not None and batch in variant.latency_ms
    ]
    if not points:
        return None
    with _style("accuracy-latency"):
        figure, axes = _chart(8.6, 4.4)
        several_engines = len({variant.engine for *_, variant in points}) > 1
        seen: set[str] = set()
        for latency, accuracy, variant in points:
            kind = _kind(variant)
            marker, color = _MARKERS[kind]
            axes.plot(
                latency,
                accuracy,
                marker,
                color=color,
                markersize=9,
                markeredgecolor=_PAPER,
                label=None if kind in seen else _label(kind, variant),
            )
            seen.add(kind)
        _pad_limits(axes, [x for x, *_ in points], [y for _, y, _ in points])
        names = [(x, y, _point_name(variant, several_engines)) for x, y, variant in points]
        place_labels(axes, names, line_color=_FAINT)
        axes.set_xlabel(f"median latency of a batch of {batch[1:]}, ms  (left is faster)")
        axes.set_ylabel("mAP 50:95")
        axes.grid()
        _legend(axes, ncols=3)
        return _svg(figure, "accuracy-latency")


def training_chart(history: Sequence[Mapping[str, float]], name: str) -> str:
    """Draws loss and average precision over epochs.

    Args:
        history: For each epoch ``epoch``, ``loss`` and, where it was measured, ``map`` as a
            fraction.
        name: Of the step; keeps the ids of two such charts on one page apart.
    """
    with _style(f"training-{name}"):
        measured = [(row["epoch"], 100 * row["map"]) for row in history if "map" in row]
        figure, first, *rest = _charts(8.6, 3.2, 2 if measured else 1)
        first.plot(
            [row["epoch"] for row in history], [row["loss"] for row in history], color=_INTEGER
        )
        first.set_title("loss", loc="left")
        for axes in rest:
            epochs, accuracies = zip(*measured, strict=True)
            axes.plot(epochs, accuracies, color=_FLOAT, marker="o", markersize=3.5)
            axes.set_title("mAP 50:95", loc="left")
        for axes in (first, *rest):
            axes.set_xlabel("epoch")
            axes.grid()
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.margins(x=0.02)
        return _svg(figure, f"training-{name}")


@contextlib.contextmanager
def _style(name: str) -> Iterator[None]:
    """Our style for everything drawn inside; ``name`` salts the ids that matplotlib hashes."""
    import matplotlib as mpl

    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        yield


def _chart(width: float, height: float) -> tuple[Figure, Axes]:
    figure, axes = _charts(width, height, 1)
    return figure, axes


def _charts(width: float, height: float, number: int) -> tuple[Any, ...]:
    """A figure and its axes side by side; sizes in inches of 72 SVG points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # measures text, without a display
    return (figure, *figure.subplots(1, number, squeeze=False)[0])


def _svg(figure: Figure, name: str) -> str:
    """The figure as an ``<svg>`` element whose ids start with ``name``; equal for equal input."""
    name = re.sub(r"[^A-Za-z0-9_-]", "-", name)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable}, {color})")
    return svg


def _error_bars(axes: Axes, bars: Sequence[SensitivityBar]) -> None:
    known = [(place, bar) for place, bar in enumerate(bars) if bar.standard_error is not None]
    if known:
        axes.errorbar(
            [bar.degradation for _, bar in known],
            [place for place, _ in known],
            xerr=[bar.standard_error or 0.0 for _, bar in known],
            fmt="none",
            ecolor=_INK,
            elinewidth=1,
            capsize=2,
        )


def _spans_decades(values: Sequence[float]) -> bool:
    """Whether only a logarithmic axis would show the small ones."""
    return min(values, default=0.0) > 0 and max(values) > 300 * min(values)


def _legend(axes: Axes, ncols: int) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=ncols, borderaxespad=0.2)


def _kind(variant: Variant) -> str:
    if variant.name == "half":
        return "half"
    return "quantized" if is_quantized(variant.precision) else "float"


def _label(kind: str, variant: Variant) -> str:
    return variant.precision.upper() if kind == "quantized" else kind


def _point_name(variant: Variant, with_engine: bool) -> str:
    return f"{variant.name} ({variant.engine})" if with_engine else variant.name


def _pad_limits(axes: Axes, xs: Sequence[float], ys: Sequence[float]) -> None:
    """Room around the points for their labels; a lone point gets an axis of its own size."""
    width = (max(xs) - min(xs)) or 0.5 * max(xs)
    height = max(max(ys) - min(ys), 1.0)
    axes.set_xlim(max(min(xs) - 0.12 * width, 0.0), max(xs) + 0.3 * width)
    axes.set_ylim(min(ys) - 0.18 * height, max(ys) + 0.18 * height)
