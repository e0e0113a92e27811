"""The command line: Hydra composes, the runner runs, every fault becomes one line and a code.

Nothing heavy is imported before there is work to do.
"""

from __future__ import annotations

import os
import sys
import warnings
from argparse import Namespace
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.types import RunMode
from omegaconf import DictConfig

from quantpipe import __version__
from quantpipe.cli.composition import (
    PRIMARY,
    asks_for_version,
    check_composition,
    config_folder,
    loader,
    read_arguments,
)
from quantpipe.cli.config_source import read_configurations_as_text
from quantpipe.cli.outcome import outcome_of
from quantpipe.cli.sweep import run_sweep
from quantpipe.cli.task import Task
from quantpipe.distributed.launch import launched
from quantpipe.errors import MachineError


def main() -> NoReturn:
    """Runs the command line and exits with its code."""
    # Hydra would print a summary of its own and exit with 1; errors are told here instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    warnings.filterwarnings("ignore", module=r"hydra\..*")
    # What is wrong with an image its reader says, in our words.
    warnings.filterwarnings("ignore", module=r"PIL\..*")
    sys.exit(outcome_of(_take_part).code)


def _take_part() -> None:
    """Runs the command; a launcher's ranks beyond the first wait for what it wants of them."""
    rank = launched()
    if rank is None:
        _command()
        return
    from quantpipe.distributed.world import join_world

    world = join_world(rank)
    if rank.number > 0:
        world.serve()
        return
    with world.leading():
        _command()


def _command() -> None:
    if asks_for_version():
        print(f"quantpipe {__version__}")  # noqa: T201
        return
    _require_working_folder()
    read_configurations_as_text()
    arguments = read_arguments()
    config = None if arguments.shell_completion else check_composition(arguments)
    decorate = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=PRIMARY)
    if config is None or not _is_sweep(arguments, config):
        decorate(Task(folder=Path.cwd()))()
        return
    overrides = list(arguments.overrides)
    code = run_sweep(config, loader(arguments), overrides, lambda task: decorate(task)())
    if code:
        sys.exit(code)


def _require_working_folder() -> None:
    """Refuses to work in a folder that was deleted.

    Raises:
        MachineError: It was.
    """
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise MachineError(
            "the folder that the command was started in is gone", hint="change to another one"
        ) from error


def _is_sweep(arguments: Namespace, config: DictConfig) -> bool:
    shows = arguments.help or arguments.hydra_help or arguments.cfg or arguments.info
    if shows or arguments.run:
        return False
    return bool(arguments.multirun) or config.hydra.mode == RunMode.MULTIRUN
