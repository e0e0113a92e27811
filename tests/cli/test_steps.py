"""The table of variants: what its rows become, what is left out, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from quantpipe.cli.composition import config_folder
from quantpipe.cli.config import CheckedRun, read_run
from quantpipe.core.pipeline import Step
from quantpipe.errors import ConfigurationError, DataError, MachineError
from quantpipe.settings import engine as engine_settings
from quantpipe.stages.export import config as export_config

NO_HALF = "has no 'half' kernels"


@pytest.fixture(autouse=True)
def shipped() -> Iterator[None]:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks an engine whose library is not here as if it were."""
    monkeypatch.setattr(engine_settings, "availability", lambda name, **how: None)


def run_of(*overrides: str) -> CheckedRun:
    return read_run(compose("config", overrides=["device=cpu", *overrides]), overrides)


def steps_of(*overrides: str) -> Mapping[str, Step]:
    return {step.name: step for step in run_of(*overrides).pipeline.steps}


def wired(step: Step) -> dict[str, str]:
    return {name: str(reference) for name, reference in step.inputs.items()}


def compared(steps: Mapping[str, Step]) -> dict[str, str]:
    return {
        name.removeprefix("variants."): place for name, place in wired(steps["evaluate"]).items()
    }


def fault(*overrides: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        run_of(*overrides)
    return str(caught.value)


def test_a_row_is_exported_built_and_compared() -> None:
    steps = steps_of()
    assert wired(steps["export.qat"]) == {"model": "qat_distill.model"}
    assert wired(steps["build_engine.qat"]) == {"graph": "export.qat.graph"}
    assert compared(steps)["qat"] == "build_engine.qat.engine"
    assert steps["build_engine.qat"].config.precision == "int8"
    assert steps["export.qat"].config.quantized
    assert steps["build_engine.fp32"].config.precision == "fp32"
    assert not steps["export.fp32"].config.quantized


def test_variants_are_compared_in_the_order_of_the_table() -> None:
    assert list(compared(steps_of())) == ["fp32", "half", "ptq", "partial", "qat"]


def test_all_that_a_row_does_not_say_its_steps_share() -> None:
    steps = steps_of("engine.batch_sizes=[2]", "export.opset=20")
    for variant in ("fp32", "half", "ptq", "partial", "qat"):
        assert steps[f"build_engine.{variant}"].config.engine.batch_sizes == (2,)
    for variant in ("fp32", "ptq", "partial", "qat"):
        assert steps[f"export.{variant}"].config.opset == 20


def test_variants_that_need_the_same_of_a_step_share_it() -> None:
    steps = steps_of()
    assert "export.half" not in steps
    assert wired(steps["build_engine.half"]) == {"graph": "export.fp32.graph"}
    assert steps["build_engine.half"].config.precision == "half"


def test_a_row_twice_is_one_engine_that_is_compared_under_both_names() -> None:
    steps = steps_of("+variants.again={model: calibrate, precision: int8}")
    assert "export.again" not in steps
    assert "build_engine.again" not in steps
    assert compared(steps)["again"] == compared(steps)["ptq"] == "build_engine.ptq.engine"


def test_what_a_row_leaves_out_is_filled_in() -> None:
    row = "+variants.mine={model: calibrate.model}"
    assert steps_of(row, "variants.fp32=null")["build_engine.mine"].config.precision == "fp32"
    changed = steps_of(row, "variant_defaults.precision=int8", "variants.ptq=null")
    assert changed["build_engine.mine"].config.precision == "int8"
    assert changed["export.mine"].config.quantized


def test_a_row_beside_a_step_of_its_own_compares_two_calibrations() -> None:
    steps = steps_of(
        "pipelines=ptq",
        "+stage@by_error=calibrate",
        "by_error.method=mse",
        "+by_error.inputs={model: train_repopt}",
        "+variants.by_error={model: by_error, precision: int8}",
        "pipeline.steps=[train_repopt,calibrate,by_error,export,build_engine,evaluate]",
    )
    assert steps["by_error"].config.method == "mse"
    assert wired(steps["export.by_error"]) == {"model": "by_error.model"}
    assert wired(steps["export.ptq"]) == {"model": "calibrate.model"}
    assert list(compared(steps)) == ["fp32", "half", "ptq", "by_error"]


def test_without_engines_the_models_themselves_are_compared() -> None:
    steps = steps_of("pipelines=ptq", "pipeline.steps=[train_repopt,calibrate,evaluate]")
    assert compared(steps) == {
        "fp32": "train_repopt.model",
        "half": "train_repopt.model",
        "ptq": "calibrate.model",
    }


def test_the_first_step_for_each_variant_may_be_the_last() -> None:
    steps = steps_of("pipelines=ptq", "pipeline.steps=[train_repopt,calibrate,export]")
    assert list(steps) == ["train_repopt", "calibrate", "export.fp32", "export.ptq"]


@pytest.mark.parametrize("strike", ["variants.half=null", "~variants.half"])
def test_a_row_is_struck_out_on_the_command_line(strike: str) -> None:
    run = run_of(strike)
    assert "build_engine.half" not in {step.name for step in run.pipeline.steps}
    assert run.skipped == {}


def test_all_struck_out_is_an_error() -> None:
    line = fault("pipelines=ptq", *(f"variants.{name}=null" for name in ("fp32", "half", "ptq")))
    assert line.startswith("variants: nothing is listed; list what is compared under variants:")


def test_an_optional_variant_that_the_engine_lacks_is_left_out_with_the_reason() -> None:
    run = run_of("engine=onnxruntime")
    steps = {step.name: step for step in run.pipeline.steps}
    assert list(run.skipped) == ["half"]
    assert run.skipped["half"].precision == "half"
    assert NO_HALF in run.skipped["half"].reason
    assert "build_engine.half" not in steps
    assert "half" not in compared(steps)
    assert "fp32" in compared(steps)


@pytest.mark.usefixtures("installed")
def test_all_optional_variants_of_a_precision_are_left_out_together() -> None:
    run = run_of("engine=onnxruntime_cuda")
    assert list(run.skipped) == ["ptq", "partial", "qat"]
    assert {skipped.precision for skipped in run.skipped.values()} == {"int8"}
    assert list(compared({step.name: step for step in run.pipeline.steps})) == ["fp32", "half"]


def test_an_optional_variant_that_the_engine_has_stays() -> None:
    assert run_of("+variants.fp32.optional=true").skipped == {}


def test_a_variant_that_is_not_optional_stays_for_its_check_to_fail() -> None:
    line = fault("engine=onnxruntime", "variants.half.optional=false")
    assert line.startswith("build_engine.half.precision: engine 'onnxruntime' " + NO_HALF)


def test_optional_variants_of_which_none_is_left_are_an_error_with_the_reason() -> None:
    line = fault("pipelines=ptq", "engine=onnxruntime", "variants.fp32=null", "variants.ptq=null")
    assert line.startswith("variants: none of them can be built: ")
    assert NO_HALF in line


def test_a_library_that_is_missing_is_told_of_the_variant_that_must_be() -> None:
    with pytest.raises(MachineError, match=r"^build_engine\.fp32: .*onnxruntime-gpu") as caught:
        run_of("engine=onnxruntime_cuda")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("export.ranges=calibration_cache", "read by TensorRT up to 10, not by openvino"),
        ("export.nms=tensorrt", "openvino does not run TensorRT's plugin"),
    ],
)
def test_a_setting_that_is_refused_leaves_nothing_out(override: str, line: str) -> None:
    told = fault("pipelines=ptq", override)
    assert told.startswith("export.")
    assert line in told


