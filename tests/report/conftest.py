"""A made-up run; half and qat have the published figures of YOLOv6-S on a Tesla T4."""

import pytest

from quantpipe.engines.benchmark import Latency
from quantpipe.report.summary import (
    RunInfo,
    StageTime,
    Summary,
    build_summary,
)
from quantpipe.report.variant import Parity, Variant


def _latency(median: float) -> Latency:
    return Latency(fastest=0.9 * median, p50=median, p95=1.1 * median, p99=1.2 * median)


@pytest.fixture
def run_info() -> RunInfo:
    return RunInfo(
        pipeline="repopt_qat",
        command="quantpipe pipelines=repopt_qat",
        started="2026-01-12T09:31:02+00:00",
        seconds=75.0,
        seed=0,
        device="cpu",
        hardware="2 cores",
        model="yolov6s",
        data="shapes",
        versions={"quantpipe": "0.1.0"},
    )


@pytest.fixture
def stages() -> list[StageTime]:
    return [
        StageTime(step="train_repopt", seconds=60.0, reused=True),
        StageTime(step="calibrate", seconds=15.0, reused=False),
    ]


@pytest.fixture
def variants() -> list[Variant]:
    return [
        Variant(
            name="fp32",
            precision="fp32",
            engine="tensorrt",
            image_size=640,
            map=0.431,
            map50=0.6,
        ),
        Variant(
            name="half",
            precision="half",
            engine="tensorrt",
            image_size=640,
            map=0.4305,
            map50=0.6,
            latency_ms={"b1": _latency(2.65), "b32": _latency(59.1)},
            fps={"b1": 377.0, "b32": 541.0},
            size_mb=34.6,
        ),
        Variant(
            name="qat",
            precision="int8",
            engine="tensorrt",
            image_size=640,
            map=0.433,
            map50=0.601,
            agreement=0.971,
            latency_ms={"b1": _latency(1.68), "b32": _latency(37.9)},
            fps={"b1": 596.0, "b32": 844.0},
            size_mb=17.9,
            float_layers=0,
            parity=Parity(
                reference="fake-quantized",
                num_images=32,
                max_abs=0.5,
                mean_abs=0.02,
                box_max_abs=0.5,
                box_mean_abs=0.04,
                score_max_abs=0.03,
                score_mean_abs=0.0012,
                agreement=0.953,
                map_delta=0.003,
            ),
        ),
        Variant(
            name="qat",
            precision="int8",
            engine="openvino",
            image_size=640,
            skipped="openvino is not installed",
        ),
    ]


@pytest.fixture
def summary(run_info: RunInfo, variants: list[Variant], stages: list[StageTime]) -> Summary:
    return build_summary(run_info, variants, stages)
