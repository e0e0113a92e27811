from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from faults.store_processes import exit_code, forked
from tests.core.toy import (
    REMARK,
    TEXT,
    Notes,
    TextConfig,
    append,
    chain,
    die,
    executions,
    needy,
    on_file_operation,
    runner,
    stage,
    step,
)

from quantpipe.core.artifact import Artifact, ArtifactKind
from quantpipe.core.entry import key_of
from quantpipe.core.pipeline import Pipeline
from quantpipe.core.run_cache import RunCache
from quantpipe.core.runner import check_pipeline, run_pipeline, step_identity
from quantpipe.core.signals import StopRequest
from quantpipe.core.stage import Context, Input, Inputs, Metrics, Output, Outputs, Stage, takes
from quantpipe.errors import (
    ArtifactError,
    ConfigurationError,
    DataError,
    Interrupted,
    MachineError,
    QuantpipeError,
)
from quantpipe.files import canonical_json, sha256_bytes

Run = Callable[[TextConfig, Inputs, Outputs, Context], Metrics]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def single(log: Path, run: Run, name: str = "only") -> Pipeline:
    return Pipeline(name="p", steps=(step(name, log, stage=stage(run)),))


def failing(error: BaseException) -> Run:
    def run(config: TextConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
        outputs["text"].write_text("half")
        raise error

    return run


def test_steps_run_in_order_and_their_files_are_placed(tmp_path: Path, log: Path) -> None:
    records = run_pipeline(chain(log), runner(tmp_path))
    assert executions(log) == ["first", "second", "third.part"]
    placed = tmp_path / "run" / "third" / "part" / "text.txt"
    assert placed.read_text() == "firstsecondthird.part"
    assert [record.reused for record in records] == [False] * 3
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    third = manifest["steps"]["third.part"]
    assert third["outputs"]["text"] == {
        "kind": "text",
        "files": {"text.txt": sha256_bytes(b"firstsecondthird.part")},
    }
    assert third["metrics"] == {"length": 21}


def test_a_second_run_reuses_everything(tmp_path: Path, log: Path) -> None:
    first = run_pipeline(chain(log), runner(tmp_path))
    notes = Notes()
    second = run_pipeline(chain(log), runner(tmp_path, notes))
    assert executions(log) == ["first", "second", "third.part"]
    assert [record.reused for record in second] == [True] * 3
    assert [record.key for record in second] == [record.key for record in first]
    assert notes.lines[0] == f"[1/3] first: reused {first[0].key[:12]}"


def test_another_run_directory_and_a_moved_cache_reuse_too(tmp_path: Path, log: Path) -> None:
    run_pipeline(chain(log), runner(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "cache").rename(tmp_path / "b" / "cache")
    run_pipeline(chain(log), runner(tmp_path / "b"))
    assert len(executions(log)) == 3


def test_only_what_depends_on_a_change_runs_again(tmp_path: Path, log: Path) -> None:
    run_pipeline(chain(log), runner(tmp_path))
    changed = Pipeline(
        name="chain",
        steps=(
            step("first", log),
            step("second", log, {"text": "first.text"}, text="other"),
            step("third.part", log, {"text": "second.text"}),
        ),
    )
    run_pipeline(changed, runner(tmp_path))
    assert executions(log)[3:] == ["second", "third.part"]


def test_a_change_that_makes_the_same_file_stops_there(tmp_path: Path, log: Path) -> None:
    """Keys name content: whoever reads equal bytes is reused whatever made them."""
    run_pipeline(chain(log), runner(tmp_path))
    steps = list(chain(log).steps)
    steps[0] = step("first", log, stage=stage(version=2))
    run_pipeline(Pipeline(name="chain", steps=tuple(steps)), runner(tmp_path))
    assert executions(log)[3:] == ["first"]


def test_the_identity_is_content_and_its_key_never_changes(tmp_path: Path) -> None:
    """A change of this text, and so of every key, throws away all caches of all users."""
    one = step("train", tmp_path, text="hello")
    inputs = {"text": Artifact(kind=TEXT, folder=tmp_path, digests={"text.txt": "ab" * 32})}
    named_by = step_identity(one, inputs, {"data": "cd" * 32}, seed=3, device="cpu")
    assert canonical_json(named_by) == (
        '{"config":{"text":"hello"},"content":{"data":"' + "cd" * 32 + '"},"device":"cpu",'
        '"inputs":{"text":{"files":{"text.txt":"' + "ab" * 32 + '"},"kind":"text"}},"seed":3,'
        '"stage":"append","version":1}'
    )
    assert key_of(named_by) == "ce8f7da74094ec50c9010d6cae5e44fd278df80a2cab8f82a29f43b31b4d2132"


def test_the_name_of_a_step_its_paths_and_its_workers_are_not_in_the_key(tmp_path: Path) -> None:
    def named_by(name: str, **changes: Any) -> dict[str, Any]:
        return step_identity(
            step(name, tmp_path, text="t", **changes), {}, {}, seed=0, device="cpu"
        )

    assert named_by("a") == named_by("b")
    assert named_by("a") == named_by("a", num_workers=8)
    assert named_by("a") != named_by("a", stage=stage(version=2))
    assert named_by("a") != named_by("a", stage=stage(name="other"))


@pytest.mark.parametrize("change", [{"seed": 8}, {"device": "cuda"}])
def test_seed_and_device_are_in_the_key(tmp_path: Path, log: Path, change: dict[str, Any]) -> None:
    run_pipeline(chain(log), runner(tmp_path))
    run_pipeline(chain(log), replace(runner(tmp_path), **change))
    assert len(executions(log)) == 6


def test_content_is_in_the_key(tmp_path: Path, log: Path) -> None:
    for digest in ("1", "2", "1"):
        changed = stage(content=lambda config, memo, digest=digest: {"data": digest})
        pipeline = Pipeline(name="p", steps=(step("a", log, stage=changed),))
        run_pipeline(pipeline, runner(tmp_path))
    assert executions(log) == ["a", "a"]


def test_a_kill_at_any_file_operation_loses_no_finished_step(tmp_path: Path) -> None:
    """Every operation below the cache and the run directory; at most one step is redone."""
    for number in range(1, 400, 4):
        here = tmp_path / str(number)
        here.mkdir()
        log = tmp_path / f"log{number}"

        def work(here: Path = here, number: int = number, log: Path = log) -> None:
            on_file_operation(number, here, die)
            run_pipeline(chain(log), runner(here))

        code = exit_code(forked(work))
        notes = Notes()
        run_pipeline(chain(log), runner(here, notes))
        assert (here / "run/third/part/text.txt").read_text() == "firstsecondthird.part"
        assert len(executions(log)) <= 4
        assert not [line for line in notes.lines if not line.startswith("[")]
        assert not list((here / "cache" / "staging").iterdir())
        if code == 0:
            break
        assert code == -9
    assert number > 60


def test_a_damaged_result_is_made_again_and_everything_after_it_kept(
    tmp_path: Path, log: Path
) -> None:
    first = run_pipeline(chain(log), runner(tmp_path))[0]
    path = first.artifacts["text"].path
    path.write_text("FIRST")
    notes = Notes()
    run_pipeline(chain(log), runner(tmp_path, notes))
    assert executions(log)[3:] == ["first"]
    assert "is damaged (digest of text.txt differs)" in notes.lines[0]
    assert path.read_text() == "first"


def test_an_edit_in_the_run_directory_never_reaches_the_cache(tmp_path: Path, log: Path) -> None:
    run_pipeline(chain(log), runner(tmp_path))
    edited = tmp_path / "run" / "first" / "text.txt"
    edited.write_text("by hand")
    notes = Notes()
    run_pipeline(chain(log), runner(tmp_path, notes))
    assert len(executions(log)) == 3
    assert edited.read_text() == "first"
    assert "first/text.txt was changed by hand" in notes.lines[0]
    kept = [path.read_text() for path in edited.parent.glob("*.edited-*")]
    assert kept == ["by hand"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_a_fault_of_the_disk_is_one_of_the_machine(tmp_path: Path, log: Path, number: int) -> None:
    missing = str(tmp_path / "cache" / "staging" / "gone" / "file")
    error = OSError(number, os.strerror(number), missing)
    with pytest.raises(MachineError) as caught:
        run_pipeline(single(log, failing(error)), runner(tmp_path))
    line = str(caught.value)
    assert caught.value.exit_code == 5
    assert line.startswith(f"only: {missing}: {os.strerror(number)}; ")
    assert ("MiB are free there" in line) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert not list((tmp_path / "cache" / "staging").iterdir())
    run_pipeline(single(log, append), runner(tmp_path))
    assert executions(log) == ["only"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_too_little_memory_is_a_fault_of_the_machine(
    tmp_path: Path, log: Path, error: Exception
) -> None:
    with pytest.raises(MachineError, match=r"^only: out of memory; lower its batch_size"):
        run_pipeline(single(log, failing(error)), runner(tmp_path))


def test_other_faults_of_the_program_keep_their_type(tmp_path: Path, log: Path) -> None:
    with pytest.raises(RuntimeError, match="shape"):
        run_pipeline(single(log, failing(RuntimeError("shape"))), runner(tmp_path))
    assert not list((tmp_path / "cache" / "staging").iterdir())


def test_errors_carry_the_name_of_the_step_and_earlier_steps_are_kept(
    tmp_path: Path, log: Path
) -> None:
    broken = stage(failing(DataError("is empty", path="x.json")))
    steps = (step("first", log), step("second", log, {"text": "first.text"}, stage=broken))
    with pytest.raises(DataError, match=r"^second: x\.json: is empty$"):
        run_pipeline(Pipeline(name="p", steps=steps), runner(tmp_path))
    assert list(json.loads((tmp_path / "run/manifest.json").read_text())["steps"]) == ["first"]
    status = json.loads((tmp_path / "run/status.json").read_text())
    assert status["step"] == "second"
    run_pipeline(chain(log), runner(tmp_path))
    assert executions(log) == ["first", "second", "third.part"]


def test_a_stop_before_a_step_starts_nothing(tmp_path: Path, log: Path) -> None:
    stop = StopRequest()
    stop.handle(signal.SIGTERM, None)
    with pytest.raises(Interrupted) as caught:
        run_pipeline(chain(log), runner(tmp_path, stop=stop))
    assert caught.value.exit_code == 143
    assert executions(log) == []


def test_a_stop_during_a_step_lets_it_finish(tmp_path: Path, log: Path) -> None:
    stop = StopRequest()

    def interrupted(
        config: TextConfig, inputs: Inputs, outputs: Outputs, context: Context
    ) -> Metrics:
        stop.handle(signal.SIGINT, None)
        return append(config, inputs, outputs, context)

    steps = (
        step("first", log, stage=stage(interrupted)),
        step("second", log, {"text": "first.text"}),
    )
    with pytest.raises(Interrupted) as caught:
        run_pipeline(Pipeline(name="p", steps=steps), runner(tmp_path, stop=stop))
    assert caught.value.exit_code == 130
    assert executions(log) == ["first"]
    run_pipeline(chain(log), runner(tmp_path))
    assert executions(log) == ["first", "second", "third.part"]


def test_work_that_stops_itself_ends_with_the_code_of_the_signal(tmp_path: Path, log: Path) -> None:
    """The work cannot know which signal it was; the request does."""
    stop = StopRequest()

    def stopping(config: TextConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
        stop.handle(signal.SIGINT, None)
        context.progress_folder.mkdir(parents=True)
        (context.progress_folder / "state").write_text("half")
        raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted) as caught:
        run_pipeline(single(log, stopping), runner(tmp_path, stop=stop))
    assert caught.value.exit_code == 130
    assert caught.value.stage == "only"
    assert [p.read_text() for p in (tmp_path / "cache/progress").rglob("state")] == ["half"]


def test_an_optional_output_may_be_missing_where_nobody_needs_it(tmp_path: Path, log: Path) -> None:
    (record,) = run_pipeline(single(log, append), runner(tmp_path))
    assert set(record.artifacts) == {"text"}
    steps = (step("a", log), step("b", log, {"remark": "a.extra"}, stage=needy()))
    with pytest.raises(ArtifactError, match=r"^b: b\.inputs\.remark: a\.extra was not written$"):
        run_pipeline(Pipeline(name="p", steps=steps), runner(tmp_path))


def test_optional_files_of_a_kind_are_there_where_they_were_written(
    tmp_path: Path, log: Path
) -> None:
    def titled(config: TextConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
        outputs["text"].write_text(config.text)
        outputs["text"].with_name("title.txt").write_text("Title")
        return {}

    steps = (step("plain", log), step("titled", log, stage=stage(titled)))
    plain, other = run_pipeline(Pipeline(name="p", steps=steps), runner(tmp_path))
    assert plain.artifacts["text"].file("title.txt") is None
    title = other.artifacts["text"].file("title.txt")
    assert title is not None
    assert title.read_text() == "Title"
    assert set(other.artifacts["text"].digests) == {"text.txt", "title.txt"}


def test_an_optional_file_is_in_the_key_of_what_reads_it(tmp_path: Path) -> None:
    plain = Artifact(kind=TEXT, folder=tmp_path, digests={"text.txt": "1"})
    titled = replace(plain, digests={"text.txt": "1", "title.txt": "2"})
    reader = step("reader", tmp_path, {"text": "a"})
    keys = {
        key_of(step_identity(reader, {"text": text}, {}, seed=0, device="cpu"))
        for text in (plain, titled, replace(titled, digests={"text.txt": "1", "title.txt": "3"}))
    }
    assert len(keys) == 3


def test_a_stage_that_leaves_a_file_of_its_kind_unwritten_is_a_fault_of_the_program(
    tmp_path: Path, log: Path
) -> None:
    pair = ArtifactKind(name="pair", files=("text.txt", "second.txt"))
    half = stage(outputs={"text": Output(kind=pair)})
    with pytest.raises(AssertionError, match="append did not write its text"):
        run_pipeline(Pipeline(name="p", steps=(step("a", log, stage=half),)), runner(tmp_path))


def test_artifacts_know_what_they_were_made_from(tmp_path: Path, log: Path) -> None:
    for _ in range(2):  # made, and reused
        first, second, third = run_pipeline(chain(log), runner(tmp_path))
        assert first.artifacts["text"].sources == {}
        assert second.artifacts["text"].sources == {"text": first.artifacts["text"]}
        found = third.artifacts["text"].sources["text"]
        assert found.sources["text"].path.read_text() == "first"


def _looking_back(name: str, *, lineage: bool) -> Stage[TextConfig]:
    return stage(name=name, inputs={"text": takes(TEXT, lineage=lineage)})


@pytest.mark.parametrize("lineage", [True, False])
def test_what_an_input_was_made_from_is_in_the_key_of_a_stage_that_looks_there(
    tmp_path: Path, lineage: bool
) -> None:
    reader = step("reader", tmp_path, stage=_looking_back("reader", lineage=lineage))

    def key(first: str) -> str:
        source = Artifact(kind=TEXT, folder=tmp_path, digests={"text.txt": first})
        between = Artifact(
            kind=REMARK, folder=tmp_path, digests={"extra.txt": "same"}, sources={"text": source}
        )
        made = Artifact(
            kind=TEXT, folder=tmp_path, digests={"text.txt": "same"}, sources={"remark": between}
        )
        return key_of(step_identity(reader, {"text": made}, {}, seed=0, device="cpu"))

    assert (key("one") == key("other")) == (not lineage)
    assert key("one") == key("one")


def test_a_run_again_of_what_an_input_was_made_from_reaches_a_stage_that_looks_there(
    tmp_path: Path, log: Path
) -> None:
    """The step between writes the same whatever it reads, so only the lineage differs."""

    def deaf(config: TextConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
        outputs["text"].write_text("always the same")
        return {}

    def run(text: str) -> list[bool]:
        steps = (
            step("first", log, text=text),
            step("between", log, {"text": "first"}, stage=stage(deaf, name="deaf")),
            step("blind", log, {"text": "between"}, stage=_looking_back("blind", lineage=False)),
            step("sees", log, {"text": "between"}, stage=_looking_back("sees", lineage=True)),
        )
        records = run_pipeline(Pipeline(name="p", steps=steps), runner(tmp_path))
        return [record.reused for record in records]

    assert run("one") == [False] * 4
    assert run("other") == [False, False, True, False]
    assert run("one") == [True] * 4


def test_a_stage_is_handed_the_artifacts_of_every_variant(tmp_path: Path, log: Path) -> None:
    greedy = stage(name="greedy", inputs={"all": Input(kinds=frozenset({TEXT}), many=True)})
    steps = (
        step("a", log),
        step("b", log),
        step("c", log, {"all.x": "a", "all.y": "b", "all.z": "a"}, stage=greedy),
    )
    record = run_pipeline(Pipeline(name="p", steps=steps), runner(tmp_path))[-1]
    assert record.artifacts["text"].path.read_text() == "abac"
    assert set(record.artifacts["text"].sources) == {"all.x", "all.y", "all.z"}


def test_material_is_made_once_and_shared(tmp_path: Path, log: Path) -> None:
    made: list[Path] = []

    def build(folder: Path) -> None:
        made.append(folder)
        (folder / "data").write_text("material")

    def using(config: TextConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
        folder = context.materialize({"shapes": 1}, build)
        outputs["text"].write_text((folder / "data").read_text() + config.text)
        return {}

    steps = (step("a", log, stage=stage(using)), step("b", log, stage=stage(using)))
    run_pipeline(Pipeline(name="p", steps=steps), runner(tmp_path))
    assert len(made) == 1
    assert (tmp_path / "run/b/text.txt").read_text() == "materialb"


def test_two_runs_that_share_a_step_make_it_once(tmp_path: Path, log: Path) -> None:
    def run(name: str) -> None:
        shared = replace(
            runner(tmp_path / name), cache=RunCache(tmp_path / "cache", warn=lambda _: None)
        )
        run_pipeline(chain(log), shared)

    children = [forked(partial(run, name)) for name in ("one", "two", "three")]
    assert [exit_code(child) for child in children] == [0, 0, 0]
    assert sorted(executions(log)) == ["first", "second", "third.part"]


def test_checks_come_before_any_work_and_name_the_key(log: Path) -> None:
    def refuse(config: TextConfig) -> None:
        raise ConfigurationError("is too short", path="text")

    pipeline = Pipeline(name="p", steps=(step("a.b", log, stage=stage(check=refuse)),))
    with pytest.raises(ConfigurationError, match=r"^a\.b\.text: is too short$"):
        check_pipeline(pipeline)


def test_checks_of_files_name_the_step(log: Path) -> None:
    def refuse(config: TextConfig) -> None:
        raise DataError("is not there", path=Path("/data"))

    pipeline = Pipeline(name="p", steps=(step("a", log, stage=stage(check=refuse)),))
    with pytest.raises(QuantpipeError, match=r"^a: /data: is not there$"):
        check_pipeline(pipeline)
