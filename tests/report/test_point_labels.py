"""That names beside points cover neither each other nor a point, by where matplotlib draws them."""

import itertools

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from quantpipe.report.point_labels import place_labels

Points = list[tuple[float, float, str]]


def labeled(points: Points) -> tuple[Axes, dict[str, Annotation]]:
    figure = Figure(figsize=(8, 4))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 10)
    place_labels(axes, points, line_color="#123456")
    figure.draw_without_rendering()
    found = {text.get_text(): text for text in axes.texts if isinstance(text, Annotation)}
    return axes, found


def drawn(text: Annotation) -> Bbox:
    """Of the letters alone, without the line to the point."""
    return Text.get_window_extent(text)


CLOSE: Points = [(3.0 + 0.1 * i, 5.0 + 0.05 * i, f"variant{i}") for i in range(5)]
EQUAL: Points = [(3.0, 5.0, f"variant{i}") for i in range(5)]


@pytest.mark.parametrize("points", [CLOSE, EQUAL])
def test_no_name_covers_another(points: Points) -> None:
    _, found = labeled(points)
    assert set(found) == {name for _, _, name in points}
    for one, other in itertools.combinations(found.values(), 2):
        assert not Bbox.intersection(drawn(one), drawn(other)), (one, other)


@pytest.mark.parametrize("points", [CLOSE, EQUAL])
def test_no_name_covers_a_point(points: Points) -> None:
    axes, found = labeled(points)
    for x, y, _ in points:
        at_x, at_y = axes.transData.transform((x, y))
        assert not any(drawn(text).contains(at_x, at_y) for text in found.values())


def test_a_lone_name_stands_right_of_its_point_at_its_height() -> None:
    axes, found = labeled([(2.0, 4.0, "qat")])
    at_x, at_y = axes.transData.transform((2.0, 4.0))
    box = drawn(found["qat"])
    assert 0 < box.x0 - at_x < 20
    assert np.isclose((box.y0 + box.y1) / 2, at_y, atol=2)
    assert found["qat"].arrow_patch is None


def test_only_a_name_that_was_moved_far_has_a_line_to_its_point() -> None:
    _, found = labeled(EQUAL)
    shifts = {name: abs(text.get_position()[1]) for name, text in found.items()}
    lines = {name: text.arrow_patch is not None for name, text in found.items()}
    assert {name: shift > 13 for name, shift in shifts.items()} == lines
    assert set(lines.values()) == {True, False}
