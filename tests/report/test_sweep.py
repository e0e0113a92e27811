import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from quantpipe.report.objective import read_objectives
from quantpipe.report.summary import Summary, save_summary
from quantpipe.report.sweep import (
    Sweep,
    SweepJob,
    best_lines,
    build_sweep,
    save_sweep,
    sweep_table,
)


@pytest.fixture
def jobs(summary: Summary, tmp_path: Path) -> list[SweepJob]:
    made = []
    for index, (percentile, value) in enumerate([("99", 0.420), ("99.99", 0.4331)]):
        qat = replace(summary.variants[2], map=value)
        changed = replace(summary, variants=(*summary.variants[:2], qat))
        path = tmp_path / str(index) / "summary.json"
        save_summary(path, changed)
        overrides = ("model=yolov6s", f"calibrate.percentile={percentile}")
        made.append(SweepJob(name=str(index), overrides=overrides, summary_path=path))
    missing = tmp_path / "2" / "summary.json"
    made.append(SweepJob(name="2", overrides=("model=yolov6s", "seed=[1]"), summary_path=missing))
    failed = SweepJob(
        name="3", overrides=("model=yolov6s",), summary_path=missing, failure="out of memory"
    )
    return [*made, failed]


def test_sweep_file(jobs: list[SweepJob], tmp_path: Path) -> None:
    save_sweep(tmp_path / "sweep.json", build_sweep(jobs))
    rows = json.loads((tmp_path / "sweep.json").read_text())["jobs"]
    assert [row["failure"] is None for row in rows] == [True, True, False, False]
    assert "cannot be read" in rows[2]["failure"]
    assert rows[3]["failure"] == "out of memory"
    assert rows[1]["overrides"] == ["model=yolov6s", "calibrate.percentile=99.99"]
    qat = rows[1]["variants"][2]
    assert (qat["name"], qat["map"]) == ("qat", 0.4331)
    assert qat["drop_vs_fp32"] == pytest.approx(-0.002)
    assert qat["latency_ms"]["b1"]["p50"] == 1.68
    assert qat["fps"] == {"b1": 596.0, "b32": 844.0}


def test_table_shows_what_differs_and_stars_the_best(jobs: list[SweepJob]) -> None:
    stream = io.StringIO()
    Console(file=stream, width=140).print(sweep_table(build_sweep(jobs)))
    printed = stream.getvalue()
    assert "model=yolov6s" not in printed
    assert "calibrate.percentile=99.99" in printed
    assert "seed=[1]" in printed
    assert "out of memory" in printed
    (starred,) = [line for line in printed.splitlines() if "*" in line]
    assert "43.31" in starred
    assert "1.68" in starred


def test_the_best_by_the_objective_are_starred_and_told(jobs: list[SweepJob]) -> None:
    objectives = read_objectives(["map of qat", "latency of qat"], ["qat"])
    sweep = build_sweep(jobs, objectives)
    assert sweep.objective == ("map of qat", "latency of qat")
    assert [row.objective for row in sweep.jobs] == [(0.42, 1.68), (0.4331, 1.68), None, None]
    assert sweep.best == ("1",)
    assert best_lines(sweep) == [
        "best: job 1, map of qat 0.4331, latency of qat 1.68 (calibrate.percentile=99.99)"
    ]
    stream = io.StringIO()
    Console(file=stream, width=140).print(sweep_table(sweep))
    (starred,) = [line for line in stream.getvalue().splitlines() if "*" in line]
    assert "1 *" in starred


def test_one_job_keeps_its_overrides_and_no_job_is_an_empty_table(jobs: list[SweepJob]) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=140)
    console.print(sweep_table(build_sweep(jobs[:1])))
    assert "model=yolov6s" in stream.getvalue()
    assert build_sweep([]) == Sweep(objective=(), best=(), jobs=())
    console.print(sweep_table(build_sweep([])))
