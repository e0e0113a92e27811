from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.input_specifications import letterboxed
from tests.stages.conftest import Artifacts, Configure, RunStage, artifact_at

from quantpipe.core.artifact import Artifact
from quantpipe.core.stage import Context
from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.checkpoint_family import operation_names
from quantpipe.detector.checkpoint_file import load_checkpoint
from quantpipe.errors import ArtifactError, ConfigurationError, Interrupted
from quantpipe.evaluation.dataset import measure
from quantpipe.evaluation.network import predictor
from quantpipe.identity import identity
from quantpipe.progress import Silent
from quantpipe.quantization.model import load_model, save_model
from quantpipe.quantization.model_files import CHECKPOINT, PLAN, SCALES
from quantpipe.quantization.plans.boundary import most_measurements
from quantpipe.quantization.precision_plan import PlanPoint, PrecisionPlan, load_plan, save_plan
from quantpipe.quantization.scale_cache import load_scales
from quantpipe.quantization.sensitivity.table import (
    SensitivityRow,
    SensitivityTable,
    save_table,
)
from quantpipe.quantization.simulation.network import quantize
from quantpipe.settings.data import open_split
from quantpipe.stages.artifacts import MODEL, SENSITIVITY
from quantpipe.stages.partial_quant import STAGE
from quantpipe.stages.partial_quant.accuracy import PlanAccuracy


def table(path: Path, names: Sequence[str], digest: str) -> Artifact:
    """A ranking of the operations in the order given."""
    rows = tuple(SensitivityRow(name=name, score=float(i)) for i, name in enumerate(names))
    save_table(
        path,
        SensitivityTable(
            method="output", rows=rows, baseline=None, weights_digest=digest, direction="only"
        ),
    )
    return artifact_at(path.parent, SENSITIVITY)


@pytest.fixture
def names(trained: Checkpoint) -> list[str]:
    """Operations from the least sensitive to the most: here the last to run is the least."""
    return list(reversed(operation_names(trained)))


def test_the_operations_up_to_the_boundary_are_quantized(
    configured: Configure,
    run_stage: RunStage,
    calibrated: Artifacts,
    names: list[str],
    tmp_path: Path,
) -> None:
    digest = load_checkpoint(calibrated["model"].path).weights_digest
    ranking = table(tmp_path / "sensitivity.json", names, digest)
    config = configured("partial_quant", "partial_quant.quant_boundary=10")
    made = run_stage("partial_quant", config, **calibrated, table=ranking)
    plan = load_plan(made["model"].folder / PLAN)
    assert set(plan.quantized) == set(names[:11])
    assert set(plan.float_operations) == set(names[11:])
    assert load_checkpoint(made["model"].path).weights_digest == digest
    assert made["model"].digests[SCALES] == calibrated["model"].digests[SCALES]


def test_a_table_of_other_weights_is_refused_with_both_digests(
    configured: Configure,
    run_stage: RunStage,
    calibrated: Artifacts,
    names: list[str],
    tmp_path: Path,
) -> None:
    digest = load_checkpoint(calibrated["model"].path).weights_digest
    ranking = table(tmp_path / "sensitivity.json", names, "0" * 64)
    with pytest.raises(ArtifactError) as caught:
        run_stage("partial_quant", configured("partial_quant"), **calibrated, table=ranking)
    assert digest[:12] in str(caught.value)
    assert "0" * 12 in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_table_of_another_model_names_the_first_difference(
    configured: Configure,
    run_stage: RunStage,
    calibrated: Artifacts,
    names: list[str],
    tmp_path: Path,
) -> None:
    digest = load_checkpoint(calibrated["model"].path).weights_digest
    ranking = table(tmp_path / "sensitivity.json", [*names[1:], "neck.other"], digest)
    with pytest.raises(ArtifactError, match=r"the first that differs is 'neck\.other'"):
        run_stage("partial_quant", configured("partial_quant"), **calibrated, table=ranking)


