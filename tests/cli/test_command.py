from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from faults.wrong_commands import HOSTILE, RECIPE, WRONG
from tests.command_line import Finished, fork, start

from quantpipe import __version__
from quantpipe.cli.command import main
from quantpipe.core.lock import exclusive_lock_or_busy
from quantpipe.engines.registry import ENGINES

STEPS = (
    "train_repopt",
    "calibrate",
    "sensitivity",
    "partial_quant",
    "qat_distill",
    "export",
    "build_engine",
    "evaluate",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty working directory."""
    path = tmp_path / "here"
    path.mkdir()
    return path


def refused(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and error line of a command that must write nothing."""
    before = sorted(folder.rglob("*"))
    done = fork(folder, *arguments)
    assert sorted(folder.rglob("*")) == before
    return done.code, done.one_line()


@pytest.mark.parametrize("argument", WRONG)
def test_a_wrong_command_line_is_one_helpful_line(folder: Path, argument: str) -> None:
    code, line = refused(folder, argument)
    assert WRONG[argument] in line
    assert code == 2


def test_a_setting_of_another_pipeline_is_named(folder: Path) -> None:
    code, line = refused(folder, "pipelines=ptq", "partial_quant.quant_boundary=3")
    assert code == 2
    assert "partial_quant.quant_boundary: pipeline ptq has no such setting" in line


def test_a_missing_data_set_ends_with_3(folder: Path) -> None:
    code, line = refused(folder, "data=coco", "data.root=nowhere")
    assert (code, line) == (3, "train_repopt: nowhere: no such folder; see data.root")


def test_a_folder_that_was_deleted_ends_with_5(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    folder.rmdir()
    monkeypatch.setattr(sys, "argv", ["quantpipe"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 5
    line = "quantpipe: error: the folder that the command was started in is gone; change to another"
    assert capsys.readouterr().err.startswith(line)


def test_a_missing_engine_ends_with_5_and_the_line_that_installs_it(folder: Path) -> None:
    code, line = refused(folder, "engine=tensorrt")
    assert code == 5
    assert "pip install 'quantpipe[tensorrt]'" in line


def test_a_folder_that_cannot_be_written_ends_with_5(folder: Path) -> None:
    for setting in ("run_dir", "cache_dir"):
        code, line = refused(folder, f"{setting}=/proc/quantpipe", *_elsewhere(folder, setting))
        assert code == 5
        assert line.startswith("/proc/quantpipe: ")
        assert f"choose a folder to write in with {setting}=" in line


def _elsewhere(folder: Path, setting: str) -> list[str]:
    other = {"run_dir": "cache_dir", "cache_dir": "run_dir"}[setting]
    return [f"{other}={folder.parent / 'other'}"]


def test_a_busy_run_directory_ends_with_75_and_names_the_holder(
    folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with exclusive_lock_or_busy(run / ".lock"):
        done = fork(folder, f"run_dir={run}", f"cache_dir={tmp_path / 'cache'}")
    assert done.code == 75
    line = done.one_line()
    assert f"{run}: process {os.getpid()} on " in line
    assert line.endswith("wait for it, or give this run its own run_dir")


@pytest.mark.parametrize(
    "arguments",
    [
        ("calibrate.percentile=99,200",),
        ("calibrate.percentil=99,99.9",),
        ("pipelines=ptq,pt",),
        ("data=coco", "data.root=nowhere,either"),
        ("pipelines=partial_quant", "partial_quant.quant_boundary=58,59"),
    ],
)
def test_every_job_of_a_sweep_is_checked_before_the_first(
    folder: Path, arguments: tuple[str, ...]
) -> None:
    code, line = refused(folder, "-m", *arguments)
    assert code == (3 if "data=coco" in arguments else 2)
    assert line


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, ("calibrate.percentil=99",)),
        (2, ("partial_quant.quant_boundary=99",)),
        (2, ("-m", "calibrate.percentile=99,200")),
        (5, ("engine=tensorrt",)),
    ],
)
def test_nothing_heavy_is_imported_to_refuse(
    folder: Path, code: int, arguments: tuple[str, ...]
) -> None:
    done = start(folder, *arguments)
    assert done.code == code
    assert done.one_line()  # a list of heavy imports would be a second line
    assert not list(folder.iterdir())


def test_debug_shows_the_traceback(folder: Path) -> None:
    done = fork(folder, "calibrate.percentile=200", "debug=true")
    assert done.code == 2
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("quantpipe: error: calibrate.percentile: 200")


def test_help_names_groups_and_exit_codes(folder: Path) -> None:
    done = start(folder, "--help")
    assert done.code == 0
    assert not done.err
    assert "pipelines: partial_quant, ptq, ptq_calibration_cache, repopt_qat" in done.out
    assert "75 run directory busy" in done.out
    assert not list(folder.iterdir())


def test_the_version_is_our_own(folder: Path) -> None:
    assert fork(folder, "--version") == Finished(0, f"quantpipe {__version__}\n", "")


def test_the_composed_configuration_is_printed_and_nothing_done(folder: Path) -> None:
    done = start(folder, "--cfg", "job", "calibrate.percentile=99.5")
    assert done.code == 0
    assert not done.err
    assert "percentile: 99.5" in done.out
    for step in STEPS:
        assert f"\n{step}:\n" in done.out
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("calibrate.perc", {"calibrate.percentile="}),
        ("engine=o", {f"engine={name}" for name in ENGINES if name.startswith("o")}),
        ("pipelines=pt", {"pipelines=ptq", "pipelines=ptq_calibration_cache"}),
    ],
)
def test_tab_completes(folder: Path, typed: str, offered: set[str]) -> None:
    line = f"quantpipe {typed}"
    done = start(
        folder, "-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)), COMP_CWORD="1"
    )
    assert done.code == 0
    assert set(done.out.split()) == offered


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's folder of recipes."""
    path = tmp_path / "own" / "pipelines"
    path.mkdir(parents=True)
    (path / "mine.yaml").write_text(RECIPE)
    return path


