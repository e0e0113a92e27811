"""A sweep is right, its jobs apart and its directions known before anything runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faults.wrong_commands import RECIPE
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from quantpipe.cli.composition import check_composition, loader, read_arguments
from quantpipe.cli.sweep_plan import SweepPlan, claimed_folder, plan_sweep, quoted, tell_hydra
from quantpipe.errors import ConfigurationError, MachineError

SEEDS = ("pipelines=ptq", "device=cpu", "seed=1,2,3")


def plan(
    monkeypatch: pytest.MonkeyPatch, *overrides: str, sweeper: dict[str, Any] | None = None
) -> SweepPlan:
    monkeypatch.setattr(sys, "argv", ["quantpipe", "-m", *overrides])
    arguments = read_arguments()
    config = check_composition(arguments)
    if sweeper is not None:
        with open_dict(config):
            config.hydra.sweeper = {"_target_": "a.Sweeper", "params": None, **sweeper}
    return plan_sweep(config, loader(arguments))


def refused(monkeypatch: pytest.MonkeyPatch, *overrides: str, **more: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        plan(monkeypatch, *overrides, **more)
    return str(caught.value)


def test_jobs_and_their_folders_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan(monkeypatch, *SEEDS, "hydra.sweep.dir=there")
    assert found.folder == Path.cwd() / "there"
    assert not found.by_time
    assert [job.name for job in found.jobs] == ["0", "1", "2"]
    assert found.jobs[1].overrides == ("pipelines=ptq", "device=cpu", "seed=2")
    assert (found.objectives, found.overrides) == ((), ())


@pytest.mark.parametrize(
    ("subdir", "names"),
    [
        ("a/b/${hydra.job.num}", ["a/b/0", "a/b/1", "a/b/2"]),
        ("${hydra:job.num}", ["0", "1", "2"]),
        ("s/${seed}", ["s/1", "s/2", "s/3"]),
        ("../beside/${seed}", ["../beside/1", "../beside/2", "../beside/3"]),
    ],
)
def test_folders_may_be_named_in_any_way(
    monkeypatch: pytest.MonkeyPatch, subdir: str, names: Sequence[str]
) -> None:
    found = plan(monkeypatch, *SEEDS, f"hydra.sweep.subdir={quoted(subdir)}")
    assert [job.name for job in found.jobs] == names


@pytest.mark.parametrize("subdir", ["same", ".", "x/../same", "${device}", "${model.name}/x"])
def test_equal_folders_are_refused(monkeypatch: pytest.MonkeyPatch, subdir: str) -> None:
    told = refused(monkeypatch, *SEEDS, f"hydra.sweep.subdir={subdir}")
    assert told.startswith("hydra.sweep.subdir: jobs 0 and 1 would both use ")
    assert "${hydra.job.num}" in told


def test_equal_folders_of_jobs_that_a_sweeper_will_choose_are_refused_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objective = "objective=map of ptq"
    told = refused(monkeypatch, *SEEDS, objective, "hydra.sweep.subdir=same", sweeper={})
    assert "jobs 0 and 1 would both use" in told


def test_a_name_that_no_disk_takes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    told = refused(monkeypatch, *SEEDS, f"hydra.sweep.subdir={'x' * 300}" + "${seed}")
    assert "hydra.sweep.subdir: job 0 would have a folder of 301 characters" in told


@pytest.mark.parametrize("run_dir", ["run_dir=mine", "run_dir=a,b", "++run_dir=mine"])
def test_a_run_directory_for_all_jobs_is_refused(
    monkeypatch: pytest.MonkeyPatch, run_dir: str
) -> None:
    told = refused(monkeypatch, "pipelines=ptq", "device=cpu", run_dir)
    assert told.startswith("run_dir: the jobs of a sweep are put below hydra.sweep.dir; set ")


def test_a_job_may_take_what_another_run_directory_holds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Jobs are checked as they will be placed: only what they themselves replace is refused."""
    monkeypatch.chdir(tmp_path)
    for folder in ("outputs/runs/ptq", "s/0"):
        taken = tmp_path / folder / "train_repopt" / "checkpoint.safetensors"
        taken.parent.mkdir(parents=True)
        taken.touch()
    given = (*SEEDS, "hydra.sweep.dir=s")
    other = "train_repopt.checkpoint=outputs/runs/ptq/train_repopt/checkpoint.safetensors"
    assert len(plan(monkeypatch, *given, other).jobs) == 3
    own = "train_repopt.checkpoint=s/0/train_repopt/checkpoint.safetensors"
    assert "which this run would replace" in refused(monkeypatch, *given, own)


def test_looking_after_the_cache_is_no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(monkeypatch, "cache=list,prune").endswith("give it without -m")


