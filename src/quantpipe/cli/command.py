"""The command line: Hydra composes, the runner runs, every fault becomes one line and a code.

Nothing heavy is imported before there is work to do.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from quantpipe import __version__
from quantpipe.cli.cache import keep_house
from quantpipe.cli.composition import (
    COMPOSITION_FAULTS,
    PRIMARY,
    asks_for_version,
    check_composition,
    config_folder,
    read_arguments,
)
from quantpipe.cli.config import CheckedRun, read_cache_settings, read_run
from quantpipe.cli.config_source import read_configurations_as_text
from quantpipe.cli.explain import explain
from quantpipe.cli.run import report_sweep, run_checked
from quantpipe.distributed.launch import launched
from quantpipe.errors import Interrupted, MachineError, QuantpipeError

_INTERNAL_ERROR = 1
_BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def main() -> NoReturn:
    """Runs the command line and exits with its code."""
    # Hydra would print a summary of its own and exit with 1; errors are told here instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    warnings.filterwarnings("ignore", module=r"hydra\..*")
    # What is wrong with an image its reader says, in our words.
    warnings.filterwarnings("ignore", module=r"PIL\..*")
    sys.exit(_exit_code(_take_part))


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
    if not arguments.shell_completion:
        check_composition(arguments)
    decorate = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=PRIMARY)
    decorate(_task)()


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


def _exit_code(work: Callable[[], Any]) -> int:
    try:
        work()
    except Interrupted as error:
        # The end has begun: another signal would only tell it a second time.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        return _tell(error)
    except QuantpipeError as error:
        return _tell(error)
    except COMPOSITION_FAULTS as error:
        return _tell(explain(error))
    except BrokenPipeError:
        # Whoever read the output has enough of it (``quantpipe --help | head``).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("quantpipe: interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except Exception as error:  # noqa: BLE001 - the last line of defense: one line, or the traceback
        return _tell_internal(error)
    return 0


def _debugging() -> bool:
    """Whether the command line asks for tracebacks, also before it is composed."""
    return any(text.lower() == "debug=true" for text in sys.argv)


def _tell(error: QuantpipeError) -> int:
    if _debugging():
        traceback.print_exception(error)
    print(f"quantpipe: error: {error}", file=sys.stderr)  # noqa: T201
    return error.exit_code


def _tell_internal(error: Exception) -> int:
    if _debugging():
        traceback.print_exception(error)
    text = " ".join(str(error).split()) or "no message"
    kind = type(error).__name__
    line = f"quantpipe: internal error: {kind}: {text}; run with debug=true for the traceback"
    print(line, file=sys.stderr)  # noqa: T201
    return _INTERNAL_ERROR


def _task(config: DictConfig) -> int:
    """One job: a run of its own, or one of a sweep."""
    overrides = list(HydraConfig.get().overrides.task)
    of_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if of_sweep:
        config.run_dir = HydraConfig.get().runtime.output_dir
    code = _exit_code(lambda: _do(config, overrides))
    if code >= 128 or (code and not of_sweep):  # in a sweep only a signal ends the other jobs
        sys.exit(code)
    return code


def _do(config: DictConfig, overrides: list[str]) -> None:
    """Runs the pipeline, or looks after the cache where ``cache=`` says so."""
    settings, root = read_cache_settings(config)
    if settings.action == "use":
        run_checked(read_run(config, overrides))
    else:
        keep_house(settings, root)


class SweepCallback(Callback):
    """Checks every job of a sweep before the first runs, and compares them after the last."""

    def __init__(self) -> None:
        self._codes: list[int] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Composes and checks each job; nothing is written yet."""
        if config.hydra.sweeper._target_ != _BASIC_SWEEPER:
            return  # other sweepers choose their jobs as they go
        code = _exit_code(lambda: [_check_job(config, job) for job in _jobs(config)])
        if code:
            sys.exit(code)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:  # noqa: ARG002
        """Remembers the exit code of the job."""
        if job_return.status == JobStatus.COMPLETED:
            self._codes.append(int(job_return.return_value))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Prints the comparison table and writes ``sweep.json``; exits with the worst code."""
        code = _exit_code(lambda: self._codes.append(report_sweep(Path(config.hydra.sweep.dir))))
        code = max([code, *self._codes])
        if code:
            sys.exit(code)


def _jobs(config: DictConfig) -> Iterable[list[str]]:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    overrides = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    parsed = OverridesParser.create().parse_overrides([str(text) for text in overrides])
    batches = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [list(job) for batch in batches for job in batch]


def _check_job(config: DictConfig, overrides: list[str]) -> CheckedRun:
    loader: ConfigLoader = GlobalHydra.instance().config_loader()
    try:
        job = loader.load_sweep_config(config, overrides)
    except COMPOSITION_FAULTS as error:
        raise explain(error, overrides) from error
    task = OmegaConf.masked_copy(job, [str(key) for key in job if key != "hydra"])
    return read_run(task, overrides)
