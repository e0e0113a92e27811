from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.stages.conftest import Artifacts, Configure, RunStage

from quantpipe.core.artifact import Artifact
from quantpipe.core.stage import Context
from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.checkpoint_family import operation_names
from quantpipe.errors import ArtifactError, ConfigurationError
from quantpipe.identity import identity
from quantpipe.progress import Silent
from quantpipe.quantization.sensitivity.table import load_table
from quantpipe.stages.sensitivity import STAGE


@pytest.mark.parametrize(
    ("method", "direction"),
    [
        ("gradient", "only"),
        ("gradient", "all_but"),
        pytest.param("output", "only", marks=pytest.mark.slow),
        pytest.param("loss", "only", marks=pytest.mark.slow),
        pytest.param("loss", "all_but", marks=pytest.mark.slow),
    ],
)
def test_every_operation_is_ranked_by_its_damage(
    configured: Configure,
    run_stage: RunStage,
    calibrated: Artifacts,
    trained: Checkpoint,
    method: str,
    direction: str,
) -> None:
    config = configured(
        "sensitivity", f"sensitivity.method={method}", f"sensitivity.direction={direction}"
    )
    made = run_stage("sensitivity", config, **calibrated)
    assert set(made) == {"table"}  # the published text holds mAP, which was not measured
    table = load_table(made["table"].path)
    assert {row.name for row in table.rows} == set(operation_names(trained))
    assert (table.method, table.direction, table.num_images) == (method, direction, 2)
    found = [row.score for row in table.rows]
    assert found == sorted(found)
    assert found[-1] > found[0]
    assert all(row.standard_error is not None for row in table.rows)


@pytest.mark.parametrize(("num_images", "said"), [(2, "rank alike by"), (1, "one image cannot")])
def test_the_stage_says_how_sure_the_ranking_is(
    configured: Configure,
    calibrated: Artifacts,
    context: Context,
    tmp_path: Path,
    num_images: int,
    said: str,
) -> None:
    notes: list[str] = []

    class Notes(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    outputs = {name: tmp_path / output.kind.files[0] for name, output in STAGE.outputs.items()}
    config = configured("sensitivity", f"sensitivity.num_images={num_images}")
    metrics = STAGE.run(config, calibrated, outputs, dataclasses.replace(context, progress=Notes()))
    table = json.loads(outputs["table"].read_bytes())
    assert metrics["reliability"] == table["reliability"]
    assert (metrics["reliability"] is None) == (num_images == 1)
    assert metrics["passes"] == table["passes"] == 2 + config.num_projections
    (reported,) = [note for note in notes if f"on {num_images} images in" in note]
    assert said in reported


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As each of two processes has: how many threads add up decides the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.slow
def test_two_processes_make_the_table_that_one_makes(
    configured: Configure, run_stage: RunStage, calibrated: Artifacts
) -> None:
    few = ("sensitivity.num_images=4", "sensitivity.batch_size=2")
    alone = run_stage("sensitivity", configured("sensitivity", *few), **calibrated)
    config = configured("sensitivity", *few, "trainer.devices=2")
    shared = run_stage("sensitivity", config, **calibrated)
    assert load_table(shared["table"].path) == load_table(alone["table"].path)


def test_the_number_of_processes_is_no_part_of_the_result(configured: Configure) -> None:
    one, two = (configured("sensitivity", f"trainer.devices={n}") for n in (1, 2))
    assert identity(one) == identity(two)
    assert one != two


def test_scales_of_other_weights_are_refused(
    configured: Configure,
    run_stage: RunStage,
    misfit: Artifact,
) -> None:
    config = configured("sensitivity", "sensitivity.method=output")
    with pytest.raises(ArtifactError, match="these scales belong to weights"):
        run_stage("sensitivity", config, model=misfit)


@pytest.mark.slow
def test_the_map_of_every_operation_is_measured_and_published_as_text(
    configured: Configure, run_stage: RunStage, calibrated: Artifacts, trained: Checkpoint
) -> None:
    config = configured("sensitivity", "sensitivity.method=map")
    made = run_stage("sensitivity", config, **calibrated)
    num_operations = len(operation_names(trained))
    table = load_table(made["table"].path)
    assert len(table.rows) == num_operations
    assert table.baseline is not None
    for row in table.rows:
        assert row.map is not None
        assert row.drop == pytest.approx(table.baseline - row.map)
    lines = [line.split() for line in made["text"].path.read_text().splitlines()]
    assert [(name, float(value)) for name, _, value in lines] == [
        (row.name, row.map) for row in table.rows
    ]


@pytest.mark.slow
def test_map_of_operations_alone_in_float_is_not_published(
    configured: Configure, run_stage: RunStage, calibrated: Artifacts
) -> None:
    config = configured("sensitivity", "sensitivity.method=map", "sensitivity.direction=all_but")
    made = run_stage("sensitivity", config, **calibrated)
    assert set(made) == {"table"}
    for row in load_table(made["table"].path).rows:
        assert row.drop is not None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sensitivity.method=maps", "did you mean 'map'"),
        ("sensitivity.direction=all", "did you mean 'all_but'"),
        ("sensitivity.output_error=noisy", "did you mean 'noise'"),
        ("sensitivity.num_projections=0", "0 is not between 1 and 1000"),
    ],
)
def test_values_that_mean_nothing_are_refused(
    configured: Configure, override: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        configured("sensitivity", override)


def test_the_content_is_the_images_of_the_split(configured: Configure, tmp_path: Path) -> None:
    assert set(STAGE.content(configured("sensitivity"), tmp_path)) == {"data"}