def test_the_parameters_of_a_recipe_are_jobs_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Hydra's basic sweeper takes them from its settings as from the command line."""
    (tmp_path / "pipelines").mkdir()
    swept = "hydra: {sweeper: {params: {seed: '4,5'}}}\n"
    (tmp_path / "pipelines" / "mine.yaml").write_text(f"{RECIPE}{swept}")
    found = plan(monkeypatch, "device=cpu", "pipelines=mine", "--config-dir", str(tmp_path))
    assert [job.overrides[0] for job in found.jobs] == ["seed=4", "seed=5"]


def test_a_search_needs_an_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    told = refused(monkeypatch, "pipelines=ptq", "device=cpu", sweeper={"direction": "minimize"})
    assert told.startswith("objective: ")
    assert told.endswith("set it, as 'objective=map of ptq'")


def test_what_a_search_begins_with_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = ("device=cpu", "pipelines=ptq", "objective=map of ptq")
    for values in ("interval(200,300)", "choice(200,300)", "range(200,300)"):
        told = refused(monkeypatch, *searched, f"calibrate.percentile={values}", sweeper={})
        assert told.startswith("calibrate.percentile: 200")
    found = plan(monkeypatch, *searched, "calibrate.percentile=interval(99,100)", sweeper={})
    assert found.jobs == ()


@pytest.mark.parametrize(
    ("objective", "sweeper", "told"),
    [
        ("map of ptq", {"direction": "minimize"}, "direction=[maximize]"),
        ("[map of ptq,latency of ptq]", {"direction": "x"}, "direction=[maximize,minimize]"),
        ("latency of ptq", {"optim": {"maximize": True}}, "optim.maximize=false"),
        ("map of ptq", {"optim": {"maximize": False}}, "optim.maximize=true"),
        (
            "map of ptq",
            {"ax_config": {"experiment": {"minimize": True}}},
            "ax_config.experiment.minimize=false",
        ),
    ],
)
def test_a_sweeper_is_told_which_way_is_better(
    monkeypatch: pytest.MonkeyPatch, objective: str, sweeper: dict[str, Any], told: str
) -> None:
    given = ("pipelines=ptq", "device=cpu", f"objective={objective}")
    found = plan(monkeypatch, *given, sweeper=sweeper)
    assert found.overrides == (f"hydra.sweeper.{told}",)


def test_an_objective_of_what_is_left_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("pipelines=ptq", "device=cpu", "engine=onnxruntime", "objective=map of half")
    assert "objective: half is left out: " in refused(monkeypatch, *given)
    steps = ("pipeline.steps=[train_repopt]", "objective=map of ptq")
    assert "no variant 'ptq' is compared" in refused(monkeypatch, "pipelines=ptq", *steps)


def test_two_sweeps_of_one_second_have_a_folder_each(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found = plan(monkeypatch, *SEEDS)
    assert found.by_time
    folders = [claimed_folder(found) for _ in range(3)]
    name = found.folder.name
    assert [folder.name for folder in folders] == [name, f"{name}_2", f"{name}_3"]
    assert all(folder.is_dir() for folder in folders)


def test_a_folder_that_was_named_is_used_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = replace(plan(monkeypatch, *SEEDS), folder=tmp_path / "deep" / "mine", by_time=False)
    assert claimed_folder(found) == claimed_folder(found) == tmp_path / "deep" / "mine"


def test_a_folder_that_cannot_be_written_names_its_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = replace(plan(monkeypatch, *SEEDS), folder=Path("/proc/sweep"))
    with pytest.raises(MachineError, match=r"hydra\.sweep\.dir="):
        claimed_folder(found)


@pytest.mark.parametrize("text", ["/a b/c", "it's", "a=b,c", "x\\", "\\'", "[{(", "tab\there"])
def test_any_path_is_an_override(text: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"x={quoted(text)}"])
    assert str(override.value()) == text
    assert OmegaConf.create({"x": override.value()}).x == text


@pytest.mark.parametrize(
    ("arguments", "given", "expected"),
    [
        (["-m"], [], ["-m", "x=1"]),
        (["-m", "a=1", "b=2"], ["a=1", "b=2"], ["-m", "a=1", "b=2", "x=1"]),
        (["a=1", "-m"], ["a=1"], ["a=1", "x=1", "-m"]),
        (["-m", "a=1", "--config-dir", "d"], ["a=1"], ["-m", "a=1", "x=1", "--config-dir", "d"]),
    ],
)
def test_hydra_is_told_behind_what_was_typed(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], given: list[str], expected: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["quantpipe", *arguments])
    tell_hydra(given, ["x=1"])
    assert sys.argv[1:] == expected
    assert list(read_arguments().overrides) == [*given, "x=1"]