def test_scales_of_another_model_are_refused_with_both_digests(
    configured: Configure,
    run_stage: RunStage,
    calibrated: Artifacts,
    names: list[str],
    tmp_path: Path,
) -> None:
    whole = load_checkpoint(calibrated["model"].path)
    ranking = table(tmp_path / "sensitivity.json", names, whole.weights_digest)
    scales = load_scales(calibrated["model"].folder / SCALES)
    save_model(tmp_path / CHECKPOINT, whole, replace(scales, weights_digest="0" * 64), plan=None)
    inputs = {"model": artifact_at(tmp_path, MODEL), "table": ranking}
    with pytest.raises(ArtifactError, match=r"these scales belong to weights 000.* not to"):
        run_stage("partial_quant", configured("partial_quant"), **inputs)


def test_a_boundary_past_the_last_operation_is_refused(
    configured: Configure, names: list[str]
) -> None:
    last = len(names) - 1
    config = configured("partial_quant")
    STAGE.check(replace(config, quant_boundary=last))
    beyond = replace(config, quant_boundary=last + 1)
    with pytest.raises(ConfigurationError, match=rf"past the last .*; give 0 to {last}"):
        STAGE.check(beyond)


def test_a_published_text_ranks_by_the_names_of_either_generation(
    configured: Configure,
    run_stage: RunStage,
    calibrated: Artifacts,
    names: list[str],
    tmp_path: Path,
) -> None:
    path = tmp_path / "sensitivity.txt"
    lines = [f"{name} 0.5 {0.9 - 0.01 * number:.2f}" for number, name in enumerate(names)]
    first = "\n".join(lines).replace(".sppf.", ".").replace(".block.conv", ".conv")
    assert first != "\n".join(lines)
    path.write_text(first)
    config = replace(
        configured("partial_quant", "partial_quant.quant_boundary=10"), table_file=path
    )
    made = run_stage("partial_quant", config, **calibrated)
    assert set(load_plan(made["model"].folder / PLAN).quantized) == set(names[:11])
    path.write_text("\n".join(lines[1:]))
    with pytest.raises(ArtifactError, match=rf"ranks 58 operations, .* '{names[0]}'"):
        run_stage("partial_quant", config, **calibrated)


def test_without_any_ranking_both_ways_to_give_one_are_named(
    configured: Configure, run_stage: RunStage, calibrated: Artifacts
) -> None:
    with pytest.raises(ConfigurationError, match=r"no ranking is given; .*table_file=FILE"):
        run_stage("partial_quant", configured("partial_quant"), **calibrated)


def test_a_missing_text_is_found_before_any_work(configured: Configure) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere: no such file; see .*table_file"):
        STAGE.check(replace(configured("partial_quant"), table_file=Path("nowhere")))


class MadeUp:
    """Drops of mAP by the number of float operations, in the place of measured ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, all_int8: float, falls_to: float) -> None:
        self.asked: list[int] = []

        def measured(accuracy: PlanAccuracy, plan: PrecisionPlan) -> PlanPoint:
            kept = len(plan.float_operations)
            self.asked.append(kept)
            share = kept / len(plan.operations)
            drop = all_int8 + share * (falls_to - all_int8)
            return PlanPoint(num_float=kept, map=0.5, drop=drop, low=drop, high=drop, agreement=1.0)

        monkeypatch.setattr(PlanAccuracy, "measure", measured)


@pytest.fixture
def ranked(calibrated: Artifacts, names: list[str], tmp_path: Path) -> Artifacts:
    digest = load_checkpoint(calibrated["model"].path).weights_digest
    return {**calibrated, "table": table(tmp_path / "sensitivity.json", names, digest)}


class Notes(Silent):
    """Keeps what it is told; asks to stop when told to."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stop = False

    def note(self, text: str) -> None:
        self.notes.append(text)

    def should_stop(self) -> bool:
        return self.stop


@dataclass
class Bench:
    """Runs the stage with a progress folder and notes of its own."""

    context: Context
    folder: Path
    progress: Notes

    def run(self, config: Any, inputs: Artifacts) -> PrecisionPlan:
        outputs = {
            name: self.folder / output.kind.files[0] for name, output in STAGE.outputs.items()
        }
        context = replace(
            self.context,
            step="partial_quant",
            progress=self.progress,
            progress_folder=self.folder / "progress",
        )
        metrics = STAGE.run(config, inputs, outputs, context)
        plan = load_plan(outputs["model"].with_name(PLAN))
        assert metrics["float_operations"] == list(plan.float_operations)
        return plan


