"""Processes that want the same results at once, while some of them are killed and one prunes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from faults.store_processes import forked, scratch
from faults.store_world import World, contents, entry_files, leftovers
from faults.tally import Tally

from quantpipe.core import maintenance as housekeeping
from quantpipe.core.entry import Built, key_of
from quantpipe.core.run_cache import RunCache
from quantpipe.files import sha256_bytes

PROCESSES = 8
_ROUNDS = {"same step": 60, "same pipeline": 40, "pruned": 30}
_USES = 16  # of results, by each process of a round
_DEADLINE_SECONDS = 30.0
# A waiter looks twenty times a second; the rest is a machine that is busy.
_AT_ONCE_SECONDS = 3.0
_IDENTITY = {"stage": "wanted"}
_KEY = key_of(_IDENTITY)
_BUILT, _REUSED = 10, 11


def run(seed: int, share: float) -> Tally:
    """All rounds, or a share of each kind."""
    return campaign(seed, share, tuple(_ROUNDS))


def campaign(seed: int, share: float, kinds: Sequence[str]) -> Tally:
    """The rounds of these kinds."""
    chance = random.Random(seed)
    tally = Tally(campaign="concurrency", rows=(12, 13), seed=seed)
    start = time.monotonic()
    takeovers: list[float] = []
    with scratch() as folder:
        for kind in kinds:
            for number in range(max(1, round(share * _ROUNDS[kind]))):
                here = folder / "round"
                problem = _KINDS[kind](here, chance, tally, takeovers)
                tally.record(f"{kind}, round {number}", problem)
                shutil.rmtree(here)
    if takeovers:
        tally.measured["median seconds until a killed holder's lock was taken"] = statistics.median(
            takeovers
        )
        tally.measured["longest seconds until a killed holder's lock was taken"] = max(takeovers)
    tally.seconds = time.monotonic() - start
    return tally


@dataclass
class _Log:
    """Lines ``<what> <pid> <seconds>`` that processes append to."""

    path: Path

    def add(self, what: str, pid: int) -> None:
        line = f"{what} {pid} {time.monotonic():.6f}\n".encode()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line)
        os.close(descriptor)

    def all(self, *kinds: str) -> list[tuple[str, int, float]]:
        """The lines of these kinds, in order."""
        if not self.path.exists():
            return []
        lines = (line.split() for line in self.path.read_text().splitlines())
        return [(what, int(pid), float(at)) for what, pid, at in lines if what in kinds]


@dataclass
class _Crowd:
    """Forked processes, and how they end."""

    log: _Log
    alive: set[int] = field(default_factory=set)
    codes: dict[int, int] = field(default_factory=dict)

    def start(self, work: Callable[[], int]) -> None:
        """Starts one that exits with what ``work`` returns."""
        self.alive.add(forked(lambda: os._exit(work())))

    def kill(self, pid: int) -> None:
        """Kills one of them and notes when."""
        self.log.add("killed", pid)
        os.kill(pid, signal.SIGKILL)

    def wait(self, seconds: float) -> bool:
        """Waits so long at most; whether all have ended."""
        end = time.monotonic() + seconds
        while self.alive and time.monotonic() < end:
            for pid in list(self.alive):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self.alive.discard(pid)
                    self.codes[pid] = os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        return not self.alive

    def end(self) -> None:
        """Kills what is left, also loader workers that outlived their parents."""
        for pid in self.alive:
            os.kill(pid, signal.SIGKILL)
        self.wait(_DEADLINE_SECONDS)
        for _, pid, _ in self.log.all("worker"):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _same_step(
    folder: Path, chance: random.Random, tally: Tally, takeovers: list[float]
) -> str | None:
    """Eight want one entry; up to three holders are killed, their loader workers live on."""
    folder.mkdir()
    world, log = World(folder), _Log(folder / "events")
    crowd = _Crowd(log)
    work_seconds = chance.uniform(0.005, 0.03)
    for _ in range(PROCESSES):
        crowd.start(partial(_want, folder, log, work_seconds))
    kills = chance.choice((0, 1, 1, 2, 3))
    for number in range(kills):
        _kill_holder(crowd, number, chance.uniform(0, work_seconds))
    finished = crowd.wait(_DEADLINE_SECONDS)
    workers_alive = [pid for _, pid, _ in log.all("worker") if Path(f"/proc/{pid}").exists()]
    crowd.end()
    if not finished:
        return "deadlock"
    takeovers += (waits := _takeovers(log))
    killed = {pid for _, pid, _ in log.all("killed")}
    survivors = {pid: code for pid, code in crowd.codes.items() if pid not in killed}
    problems = [
        _not_once(log, killed, survivors, tally),
        _unlike(world, tally),
        f"a lock stayed for {max(waits):.1f} s" if max(waits, default=0) > _AT_ONCE_SECONDS else "",
        "no loader worker outlived its parent" if killed and not workers_alive else "",
    ]
    return "; ".join(filter(None, problems)) or None


def _want(folder: Path, log: _Log, work_seconds: float) -> int:
    def write(place: Path) -> Built:
        log.add("worker", forked(lambda: time.sleep(_DEADLINE_SECONDS)))
        log.add("start", os.getpid())
        for name, content in entry_files("wanted").items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            time.sleep(work_seconds)
        log.add("end", os.getpid())
        return Built(metrics={}, seconds=0.0)

    cache = RunCache(folder / "root" / "cache", warn=lambda _: None)
    entry, there = cache.get_or_build(_KEY, _IDENTITY, write)
    right = all((entry.folder / n).read_bytes() == c for n, c in entry_files("wanted").items())
    return (_REUSED if there else _BUILT) if right else 1


def _kill_holder(crowd: _Crowd, already: int, after: float) -> None:
    """Kills whoever is writing, once one more than ``already`` have begun."""
    end = time.monotonic() + _DEADLINE_SECONDS
    while len(crowd.log.all("start")) <= already and time.monotonic() < end:
        if crowd.log.all("end"):
            return
        time.sleep(0.002)
    time.sleep(after)
    _, pid, _ = crowd.log.all("start")[-1]
    if not any(ended == pid for _, ended, _ in crowd.log.all("end")):
        crowd.kill(pid)


def _takeovers(log: _Log) -> list[float]:
    """Seconds from each kill of a holder to the next start."""
    found, killed_at = [], None
    for what, _, at in log.all("killed", "start"):
        if what == "start" and killed_at is not None:
            found.append(at - killed_at)
        killed_at = at if what == "killed" else None
    return found


def _not_once(log: _Log, killed: set[int], survivors: dict[int, int], tally: Tally) -> str | None:
    """A result is computed once, apart from those who were killed over it."""
    if set(survivors.values()) - {_BUILT, _REUSED}:
        return f"survivors ended with {sorted(set(survivors.values()))}"
    ended = {pid for _, pid, _ in log.all("end")}
    built = list(survivors.values()).count(_BUILT)
    at_work: set[int] = set()
    together = 0
    for what, pid, _ in log.all("start", "end", "killed"):
        if what == "start":
            together += bool(at_work)
            at_work.add(pid)
        else:
            at_work.discard(pid)
    duplicates = max(0, built - 1) + together
    tally.duplicates += duplicates
    if duplicates:
        return f"{built} survivors computed it, {together} while another did"
    if not built and not ended & killed:
        return "nobody computed it"
    return None


def _unlike(world: World, tally: Tally) -> str | None:
    folder = world.cache_root / "objects" / _KEY[:2] / _KEY
    there = contents(folder)
    there.pop("manifest.json", None)
    left = leftovers(world)
    tally.temporary_files += len(left)
    if there != {name: sha256_bytes(c) for name, c in entry_files("wanted").items()}:
        tally.wrong_results += 1
        return "the published result is wrong"
    return f"left over: {left[:2]}" if left else None


def _same_pipeline(
    folder: Path, chance: random.Random, tally: Tally, takeovers: list[float]
) -> str | None:
    """Eight runs of one pipeline in directories of their own; up to two are killed at any time."""
    folder.mkdir()
    crowd = _Crowd(_Log(folder / "events"))
    for number in range(PROCESSES):
        crowd.start(partial(_run_in, folder, f"run{number}"))
    killed = set()
    for _ in range(chance.choice((0, 1, 2))):
        time.sleep(chance.uniform(0, 0.04))
        crowd.wait(0.002)
        if crowd.alive:
            pid = chance.choice(sorted(crowd.alive))
            crowd.kill(pid)
            killed.add(pid)
    finished = crowd.wait(_DEADLINE_SECONDS)
    crowd.end()
    if not finished:
        return "deadlock"
    world = World(folder, run_name="last")
    failed = [code for pid, code in crowd.codes.items() if code and pid not in killed]
    world.run()
    done = [line for line in world.executions() if ":" not in line]
    again = len(done) - len(set(done))
    tally.duplicates += (beyond := max(0, again - len(killed)))
    left = leftovers(world)
    tally.temporary_files += len([name for name in left if name.startswith("cache")])
    problems = [
        f"survivors ended with {failed}" if failed else "",
        f"{beyond} steps were done twice" if beyond else "",
        f"left over: {left[:2]}" if [name for name in left if name.startswith("cache")] else "",
        _differing(folder, crowd, killed, tally),
    ]
    return "; ".join(filter(None, problems)) or None


def _run_in(folder: Path, name: str) -> int:
    World(folder, run_name=name).run()
    return 0


def _differing(folder: Path, crowd: _Crowd, killed: set[int], tally: Tally) -> str | None:
    """Every finished run directory holds the same files."""
    trees = [
        {n: d for n, d in contents(run).items() if n.count("/") and not n.startswith(".")}
        for run in (status.parent for status in (folder / "root").glob("run*/status.json"))
        if '"done"' in (run / "status.json").read_text()
    ]
    wrong = sum(tree != trees[0] for tree in trees)
    tally.wrong_results += wrong
    if len(trees) < PROCESSES - len(killed):
        return f"only {len(trees)} runs are done"
    return f"{wrong} runs differ" if wrong else None


def _pruned(
    folder: Path, chance: random.Random, tally: Tally, takeovers: list[float]
) -> str | None:
    """Four processes use results again and again while another prunes without a rest."""
    folder.mkdir()
    crowd, done = _Crowd(_Log(folder / "events")), folder / "done"
    for number in range(4):
        crowd.start(partial(_use, folder, random.Random(chance.random() + number)))
    pruner = _Crowd(_Log(folder / "pruner"))
    pruner.start(partial(_prune_until, folder, done))
    finished = crowd.wait(_DEADLINE_SECONDS)
    done.touch()
    stopped = pruner.wait(_DEADLINE_SECONDS)
    crowd.end()
    pruner.end()
    if not finished or not stopped:
        return "deadlock"
    wrong = [code for code in crowd.codes.values() if code]
    tally.wrong_results += len(wrong)
    failed = [code for code in pruner.codes.values() if code]
    return "results went while they were used" if wrong else "pruning failed" if failed else None


def _use(folder: Path, chance: random.Random) -> int:
    """Finds or makes an entry as a run does, and reads it after a while."""
    for _ in range(_USES):
        name = chance.choice("abc")
        place = World(folder).publish(name)  # its share in the entry ends here
        world, identity = World(folder), {"stage": name}
        cache = world.cache()
        entry, _ = cache.get_or_build(key_of(identity), identity, partial(world.write, name))
        time.sleep(chance.uniform(0, 0.01))
        for file, content in entry_files(name).items():
            assert (entry.folder / file).read_bytes() == content
        assert entry.folder == place
    return 0


def _prune_until(folder: Path, done: Path) -> int:
    # Only locks and shares protect what is in use, not that it was used just now.
    housekeeping._IN_USE_SECONDS = -1e9
    world = World(folder)
    (folder / "runs").mkdir()
    while not done.exists():
        later = time.time() + 1e6
        housekeeping.prune(
            world.cache_root, folder / "runs", max_age_days=0, max_bytes=None, now=later
        )
    return 0


_KINDS: dict[str, Callable[[Path, random.Random, Tally, list[float]], str | None]] = {
    "same step": _same_step,
    "same pipeline": _same_pipeline,
    "pruned": _pruned,
}
