"""Every shipped YAML is composed into a checked run; the folders that mirror each other do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import quantpipe
from quantpipe.cli.composition import config_folder
from quantpipe.cli.config import CheckedRun, read_run
from quantpipe.schema import field_types
from quantpipe.settings import engine as engine_settings
from quantpipe.stages import STAGES
from quantpipe.stages.artifacts import MODEL

CONF = config_folder()
PACKAGE = Path(quantpipe.__file__).parent
TESTS = Path(__file__).parents[1]
# What a user must say to choose these.
NEEDED = {
    "pipelines": {
        "yolov6s_coco_repopt_qat": ["data.root={data}"],
        "yolov6s_coco_partial_quant": ["data.root={data}"],
    },
    "data": {"coco": ["data.root={data}"], "yolo": ["data.root={data}"]},
}


# In a checkout ``conf/pipelines`` is a link, which ``rglob`` does not follow everywhere.
FILES = sorted({*CONF.rglob("*.yaml"), *(CONF / "pipelines").glob("*.yaml")})


def stems(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.fixture(autouse=True)
def shipped() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def run_of(*overrides: str) -> CheckedRun:
    return read_run(compose("config", overrides=["device=cpu", *overrides]), overrides)


def as_if_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose library is not here is checked as if it were."""
    monkeypatch.setattr(engine_settings, "availability", lambda name, **how: None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folders and files that a COCO and a YOLO data set need before they are read."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{split}.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("group", "option"),
    [
        (group, option)
        for group in ("pipelines", "model", "data", "engine", "cache")
        for option in stems(group)
    ],
)
def test_every_option_of_every_group_makes_a_run(
    group: str, option: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if_installed(monkeypatch)
    needed: Sequence[str] = NEEDED.get(group, {}).get(option, ())
    made = run_of(f"{group}={option}", *(text.format(data=data) for text in needed))
    assert made.pipeline.steps


@pytest.mark.parametrize("name", stems("pipelines"))
def test_a_recipe_is_called_as_its_file_and_lists_all_its_steps(
    name: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if_installed(monkeypatch)
    needed = NEEDED["pipelines"].get(name, [])
    made = run_of(f"pipelines={name}", *(text.format(data=data) for text in needed))
    assert made.pipeline.name == name
    configured = {k for k, v in made.composed.items() if isinstance(v, dict) and "stage" in v}
    assert configured == set(made.composed["pipeline"]["steps"])
    rows = made.composed["variants"]
    assert {"fp32", "half"} <= set(rows)  # INT8 must beat half precision, not float
    assert not made.skipped
    (evaluate,) = (step for step in made.pipeline.steps if step.name == "evaluate")
    assert list(evaluate.inputs) == [f"variants.{name}" for name in rows]


@pytest.mark.parametrize("name", stems("pipelines"))
def test_a_recipe_deploys_what_each_of_its_steps_makes(name: str) -> None:
    """A model that is made and not compared would be work for nothing."""
    composed = compose("config", overrides=[f"pipelines={name}"])
    rows = {row.model: row for row in composed.variants.values()}
    makers = {
        step
        for step in composed.pipeline.steps
        if any(out.kind == MODEL for out in STAGES[composed[step].stage].outputs.values())
    }
    assert set(rows) == makers
    assert [row.precision for row in composed.variants.values() if row.model == "train_repopt"] == [
        "fp32",
        "half",
    ]
    assert {row.precision for model, row in rows.items() if model != "train_repopt"} == {"int8"}


def test_the_default_recipe_says_little_of_its_wiring() -> None:
    composed = compose("config", overrides=[])
    inputs = [
        reference
        for step in composed.pipeline.steps
        for reference in (composed[step].get("inputs") or {}).values()
    ]
    assert len(inputs) + len(composed.variants) <= 10


@pytest.mark.parametrize(
    ("engine", "compared"),
    [
        ("openvino", ["fp32", "half", "ptq", "partial", "qat"]),
        ("tensorrt", ["fp32", "half", "ptq", "partial", "qat"]),
        ("onnxruntime", ["fp32", "ptq", "partial", "qat"]),
        ("onnxruntime_cuda", ["fp32", "half"]),
    ],
)
def test_the_default_recipe_compares_what_an_engine_has_kernels_for(
    engine: str, compared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if_installed(monkeypatch)
    made = run_of(f"engine={engine}")
    names = [step.name for step in made.pipeline.steps]
    assert [name for name in names if name.startswith("build_engine")] == [
        f"build_engine.{name}" for name in compared
    ]
    assert {*compared, *made.skipped} == set(made.composed["variants"])


@pytest.mark.parametrize("name", [name for name in stems("model") if name.startswith("yolov6")])
def test_a_model_is_called_as_its_file(name: str) -> None:
    assert run_of(f"model={name}").composed["model"]["name"] == name


def test_stages_their_values_their_code_and_their_tests_have_the_same_names() -> None:
    code = sorted(path.parent.name for path in (PACKAGE / "stages").glob("*/run.py"))
    tests = sorted(path.parent.name for path in (TESTS / "stages").glob("*/test_run.py"))
    assert stems("stage") == code == tests == sorted(STAGES)


@pytest.mark.parametrize("name", stems("stage"))
def test_a_stage_file_holds_exactly_the_settings_of_its_stage(name: str) -> None:
    values = compose("config", overrides=[f"+stage@probe={name}"]).probe
    assert values.stage == name
    assert set(values) - {"stage"} == set(field_types(STAGES[name].config_type))


def test_every_yaml_belongs_to_a_group_that_is_tested_here() -> None:
    groups = {path.parent.relative_to(CONF).as_posix() for path in FILES}
    parts_of_stages = {"loss", "schedule", "augmentation"}
    options = {"pipelines", "model", "data", "engine", "cache"}
    tested = {".", "stage", *options, *parts_of_stages, "hydra/help"}
    assert groups == tested


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_yaml_says_in_its_first_lines_what_it_is(path: Path) -> None:
    head = path.read_text().splitlines()[:2]
    assert any(line.startswith("# ") for line in head) or path.stem == "quantpipe"


@pytest.mark.parametrize("name", ["yolov6s_coco_repopt_qat", "yolov6s_coco_partial_quant"])
def test_a_published_recipe_holds_the_published_numbers(
    name: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """arXiv 2209.02976 and the quantization recipes of its 0.1 and 0.2 releases."""
    as_if_installed(monkeypatch)
    steps = {
        step.name: step.config
        for step in run_of(f"pipelines={name}", f"data.root={data}").pipeline.steps
    }
    calibration = steps["calibrate"]
    assert (calibration.method, calibration.num_images, calibration.batch_size) == (
        "entropy",
        4 * 32,
        32,
    )
    assert steps["partial_quant"].quant_boundary == 55
    assert steps["train_repopt"].model.name == "yolov6s"
    assert steps["train_repopt"].model.image_size == 640
    assert steps["build_engine.fp32"].engine.name == "tensorrt"
    assert tuple(steps["evaluate"].latency_batches) == (1, 32)
    assert (steps["evaluate"].confidence, steps["evaluate"].iou) == (0.03, 0.65)
    if name.endswith("qat"):
        qat = steps["qat_distill"]
        assert (qat.epochs, qat.batch_size, qat.lr) == (10, 128, 1e-5)
        assert (qat.distillation.class_temperature, qat.distillation.feature_weight) == (20, 10)
        assert (qat.schedule.final_lr_fraction, qat.schedule.weight_decay) == (1e-3, 5e-5)


def test_the_recipe_with_a_calibration_cache_exports_one_beside_a_float_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    as_if_installed(monkeypatch)
    made = run_of("pipelines=ptq_calibration_cache")
    steps = {step.name: step for step in made.pipeline.steps}
    export, build = steps["export.ptq"], steps["build_engine.ptq"]
    assert {name: str(place) for name, place in build.inputs.items()} == {
        "graph": "export.ptq.graph"
    }
    assert {name: str(place) for name, place in export.inputs.items()} == {
        "model": "calibrate.model"
    }
    assert (export.config.quantized, export.config.ranges) == (True, "calibration_cache")
    assert (build.config.engine.name, build.config.precision) == ("tensorrt", "int8")
    assert not made.composed["calibrate"]["bias_correction"]