@pytest.fixture
def bench(context: Context, tmp_path: Path) -> Bench:
    return Bench(context=context, folder=tmp_path / "run", progress=Notes())


def test_auto_leaves_the_fewest_operations_in_float_that_meet_the_budget(
    configured: Configure, ranked: Artifacts, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up = MadeUp(monkeypatch, all_int8=0.059, falls_to=0.0)  # 0.001 for each operation
    config = configured("partial_quant", "partial_quant.max_map_drop=0.0395")
    plan = bench.run(config, ranked)
    assert len(plan.float_operations) == 20
    assert len(plan.operations) == 59
    assert plan.measured is not None
    assert plan.measured.drop == pytest.approx(0.039)
    assert [point.num_float for point in plan.curve] == sorted(made_up.asked)
    assert len(made_up.asked) <= most_measurements(59) == 7
    assert plan.predicted_drop is not None
    assert "by bisection" in plan.reason
    announced = "\n".join(bench.progress.notes)
    assert re.search(r"at most 8 measurements .* on 4 images, [\d.]+ s each: \d+ s", announced)


def test_a_budget_that_no_plan_meets_leaves_the_best_one_to_be_taken(
    configured: Configure, ranked: Artifacts, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    MadeUp(monkeypatch, all_int8=0.06, falls_to=0.04)
    config = configured("partial_quant", "partial_quant.max_map_drop=0.01")
    with pytest.raises(ConfigurationError) as caught:
        bench.run(config, ranked)
    line = str(caught.value)
    assert line.startswith("max_map_drop: no plan meets a drop of 1.00 points; the best loses 4.03")
    found = re.search(r"partial_quant\.plan_file=(\S+)", line)
    assert found is not None
    best = load_plan(Path(found[1]))
    assert len(best.float_operations) == 58
    taken = replace(configured("partial_quant"), plan_file=Path(found[1]))
    STAGE.check(taken)
    assert bench.run(taken, {n: a for n, a in ranked.items() if n != "table"}) == best


def test_a_plan_of_another_model_is_refused(
    configured: Configure, ranked: Artifacts, bench: Bench, names: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "other.json"
    operations = dict.fromkeys([f"{names[0]}v", *names[1:]], "int8")
    save_plan(path, PrecisionPlan(operations=operations, reason=""))
    with pytest.raises(ArtifactError, match=rf"'{names[0]}v' that .*; did you mean '{names[0]}'"):
        bench.run(replace(configured("partial_quant"), plan_file=path), ranked)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("max_map_drop=null",), "max_map_drop: nothing bounds the search; give the largest loss"),
        (("quant_boundary=5", "plan_file=x"), "quant_boundary: a plan is given; set it to auto"),
        (("plan_file=x", "table_file=y"), "table_file: a plan is given, which needs no ranking"),
        (("plan_file=x", "objective=latency"), "objective: a plan is given; set it to accuracy"),
        (("quant_boundary=5", "objective=latency"), "quant_boundary: the engine's latency decides"),
        (("max_latency_ms=5",), "max_latency_ms: is for objective=latency"),
        (
            ("objective=latency", "max_latency_ms=5", "max_latency_ratio=2"),
            "max_latency_ms: max_latency_ratio is set too",
        ),
        (("objective=speed",), "objective: 'speed' is not one of accuracy, latency"),
        (("quant_boundary=atuo",), "quant_boundary: 'atuo' is not auto or a whole number"),
        (("max_map_drop=2",), "max_map_drop: 2 is not between 0 and 1"),
        (("when_unsure=int4",), "when_unsure: 'int4' is not one of int8, search"),
    ],
)
def test_settings_that_contradict_each_other_are_one_line(
    configured: Configure, overrides: tuple[str, ...], line: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        configured("partial_quant", *(f"partial_quant.{text}" for text in overrides))
    assert str(caught.value).startswith(f"partial_quant.{line}")


def test_a_missing_plan_is_found_before_any_work(configured: Configure) -> None:
    config = replace(configured("partial_quant"), plan_file=Path("nowhere"))
    with pytest.raises(ArtifactError, match=r"nowhere: no such file; see .*plan_file"):
        STAGE.check(config)


def test_images_and_engine_name_the_result_only_where_they_are_used(
    configured: Configure, tmp_path: Path
) -> None:
    fixed = configured("partial_quant", "partial_quant.quant_boundary=5")
    assert STAGE.content(fixed, tmp_path) == {}
    assert set(STAGE.content(configured("partial_quant"), tmp_path)) == {"data"}
    by_latency = configured("partial_quant", "partial_quant.objective=latency")
    assert set(STAGE.content(by_latency, tmp_path)) == {"data", "latency"}
    other = configured("partial_quant", "partial_quant.quant_boundary=5", "data.num_val=5")
    assert identity(other) == identity(fixed)


@pytest.fixture(scope="session")
def accuracy(configured: Configure, context: Context, calibrated: Artifacts) -> PlanAccuracy:
    loaded = load_model(calibrated["model"].path, "cpu")
    return PlanAccuracy(
        loaded=loaded,
        dataset=open_split(configured("partial_quant").data, "val", context),
        batch_size=2,
        num_resamples=100,
        context=context,
    )


def test_a_measured_plan_is_what_the_evaluation_says_of_both_networks(
    accuracy: PlanAccuracy, names: list[str], context: Context
) -> None:
    kept = names[30:]
    plan = PrecisionPlan(
        operations={name: "float" if name in kept else "int8" for name in names}, reason=""
    )
    point = accuracy.measure(plan)
    scores = [
        measure(
            predictor(network, "cpu"),
            accuracy.dataset,
            specification=letterboxed(64),
            batch_size=4,
            progress=Silent(),
            description="",
        ).result.map
        for network in (
            accuracy.loaded.network,
            quantize(accuracy.loaded.network, accuracy.loaded.scales, plan),  # type: ignore[arg-type]
        )
    ]
    assert point.num_float == len(kept)
    assert point.map == pytest.approx(scores[1])
    assert point.drop == pytest.approx(scores[0] - scores[1], abs=1e-12)
    assert point.low <= point.high
    assert accuracy.seconds() > 0


def test_a_float_plan_loses_nothing(accuracy: PlanAccuracy, names: list[str]) -> None:
    point = accuracy.measure(PrecisionPlan(operations=dict.fromkeys(names, "float"), reason=""))
    assert (point.drop, point.low, point.high) == (0.0, 0.0, 0.0)
    assert point.agreement in (None, pytest.approx(1.0))


def test_a_request_to_stop_is_heeded_within_a_measurement(
    configured: Configure, ranked: Artifacts, bench: Bench
) -> None:
    bench.progress.stop = True
    with pytest.raises(Interrupted):
        bench.run(configured("partial_quant"), ranked)


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["max_latency_ratio=1.5", "max_map_drop=0.5"])
def test_by_latency_the_plan_is_built_predicted_and_timed(
    configured: Configure, ranked: Artifacts, bench: Bench, budget: str
) -> None:
    config = configured(
        "partial_quant",
        "partial_quant.objective=latency",
        f"partial_quant.{budget}",
        "partial_quant.latency.num_runs=5",
        "partial_quant.num_resamples=100",
    )
    STAGE.check(config)
    plan = bench.run(config, ranked)
    latency = plan.latency
    assert latency is not None
    assert (latency.engine, latency.batch_size) == ("onnxruntime", 1)
    assert latency.predicted > 0
    assert latency.measured is not None
    if "ratio" in budget:
        assert latency.measured <= 1.5 * latency.all_int8
    assert all(reason.int8_ms is not None and reason.int8_ms > 0 for reason in plan.why.values())
    assert any("predicted" in note and "measured" in note for note in bench.progress.notes)
    assert set(plan.operations) == set(plan.why)
