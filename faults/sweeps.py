"""Sweeps whose folders are nested, equal, used or wanted twice at once, and signals (38, 39).

Jobs are tiny trainings; what one trained another of the same seed reuses.
"""

from __future__ import annotations

import json
import random
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.commands import Command, run_commands
from faults.fork_server import Ended, ForkServer
from faults.tally import Tally

ROWS = (38, 39)

_TINY = (
    "pipelines=ptq",
    "pipeline.steps=[train_repopt]",
    "device=cpu",
    "model.image_size=64",
    "model.width=0.125",
    "model.depth=0.1",
    "data.num_train=4",
    "data.num_val=2",
    "data.difficulty=0",
    "train_repopt.batch_size=4",
    "train_repopt.search.epochs=1",
    "train_repopt.schedule.ema_ramp_steps=1",
)
_SHORT = ("train_repopt.epochs=1", "train_repopt.validate_every=1", "cache_dir=../cache")
_LONG = ("train_repopt.epochs=40", "train_repopt.validate_every=40", "cache_dir=cache")
_LAYOUTS = ("${seed}", "a/${seed}", "a/b/c/${hydra.job.num}", "${hydra.job.num}/x", "s=${seed}")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
_LONGEST = 120.0
_NUM_LAYOUTS, _NUM_USED, _NUM_AT_ONCE, _NUM_SIGNALS = 10, 10, 4, 16


@dataclass(frozen=True, kw_only=True)
class _World:
    """Two servers, as two commands may run at once, and a folder for each fault."""

    root: Path
    servers: tuple[ForkServer, ForkServer]
    rng: random.Random

    def folder(self) -> Path:
        """An empty working directory beside the shared cache."""
        folder = self.root / f"{self.rng.getrandbits(64):x}"
        folder.mkdir(parents=True)
        return folder


def run(seed: int, share: float) -> Tally:
    """Tries a share of each kind."""
    started = time.monotonic()
    tally = Tally(campaign="sweeps", rows=ROWS, seed=seed)
    kinds: tuple[tuple[Callable[[_World], tuple[str, str | None]], int], ...] = (
        (_layout, _NUM_LAYOUTS),
        (_used_before, _NUM_USED),
        (_at_once, _NUM_AT_ONCE),
        (_signaled, _NUM_SIGNALS),
    )
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as temporary,
        ForkServer() as one,
        ForkServer() as other,
    ):
        world = _World(root=Path(temporary), servers=(one, other), rng=random.Random(seed))
        for kind, number in kinds:
            for _ in range(max(1, round(number * share))):
                tally.record(*kind(world))
        tally.seconds = time.monotonic() - started
        run_commands(one, tally, _REFUSED, share)
    return tally


def _layout(world: _World) -> tuple[str, str | None]:
    """Folders at any depth."""
    folder, seeds = world.folder(), _seeds(world.rng)
    subdir = world.rng.choice(_LAYOUTS)
    swept = (_listed(seeds), "hydra.sweep.dir=s", f"hydra.sweep.subdir='{subdir}'")
    ended = world.servers[0].run(folder, "-m", *_TINY, *_SHORT, *swept, timeout=_LONGEST)
    return f"{len(seeds)} jobs in {subdir}", _wrong(ended, folder / "s", seeds)


def _used_before(world: _World) -> tuple[str, str | None]:
    """A folder that holds another sweep, whole or torn."""
    folder, seeds = world.folder(), _seeds(world.rng)
    for number in range(world.rng.randrange(1, 6)):
        job = folder / "s" / world.rng.choice(("", "deep/")) / str(number)
        job.mkdir(parents=True, exist_ok=True)
        code = world.rng.choice((0, 3, 130))
        state = {"state": world.rng.choice(("running", "done", "failed")), "exit_code": code}
        torn = json.dumps(state)[: world.rng.choice((5, None))]
        (job / "status.json").write_text(torn)
    records = folder / "s" / ".jobs" / "former"
    records.mkdir(parents=True)
    (records / "7.json").write_text("{")
    (folder / "s" / "sweep.json").write_text('{"jobs": [{"job": "7"}]}')
    swept = (_listed(seeds), "hydra.sweep.dir=s")
    ended = world.servers[0].run(folder, "-m", *_TINY, *_SHORT, *swept, timeout=_LONGEST)
    return f"{len(seeds)} jobs where others were", _wrong(ended, folder / "s", seeds)


def _at_once(world: _World) -> tuple[str, str | None]:
    """Two commands of one second, without a folder or with the same."""
    folder, named = world.folder(), world.rng.random() < 0.5
    both = [_seeds(world.rng) for _ in world.servers]
    where = ("hydra.sweep.dir=s",) if named else ()
    children = [
        server.start(folder, "-m", *_TINY, *_SHORT, _listed(seeds), *where)
        for server, seeds in zip(world.servers, both, strict=True)
    ]
    ended = [child.wait(_LONGEST) for child in children]
    fault = f"two at once, {'one folder' if named else 'no folder'} named"
    if None in ended:
        return fault, f"had not ended after {_LONGEST:g} s"
    codes = sorted(e.code for e in ended if e is not None)
    if named and codes == [0, 75]:
        first = both[0 if ended[0] is not None and ended[0].code == 0 else 1]
        return fault, _wrong_table(folder / "s", first)
    if codes != [0, 0]:
        return fault, f"exit codes {codes}"
    if named:  # one after the other
        return fault, None if any(_wrong_table(folder / "s", s) is None for s in both) else "mixed"
    folders = list((folder / "outputs" / "sweeps").iterdir())
    unmatched = [s for s in both if all(_wrong_table(f, s) for f in folders)]
    return fault, f"no table of {unmatched}" if len(folders) != 2 or unmatched else None


