from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.stages.conftest import Artifacts, Configure, RunStage

from quantpipe.core.artifact import Artifact, ArtifactKind
from quantpipe.detector.architecture import operation_names
from quantpipe.detector.checkpoint import Checkpoint, load_checkpoint
from quantpipe.errors import ArtifactError, ConfigurationError
from quantpipe.quantization.precision_plan import load_plan
from quantpipe.quantization.sensitivity_table import (
    SensitivityRow,
    SensitivityTable,
    save_table,
)
from quantpipe.stages.partial_quant import STAGE


def table(path: Path, names: Sequence[str], digest: str) -> Artifact:
    """A ranking of the operations in the order given."""
    rows = tuple(SensitivityRow(name=name, score=float(i)) for i, name in enumerate(names))
    save_table(
        path, SensitivityTable(method="output", rows=rows, baseline=None, weights_digest=digest)
    )
    return Artifact(kind=ArtifactKind.SENSITIVITY, path=path, sha256="")


@pytest.fixture
def names(trained: Checkpoint) -> list[str]:
    """Operations from harmless to harmful: here the last to run is the most harmless."""
    return list(reversed(operation_names(trained.architecture)))


def test_the_operations_up_to_the_boundary_are_quantized(
    configured: Configure,
    run_stage: RunStage,
    calibrated: Artifacts,
    names: list[str],
    tmp_path: Path,
) -> None:
    digest = load_checkpoint(calibrated["checkpoint"].path).weights_digest
    ranking = table(tmp_path / "table.json", names, digest)
    config = configured("partial_quant", "partial_quant.quant_boundary=10")
    made = run_stage("partial_quant", config, **calibrated, table=ranking)
    plan = load_plan(made["plan"].path)
    assert set(plan.quantized) == set(names[:11])
    assert set(plan.float_operations) == set(names[11:])
    checkpoint = load_checkpoint(made["checkpoint"].path)
    assert checkpoint.precision_plan == dict(plan.operations)
    assert checkpoint.weights_digest == digest
    assert made["scales"].sha256 == calibrated["scales"].sha256


def test_a_table_of_other_weights_is_refused_with_both_digests(
    configured: Configure,
    run_stage: RunStage,
    calibrated: Artifacts,
    names: list[str],
    tmp_path: Path,
) -> None:
    digest = load_checkpoint(calibrated["checkpoint"].path).weights_digest
    ranking = table(tmp_path / "table.json", names, "0" * 64)
    with pytest.raises(ArtifactError) as caught:
        run_stage("partial_quant", configured("partial_quant"), **calibrated, table=ranking)
    assert digest[:12] in str(caught.value)
    assert "0" * 12 in str(caught.value)
    assert caught.value.exit_code == 4


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
    assert set(load_plan(made["plan"].path).quantized) == set(names[:11])
    path.write_text("\n".join(lines[1:]))
    with pytest.raises(ArtifactError, match=rf"ranks 58 operations, .* '{names[0]}'"):
        run_stage("partial_quant", config, **calibrated)


def test_without_any_ranking_both_ways_to_give_one_are_named(
    configured: Configure, run_stage: RunStage, calibrated: Artifacts
) -> None:
    with pytest.raises(ConfigurationError, match=r"no ranking is given; .*table_file=FILE"):
        run_stage("partial_quant", configured("partial_quant"), **calibrated)


def test_a_missing_text_is_found_before_any_work(configured: Configure) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere: is not there; see .*table_file"):
        STAGE.check(replace(configured("partial_quant"), table_file=Path("nowhere")))
