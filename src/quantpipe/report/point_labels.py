"""Names beside the points of a chart, moved so that none covers another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Box = tuple[float, float, float, float]  # left, right, low, high


def place_labels(
    axes: Axes, points: Sequence[tuple[float, float, str]], *, line_color: str
) -> None:
    """Writes each name right of its point, moved up or down until it covers no other one.

    Args:
        axes: With its limits set, for what covers what depends on them.
        points: (x, y, name) in data coordinates.
        line_color: Of the line from a name that was moved far to its point.
    """
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    taken = [_pixel_box(axes, x, y, -6, 6, -6, 6) for x, y, _ in points]
    for x, y, name in sorted(points, key=lambda point: (-point[1], point[0])):
        width = 6.4 * len(name)
        for shift in (0, 13, -13, 26, -26, 39, -39, 52, -52):
            box = _pixel_box(axes, x, y, 9, 9 + width, shift - 6, shift + 6)
            if not any(_intersect(box, other) for other in taken):
                break
        taken.append(box)
        axes.annotate(
            name,
            (x, y),
            xytext=(9, shift),
            textcoords="offset points",
            va="center",
            arrowprops={"arrowstyle": "-", "color": line_color} if abs(shift) > 13 else None,
        )


def _pixel_box(
    axes: Axes, x: float, y: float, left: float, right: float, low: float, high: float
) -> _Box:
    """A box around a data point, its sides given in points from it, in pixels."""
    at_x, at_y = axes.transData.transform((x, y))
    pixels = axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    return at_x + left * pixels, at_x + right * pixels, at_y + low * pixels, at_y + high * pixels


def _intersect(a: _Box, b: _Box) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]