def test_a_users_recipe_is_found_beside_the_shipped_ones(folder: Path, own: Path) -> None:
    done = fork(folder, "--config-dir", str(own.parent), "pipelines=mine", "--cfg", "job")
    assert done.code == 0
    assert "num_images: 3" in done.out
    code, line = refused(folder, "--config-dir", str(own.parent), "pipelines=mne")
    assert code == 2
    assert line == "group 'pipelines' has no option 'mne'; did you mean 'mine'?"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_recipe_is_read_whatever_marks_its_text_begins_with(
    folder: Path, own: Path, encoding: str
) -> None:
    recipe = own / "marked.yaml"
    recipe.write_bytes(RECIPE.encode(encoding))
    done = fork(folder, "--config-dir", str(own.parent), "pipelines=marked", "--cfg", "job")
    assert done.code == 0
    assert "num_images: 3" in done.out
    recipe.write_bytes(RECIPE.encode() + b"# caf\xe9\n")
    code, line = refused(folder, "--config-dir", str(own.parent), "pipelines=marked")
    assert code == 2
    assert "marked.yaml: is not UTF-8 text: byte 0xe9 at" in line


@pytest.mark.parametrize(
    ("place", "options"),
    [*((place, ()) for place in HOSTILE), ("as the launcher", ("-m",)), ("in a step", ("-m",))],
)
def test_a_recipe_cannot_run_code(
    folder: Path, own: Path, place: str, options: tuple[str, ...]
) -> None:
    canary = own / "canary"
    text = RECIPE.partition("calibrate:")[0] + HOSTILE[place].format(canary=canary) + "\n"
    (own / "evil.yaml").write_text(text)
    choice = ("--config-dir", str(own.parent), "pipelines=evil")
    code, line = refused(folder, *options, *choice)
    assert code == 2
    assert "is refused: a configuration cannot name code to run" in line
    assert not canary.exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1\n", "while parsing a flow sequence in"),
        ("x: 1\n", "pipeline: the recipe lists no steps; begin its file with"),
        ("# @package _global_\ndefaults: [ptqq]\n", "has no option 'ptqq'; did you mean 'ptq'?"),
        (RECIPE.replace("steps: [train_repopt, calibrate]", "steps: 3"), "3 is not a list"),
        (RECIPE + "  each: {a: 3}\n", "calibrate.each: is of a former release's recipes; list"),
        (RECIPE + "variants: []\n", "In 'pipelines/broken': "),
        (RECIPE + "variants: {half: 3}\n", "variants.half: 3 is not a row; list what is"),
        (RECIPE + "  stage: no\n", "calibrate.stage: False is no stage"),
        (RECIPE + "extra: {x: 1}\n", "extra: pipeline mine has no such key"),
    ],
)
def test_a_broken_recipe_is_one_helpful_line(folder: Path, own: Path, text: str, line: str) -> None:
    (own / "broken.yaml").write_text(text)
    code, found = refused(folder, "--config-dir", str(own.parent), "pipelines=broken")
    assert code == 2
    assert line in found
