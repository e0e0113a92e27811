import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from quantpipe.engines.contract import Fallback
from quantpipe.errors import ArtifactError
from quantpipe.report.summary import (
    RunInfo,
    StageTime,
    Summary,
    build_summary,
    load_summary,
    save_summary,
    slower_than_half,
    speed_up,
)
from quantpipe.report.variant import Variant


def test_schema_is_the_documented_one(summary: Summary, tmp_path: Path) -> None:
    save_summary(tmp_path / "summary.json", summary)
    value = json.loads((tmp_path / "summary.json").read_text())
    assert list(value) == ["run", "variants", "stages"]
    documented = ["name", "precision", "engine", "image_size", "map", "map50", "per_class"]
    documented += ["drop_vs_fp32", "agreement", "latency_ms", "fps", "size_mb", "float_layers"]
    documented += ["fallbacks", "parity", "skipped"]
    qat = value["variants"][2]
    assert list(qat) == documented
    assert list(qat["latency_ms"]) == list(qat["fps"]) == ["b1", "b32"]
    assert list(qat["latency_ms"]["b1"]) == ["fastest", "p50", "p95", "p99"]
    assert qat["parity"]["max_abs"] == 0.5
    assert value["stages"][0] == {"step": "train_repopt", "seconds": 60.0, "reused": True}


def test_drop_and_speed_up_are_the_published_ones(summary: Summary) -> None:
    fp32, half, qat, skipped = summary.variants
    assert [v.drop_vs_fp32 for v in (fp32, half, qat)] == pytest.approx([0, 0.0005, -0.002])
    assert skipped.drop_vs_fp32 is None
    assert speed_up(summary, qat, "b1") == pytest.approx(1.58, abs=0.005)
    assert speed_up(summary, qat, "b32") == pytest.approx(1.56, abs=0.005)
    assert speed_up(summary, half, "b1") == 1.0
    assert speed_up(summary, fp32, "b1") is None
    assert speed_up(summary, skipped, "b1") is None


def test_drop_prefers_the_baseline_of_the_same_engine(
    run_info: RunInfo, stages: list[StageTime]
) -> None:
    def variant(name: str, engine: str, value: float) -> Variant:
        return Variant(name=name, precision="x", engine=engine, image_size=640, map=value)

    measured = [variant("fp32", "a", 0.5), variant("fp32", "b", 0.4), variant("ptq", "b", 0.3)]
    measured.append(variant("ptq", "c", 0.3))
    drops = [v.drop_vs_fp32 for v in build_summary(run_info, measured, stages).variants]
    assert drops == pytest.approx([0, 0, 0.1, 0.2])


def test_file_round_trip(summary: Summary, tmp_path: Path) -> None:
    save_summary(tmp_path / "summary.json", summary)
    assert load_summary(tmp_path / "summary.json") == summary


def _remove_name(value: Any) -> None:
    del value["variants"][2]["name"]


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
        (_remove_name, r"'variants\[2\]\.name' is missing"),
        (_add_key, r"'variants\[0\]\.mapp' is not known"),
        (_text_for_number, r"'variants\[2\]\.fps\.b1': '596' is not a finite number"),
        (_not_a_number, r"'variants\[2\]\.latency_ms\.b1\.p50': nan is not a finite number"),
        (_truth_for_number, r"'stages\[1\]\.seconds': True is not a finite number"),
        (_stages_gone, "'stages': None is not a list"),
        (_odd_batch, r"'variants\[1\]\.fps': '32' is not b and a batch size"),
    ],
)
def test_damage_is_named(
    summary: Summary, damage: Callable[[Any], None], place: str, tmp_path: Path
) -> None:
    damaged, path = asdict(summary), tmp_path / "summary.json"
    damage(damaged)
    path.write_text(json.dumps(damaged))
    with pytest.raises(ArtifactError, match=place) as caught:
        load_summary(path)
    assert caught.value.path == path


def test_damaged_file_is_named(summary: Summary, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_summary(path)
    path.write_text(json.dumps(asdict(summary))[:-5])
    with pytest.raises(ArtifactError, match=r"summary\.json: not JSON"):
        load_summary(path)
    path.write_text("[]")
    with pytest.raises(ArtifactError, match=r"\[\] is not an object"):
        load_summary(path)


def test_nan_is_not_published(run_info: RunInfo, variants: list[Variant]) -> None:
    broken = dataclasses.replace(variants[0], map50=math.nan)
    with pytest.raises(ArtifactError, match="map50': nan is not a finite number"):
        build_summary(run_info, [broken], [])


def test_int8_that_is_not_faster_than_half_says_what_runs_in_float(
    run_info: RunInfo, variants: list[Variant]
) -> None:
    def lines(**changes: Any) -> list[str]:
        qat = replace(variants[2], **changes)
        return slower_than_half(build_summary(run_info, [*variants[:2], qat], []))

    assert lines() == []
    reasons = tuple(
        Fallback(layer=layer, reason=reason)
        for layer, reason in (("up", "no kernel"), ("stem", "the plan"), ("down", "no kernel"))
    )
    assert lines(fps={"b1": 300.0, "b32": 844.0}, float_layers=3, fallbacks=reasons) == [
        "qat is not faster than half: 0.80x at b1; in float: up, down (no kernel); stem (the plan)"
    ]
    assert lines(fps={"b1": 377.0, "b32": 541.0}) == [
        "qat is not faster than half: 1.00x at b1 and 1.00x at b32; no layers run in float"
    ]
