from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from faults.store_processes import exit_code, forked
from tests.core.toy import die, on_file_operation

from quantpipe.core.entry import Built, key_of
from quantpipe.core.lock import unshared_lock
from quantpipe.core.run_cache import RunCache
from quantpipe.errors import BusyError, Interrupted, MachineError
from quantpipe.files import NoRoomError, sha256_bytes

IDENTITY = {"b": 1, "a": [1.5, "x", None]}
KEY = "305604ee83e8727e33b9019e359ffda01bf7e47daed975798b4ad8231b3ea8ba"
FILES = {"first.bin": b"\x00\x01" * 600, "folder/second.txt": b"some text\n"}


def write(folder: Path) -> Built:
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return Built(metrics={"score": 0.5}, seconds=1.25)


def never(folder: Path) -> Built:
    raise AssertionError("built again")


class Store:
    """A folder, and a new cache on it each time, as each process has its own."""

    def __init__(self, root: Path):
        self.root = root
        self.warnings: list[str] = []

    def cache(self) -> RunCache:
        return RunCache(self.root, warn=self.warnings.append)

    def build(self) -> Path:
        entry, _ = self.cache().get_or_build(key_of(IDENTITY), IDENTITY, write)
        return entry.folder

    def in_staging(self) -> list[Path]:
        return list((self.root / "staging").glob("*"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def assert_whole(folder: Path) -> None:
    for name, content in FILES.items():
        assert (folder / name).read_bytes() == content


def test_what_was_built_is_found_by_another_process(store: Store) -> None:
    entry, there = store.cache().get_or_build(KEY, IDENTITY, write)
    assert not there
    again, there = store.cache().get_or_build(KEY, IDENTITY, never)
    assert there
    assert again == entry
    assert again.folder == store.root / "objects" / KEY[:2] / KEY
    assert again.digests == {name: sha256_bytes(content) for name, content in FILES.items()}
    assert (again.metrics, again.seconds) == ({"score": 0.5}, 1.25)
    assert_whole(again.folder)
    assert not store.in_staging()
    assert not store.warnings


def test_the_manifest_says_what_named_the_result(store: Store) -> None:
    manifest = json.loads((store.build() / "manifest.json").read_text())
    assert manifest["identity"] == IDENTITY
    assert manifest["files"]["folder/second.txt"]["size"] == 10


def test_progress_is_kept_until_the_result_is_published(store: Store) -> None:
    def fail(folder: Path) -> Built:
        progress = store.cache().progress_folder(KEY)
        progress.mkdir(parents=True)
        (progress / "state").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        store.cache().get_or_build(KEY, IDENTITY, fail)
    assert (store.cache().progress_folder(KEY) / "state").read_text() == "half"
    store.build()
    assert not store.cache().progress_folder(KEY).exists()


def test_a_writer_that_fails_leaves_nothing(store: Store) -> None:
    def fail(folder: Path) -> Built:
        write(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space"):
        store.cache().get_or_build(KEY, IDENTITY, fail)
    assert not store.in_staging()
    assert store.cache().find(KEY) is None


def test_everything_is_on_the_disk_before_the_rename_and_the_manifest_last(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash of the machine, which no test can kill, keeps what was synced and loses the rest."""
    events: list[str] = []
    sync, rename = os.fsync, Path.rename

    def recorded_sync(fd: Any) -> None:
        events.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        sync(fd)

    def recorded_rename(path: Path, target: Path) -> Path:
        events.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(Path, "rename", recorded_rename)
    store.build()
    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    manifest = next(i for i, name in enumerate(before) if name.startswith(".manifest.json."))
    assert {"first.bin", "second.txt", "folder"} <= set(before[:manifest])
    assert before[manifest + 1].startswith(KEY)  # the folder that now names the manifest
    assert after == [KEY[:2]]


SURVIVED, FAILED = 4, 3


@pytest.mark.parametrize("fault", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_at_any_operation_leaves_nothing_half(store: Store, fault: int) -> None:
    codes = []
    for number in range(1, 100):
        here = Store(store.root / str(number))
        code = exit_code(forked(partial(build_on_failing_disk, here, number, fault)))
        assert not here.in_staging()
        assert_whole(here.build())
        assert not here.warnings
        if code == 0:
            break
        codes.append(code)
    assert set(codes) <= {SURVIVED, FAILED}  # some operations are tried, and may fail
    assert codes.count(FAILED) > 12


def build_on_failing_disk(store: Store, number: int, fault: int) -> None:
    reached = False

    def fail() -> None:
        nonlocal reached
        reached = True
        raise OSError(fault, os.strerror(fault))

    on_file_operation(number, store.root, fail)
    try:
        store.build()
    except (OSError, MachineError):
        os._exit(FAILED)
    if reached:
        os._exit(SURVIVED)


def test_a_kill_at_any_file_operation_costs_no_more_than_the_step(store: Store) -> None:
    for number in range(1, 100):
        here = Store(store.root / str(number))

        def build(here: Store = here, number: int = number) -> None:
            on_file_operation(number, here.root, die)
            here.build()

        code = exit_code(forked(build))
        folder = here.build()
        assert_whole(folder)
        assert not here.warnings
        assert not here.in_staging()
        if code == 0:
            break
        assert code == -9
    assert number > 12


def flip(folder: Path) -> None:
    path = folder / "first.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 0x10
    path.write_bytes(content)


def truncate(folder: Path) -> None:
    os.truncate(folder / "first.bin", 500)


def replace_by_link(folder: Path) -> None:
    target = folder.parents[3] / "elsewhere"
    (folder / "first.bin").rename(target)
    (folder / "extra").symlink_to(target)


def edit_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("0.5", "0.9"))


def forge_manifest(folder: Path) -> None:
    """A manifest that agrees with itself, of another key."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    manifest["key"] = "0" * 64
    path.write_text(json.dumps(manifest | {"sha256": key_of(manifest)}))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "digest of first.bin differs": flip,
    "digest of first.bin differs ": truncate,
    "file missing or too many: first.bin": lambda folder: (folder / "first.bin").unlink(),
    "file missing or too many: extra": lambda folder: (folder / "extra").write_text("x"),
    "file missing or too many: extra ": replace_by_link,
    "its manifest was changed": edit_manifest,
    "its manifest is of another entry": forge_manifest,
    "its manifest cannot be read": lambda folder: os.truncate(folder / "manifest.json", 40),
    "its manifest cannot be read ": lambda folder: (folder / "manifest.json").write_text("[]"),
    "its manifest cannot be read  ": lambda folder: (folder / "manifest.json").write_bytes(b""),
    "No such file or directory: manifest.json": lambda f: (f / "manifest.json").unlink(),
}


@pytest.mark.parametrize("fault", DAMAGE)
def test_a_damaged_entry_is_set_aside_and_built_again(store: Store, fault: str) -> None:
    DAMAGE[fault](store.build())
    assert store.cache().find(KEY) is None
    entry, there = store.cache().get_or_build(KEY, IDENTITY, write)
    assert not there
    assert_whole(entry.folder)
    assert len(store.warnings) == 1
    assert (
        f"{KEY[:12]} is damaged ({fault.strip()}); set aside, to be built again"
        in store.warnings[0]
    )
    assert len(list((store.root / "quarantine").iterdir())) == 1
    assert store.cache().get_or_build(KEY, IDENTITY, never)[1]


def test_every_flipped_bit_of_a_manifest_is_noticed(store: Store) -> None:
    path = store.build() / "manifest.json"
    whole = path.read_bytes()
    for index in range(0, len(whole) * 8, 7):
        flipped = bytearray(whole)
        flipped[index // 8] ^= 1 << index % 8
        path.write_bytes(flipped)
        found = store.cache().find(KEY)
        # Only white space may change without a trace.
        assert found is None or bytes(flipped).split() == whole.split()
    path.write_bytes(whole)
    assert store.cache().find(KEY) is not None


def test_processes_that_want_the_same_result_build_it_once(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def slow(folder: Path) -> Built:
        with log.open("a") as file:
            file.write("built\n")
        time.sleep(0.3)
        return write(folder)

    def obtain() -> None:
        entry, _ = store.cache().get_or_build(KEY, IDENTITY, slow)
        assert_whole(entry.folder)

    children = [forked(obtain) for _ in range(4)]
    assert [exit_code(child) for child in children] == [0] * 4
    assert log.read_text() == "built\n"


def test_whoever_waits_is_told_for_whom_and_can_be_stopped(store: Store, tmp_path: Path) -> None:
    started = tmp_path / "started"

    def slow(folder: Path) -> Built:
        started.touch()
        time.sleep(30)
        return write(folder)

    child = forked(lambda: store.cache().get_or_build(KEY, IDENTITY, slow))
    wait_for(started)

    def stop() -> None:
        raise Interrupted(15)

    cache = RunCache(store.root, warn=store.warnings.append, still_wanted=stop)
    with pytest.raises(Interrupted):
        cache.get_or_build(KEY, IDENTITY, never)
    os.kill(child, 9)
    exit_code(child)
    assert len(store.warnings) == 1
    assert f"waiting for process {child} on " in store.warnings[0]
    assert_whole(store.build())
    assert not store.in_staging()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_fault_that_says_nothing_of_an_entry_does_not_set_it_aside(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.build()

    def too_many(path: Path) -> str:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr("quantpipe.core.entry.sha256_file", too_many)
    with pytest.raises(OSError, match="Too many open files"):
        store.cache().find(KEY)
    monkeypatch.undo()
    assert store.cache().get_or_build(KEY, IDENTITY, never)[1]


def test_a_full_disk_is_told_with_the_bytes_of_the_whole_entry(store: Store) -> None:
    def fail(folder: Path) -> Built:
        (folder / "first.bin").write_bytes(bytes(1000))
        cause = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise NoRoomError(cause, folder / "second.bin", 234)

    with pytest.raises(NoRoomError) as caught:
        store.cache().get_or_build(KEY, IDENTITY, fail)
    assert caught.value.needed == 1234
    assert caught.value.filename.endswith("second.bin")
    assert not store.in_staging()


def test_progress_left_by_a_kill_right_after_publication_goes(store: Store) -> None:
    store.build()
    progress = store.cache().progress_folder(KEY)
    progress.mkdir(parents=True)
    assert store.cache().get_or_build(KEY, IDENTITY, never)[1]
    assert not progress.exists()


def test_staging_of_other_keys_is_cleared_unless_it_is_being_written(store: Store) -> None:
    busy, left = "b" * 64, "a" * 64
    for key in (busy, left):
        (store.root / "staging" / f"{key}.1").mkdir(parents=True)
    with store.cache().lock(busy):
        store.cache().clear_staging()
    assert [path.name[:1] for path in store.in_staging()] == ["b"]


def test_an_entry_that_a_run_found_is_shared_until_the_run_ends(store: Store) -> None:
    manifest = store.build() / "manifest.json"
    run = store.cache()
    run.find(KEY)
    with pytest.raises(BusyError), unshared_lock(manifest):
        pass
    del run
    with unshared_lock(manifest):
        assert store.cache().find(KEY) is None  # it may be gone in a moment
    assert store.cache().find(KEY) is not None
