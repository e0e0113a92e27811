from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from quantpipe.core.entry import Built, key_of
from quantpipe.core.lock import exclusive_lock_or_busy
from quantpipe.core.maintenance import beside_results, listed, prune, verified
from quantpipe.core.run_cache import RunCache
from quantpipe.errors import ArtifactError

DAY = 86_400.0
SIZE = 1000


class House:
    """A store whose entries are as old as a test wants, and a folder of runs."""

    def __init__(self, folder: Path):
        self.root, self.runs = folder / "cache", folder / "runs"
        self.runs.mkdir()
        self.warnings: list[str] = []

    def cache(self) -> RunCache:
        return RunCache(self.root, warn=self.warnings.append)

    def add(self, name: str, *, days: float) -> str:
        identity = {"stage": "export", "config": name}
        key = key_of(identity)

        def write(folder: Path) -> Built:
            (folder / "file.bin").write_bytes(b"x" * SIZE)
            return Built(metrics={}, seconds=1.0)

        entry, _ = self.cache().get_or_build(key, identity, write)
        then = time.time() - days * DAY
        os.utime(entry.folder, (then, then))
        return key

    def refer(self, key: str) -> None:
        run = self.runs / "deep" / "run"
        run.mkdir(parents=True)
        manifest = {"pipeline": "p", "steps": {"export": {"key": key}}, "files": {}}
        (run / "manifest.json").write_text(json.dumps(manifest))

    def prune(self, *, days: float | None = None, size: int | None = None) -> list[str]:
        pruned = prune(self.root, self.runs, max_age_days=days, max_bytes=size, now=time.time())
        assert not list((self.root / "staging").glob("*"))
        return [kept.key for kept in pruned.removed]

    def keys(self) -> list[str]:
        return [kept.key for kept in listed(self.root, self.runs)]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_the_list_tells_stage_size_and_reference_of_each_entry_oldest_first(house: House) -> None:
    new, old = house.add("new", days=1), house.add("old", days=5)
    house.refer(new)
    first, second = listed(house.root, house.runs)
    assert (first.key, first.referred, first.stage) == (old, False, "export")
    assert (second.key, second.referred) == (new, True)
    manifest = second.folder / "manifest.json"
    assert second.size == SIZE + manifest.stat().st_size


def test_prune_by_age_removes_what_is_old_and_no_run_refers_to(house: House) -> None:
    old, referred, new = (house.add(n, days=d) for n, d in (("a", 9), ("b", 9), ("c", 2)))
    house.refer(referred)
    assert house.prune(days=5) == [old]
    assert set(house.keys()) == {referred, new}


def test_prune_by_size_removes_the_longest_unused_until_the_rest_fits(house: House) -> None:
    keys = [house.add(str(days), days=days) for days in (4, 3, 2, 1)]
    each = listed(house.root, house.runs)[0].size
    assert house.prune(size=2 * each + 100) == keys[:2]
    assert house.keys() == keys[2:]


def test_without_a_limit_nothing_is_removed(house: House) -> None:
    house.add("old", days=900)
    assert house.prune() == []


def test_what_was_used_within_the_hour_stays(house: House) -> None:
    key = house.add("a", days=9)
    assert house.cache().find(key) is not None  # a run that reuses it
    assert house.prune(days=0, size=0) == []


def test_what_a_process_holds_is_left_alone_and_said(house: House) -> None:
    key = house.add("a", days=9)
    with exclusive_lock_or_busy(house.root / "locks" / f"{key}.lock"):
        pruned = prune(house.root, house.runs, max_age_days=1, max_bytes=None, now=time.time())
    assert [kept.key for kept in pruned.busy] == [key]
    assert house.keys() == [key]