def test_an_opset_that_the_library_does_not_parse_leaves_nothing_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(opset: Any, target: str, **path: str) -> int:
        raise ConfigurationError(f"{target} does not parse {opset}", path="opset")

    monkeypatch.setattr(export_config, "resolved_opset", refuse)
    rows = ("variants.fp32.optional=true", "variants.half.optional=true")
    line = fault("pipelines=ptq", "export.opset=23", *(f"+{rows[0]}", rows[1]))
    assert line == "export.fp32.opset: openvino does not parse 23"


def test_an_optional_row_is_left_out_where_its_step_is_not_listed() -> None:
    run = run_of("pipeline.steps=[train_repopt,calibrate,export]")
    assert set(run.skipped) == {"partial", "qat"}
    assert run.skipped["qat"].reason == "step 'qat_distill' is not listed in pipeline.steps"
    names = [step.name for step in run.pipeline.steps]
    assert names == ["train_repopt", "calibrate", "export.fp32", "export.ptq"]


def test_missing_data_leaves_nothing_out_and_is_told_of_the_first_that_reads_it() -> None:
    with pytest.raises(DataError, match=r"^train_repopt: nowhere: no such folder"):
        run_of("data=coco", "data.root=nowhere")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["+variants.mine={model: calibrate, precison: int8}"],
            "variants.mine.precison: there is no such setting; did you mean 'precision'?",
        ),
        (
            ["variants.half.precision=halb"],
            "variants.half.precision: 'halb' is not one of fp32, half, int8; did you mean 'half'?",
        ),
        (
            ["variants.qat.model=qat_distil"],
            "variants.qat.model: there is no step 'qat_distil'; did you mean 'qat_distill'?",
        ),
        (
            ["variants.qat.model=qat_distil.model"],
            "variants.qat.model: there is no step 'qat_distil'; did you mean 'qat_distill'?",
        ),
        (
            ["variants.qat.model=qat_distill.modle"],
            "variants.qat.model: step qat_distill has no output 'modle'; did you mean 'model'?",
        ),
        (
            ["variants.qat.model=export.ptq"],
            "variants.qat.model: step export.ptq makes no model; it makes graph",
        ),
        (["variants.qat.model=3"], "variants.qat.model: 3 is not a text"),
        (["+variants.mine={}"], "variants.mine.model: is not set; give it a value"),
        (["variants.qat.optional=2"], "variants.qat.optional: 2 is not true or false"),
        (
            [
                "pipelines=ptq",
                "pipeline.steps=[train_repopt,export]",
                "variants.ptq.optional=false",
            ],
            "variants.ptq.model: step 'calibrate' is not listed in pipeline.steps; "
            "list it, or strike the row out with variants.ptq=null",
        ),
        (
            ["pipelines=ptq", "variants.ptq.model=nothing_like_it"],
            "variants.ptq.model: there is no step 'nothing_like_it'; "
            "known: calibrate, evaluate, train_repopt",
        ),
    ],
)
def test_a_wrong_row_is_one_line_with_its_key(overrides: list[str], line: str) -> None:
    assert fault(*overrides) == line


