from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from pathlib import Path

import pytest
from faults.store_processes import exit_code, forked

from quantpipe.core.lock import exclusive_lock, exclusive_lock_or_busy, shared_lock, unshared_lock
from quantpipe.errors import BusyError


def hold(lock: Path, ready: Path, *, with_worker: bool) -> None:
    """Holds the lock, with a forked loader worker perhaps, until it is killed."""
    with exclusive_lock(lock, waiting=print, still_wanted=lambda: None):
        if with_worker:
            worker = forked(lambda: time.sleep(60))
            ready.with_suffix(".tmp").write_text(str(worker))
        else:
            ready.with_suffix(".tmp").write_text("")
        ready.with_suffix(".tmp").rename(ready)
        time.sleep(60)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("with_worker", [False, True])
def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path, with_worker: bool) -> None:
    lock, ready = tmp_path / "locks" / "a.lock", tmp_path / "ready"
    holder = forked(lambda: hold(lock, ready, with_worker=with_worker))
    wait_for(ready)
    with pytest.raises(BusyError), exclusive_lock_or_busy(lock):
        pass
    os.kill(holder, signal.SIGKILL)
    assert exit_code(holder) == -signal.SIGKILL
    start = time.monotonic()
    with exclusive_lock(lock, waiting=pytest.fail, still_wanted=lambda: None):
        assert time.monotonic() - start < 2
    if with_worker:
        worker = int(ready.read_text())
        os.kill(worker, 0)  # it outlives its parent, and holds nothing
        os.kill(worker, signal.SIGKILL)


def test_a_busy_folder_names_its_holder(tmp_path: Path) -> None:
    lock, ready = tmp_path / ".lock", tmp_path / "ready"
    holder = forked(lambda: hold(lock, ready, with_worker=False))
    wait_for(ready)
    with pytest.raises(BusyError) as caught, exclusive_lock_or_busy(lock):
        pass
    os.kill(holder, signal.SIGKILL)
    exit_code(holder)
    assert caught.value.exit_code == 75
    assert f"process {holder} on " in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "run_dir" in str(caught.value)


def test_a_missing_signature_does_not_matter(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with exclusive_lock_or_busy(lock):
        lock.with_suffix(".holder").write_text("{}")
        with (
            pytest.raises(BusyError, match="another process is running here"),
            exclusive_lock_or_busy(lock),
        ):
            pass


def test_the_lock_file_is_never_removed(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with exclusive_lock_or_busy(lock):
        inode = lock.stat().st_ino
    with exclusive_lock_or_busy(lock):
        assert lock.stat().st_ino == inode
    assert lock.exists()


def test_a_waiter_gets_the_lock_when_it_is_released(tmp_path: Path) -> None:
    lock, ready = tmp_path / "a.lock", tmp_path / "ready"

    def briefly() -> None:
        with exclusive_lock(lock, waiting=print, still_wanted=lambda: None):
            ready.touch()
            time.sleep(0.3)

    holder = forked(briefly)
    wait_for(ready)
    told: list[str] = []
    with exclusive_lock(lock, waiting=told.append, still_wanted=lambda: None):
        assert len(told) == 1
    assert exit_code(holder) == 0


def test_a_lock_can_be_had_where_its_signature_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "a.lock"
    with exclusive_lock_or_busy(lock):
        pass

    def full(path: Path, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with exclusive_lock_or_busy(lock):
        assert not lock.with_suffix(".holder").exists()  # an old name would mislead


def test_a_share_does_not_keep_out_another_share(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    assert shared_lock(path) is None
    path.write_text("{}")
    first, second = shared_lock(path), shared_lock(path)
    assert first is not None
    assert second is not None
    with pytest.raises(BusyError), unshared_lock(path):
        pass
    del first, second
    with unshared_lock(path), pytest.raises(BusyError, match="held alone"):
        shared_lock(path)


def test_a_share_in_a_file_that_was_replaced_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "manifest.json"
    path.write_text("old")
    flock = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        (tmp_path / "new").write_text("new")
        (tmp_path / "new").replace(path)
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(BusyError, match="was replaced"):
        shared_lock(path)