def test_prune_clears_what_killed_writers_left_and_old_progress(house: House) -> None:
    house.add("a", days=0)
    (house.root / "staging" / "aa.123").mkdir(parents=True)
    (house.root / "staging" / "aa.123" / "half").write_bytes(b"x" * 77)
    progress = house.root / "progress" / "bb"
    progress.mkdir(parents=True)
    then = time.time() - 9 * DAY
    os.utime(progress, (then, then))
    young = house.root / "progress" / "cc"
    young.mkdir()
    pruned = prune(house.root, house.runs, max_age_days=5, max_bytes=None, now=time.time())
    assert pruned.leftover_bytes == 77
    assert [(kept.stage, kept.folder) for kept in pruned.removed] == [("saved progress", progress)]
    assert not list((house.root / "staging").glob("*"))
    assert not progress.exists()
    assert young.exists()


def test_a_limit_counts_and_takes_saved_progress_and_damaged_results(house: House) -> None:
    """The longest unused goes first, whatever it is; a result of the same key is another thing."""
    key = house.add("a", days=2)
    size = listed(house.root, house.runs)[0].size
    for place, name, days in (("progress", key, 4), ("quarantine", "cc.0123", 3)):
        folder = house.root / place / name
        folder.mkdir(parents=True)
        (folder / "state").write_bytes(b"x" * 5000)
        then = time.time() - days * DAY
        for path in (folder / "state", folder):
            os.utime(path, (then, then))
    beside = beside_results(house.root)
    assert [(kept.stage, kept.size) for kept in beside] == [
        ("saved progress", 5000),
        ("set aside", 5000),
    ]
    assert house.prune(size=10_000 + size) == []
    assert house.prune(size=5000 + size) == [key]
    assert [kept.stage for kept in beside_results(house.root)] == ["set aside"]
    assert house.keys() == [key]
    assert house.prune(size=size) == ["cc"]
    assert house.prune(size=0) == [key]


def test_the_progress_of_work_that_goes_on_is_left_alone(house: House) -> None:
    house.add("a", days=0)
    folder = house.root / "progress" / "bb"
    folder.mkdir(parents=True)
    (folder / "state").write_bytes(b"x" * 5000)
    then = time.time() - 9 * DAY
    for path in (folder / "state", folder):
        os.utime(path, (then, then))
    with exclusive_lock_or_busy(house.root / "locks" / "bb.lock"):
        assert house.prune(size=0, days=0) == []
    assert house.prune(size=0, days=0) == ["bb"]


def test_verify_sets_aside_exactly_the_damaged_entries(house: House) -> None:
    whole, flipped, cut = (house.add(n, days=1) for n in "abc")
    folders = {kept.key: kept.folder for kept in listed(house.root, house.runs)}
    content = bytearray((folders[flipped] / "file.bin").read_bytes())
    content[500] ^= 1
    (folders[flipped] / "file.bin").write_bytes(content)
    (folders[cut] / "file.bin").unlink()
    entries = listed(house.root, house.runs)
    damaged = verified(house.cache(), entries, still_wanted=lambda: None)
    assert {kept.key for kept, _ in damaged} == {flipped, cut}
    assert house.keys() == [whole]
    assert len(list((house.root / "quarantine").iterdir())) == 2
    assert len(house.warnings) == 2


def test_a_damaged_manifest_is_still_listed(house: House) -> None:
    house.add("a", days=1)
    (kept,) = listed(house.root, house.runs)
    (kept.folder / "manifest.json").write_text("[")
    assert listed(house.root, house.runs)[0].stage == "?"


def test_prune_leaves_what_a_run_reads_for_hours(house: House) -> None:
    key = house.add("a", days=9)
    run = house.cache()
    entry = run.find(key)
    assert entry is not None
    then = time.time() - 9 * DAY
    os.utime(entry.folder, (then, then))  # as after many hours of the run
    assert house.prune(days=5) == []
    del run
    assert house.prune(days=5) == [key]


def test_prune_leaves_what_was_used_since_it_was_listed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = house.add("a", days=9)

    @contextmanager
    def used_meanwhile(path: Path) -> Iterator[None]:
        assert house.cache().find(key) is not None
        yield

    monkeypatch.setattr("quantpipe.core.maintenance.exclusive_lock_or_busy", used_meanwhile)
    assert house.prune(days=5) == []
    assert house.keys() == [key]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"steps": {"a": 1}}'])
