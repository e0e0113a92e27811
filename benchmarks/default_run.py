"""Times the default run from an empty cache, the same again, and ``--help``; reports peak memory.

python benchmarks/default_run.py [--json FILE] [--quick] [override ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

QUICK = ("train_repopt.epochs=6", "train_repopt.search.epochs=1", "qat_distill.epochs=1")


@dataclass(frozen=True)
class Timing:
    """What one command took: wall-clock seconds, and the most memory it held, in MiB."""

    command: str
    seconds: float
    peak_mib: float


def main() -> None:
    """Runs, times, prints a table and what the run itself printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="a shorter training")
    parser.add_argument("overrides", nargs="*", help="of the run, such as seed=1")
    arguments = parser.parse_args()
    overrides = (*(QUICK if arguments.quick else ()), *arguments.overrides)
    with tempfile.TemporaryDirectory() as folder:
        timings = [
            timed("first run", overrides, Path(folder)),
            timed("same again", overrides, Path(folder)),
            timed("--help", ("--help",), Path(folder)),
        ]
    print(f"{'command':<12}{'seconds':>9}{'peak MiB':>10}")
    for timing in timings:
        print(f"{timing.command:<12}{timing.seconds:>9.2f}{timing.peak_mib:>10.0f}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(timing) for timing in timings], indent=2))


def timed(name: str, overrides: tuple[str, ...], folder: Path) -> Timing:
    """Runs the command in ``folder`` and waits for it; its table goes to the terminal."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "quantpipe", *overrides], cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return Timing(command=name, seconds=seconds, peak_mib=usage.ru_maxrss / 1024)


if __name__ == "__main__":
    main()
