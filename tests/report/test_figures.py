import itertools
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from quantpipe.quantization.precision_plan import PlanPoint
from quantpipe.report.figures import (
    SensitivityBar,
    accuracy_latency_chart,
    plan_curve_chart,
    sensitivity_chart,
    training_chart,
)
from quantpipe.report.summary import Summary

_TEXT = "{http://www.w3.org/2000/svg}text"


def _texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(_TEXT)]


def _height_of(svg: str, text: str) -> float:
    for element in ElementTree.fromstring(svg).iter(_TEXT):
        if "".join(element.itertext()) == text:
            place = re.search(r"translate\([-\d.]+ ([-\d.]+)\)", element.get("transform", ""))
            return float(place[1] if place else element.get("y", "nan"))
    raise AssertionError(text)


def _bars(*degradations: float, boundary: int = 1) -> list[SensitivityBar]:
    return [
        SensitivityBar(
            name=f"layer{i}", degradation=h, standard_error=0.1 * abs(h), is_float=i > boundary
        )
        for i, h in enumerate(degradations)
    ]


def test_sensitivity_runs_from_the_least_sensitive_to_the_most_with_the_boundary_between() -> None:
    svg = sensitivity_chart(
        _bars(-0.1, 0.0, 0.4, 1.5), boundary=1, degradation_label="mAP lost, points"
    )
    heights = [_height_of(svg, f"layer{i}") for i in range(4)]
    assert heights == sorted(heights)
    assert heights[1] < _height_of(svg, "boundary 1") + 3 < heights[2] + 3
    assert {"mAP lost, points", "INT8", "stays in float"} <= set(_texts(svg))


def test_sensitivity_of_many_decades_is_logarithmic_with_plain_ticks() -> None:
    bars = _bars(0.001, 0.02, 0.5, 7.0)
    svg = sensitivity_chart(bars, boundary=None, degradation_label="degradation")
    assert {"0.001", "0.01", "0.1", "1"} <= set(_texts(svg))
    assert "boundary" not in svg


def test_sensitivity_without_errors_or_rows() -> None:
    bare = [SensitivityBar(name="a", degradation=1.0, standard_error=None, is_float=False)]
    assert "a" in _texts(sensitivity_chart(bare, boundary=0, degradation_label="degradation"))


def test_the_plan_curve_marks_every_measured_plan_and_the_one_taken() -> None:
    points = [
        PlanPoint(
            num_float=number,
            map=0.5 - drop,
            drop=drop,
            low=drop - 0.002,
            high=drop + 0.003,
            agreement=None,
        )
        for number, drop in ((0, 0.012), (7, 0.004), (14, 0.001))
    ]
    svg = plan_curve_chart(points, chosen=7)
    assert {"0", "7", "14", "taken", "loss of mAP 50:95, points"} <= set(_texts(svg))
    assert svg == plan_curve_chart(points, chosen=7)


def test_accuracy_latency_labels_every_measured_variant(summary: Summary) -> None:
    svg = accuracy_latency_chart(summary)
    assert svg is not None
    texts = _texts(svg)
    assert {"half", "qat", "INT8", "mAP 50:95"} <= set(texts)
    assert "fp32" not in texts  # it has no latency


def test_labels_of_equal_points_do_not_cover_each_other(summary: Summary) -> None:
    same = tuple(replace(summary.variants[2], name=f"variant{i}") for i in range(4))
    svg = accuracy_latency_chart(replace(summary, variants=same))
    assert svg is not None
    heights = sorted(_height_of(svg, f"variant{i}") for i in range(4))
    gaps = [high - low for low, high in itertools.pairwise(heights)]
    assert min(gaps) > 10  # the font is 10 points high


def test_nothing_measured_gives_no_chart(summary: Summary) -> None:
    first = replace(summary, variants=summary.variants[:1])
    assert accuracy_latency_chart(first) is None


@pytest.mark.parametrize("with_map", [True, False])
def test_training(with_map: bool) -> None:
    history = [{"epoch": float(e), "loss": 5.0 / e} for e in range(1, 6)]
    if with_map:
        history[-1]["map"] = 0.4
    texts = _texts(training_chart(history, "train_repopt"))
    assert texts.count("epoch") == 1 + with_map
    assert ("mAP 50:95" in texts) == with_map


def test_equal_input_gives_equal_text_and_two_charts_share_no_id() -> None:
    history = [{"epoch": 1.0, "loss": 2.0, "map": 0.1}, {"epoch": 2.0, "loss": 1.0}]
    first = training_chart(history, "train")
    assert first == training_chart(history, "train")
    other = training_chart(history, "qat distill")
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, own in zip((first, other), ids, strict=True):
        assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg)) <= own


def test_colors_follow_the_page_and_names_are_escaped() -> None:
    odd = SensitivityBar(
        name="<script>$x$</script>", degradation=1, standard_error=None, is_float=False
    )
    svg = sensitivity_chart([odd], boundary=None, degradation_label="degradation")
    assert "<script" not in svg
    assert "<script>$x$</script>" in _texts(svg)
    assert svg.startswith("<svg")
    assert "var(--ink, #1b2430)" in svg
    assert not re.search(r"(?<!, )#1b2430", svg)