def _signaled(world: _World) -> tuple[str, str | None]:
    """A signal, or two, at any moment; then the same command again."""
    folder, seeds = world.folder(), sorted(world.rng.sample(range(1000), 3))
    number, twice = world.rng.choice(_SIGNALS), world.rng.random() < 0.3
    moment = 0.3 + 4 * world.rng.random()
    command = ("-m", *_TINY, *_LONG, _listed(seeds), "hydra.sweep.dir=s")
    child = world.servers[0].start(folder, *command)
    time.sleep(moment)
    child.send(number)
    if twice:
        time.sleep(world.rng.random() * 0.2)
        child.send(number)
    ended = child.wait(_LONGEST)
    fault = f"{number.name}{' twice' if twice else ''} after {moment:.2f} s"
    if ended is None:
        return fault, f"had not ended after {_LONGEST:g} s"
    problem = _wrongly_ended(ended, folder / "s", number, seeds)
    again = world.servers[0].run(folder, *command, timeout=_LONGEST)
    return fault, problem or _wrong(again, folder / "s", seeds)


def _wrongly_ended(
    ended: Ended, folder: Path, number: signal.Signals, seeds: Sequence[int]
) -> str | None:
    if number == signal.SIGKILL:
        return None if ended.code in (-number, 0) else f"exit code {ended.code}"
    if ended.code not in (128 + number, 0):
        return f"exit code {ended.code}, told {ended.told}"
    if "Traceback" in ended.err:
        return f"a traceback: {ended.err.splitlines()[-1]}"
    running = [path for path in folder.glob("*/status.json") if _state(path) == "running"]
    if running:
        return f"{len(running)} jobs are still running, they say"
    begun = list(folder.glob("*/status.json"))
    if begun and len(_table(folder)) != len(seeds):
        return f"{len(_table(folder))} of {len(seeds)} jobs are in the table"
    return None


def _state(path: Path) -> str:
    return str(json.loads(path.read_text())["state"])


def _seeds(rng: random.Random) -> list[int]:
    return rng.sample(range(4), rng.randrange(1, 4))


def _listed(seeds: Sequence[int]) -> str:
    return f"seed={','.join(map(str, seeds))}"


def _wrong(ended: Ended, folder: Path, seeds: Sequence[int]) -> str | None:
    if ended.code != 0:
        return f"exit code {ended.code}: {ended.told or ended.err[-200:]}"
    return _wrong_table(folder, seeds)


def _wrong_table(folder: Path, seeds: Sequence[int]) -> str | None:
    """What is wrong with the comparison of jobs of these seeds, each whole in its own folder."""
    rows = _table(folder)
    found = [text for row in rows for text in row["overrides"] if text.startswith("seed=")]
    if found != [f"seed={seed}" for seed in seeds]:
        return f"a table of {found}, not of {list(seeds)}"
    if failures := [row["failure"] for row in rows if row["failure"]]:
        return f"failed: {failures}"
    for row, seed in zip(rows, seeds, strict=True):
        composed = folder / row["job"] / "config.yaml"
        if f"\nseed: {seed}\n" not in f"\n{composed.read_text()}":
            return f"{composed} is of another job"
    return None


def _table(folder: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = json.loads((folder / "sweep.json").read_text())["jobs"]
    except FileNotFoundError:
        return []
    return rows


def _refused(name: str, says: str, *arguments: str) -> Command:
    given = ("-m", "pipelines=ptq", "device=cpu", *arguments)
    return Command(row=38, name=name, prepare=lambda at: given, code=2, says=(says,))


_SHARED = "hydra.sweep.subdir: jobs 0 and 1 would both use"
_REFUSED = (
    _refused("a folder for all", _SHARED, "seed=1,2", "hydra.sweep.subdir=same"),
    _refused("the sweep's own folder for all", _SHARED, "seed=1,2", "hydra.sweep.subdir=."),
    _refused("what all share", _SHARED, "seed=1,2", "hydra.sweep.subdir='${device}'"),
    _refused("the same by a detour", _SHARED, "seed=1,2", "hydra.sweep.subdir=a/../b"),
    _refused(
        "two of three",
        "hydra.sweep.subdir: jobs 0 and 2 would both use",
        "seed=1,2",
        "calibrate.percentile=99,99.9",
        "hydra.sweep.subdir='${calibrate.percentile}'",
    ),
    _refused(
        "a name too long",
        "hydra.sweep.subdir: job 0 would have a folder of 301 characters",
        "seed=1,2",
        f"hydra.sweep.subdir='{'x' * 300}${{hydra.job.num}}'",
    ),
    _refused("no such key", "hydra.sweep.subdir", "seed=1,2", "hydra.sweep.subdir='${none}'"),
    _refused("a run directory", "run_dir: the jobs of a sweep", "seed=1,2", "run_dir=mine"),
    _refused("run directories", "run_dir: the jobs of a sweep", "run_dir=a,b"),
    _refused("the cache's care", "cache: a sweep runs pipelines", "cache=list,verify"),
    _refused("no measure", "objective: nothing called 'mapp'", "objective=mapp of ptq"),
    _refused("no variant", "objective: no variant 'pta'", "objective=map of pta"),
    _refused("objectives apart", "objective: is not the same", "objective=map of ptq,fps of ptq"),
)
