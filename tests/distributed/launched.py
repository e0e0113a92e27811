"""A tiny training for a launcher to start: ``python -m tests.distributed.launched FOLDER FATE``."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from safetensors.torch import save_file
from tests.distributed.along import Job, follow, lead
from tests.training.conftest import RECIPE

from quantpipe.core.signals import stop_on_signals
from quantpipe.distributed.launch import launched
from quantpipe.distributed.ranks import run_together
from quantpipe.distributed.world import join_world
from quantpipe.errors import QuantpipeError
from quantpipe.process_group import ProcessGroup
from quantpipe.training.loop import TrainResult


def main(folder: Path, fate: str) -> int:
    """Trains twice, so that the ranks meet twice; returns the exit code."""
    rank = launched()
    assert rank is not None
    world = join_world(rank)
    if rank.number > 0:
        world.serve()
        return 0
    # As the command does: a launcher that lost a rank asks the others to stop.
    with world.leading(), stop_on_signals():
        for number in range(2):
            job = Job(RECIPE, folder / str(number), fate if number else "none")
            result = run_together(
                partial(_lead, job),
                follow,
                job,
                size=rank.size,
                device="cpu",
                timeout_seconds=6,
            )
            save_file(result.weights, folder / f"{number}.safetensors")
    return 0


def _lead(job: Job, processes: ProcessGroup) -> TrainResult:
    return lead(processes, job)


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
    except QuantpipeError as error:
        sys.stderr.write(f"told: {error}\n")
        sys.exit(error.exit_code)
