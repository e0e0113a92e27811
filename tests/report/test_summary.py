import copy
import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantpipe.engines.benchmark import Latency
from quantpipe.engines.contract import Fallback
from quantpipe.errors import ArtifactError
from quantpipe.report.summary import (
    Measurement,
    RunInfo,
    StageTime,
    Summary,
    batch_names,
    build_summary,
    load_summary,
    save_summary,
    slower_than_half,
    speed_up,
    validate_summary,
)


def test_schema_is_the_documented_one(summary: Summary) -> None:
    assert list(summary) == ["run", "variants", "stages"]
    documented = ["name", "precision", "engine", "image_size", "map", "map50", "drop_vs_fp32"]
    documented += ["agreement", "latency_ms", "fps", "size_mb", "float_layers"]
    documented += ["fallbacks", "parity"]
    qat = summary["variants"][2]
    assert list(qat)[:14] == documented
    assert list(qat["latency_ms"]) == list(qat["fps"]) == ["b1", "b32"]
    assert list(qat["latency_ms"]["b1"]) == ["fastest", "p50", "p95", "p99"]
    assert qat["parity"] is not None
    assert qat["parity"]["max_abs"] == 0.5
    assert summary["stages"][0] == {"step": "train_repopt", "seconds": 60.0, "reused": True}


def test_drop_and_speed_up_are_the_published_ones(summary: Summary) -> None:
    fp32, half, qat, skipped = summary["variants"]
    assert [v["drop_vs_fp32"] for v in (fp32, half, qat)] == pytest.approx([0, 0.0005, -0.002])
    assert skipped["drop_vs_fp32"] is None
    assert speed_up(summary, qat, "b1") == pytest.approx(1.58, abs=0.005)
    assert speed_up(summary, qat, "b32") == pytest.approx(1.56, abs=0.005)
    assert speed_up(summary, half, "b1") == 1.0
    assert speed_up(summary, fp32, "b1") is None
    assert speed_up(summary, skipped, "b1") is None


def test_drop_prefers_the_baseline_of_the_same_engine(
    run_info: RunInfo, stages: list[StageTime]
) -> None:
    def variant(name: str, engine: str, value: float) -> Measurement:
        return Measurement(name=name, precision="x", engine=engine, image_size=640, map=value)

    measured = [variant("fp32", "a", 0.5), variant("fp32", "b", 0.4), variant("ptq", "b", 0.3)]
    measured.append(variant("ptq", "c", 0.3))
    drops = [v["drop_vs_fp32"] for v in build_summary(run_info, measured, stages)["variants"]]
    assert drops == pytest.approx([0, 0, 0.1, 0.2])


def test_throughput_follows_from_latency_where_it_was_not_measured(
    run_info: RunInfo, measurements: list[Measurement]
) -> None:
    latency = Latency(fastest=40.0, p50=50.0, p95=60.0, p99=70.0)
    measured = dataclasses.replace(measurements[2], latency={1: latency, 8: latency}, fps={8: 170})
    summary = build_summary(run_info, [measured], [])
    assert summary["variants"][0]["fps"] == {"b1": 20.0, "b8": 170}
    assert batch_names(summary) == ["b1", "b8"]


def test_file_round_trip(summary: Summary, tmp_path: Path) -> None:
    save_summary(tmp_path / "summary.json", summary)
    assert load_summary(tmp_path / "summary.json") == summary


def _remove_map(value: Any) -> None:
    del value["variants"][2]["map"]


def _add_key(value: Any) -> None:
    value["variants"][0]["mapp"] = 1


def _text_for_number(value: Any) -> None:
    value["variants"][2]["fps"]["b1"] = "596"


def _not_a_number(value: Any) -> None:
    value["variants"][2]["latency_ms"]["b1"]["p50"] = math.nan


def _truth_for_number(value: Any) -> None:
    value["stages"][1]["seconds"] = True


def _stages_gone(value: Any) -> None:
    value["stages"] = None


def _odd_batch(value: Any) -> None:
    value["variants"][1]["fps"]["32"] = 1.0


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        (_remove_map, r"variants\[2\] misses or does not know map"),
        (_add_key, r"variants\[0\] misses or does not know mapp"),
        (_text_for_number, r"variants\[2\]\.fps\.b1 is '596', not float"),
        (_not_a_number, r"variants\[2\]\.latency_ms\.b1\.p50 is nan"),
        (_truth_for_number, r"stages\[1\]\.seconds is True"),
        (_stages_gone, "stages is NoneType, not list"),
        (_odd_batch, r"variants\[1\] has a batch size named '32'"),
    ],
)
def test_damage_is_named(summary: Summary, damage: Callable[[Any], None], place: str) -> None:
    damaged = copy.deepcopy(summary)
    damage(damaged)
    with pytest.raises(ArtifactError, match=place):
        validate_summary(damaged)


def test_damaged_file_is_named(summary: Summary, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_summary(path)
    path.write_text(json.dumps(summary)[:-5])
    with pytest.raises(ArtifactError, match=r"summary\.json: not JSON"):
        load_summary(path)
    path.write_text("[]")
    with pytest.raises(ArtifactError, match="summary is list, not dict"):
        load_summary(path)


def test_nan_is_not_published(run_info: RunInfo, measurements: list[Measurement]) -> None:
    broken = dataclasses.replace(measurements[0], map50=math.nan)
    with pytest.raises(ArtifactError, match="map50 is nan"):
        build_summary(run_info, [broken], [])


def test_int8_that_is_not_faster_than_half_says_what_runs_in_float(
    run_info: RunInfo, measurements: list[Measurement]
) -> None:
    def lines(**changes: Any) -> list[str]:
        qat = replace(measurements[2], **changes)
        return slower_than_half(build_summary(run_info, [*measurements[:2], qat], []))

    assert lines() == []
    reasons: list[Fallback] = [
        {"layer": "up", "reason": "no kernel"},
        {"layer": "stem", "reason": "the plan"},
        {"layer": "down", "reason": "no kernel"},
    ]
    assert lines(fps={1: 300.0, 32: 844.0}, float_layers=3, fallbacks=reasons) == [
        "qat is not faster than half: 0.80x at b1; in float: up, down (no kernel); stem (the plan)"
    ]
    assert lines(fps={1: 377.0, 32: 541.0}) == [
        "qat is not faster than half: 1.00x at b1 and 1.00x at b32; no layers run in float"
    ]
