"""Which training steps a process did, kept where a kill cannot take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_LOG = Path("steps.log")


def observe_steps() -> None:
    """From here on every finished step of a training is a line in the working directory."""
    from quantpipe.training.step import Stepper

    original = Stepper.step

    def step(self: Stepper, *arguments: Any) -> dict[str, float]:
        values = original(self, *arguments)
        session = self.session
        with _LOG.open("a") as log:
            log.write(f"{session.folder}\t{session.counters.step}\n")
        return values

    Stepper.step = step  # type: ignore[method-assign,assignment]


def take_steps(folder: Path) -> dict[str, tuple[int, int]]:
    """The first and the last step, counted from 1, of each training; forgets them."""
    log = folder / _LOG
    if not log.exists():
        return {}
    steps: dict[str, list[int]] = {}
    for line in log.read_text().splitlines():
        training, _, number = line.partition("\t")
        steps.setdefault(training, []).append(int(number))
    log.unlink()
    return {training: (numbers[0], numbers[-1]) for training, numbers in steps.items()}
