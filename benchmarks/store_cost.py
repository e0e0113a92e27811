"""What the store costs a run: digests, syncs, locks and copies, as seconds and as a share.

python benchmarks/store_cost.py [--json FILE] [--quick] [OVERRIDE ...]

Runs the command three times in a new folder: from nothing, and twice with everything cached. Each
function of the store is timed where it is called, in the process that calls it; what one calls
inside another is counted once, for the innermost. Syncs are all of the process, those of the saved
states of a training too. Waiting for another process's lock is no cost of the store and does not
occur here. ``--quick`` runs a task of a minute; without it, the default run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from pathlib import Path
from typing import Any

RUNS = ("from nothing", "cached", "cached again")
QUICK = (
    "model.image_size=64",
    "data.num_train=64",
    "data.num_val=16",
    "data.difficulty=0",
    "train_repopt.batch_size=8",
    "train_repopt.epochs=14",
    "train_repopt.validate_every=14",
    "train_repopt.search.epochs=3",
    "train_repopt.schedule.ema_ramp_steps=20",
    "qat_distill.epochs=1",
    "calibrate.num_images=32",
    "sensitivity.method=gradient",
    "sensitivity.num_images=16",
    "evaluate.num_runs=3",
    "evaluate.num_warmup=1",
    "evaluate.parity.num_images=8",
    "evaluate.num_examples=1",
)
_TIMED = "--timed"


class Clock:
    """Seconds by what they were spent on, of calls within calls the innermost alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._inner: list[float] = []

    def timed(self, what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a function so that its seconds are counted as ``what``."""

        @wraps(call)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            self._inner.append(0.0)
            try:
                return call(*arguments, **named)
            finally:
                whole = time.perf_counter() - start
                own = whole - self._inner.pop()
                self.seconds[what] = self.seconds.get(what, 0.0) + own
                self.calls[what] = self.calls.get(what, 0) + 1
                if self._inner:
                    self._inner[-1] += whole

        return wrapper

    def entered(
        self, what: str, manager: Callable[..., AbstractContextManager[Any]]
    ) -> Callable[..., AbstractContextManager[Any]]:
        """Wraps a context manager so that entering it is counted, and not its body."""
        clock = self

        class Timed:
            def __init__(self, *arguments: Any, **named: Any) -> None:
                self._manager = manager(*arguments, **named)
                self.__enter = clock.timed(what, self._manager.__enter__)

            def __enter__(self) -> Any:
                return self.__enter()

            def __exit__(self, *fault: Any) -> Any:
                return self._manager.__exit__(*fault)

        return Timed


def main() -> None:
    """Runs, prints the table, and writes the figures."""
    if sys.argv[1:2] == [_TIMED]:
        _run_timed(Path(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the figures to a file")
    parser.add_argument("--quick", action="store_true", help="a task of a minute")
    parser.add_argument("overrides", nargs="*", help="of the command")
    arguments = parser.parse_args()
    overrides = [*(QUICK if arguments.quick else ()), *arguments.overrides]
    with tempfile.TemporaryDirectory() as folder:
        figures = {name: _measured(Path(folder), overrides) for name in RUNS}
    for name, found in figures.items():
        parts = ", ".join(f"{what} {value:.3f} s" for what, value in found["parts"].items())
        store, share = found["store_seconds"], 100 * found["share"]
        print(f"{name}: {found['seconds']:.1f} s, of which the store {store:.2f} s = {share:.2f} %")
        print(f"  {parts}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"overrides": overrides, "runs": figures}, indent=2))


def _measured(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """One run in a process of its own: whole seconds, those in the store, and on what."""
    report = folder / "times.json"
    command = [sys.executable, str(Path(__file__).absolute()), _TIMED, str(report), *overrides]
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    found = json.loads(report.read_text())
    spent = sum(found["seconds"].values())
    return {
        "seconds": seconds,
        "store_seconds": spent,
        "share": spent / seconds,
        "parts": found["seconds"],
        "calls": found["calls"],
    }


def _run_timed(report: Path, overrides: list[str]) -> None:
    clock = Clock()
    _install(clock)
    from quantpipe.cli.command import main as command

    sys.argv = ["quantpipe", *overrides]
    try:
        command()
    finally:
        report.write_text(json.dumps({"seconds": clock.seconds, "calls": clock.calls}))


def _install(clock: Clock) -> None:
    """Times the store's functions where they are called, before anything else is imported."""
    from quantpipe.core import entry, run_cache, run_directory
    from quantpipe.core.run_cache import RunCache
    from quantpipe.core.run_directory import RunDirectory

    def replace(owner: Any, name: str, what: str, wrap: Any = clock.timed) -> None:
        setattr(owner, name, wrap(what, getattr(owner, name)))

    replace(os, "fsync", "syncs")
    replace(run_cache, "exclusive_lock", "locks", clock.entered)
    replace(run_directory, "exclusive_lock_or_busy", "locks", clock.entered)
    replace(run_cache, "shared_lock", "locks")
    for module in (entry, run_directory):
        replace(module, "sha256_file", "digests")
    replace(run_cache, "seal", "manifests")
    replace(run_cache, "verify", "manifests")
    replace(RunCache, "clear_staging", "leftovers")
    for name in ("place", "write_manifest", "write_status", "remove_unclaimed"):
        replace(RunDirectory, name, "run directory")


if __name__ == "__main__":
    main()