def test_a_value_that_every_row_replaces_is_checked_too() -> None:
    line = fault("build_engine.precision=int4")
    assert line.startswith("build_engine.precision: 'int4' is not one of")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("variant_defaults.precision=halb", "variant_defaults.precision: 'halb' is not one of"),
        ("variant_defaults.optional=3", "variant_defaults.optional: 3 is not true or false"),
        ("+variant_defaults.precison=half", "variant_defaults.precison: there is no such setting"),
        ("~variant_defaults.precision", "variant_defaults.precision: is not set; give it"),
    ],
)
def test_what_rows_leave_out_is_checked_whether_or_not_one_does(override: str, line: str) -> None:
    assert fault(override).startswith(line)


@pytest.mark.parametrize("value", [3, ["fp32"], "fp32"])
@pytest.mark.parametrize("key", ["variants", "variant_defaults"])
def test_what_is_no_table_is_refused(key: str, value: Any) -> None:
    config = compose("config", overrides=["device=cpu"])
    config[key] = value
    with pytest.raises(ConfigurationError, match=rf"^{key}: .* is not a table; list what is"):
        read_run(config, ())


FORMER = {
    "+build_engine.each={half: {precision: half}}": "list what is compared under variants:",
    "+export.optional=true": "set it in a line of variants:",
    "+calibrate.inputs.checkpoint=train_repopt.checkpoint": "wire model: <step>",
    "+partial_quant.inputs.scales=calibrate.scales": "wire model: <step>",
    "+qat_distill.inputs.plan=partial_quant.plan": "wire model: <step>",
    "+sensitivity.inputs.onnx=export.float.onnx": "which graph an engine is built from",
    "+export.inputs={checkpoint: train_repopt.checkpoint}": "list what is compared",
    "+build_engine.inputs={onnx: export.float.onnx}": "list what is compared",
    "+evaluate.inputs={qat: build_engine.qat.engine}": "list what is compared",
    "+evaluate.inputs={network_qat: qat_distill.checkpoint}": "list what is compared",
    "+evaluate.inputs={scales_qat: qat_distill.scales}": "list what is compared",
}


@pytest.mark.parametrize("override", FORMER)
def test_a_former_recipe_is_told_what_to_write_instead(override: str) -> None:
    line = fault(override)
    key = override.removeprefix("+").partition("=")[0]
    assert line.startswith(key)
    assert FORMER[override] in line.partition("; ")[2]


def test_the_inputs_of_every_variant_follow_from_the_table() -> None:
    line = fault("+evaluate.inputs.variants=calibrate")
    assert line.startswith("evaluate.inputs.variants: follows from the variants; list what is")


def test_an_input_of_no_former_release_is_refused_with_the_nearest() -> None:
    line = fault("+qat_distill.inputs.techer=train_repopt")
    assert line == (
        "qat_distill.inputs.techer: stage qat_distill has no such input; did you mean 'teacher'?"
    )


def test_a_step_may_fail_where_every_variant_that_it_is_for_may() -> None:
    """The graph of half is that of fp32 too, which must not be missing."""
    optional = {name for name, step in steps_of("engine=openvino").items() if step.optional}
    assert "build_engine.half" in optional
    assert "build_engine.fp32" not in optional
    assert "export.fp32" not in optional
    assert not optional & {"train_repopt", "calibrate", "evaluate"}
    assert "build_engine.half" not in {
        name for name, step in steps_of("variants.half.optional=false").items() if step.optional
    }


def test_each_variant_knows_its_last_step() -> None:
    variants = run_of("engine=openvino").variants
    assert variants["half"].step == "build_engine.half"
    assert variants["half"].precision == "half"
    assert set(variants) == {"fp32", "half", "ptq", "partial", "qat"}