def test_prune_refuses_to_guess_what_a_run_refers_to(house: House, text: str) -> None:
    house.refer(house.add("a", days=9))
    run = house.runs / "deep" / "run"
    (run / "status.json").write_text("{}")
    (run / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match="would not be kept"):
        house.prune(days=5)
    assert len(house.keys()) == 1


def test_prune_sees_runs_behind_links_and_rings_of_links(house: House, tmp_path: Path) -> None:
    key = house.add("a", days=9)
    house.refer(key)
    (house.runs / "deep").rename(tmp_path / "elsewhere")
    (house.runs / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "ring").symlink_to(house.runs)
    assert house.prune(days=5) == []


def test_prune_keeps_progress_that_was_saved_since_it_looked(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = house.root / "progress" / "bb"
    progress.mkdir(parents=True)
    then = time.time() - 9 * DAY
    os.utime(progress, (then, then))

    @contextmanager
    def saved_meanwhile(path: Path) -> Iterator[None]:
        (progress / "state").write_text("new")
        yield

    monkeypatch.setattr("quantpipe.core.maintenance.exclusive_lock_or_busy", saved_meanwhile)
    house.prune(days=5)
    assert (progress / "state").exists()


FORMER_IDENTITY = {
    "stage": "export",
    "version": 2,
    "config": {"quantized": False},
    "content": {},
    "inputs": {"checkpoint": ["checkpoint", "1" * 64]},
    "seed": 0,
    "device": "cpu",
}


def former_entry(house: House) -> str:
    """An entry as the release before wrote it, by hand: its identity, its names of files."""
    key = key_of(FORMER_IDENTITY)
    folder = house.root / "objects" / key[:2] / key
    folder.mkdir(parents=True)
    content = b"a graph"
    (folder / "onnx.onnx").write_bytes(content)
    files = {"onnx.onnx": {"size": len(content), "sha256": sha256(content).hexdigest()}}
    manifest = {
        "format": 1,
        "key": key,
        "identity": FORMER_IDENTITY,
        "files": files,
        "metrics": {},
        "seconds": 1.5,
    }
    sealed = manifest | {"sha256": key_of(manifest)}
    (folder / "manifest.json").write_text(json.dumps(sealed))
    then = time.time() - 9 * DAY
    os.utime(folder, (then, then))
    return key


def former_run(house: House, key: str) -> None:
    digest = sha256(b"a graph").hexdigest()
    record = {
        "stage": "export",
        "key": key,
        "seconds": 1.5,
        "reused": False,
        "outputs": {"onnx": {"kind": "onnx", "file": "onnx.onnx", "sha256": digest}},
        "metrics": {},
    }
    run = house.runs / "former"
    run.mkdir()
    files = {"export/float/onnx.onnx": digest}
    manifest = {"pipeline": "ptq", "steps": {"export.float": record}, "files": files}
    (run / "manifest.json").write_text(json.dumps(manifest))
    (run / "status.json").write_text("{}")


def test_entries_of_the_former_release_are_listed_verified_and_pruned(house: House) -> None:
    key = former_entry(house)
    (kept,) = listed(house.root, house.runs)
    assert (kept.key, kept.stage, kept.referred) == (key, "export", False)
    assert verified(house.cache(), [kept], still_wanted=lambda: None) == ()
    assert house.prune(days=5) == [key]
    assert house.keys() == []


def test_a_damaged_entry_of_the_former_release_is_set_aside(house: House) -> None:
    key = former_entry(house)
    (kept,) = listed(house.root, house.runs)
    (kept.folder / "onnx.onnx").write_bytes(b"a graft")
    ((damaged, fault),) = verified(house.cache(), [kept], still_wanted=lambda: None)
    assert (damaged.key, fault) == (key, "digest of onnx.onnx differs")
    assert house.keys() == []


def test_what_a_run_of_the_former_release_refers_to_is_kept(house: House) -> None:
    key = former_entry(house)
    former_run(house, key)
    (kept,) = listed(house.root, house.runs)
    assert kept.referred
    assert house.prune(days=5) == []
