from __future__ import annotations

import json
from pathlib import Path

import pytest
from faults.store_processes import exit_code, forked
from tests.core.toy import die, on_file_operation

from quantpipe.core.entry import Entry
from quantpipe.core.run_directory import RunDirectory
from quantpipe.errors import BusyError
from quantpipe.files import sha256_bytes, sha256_file


def entry(folder: Path, **files: str) -> Entry:
    """What the cache would hand over; ``a_txt="x"`` is a file a.txt."""
    contents = {name.replace("_", "."): text.encode() for name, text in files.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    digests = {name: sha256_bytes(content) for name, content in contents.items()}
    return Entry(key="k", folder=folder, digests=digests, metrics={}, seconds=1.0)


class Run:
    """A run directory, opened anew each time, as each process does."""

    def __init__(self, root: Path):
        self.root = root
        self.warnings: list[str] = []

    def place(self, step: str, made: Entry) -> None:
        directory = RunDirectory(self.root, warn=self.warnings.append)
        directory.place(step, made)
        directory.write_manifest("p", {})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def test_files_are_copied_to_the_folder_of_the_step(run: Run, tmp_path: Path) -> None:
    made = entry(tmp_path / "object", a_txt="one", b_txt="two")
    run.place("export.qat", made)
    copy = run.root / "export" / "qat" / "a.txt"
    assert copy.read_text() == "one"
    assert not copy.is_symlink()
    assert copy.stat().st_nlink == 1
    copy.write_text("edited")
    assert (made.folder / "a.txt").read_text() == "one"
    recorded = json.loads((run.root / "manifest.json").read_text())["files"]
    assert recorded == {f"export/qat/{name}": digest for name, digest in made.digests.items()}


def test_what_is_there_already_is_left_alone(run: Run, tmp_path: Path) -> None:
    made = entry(tmp_path / "object", a_txt="one")
    run.place("s", made)
    inode = (run.root / "s" / "a.txt").stat().st_ino
    run.place("s", made)
    assert (run.root / "s" / "a.txt").stat().st_ino == inode
    assert not run.warnings


def test_an_edited_file_is_restored_and_the_edit_kept_beside_it(run: Run, tmp_path: Path) -> None:
    made = entry(tmp_path / "object", a_txt="one")
    run.place("s", made)
    (run.root / "s" / "a.txt").write_text("by hand")
    run.place("s", made)
    kept = run.root / "s" / f"a.txt.edited-{sha256_bytes(b'by hand')[:8]}"
    assert kept.read_text() == "by hand"
    assert (run.root / "s" / "a.txt").read_text() == "one"
    assert run.warnings == [
        f"s/a.txt was changed by hand; restored, the change kept as {kept.name}"
    ]


def test_an_older_result_is_replaced_without_a_word(run: Run, tmp_path: Path) -> None:
    run.place("s", entry(tmp_path / "old", a_txt="old"))
    run.place("s", entry(tmp_path / "new", a_txt="new"))
    assert [path.name for path in (run.root / "s").iterdir()] == ["a.txt"]
    assert (run.root / "s" / "a.txt").read_text() == "new"
    assert not run.warnings


def test_a_deleted_file_is_copied_again(run: Run, tmp_path: Path) -> None:
    made = entry(tmp_path / "object", a_txt="one")
    run.place("s", made)
    (run.root / "s" / "a.txt").unlink()
    run.place("s", made)
    assert (run.root / "s" / "a.txt").read_text() == "one"


def test_a_damaged_manifest_costs_no_more_than_a_needless_backup(run: Run, tmp_path: Path) -> None:
    run.place("s", entry(tmp_path / "old", a_txt="old"))
    (run.root / "manifest.json").write_text("{")
    run.place("s", entry(tmp_path / "new", a_txt="new"))
    assert (run.root / "s" / "a.txt").read_text() == "new"
    assert len(run.warnings) == 1


def test_a_kill_at_any_file_operation_leaves_no_half_file(run: Run, tmp_path: Path) -> None:
    made = entry(tmp_path / "object", a_txt="one" * 1000, b_txt="two" * 1000)
    for number in range(1, 60):
        here = Run(tmp_path / f"run{number}")

        def place(here: Run = here, number: int = number) -> None:
            on_file_operation(number, here.root, die)
            here.place("s", made)

        code = exit_code(forked(place))
        for name in made.digests:
            copy = here.root / "s" / name
            assert not copy.exists() or copy.read_bytes() == (made.folder / name).read_bytes()
        here.place("s", made)
        assert not here.warnings
        if code == 0:
            break
        assert code == -9
    assert number > 8


def test_what_killed_writers_left_is_removed_and_nothing_else(run: Run, tmp_path: Path) -> None:
    run.place("s", entry(tmp_path / "object", a_txt="one"))
    random = "0123456789abcdef" * 2
    left = [run.root / "s" / f".a.txt.{random}.tmp", run.root / f".status.json.{random}.tmp"]
    kept = [run.root / "s" / "notes.tmp", run.root / "s" / ".mine.tmp"]
    for path in (*left, *kept):
        path.write_text("x")
    with RunDirectory(run.root, warn=print).held():
        pass
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


def test_a_file_in_the_way_of_a_folder_is_kept_too(run: Run, tmp_path: Path) -> None:
    run.root.mkdir()
    (run.root / "s").write_text("mine")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        run.place("s", entry(tmp_path / "object", a_txt="one"))
    assert (run.root / "s").read_text() == "mine"


def test_one_run_at_a_time(run: Run) -> None:
    first = RunDirectory(run.root, warn=print)
    second = RunDirectory(run.root, warn=print)
    with first.held(), pytest.raises(BusyError), second.held():
        pass


def test_the_status_says_where_the_run_is(run: Run) -> None:
    RunDirectory(run.root, warn=print).write_status("failed", "calibrate", exit_code=3)
    status = json.loads((run.root / "status.json").read_text())
    assert (status["state"], status["step"], status["exit_code"]) == ("failed", "calibrate", 3)


def test_what_an_earlier_run_placed_and_this_one_did_not_goes_unless_edited(
    tmp_path: Path,
) -> None:
    first = RunDirectory(tmp_path / "run", warn=print)
    for step, name in (("old", "a.txt"), ("kept", "b.txt"), ("edited", "c.txt")):
        entry = tmp_path / "cache" / name
        entry.parent.mkdir(exist_ok=True)
        entry.write_text(step)
        first.place(
            step,
            Entry(
                key="0" * 64,
                folder=entry.parent,
                digests={name: sha256_file(entry)},
                metrics={},
                seconds=0.0,
            ),
        )
    first.write_manifest("p", {})
    (tmp_path / "run" / "edited" / "c.txt").write_text("by hand")

    second = RunDirectory(tmp_path / "run", warn=print)
    digest = sha256_file(tmp_path / "cache" / "b.txt")
    entry_kept = Entry(
        key="0" * 64, folder=tmp_path / "cache", digests={"b.txt": digest}, metrics={}, seconds=0.0
    )
    second.place("kept", entry_kept)
    second.remove_unclaimed()
    second.write_manifest("p", {})
    assert not (tmp_path / "run" / "old").exists()
    assert (tmp_path / "run" / "edited" / "c.txt").read_text() == "by hand"
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert list(manifest["files"]) == ["kept/b.txt"]


def test_steps_of_an_earlier_run_are_referred_to_until_this_one_is_over(tmp_path: Path) -> None:
    """A run that is killed early must not give the results of the last one to pruning."""
    root = tmp_path / "run"
    first = RunDirectory(root, warn=print)
    first.write_manifest("p", {"train": {"key": "old"}, "gone": {"key": "other"}})
    second = RunDirectory(root, warn=print)
    second.write_manifest("p", {"train": {"key": "new"}})
    assert steps(root) == {"train": {"key": "new"}, "gone": {"key": "other"}}
    second.remove_unclaimed()
    second.write_manifest("p", {"train": {"key": "new"}})
    assert steps(root) == {"train": {"key": "new"}}


def steps(root: Path) -> object:
    return json.loads((root / "manifest.json").read_text())["steps"]


def test_a_run_replaces_what_the_former_release_placed_unless_it_was_edited(
    run: Run, tmp_path: Path
) -> None:
    contents = {"export/float/onnx.onnx": "graph", "calibrate/scales.json": "ranges"}
    for relative, text in contents.items():
        path = run.root / relative
        path.parent.mkdir(parents=True)
        path.write_text(text)
    files = {relative: sha256_bytes(text.encode()) for relative, text in contents.items()}
    outputs = {"onnx": {"kind": "onnx", "file": "onnx.onnx", "sha256": "1" * 64}}
    record = {"stage": "export", "key": "k", "outputs": outputs}
    manifest = {"pipeline": "ptq", "steps": {"export.float": record}, "files": files}
    (run.root / "manifest.json").write_text(json.dumps(manifest))
    (run.root / "calibrate" / "scales.json").write_text("edited")

    directory = RunDirectory(run.root, warn=run.warnings.append)
    with directory.held():
        directory.place("export.fp32", entry(tmp_path / "object", graph_onnx="graph"))
        directory.write_manifest("ptq", {"export.fp32": {"key": "new"}})
        during = json.loads((run.root / "manifest.json").read_text())["steps"]
        directory.remove_unclaimed()
        directory.write_manifest("ptq", {"export.fp32": {"key": "new"}})

    assert list(during) == ["export.float", "export.fp32"]
    assert not (run.root / "export" / "float").exists()
    assert (run.root / "calibrate" / "scales.json").read_text() == "edited"
    recorded = json.loads((run.root / "manifest.json").read_text())
    assert list(recorded["steps"]) == ["export.fp32"]
    assert list(recorded["files"]) == ["export/fp32/graph.onnx"]
