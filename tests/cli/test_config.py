from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from quantpipe.cli.composition import config_folder
from quantpipe.cli.config import CheckedRun, read_run, to_yaml
from quantpipe.errors import ConfigurationError
from quantpipe.stages.calibrate.config import CalibrateConfig

Change = Callable[[DictConfig], object]


@pytest.fixture(scope="module")
def shipped() -> Iterator[DictConfig]:
    """The default configuration; tests change copies of it."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield compose("config", overrides=["device=cpu"])


def run_of(config: DictConfig, change: Change = lambda _: None) -> CheckedRun:
    changed = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
    assert isinstance(changed, DictConfig)
    change(changed)
    return read_run(changed, ())


def fault(config: DictConfig, change: Change) -> str:
    with pytest.raises(ConfigurationError) as caught:
        run_of(config, change)
    return str(caught.value)


def update(key: str, value: Any) -> Change:
    return lambda config: OmegaConf.update(config, key, value, force_add=True)


def test_the_run_is_typed_and_its_steps_are_those_of_the_recipe(shipped: DictConfig) -> None:
    run = run_of(shipped)
    names = [step.name for step in run.pipeline.steps]
    assert names[:5] == ["train_repopt", "calibrate", "sensitivity", "partial_quant", "qat_distill"]
    assert names[-1] == "evaluate"
    assert run.settings.run_dir == Path("outputs/runs/repopt_qat")
    (calibrate,) = [step for step in run.pipeline.steps if step.name == "calibrate"]
    assert isinstance(calibrate.config, CalibrateConfig)
    assert str(calibrate.inputs["model"]) == "train_repopt.model"


def test_a_step_may_be_left_out_of_the_list(shipped: DictConfig) -> None:
    run = run_of(shipped, update("pipeline.steps", ["train_repopt", "calibrate"]))
    assert [step.name for step in run.pipeline.steps] == ["train_repopt", "calibrate"]


def test_where_nothing_is_compared_the_variants_need_no_steps(shipped: DictConfig) -> None:
    """``sensitivity`` is the last step here, and the rows name steps that are not listed."""
    steps = ["train_repopt", "calibrate", "sensitivity"]
    run = run_of(shipped, update("pipeline.steps", steps))
    assert [step.name for step in run.pipeline.steps] == steps


def test_a_shared_value_is_named_where_it_stands(shipped: DictConfig) -> None:
    assert fault(shipped, update("export.opset", 3)).startswith("export.opset: 3 is not between")


def test_a_value_that_every_variant_replaces_is_checked_too(shipped: DictConfig) -> None:
    line = fault(shipped, update("build_engine.precision", "int4"))
    assert line.startswith("build_engine.precision: 'int4' is not one of")


def test_a_result_of_the_run_itself_is_refused(
    shipped: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same run directory: the step would leave out its history and scales."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "runs/mine/train_repopt/checkpoint.safetensors"
    path.parent.mkdir(parents=True)
    path.touch()

    def taken(run_dir: str, given: object) -> Change:
        def change(config: DictConfig) -> None:
            config.run_dir = run_dir
            config.train_repopt.checkpoint = str(given)

        return change

    for given in (path, path.relative_to(tmp_path)):
        line = fault(shipped, taken("runs/mine", given))
        assert line == (
            f"train_repopt.checkpoint: {given} is a result of 'train_repopt' in this run "
            "directory, which this run would replace; set another run_dir, or copy the file"
        )
        run_of(shipped, taken("runs/other", given))
    beside = tmp_path / "runs/mine/given.safetensors"
    beside.touch()
    run_of(shipped, taken("runs/mine", beside))


@pytest.mark.parametrize("key", ["_target_", "_recursive_", "_convert_", "_partial_", "_args_"])
@pytest.mark.parametrize("place", ["", "calibrate.", "train_repopt.search.", "data."])
def test_nothing_may_name_code(shipped: DictConfig, key: str, place: str) -> None:
    line = fault(shipped, update(f"{place}{key}", "os.system"))
    assert f"'{key}' is refused: a configuration cannot name code to run" in line
    assert line.startswith(place.rstrip(".") or "root")


def test_code_in_a_list_is_found(shipped: DictConfig) -> None:
    change = update("pipeline.steps", [{"_target_": "os.system"}])
    assert fault(shipped, change).startswith("pipeline.steps.0: '_target_' is refused")


def test_an_unknown_root_key_is_refused(shipped: DictConfig) -> None:
    line = fault(shipped, update("calibrat", {"percentile": 3}))
    assert line == ("calibrat: pipeline repopt_qat has no such key; did you mean 'calibrate'?")


def test_a_group_nobody_uses_is_checked_all_the_same(shipped: DictConfig) -> None:
    assert fault(shipped, update("engine.num_threads", -1)).startswith("engine.num_threads: -1")


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("pipeline.name", 3, "pipeline.name: 3 is not a text"),
        ("pipeline.extra", 3, "pipeline.extra: there is no such setting"),
        ("calibrate.inputs", 3, "calibrate.inputs: 3 is not a group of references"),
        ("calibrate.inputs.model", 3, "calibrate.inputs.model: 3 is not a reference"),
        ("data.root", "???", "data.root: is not set; add data.root=VALUE"),
        ("seed", 2**31, "seed: 2147483648 is not between 0 and 2147483647"),
    ],
)
def test_other_mistakes(shipped: DictConfig, key: str, value: Any, line: str) -> None:
    assert fault(shipped, update(key, value)).startswith(line)


def test_what_is_missing_is_named(shipped: DictConfig) -> None:
    def change(config: DictConfig) -> None:
        with open_dict(config):
            del config.calibrate.method

    assert fault(shipped, change) == "calibrate.method: is not set; give it a value"


def test_the_written_configuration_reads_as_the_same_run(shipped: DictConfig) -> None:
    run = run_of(shipped)
    again = OmegaConf.create(to_yaml(run.composed))
    assert isinstance(again, DictConfig)
    assert read_run(again, ()) == run
